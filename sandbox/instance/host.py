"""Holds what all parts of an instance share: settings, clock, lock, address and ids."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime

from sandbox.instance.settings import InstanceSettings


class Host:
    """Shared by all parts of an instance; `lock` is one re-entrant lock for all."""

    def __init__(self, settings: InstanceSettings, clock: Callable[[], float]) -> None:
        self.settings = settings
        self.clock = clock  # seconds since 1970
        self.lock = threading.RLock()
        self.base_url = "http://127.0.0.1"  # until the server knows its port
        self._last_id = 0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock(), UTC)

    def shown_id(self, number: int, kind: str = "") -> str:
        """A record's id in the API; `kind` is a notification's type."""
        return self.settings.profile.ids.show(number, kind)

    def read_id(self, text: str) -> int | None:
        """The number of the record with that id in the API; None if there is no such id."""
        return self.settings.profile.ids.read(text)

    def next_id(self) -> int:
        """A new snowflake id, as for statuses, accounts and media: it increases and contains the time.

        Source: lib/mastodon/snowflake.rb: milliseconds, then 16 bits.
        """
        with self.lock:
            self._last_id = max(self._last_id + 1, int(self.clock() * 1000) << 16)
            return self._last_id
