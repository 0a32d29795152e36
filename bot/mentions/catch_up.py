"""Reads the notifications that the stream missed. The list is complete, so only this module moves the cursor.

The order of a list is the server's; ids are compared for equality alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from cachetools import LRUCache

from bot.config import MastodonSettings
from bot.ending import Ending
from bot.errors import InstanceError, RateLimited, Unauthorized
from bot.instance.client import Client
from bot.instance.reading import Page
from bot.mentions.delivery import Delivery
from bot.mentions.intake import Intake
from bot.mentions.review import Review
from bot.storage.store import Store
from trainer.errors import ProjectError

logger = logging.getLogger(__name__)

# No known server returns fewer while there is more; a smaller page is the last one.
MIN_PAGE = 15
MAX_KNOWN = 10_000  # ids of notifications that are remembered


class CatchUp:
    """Reads new notifications from the cursor on: at intervals, and on request.

    Args:
        delivery: told what each look finds; while the stream is trusted, the intervals are longer.
        review: runs after looks, on the same thread.
        max_age_s: how far back the very first run reads.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        client: Client,
        store: Store,
        intake: Intake,
        settings: MastodonSettings,
        delivery: Delivery,
        review: Review,
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
        self._delivery = delivery
        self._review = review
        self._max_age_s = max_age_s
        self._now = now
        # When each notification was first read, by a look that was completed; by a clock that is never set.
        self._read_at: LRUCache[str, float] = LRUCache(MAX_KNOWN)
        self._asked = threading.Event()
        self._stopping = False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="catch-up", daemon=True)

    def start(self) -> None:
        """Starts reading at intervals, the first time now."""
        self._asked.set()
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stops reading."""
        self._stopping = True
        self._asked.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def ask(self) -> None:
        """Requests a read now; returns at once."""
        self._asked.set()

    def run_job(self, _asked: bool) -> str:
        """Calls `ask`, as a job of the schedule."""
        self.ask()
        return "requested"

    def read_on(self) -> int:
        """Reads everything since the cursor; returns the number of mentions.

        Raises:
            InstanceError, StorageError: reading or storing failed; everything before the cursor is stored.
        """
        self._delivery.begin_look()
        cursor = self._store.cursor.position(overlap_s=self._settings.overlap_s)
        n_mentions = self._read_first() if cursor is None else self._read_from(cursor)
        self._delivery.end_look()
        return n_mentions

    @property
    def is_alive(self) -> bool:
        """Whether its thread is running."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping:
            settings = self._settings
            pause = settings.poll_every_s
            try:
                self.read_on()
                self._review.look_if_due(streaming=self._delivery.is_trusted)
                pause = self._delivery.pause(trusted_s=settings.catch_up_every_s, else_s=settings.poll_every_s)
            except Unauthorized as error:
                self._ending.fatal(error)
                return
            except RateLimited as error:
                pause = max(pause, error.until - self._now())
                logger.warning("catch-up waits for_s=%.0f reason=%s", pause, error)
            except ProjectError as error:
                # Warn once per outage.
                level = logging.DEBUG if self._failing and isinstance(error, InstanceError) else logging.WARNING
                logger.log(level, "catch-up failed, next try in_s=%.0f: %s", pause, error)
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
        """Reads page by page towards newer ids; moves the cursor after each page is stored."""
        n_mentions = 0
        position, seen = cursor, {cursor}
        while True:
            page = self._client.reader.notifications(min_id=position)
            n_mentions += self._receive(page)
            if position == cursor:
                n_mentions += self._fill_gap(page, above=cursor)
            if not seen.issuperset(page.ids):
                position = page.ids[-1]
                self._store.cursor.move(position, overlap_s=self._settings.overlap_s)
                seen.update(page.ids)
                continue
            # the end, or a server without min_id
            now = time.monotonic()
            for each in seen:
                self._read_at.setdefault(each, now)
            return n_mentions

    def _fill_gap(self, page: Page, *, above: str) -> int:
        """Reads the notifications between a position and the page that the server returned for `min_id`.

        There are none on servers that know `min_id`. Others return the newest page; this reads backwards from it.
        """
        n_mentions = 0
        if len(page.ids) < MIN_PAGE or self._reaches(page, above):
            return 0
        for below in self._client.reader.backwards(below=page.ids[0]):
            n_mentions += self._receive(below)
            if len(below.ids) < MIN_PAGE or self._reaches(below, above) or self._is_too_old(below):
                break
        return n_mentions

    def _reaches(self, page: Page, position: str) -> bool:
        """Whether a page reaches back to a position, or to what was all read before."""
        settled = time.monotonic() - self._settings.overlap_s
        return position in page.ids or all(self._read_at.get(each, settled + 1.0) <= settled for each in page.ids)

    def _read_first(self) -> int:
        """Reads backwards from the newest to the oldest that would still be answered, then sets the cursor.

        So a new bot, or one that lost its database, answers recent mentions; it checks each thread for a reply first.
        """
        n_mentions = 0
        newest = oldest = None
        for page in self._client.reader.backwards():
            n_mentions += self._receive(page)
            newest, oldest = newest or page.ids[-1], page.ids[0]
            if self._is_too_old(page):
                break
        if newest is not None and oldest is not None:
            self._store.cursor.move(oldest, overlap_s=self._settings.overlap_s)
            self._store.cursor.move(newest, overlap_s=self._settings.overlap_s)
            logger.info("first catch-up n_mentions=%d cursor=%s", n_mentions, newest)
        return n_mentions

    def _is_too_old(self, page: Page) -> bool:
        """Whether all mentions on this page, and so all before them, are too old to be answered.

        One old status proves nothing: it may have been edited to mention us, or have been delivered late.
        """
        moments = [mention.status.created_at.timestamp() for mention in page.mentions]
        return bool(moments) and self._client.calls.server_time() - max(moments) > self._max_age_s

    def _receive(self, page: Page) -> int:
        for mention in page.mentions:
            self._intake.received(mention)
        self._delivery.found(page.streamed)
        return len(page.mentions)
