"""Compares what the stream brings with what the looks at the notifications find.

A stream can be open, with heartbeats, and bring nothing: the server's Redis was restarted and has forgotten who
listens, or a proxy holds everything back. Only a mention that a look finds and the stream does not bring tells.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

logger = logging.getLogger(__name__)

# How much later than a look the stream may bring a mention.
GRACE_S = 2.0


class Delivery:
    """Whether the open stream brings mentions; safe to use from several threads.

    Args:
        now: seconds on a clock that is never set.

    Attributes:
        is_open: whether a stream is open.
        reopen: closes the stream and opens it again; `again`: it was of no use the last time. Set by the stream.
    """

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._n_opened = 0
        self._n_looks = 0
        self._look = 0  # the connection that was open when the present look began
        self._has_looked = False  # since the stream was opened: what a look finds now came while it was open
        self._seen: set[str] = set()  # statuses that a look or the stream brought since it was opened
        self._missing: dict[str, float] = {}  # statuses that the stream has not brought, and when a look found them
        self._is_doubted = False
        self.is_open = False
        self.reopen: Callable[[bool], None] = lambda _again: None

    @property
    def is_trusted(self) -> bool:
        """Whether a stream is open and no mention was missed since it last brought one."""
        return self.is_open and not self._is_doubted

    def opened(self) -> None:
        """Starts anew with a new connection."""
        with self._lock:
            self._n_opened += 1
            self.is_open, self._has_looked = True, False
            self._seen.clear()
            self._missing.clear()

    def ended(self) -> None:
        """Handles the end of the connection."""
        with self._lock:
            self.is_open = False
            self._missing.clear()

    def heard(self, status_id: str) -> None:
        """Handles a mention that the stream brought."""
        with self._lock:
            self._seen.add(status_id)
            self._missing.pop(status_id, None)
            self._is_doubted = False

    def begin_look(self) -> None:
        """Handles the begin of a look."""
        with self._lock:
            self._look = self._n_opened if self.is_open else 0
            self._n_looks += 1

    def found(self, status_ids: Iterable[str]) -> None:
        """Handles mentions, in order to be streamed, that a look found."""
        with self._lock:
            for status_id in status_ids:
                if self._has_looked and self.is_open and status_id not in self._seen:
                    self._missing[status_id] = self._now()
                self._seen.add(status_id)

    def end_look(self) -> None:
        """Handles the end of a look that found all there is; has the stream opened again if it is deaf."""
        with self._lock:
            self._has_looked = self._has_looked or self._look == self._n_opened > 0
            missed = [status_id for status_id, found in self._missing.items() if self._now() - found >= GRACE_S]
            again = self._is_doubted
            if missed:
                self._missing.clear()
                self._is_doubted = True
        if missed:
            logger.log(
                logging.DEBUG if again else logging.WARNING,
                "the stream is open but does not bring what it should, opening it again missed=%d",
                len(missed),
            )
            self.reopen(again)

    def pause(self, *, trusted_s: float, else_s: float) -> float:
        """Seconds until the next look: `else_s` while the stream is not trusted, less while a mention is missing."""
        pause = trusted_s if self.is_trusted else else_s
        return min(pause, GRACE_S) if self._missing else pause
