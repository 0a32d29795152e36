"""A small memory that forgets: bounded in number, and in time where that matters. Safe to use from several threads."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
MAX_ITEMS = 1000


class Recent(Generic[T]):
    """Key -> value for the newest keys, each for `keep_s` seconds at most."""

    def __init__(
        self, *, max_items: int = MAX_ITEMS, keep_s: float = float("inf"), now: Callable[[], float] = time.time
    ) -> None:
        self._max_items = max_items
        self._keep_s = keep_s
        self._now = now
        self._lock = threading.Lock()
        self._items: OrderedDict[str, tuple[float, T]] = OrderedDict()

    def put(self, key: str, value: T) -> None:
        """Remember a value; the oldest goes when there are too many."""
        with self._lock:
            self._items[key] = (self._now(), value)
            self._items.move_to_end(key)
            while len(self._items) > self._max_items:
                self._items.popitem(last=False)

    def get(self, key: str) -> T | None:
        """The value; None when it is forgotten."""
        with self._lock:
            found = self._items.get(key)
        if found is None or self._now() - found[0] > self._keep_s:
            return None
        return found[1]

    def pop(self, key: str) -> T | None:
        """The value, which is forgotten with this."""
        with self._lock:
            found = self._items.pop(key, None)
        return None if found is None else found[1]
