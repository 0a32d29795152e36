"""Deletes answers whose questions were deleted, and answers again when a photo was added; opinions follow their words.

The stream reports both; a sweep finds deleted questions that the stream missed.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from bot.entities import Status
from bot.errors import NoSuchPage, NotFound, Refused
from bot.instance.client import Client
from bot.mentions.feedback import Feedback
from bot.mentions.worker import Worker
from bot.storage.inbox import Entry, Outcome
from bot.storage.store import Store
from trainer.errors import ProjectError

logger = logging.getLogger(__name__)

BATCH = 20  # statuses in one request
REPEAT_AFTER_S = 2.0  # for a mention that was being answered when its question was deleted or edited
# On a server that returns one status per request, a sweep checks only this many, the newest.
MAX_SINGLE = 20


class Cleanup:
    """Checks answered mentions, on its own thread so that the stream never waits.

    Args:
        max_age_s: how long an answered mention is checked.
        patience_s: how long deleting an old answer may take before the new one is posted.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        client: Client,
        store: Store,
        worker: Worker,
        feedback: Feedback,
        *,
        max_age_s: float,
        patience_s: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._store = store
        self._worker = worker
        self._feedback = feedback
        self._max_age_s = max_age_s
        self._patience_s = patience_s
        self._now = now
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="cleanup", daemon=True)

    def start(self) -> None:
        """Starts processing what `deleted` and `edited` report."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stops; the next sweep does the rest."""
        self._tasks.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def deleted(self, status_id: str) -> None:
        """Handles a deleted status; returns at once."""
        entry = self._store.inbox.by_status(status_id)
        if entry is not None:
            self._tasks.put(lambda: self._question_gone(entry))

    def edited(self, status: Status) -> None:
        """Handles an edited status; returns at once."""
        entry = self._store.inbox.by_status(status.id)
        if entry is not None:
            self._tasks.put(lambda: self._question_changed(entry, status))

    def sweep(self) -> int:
        """Deletes the answers whose questions are gone; returns how many.

        Raises:
            InstanceError: the call failed.
        """
        followed = self._store.inbox.followed_since(self._now() - self._max_age_s)
        n_gone = 0
        for entry in self._maybe_deleted(followed):
            try:
                self._client.reader.status(entry.status_id)
            except NotFound:
                self._question_gone(entry)
                n_gone += 1
            except NoSuchPage as error:
                if error.outage:
                    raise
                logger.debug("unclear whether gone status=%s error=%s", entry.status_id, error)
        return n_gone

    def run_job(self, _asked: bool) -> str:
        """Calls `sweep`, as a job of the schedule."""
        return f"{self.sweep()} answers deleted"

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except ProjectError as error:
                logger.warning("cleanup failed, the next sweep tries again: %s", error)
            except Exception:
                logger.exception("cleanup failed")

    def _question_gone(self, entry: Entry) -> None:
        self._store.opinions.forget(entry.status_id)
        entry = self._store.inbox.entry(entry.notification_id) or entry
        if entry.state in ("working", "posting"):  # its answer may be posted at any moment
            self._repeat_later(lambda: self._question_gone(entry))
        if entry.state != "answered" or entry.reply_id is None:
            return  # a waiting mention will notice when it is answered
        self._client.poster.delete(entry.reply_id)
        self._store.inbox.finish(entry.notification_id, Outcome("refused", reason="the question was deleted"))
        logger.info("answer deleted with its question notification=%s", entry.notification_id)

    def _question_changed(self, entry: Entry, status: Status) -> None:
        """Replaces a help reply by an answer when a photo was added to the mention; an opinion follows its words."""
        self._worker.forget(entry.notification_id)
        self._feedback.edited(status)
        entry = self._store.inbox.entry(entry.notification_id) or entry
        if entry.state in ("working", "posting"):  # a help reply may be posted now, or an opinion noted
            self._repeat_later(lambda: self._question_changed(entry, status))
        if entry.state != "answered" or entry.kind != "help" or not status.attachments or entry.reply_id is None:
            return
        # In this order a crash in between leaves one answer: the old one, if it still exists.
        now = self._now()
        self._store.inbox.reopen(entry.notification_id, salt=entry.reply_id, not_before=now + self._patience_s)
        self._client.poster.delete(entry.reply_id)
        self._store.inbox.make_due(entry.notification_id)
        logger.info("photo added, answering again notification=%s", entry.notification_id)

    def _repeat_later(self, task: Callable[[], None]) -> None:
        timer = threading.Timer(REPEAT_AFTER_S, self._tasks.put, (task,))
        timer.daemon = True
        timer.start()

    def _maybe_deleted(self, followed: Sequence[Entry]) -> Iterator[Entry]:
        """Entries whose question seems to be gone; the caller checks each one by itself."""
        try:
            for start in range(0, len(followed), BATCH):
                batch = followed[start : start + BATCH]
                existing = self._client.reader.existing([entry.status_id for entry in batch])
                yield from (entry for entry in batch if entry.status_id not in existing)
        except (NotFound, Refused, NoSuchPage) as error:  # servers before 4.3
            logger.debug("checking statuses one by one: %s", error)
            yield from followed[-MAX_SINGLE:]
