"""Reads the notifications that the stream did not bring: the truth about what was asked.

It alone moves the cursor.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from bot.config import MastodonSettings
from bot.ending import Ending
from bot.entities import id_order
from bot.errors import InstanceError, RateLimited, Unauthorized
from bot.instance.client import Client
from bot.instance.reading import Page
from bot.mentions.intake import Intake
from bot.storage.store import Store
from trainer.errors import ProjectError

logger = logging.getLogger(__name__)

# No server hands out smaller pages where more is there; a smaller one is the end of what there is.
MIN_PAGE = 15


class CatchUp:
    """Reads on from the cursor: now and then, and whenever it is asked to.

    Args:
        max_age_s: how far back the very first look goes.
        now: seconds since the epoch.

    Attributes:
        streaming: whether a stream is open, so that looks may be rarer.
    """

    def __init__(
        self,
        client: Client,
        store: Store,
        intake: Intake,
        settings: MastodonSettings,
        ending: Ending,
        *,
        max_age_s: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._store = store
        self._intake = intake
        self._settings = settings
        self._ending = ending
        self._max_age_s = max_age_s
        self.streaming = False
        self._now = now
        self._asked = threading.Event()
        self._stopping = False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="catch-up", daemon=True)

    def start(self) -> None:
        """Look once, then again and again."""
        self._asked.set()
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Look no more."""
        self._stopping = True
        self._asked.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def ask(self) -> None:
        """Look now; returns at once."""
        self._asked.set()

    def run_job(self, _asked: bool) -> str:
        """As `ask`, as a job of the schedule."""
        self.ask()
        return "asked for"

    def read_on(self) -> int:
        """Read everything since the cursor; returns how many mentions were seen.

        Raises:
            InstanceError, StorageError: it could not be read, or not be kept; the cursor stands where all before it is
                safe.
        """
        cursor = self._store.cursor.position(overlap_s=self._settings.overlap_s)
        return self._read_first() if cursor is None else self._read_from(cursor)

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping:
            settings = self._settings
            pause = settings.catch_up_every_s if self.streaming else settings.poll_every_s
            try:
                self.read_on()
            except Unauthorized as error:
                self._ending.fatal(error)
                return
            except RateLimited as error:
                pause = max(pause, error.until - self._now())
                logger.warning("catch-up waits for_s=%.0f reason=%s", pause, error)
            except ProjectError as error:
                # An outage is said once, however long it takes.
                level = logging.DEBUG if self._failing and isinstance(error, InstanceError) else logging.WARNING
                logger.log(level, "catch-up failed, again in_s=%.0f: %s", pause, error)
                self._failing = True
            except Exception:
                logger.exception("catch-up failed")
            else:
                if self._failing:
                    logger.info("catch-up works again")
                self._failing = False
            self._asked.wait(pause)
            self._asked.clear()

    def _read_from(self, cursor: str) -> int:
        """Walk upwards, page by page; the cursor follows once a page is safe in the inbox."""
        n_mentions = 0
        position = cursor
        while True:
            page = self._client.reader.notifications(min_id=position)
            n_mentions += self._receive(page)
            if position == cursor:
                n_mentions += self._fill_gap(page, above=cursor)
            newest = page.ids[-1] if page.ids else position
            self._store.cursor.move(newest, overlap_s=self._settings.overlap_s)
            if id_order(newest) <= id_order(position):  # the end, or a server that knows no min_id
                return n_mentions
            position = newest

    def _fill_gap(self, page: Page, *, above: str) -> int:
        """Read what lies between a position and the page that a server handed out as the one right after it.

        That is nothing on a server that knows `min_id`. Others hand out the newest page; from there it is walked down.
        """
        n_mentions = 0
        while len(page.ids) >= MIN_PAGE and id_order(page.ids[0]) > id_order(above):
            below = self._client.reader.notifications(max_id=page.ids[0])
            if not below.ids or id_order(below.ids[0]) >= id_order(page.ids[0]):  # the end, or it knows no max_id
                break
            n_mentions += self._receive(below)
            page = below
        return n_mentions

    def _read_first(self) -> int:
        """Walk downwards from the newest to the oldest that would still be answered, then set the cursor.

        So a new bot, and one whose database was lost, answers what was asked lately; each thread is looked into first.
        """
        n_mentions = 0
        newest = position = None
        while True:
            page = self._client.reader.notifications(max_id=position)
            n_mentions += self._receive(page)
            if not page.ids:
                break
            newest = newest or page.ids[-1]
            oldest = page.ids[0]
            if position is not None and id_order(oldest) >= id_order(position):  # a server that knows no max_id
                break
            position = oldest
            if self._is_too_old(page):
                break
        if newest is not None and position is not None:
            self._store.cursor.move(position, overlap_s=self._settings.overlap_s)
            self._store.cursor.move(newest, overlap_s=self._settings.overlap_s)
            logger.info("first look back n_mentions=%d cursor=%s", n_mentions, newest)
        return n_mentions

    def _is_too_old(self, page: Page) -> bool:
        """Whether nothing on this page, and so nothing before it, would be answered any more.

        A single old status among them says nothing: one that mentions us since it was edited, one that came late.
        """
        moments = [mention.status.created_at.timestamp() for mention in page.mentions]
        return bool(moments) and self._client.calls.server_time() - max(moments) > self._max_age_s

    def _receive(self, page: Page) -> int:
        for mention in page.mentions:
            self._intake.received(mention)
        return len(page.mentions)
