"""Takes answers about a photo back when its author wants that: by "delete", "stop", deleting the post, or editing it.

A look at a bounded number of recent answers finds what no event tells: servers send events about a post to its author's
followers and to whom it mentions, and often to nobody here. It also follows opted-out accounts that have moved.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from bot.entities import Status
from bot.errors import NoSuchPage, NotFound, Refused, Transient
from bot.instance.client import Client
from bot.mentions import etiquette
from bot.mentions.contributions import ContributionKeeper
from bot.reply.texts import Texts
from bot.storage.inbox import Outcome
from bot.storage.shown import Shown
from bot.storage.store import Store
from trainer.errors import ProjectError

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 120.0
MAX_RECENT = 100  # answers of the last `max_age_s` that each look checks
FULL_EVERY = 30  # looks; such a one checks up to MAX_ALL answers, however old
MAX_ALL = 1000
BATCH = 20  # statuses in one request
MAX_SINGLE = 20  # on a server that returns one status per request
MAX_MOVES = 5  # opted-out accounts that each look checks, in turn
OPTED_OUT = "the photo's author opted out"


class Withdrawal:
    """Takes answers back, and looks for reasons to do so on its own thread.

    Args:
        max_age_s: how old an answer may be that every look checks.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        client: Client,
        store: Store,
        texts: Texts,
        contributions: ContributionKeeper,
        *,
        max_age_s: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._store = store
        self._texts = texts
        self._contributions = contributions
        self._max_age_s = max_age_s
        self._now = now
        self._n_looks = 0
        self._last_moved = ""
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="withdrawal", daemon=True)

    def start(self) -> None:
        """Starts to look, the first time now."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stops; the next start does the rest."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def soon(self) -> None:
        """Asks for a look now, as somebody has opted out; returns at once."""
        self._wake.set()

    def changed(self, status_id: str) -> None:
        """Handles a deleted or edited status; returns at once."""
        if self._contributions.changed(status_id) or self._store.shown.of_photo(status_id):
            self._wake.set()

    def take_back(self, answers: Sequence[Shown], *, reason: str) -> int:
        """Deletes answers and records why; returns how many.

        Raises:
            InstanceError: not all are deleted, and only those are recorded.
        """
        for answer in answers:
            self._client.poster.delete(answer.reply_id)
            self._store.inbox.finish(answer.notification_id, Outcome("refused", reason=reason))
            logger.info("answer taken back notification=%s reason=%s", answer.notification_id, reason)
        return len(answers)

    def look(self) -> int:
        """Takes back answers whose photo's author has opted out, or whose photo or consent is gone; returns how many.

        Raises:
            InstanceError: a call failed; the next look goes on.
        """
        n_taken = self.take_back(self._store.shown.of_opted_out(), reason=OPTED_OUT)
        is_full, self._n_looks = self._n_looks % FULL_EVERY == 0, self._n_looks + 1
        since = 0.0 if is_full else self._now() - self._max_age_s
        by_status: dict[str, list[Shown]] = defaultdict(list)
        for answer in self._store.shown.newest(MAX_ALL if is_full else MAX_RECENT, since=since):
            for status_id in (answer.photo_id, answer.yes_id):
                if status_id is not None:
                    by_status[status_id].append(answer)
        taken: set[str] = set()
        for status_id, status in self._current(list(by_status)):
            for answer in by_status[status_id]:
                reason = self._reason(answer, status_id, status)
                if reason and answer.reply_id not in taken:
                    n_taken += self.take_back([answer], reason=reason)
                    taken.add(answer.reply_id)
        if self._follow_moves():
            n_taken += self.take_back(self._store.shown.of_opted_out(), reason=OPTED_OUT)
        self._contributions.look(self._current)
        return n_taken

    def _reason(self, answer: Shown, status_id: str, status: Status | None) -> str:
        """Why an answer is taken back, from the status with its photos or with the consent as it is now; "" if not."""
        if status_id == answer.yes_id:
            return "" if status and self._texts.request(status.text) == "agree" else "the consent was taken back"
        if status is None:
            return "the photo was deleted"
        if etiquette.wants_no_bots(status.account):
            return OPTED_OUT
        return "" if answer.media_ids <= etiquette.media_ids(status) else "the photo was edited out"

    def _run(self) -> None:
        while not self._stopping:
            try:
                self.look()
            except ProjectError as error:
                logger.info("answers not checked, next look in_s=%.0f: %s", LOOK_EVERY_S, error)
            except Exception:
                if not self._stopping:  # else the database may be closed
                    logger.exception("answers not checked")
            self._wake.wait(LOOK_EVERY_S)
            self._wake.clear()

    def _current(self, status_ids: Sequence[str]) -> Iterator[tuple[str, Status | None]]:
        """Statuses as they are now, None if gone; without those of which that is unclear."""
        try:
            for start in range(0, len(status_ids), BATCH):
                batch = status_ids[start : start + BATCH]
                found = {status.id: status for status in self._client.reader.statuses(batch)}
                yield from found.items()
                for status_id in batch:
                    if status_id not in found:
                        yield from self._one(status_id)
        except (NotFound, Refused, NoSuchPage) as error:  # servers before 4.3
            logger.debug("checking statuses one by one: %s", error)
            for status_id in status_ids[:MAX_SINGLE]:
                yield from self._one(status_id)

    def _one(self, status_id: str) -> Iterator[tuple[str, Status | None]]:
        try:
            yield status_id, self._client.reader.status(status_id)
        except NotFound:
            yield status_id, None
        except Transient as error:  # else one status that cannot be read would stop all
            if error.outage:
                raise Transient(str(error), outage=True) from error
            logger.debug("unclear whether gone status=%s error=%s", status_id, error)

    def _follow_moves(self) -> bool:
        """Opts out the accounts that a few of the opted-out ones have moved to; whether there are any.

        An account tells where it has moved to. Mastodon's API does not tell where one has come from.
        """
        batch = self._store.opt_outs.after(self._last_moved, MAX_MOVES)
        found = False
        for account_id in batch:
            try:
                moved_to = self._client.reader.account(account_id).moved_to
            except (NotFound, NoSuchPage, Refused) as error:
                logger.debug("account not found id=%s error=%s", account_id, error)
                moved_to = None
            if moved_to is not None and self._store.opt_outs.moved(account_id, to=moved_to):
                self._store.consents.withdraw(moved_to)
                self._store.opinions.forget_account(moved_to)
                logger.info("opted out account=%s, as %s has moved there", moved_to, account_id)
                found = True
            self._last_moved = account_id
        if len(batch) < MAX_MOVES:
            self._last_moved = ""
        return found
