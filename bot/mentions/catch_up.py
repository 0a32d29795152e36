"""Reads the notifications that the stream missed. The list is complete, so only this module moves the cursor."""

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

# No known server returns fewer while there is more; a smaller page is the last one.
MIN_PAGE = 15


class CatchUp:
    """Reads new notifications from the cursor on: at intervals, and on request.

    Args:
        max_age_s: how far back the very first run reads.
        now: seconds since the epoch.

    Attributes:
        streaming: whether a stream is open; if so, the intervals are longer.
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
        cursor = self._store.cursor.position(overlap_s=self._settings.overlap_s)
        return self._read_first() if cursor is None else self._read_from(cursor)

    @property
    def is_alive(self) -> bool:
        """Whether its thread is running."""
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
        position = cursor
        while True:
            page = self._client.reader.notifications(min_id=position)
            n_mentions += self._receive(page)
            if position == cursor:
                n_mentions += self._fill_gap(page, above=cursor)
            newest = page.ids[-1] if page.ids else position
            self._store.cursor.move(newest, overlap_s=self._settings.overlap_s)
            if id_order(newest) <= id_order(position):  # the end, or a server without min_id
                return n_mentions
            position = newest

    def _fill_gap(self, page: Page, *, above: str) -> int:
        """Reads the notifications between a position and the page that the server returned for `min_id`.

        There are none on servers that know `min_id`. Others return the newest page; this reads backwards from it.
        """
        n_mentions = 0
        while len(page.ids) >= MIN_PAGE and id_order(page.ids[0]) > id_order(above):
            below = self._client.reader.notifications(max_id=page.ids[0])
            if not below.ids or id_order(below.ids[0]) >= id_order(page.ids[0]):  # the end, or no max_id
                break
            n_mentions += self._receive(below)
            page = below
        return n_mentions

    def _read_first(self) -> int:
        """Reads backwards from the newest to the oldest that would still be answered, then sets the cursor.

        So a new bot, or one that lost its database, answers recent mentions; it checks each thread for a reply first.
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
            if position is not None and id_order(oldest) >= id_order(position):  # a server without max_id
                break
            position = oldest
            if self._is_too_old(page):
                break
        if newest is not None and position is not None:
            self._store.cursor.move(position, overlap_s=self._settings.overlap_s)
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
        return len(page.mentions)
