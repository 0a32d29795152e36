"""Rate limits by the server's newest headers, for each family of calls, and each host's share of them.

How many calls remain is the server's word. The bot itself counts only for whose mentions they were made: the accounts
of one host may use no more of a window than remains for all others, so half of it at first.

Source: https://docs.joinmastodon.org/api/rate-limits/
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

Family = Literal["call", "page", "post", "upload", "delete", "stream"]
ALL: Family = "call"  # its limit counts calls of every family
# The wait after a 429 without an end time (such as a proxy's); doubles for each further one in a row.
DEFAULT_WAIT_S = 5.0
MAX_DEFAULT_WAIT_S = 60.0
# Mastodon's longest window. A server that gives a later end is wrong; the bot tries again after this time.
MAX_WINDOW_S = 3 * 3600.0
SAME_WINDOW_S = 60.0  # an end that is later by more belongs to the next window: clocks and headers are not exact
MAX_DIGITS = 18  # of a count; Python takes no number of thousands of digits
_EPOCH_S = 1_000_000_000  # a smaller number is not a time, but seconds from now


@dataclass(frozen=True, slots=True)
class Window:
    """How many calls of a family remain until when (seconds since the epoch, our clock)."""

    remaining: int
    until: float


class Limits:
    """Keeps the newest headers of each family; safe to use from several threads."""

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._windows: dict[Family, Window] = {}
        self._n_without_window: Counter[Family] = Counter()
        self._used: defaultdict[Family, Counter[str]] = defaultdict(Counter)  # calls in this window, by host

    def note(self, family: Family, headers: Mapping[str, str], *, status: int, host: str | None = None) -> None:
        """Reads one response's headers; after a 429 without usable ones nothing remains for `_default_wait` seconds.

        Args:
            host: for whose accounts the call was made; None: for the bot itself.
        """
        until = self._reset(headers)
        left = headers.get("X-RateLimit-Remaining", "")
        window = None
        if status == 429:
            window = Window(0, until if until is not None else self._now() + self._default_wait(family, headers))
        elif until is not None and left.isdecimal():
            window = Window(int(left[:MAX_DIGITS]), until)
        with self._lock:
            if status < 400:
                self._n_without_window.pop(family, None)
            if window is not None:
                self._enter(family, window)
            if host is not None:
                for each in self._windows.keys() & {family, ALL}:
                    self._used[each][host] += 1

    def _enter(self, family: Family, window: Window) -> None:
        last = self._windows.get(family)
        if last is None or last.until <= self._now() or last.until + SAME_WINDOW_S < window.until:
            self._used[family].clear()
        self._windows[family] = window

    def remaining(self, family: Family) -> int | None:
        """How many more calls of this family the server accepts; None if unknown."""
        with self._lock:
            window = self._windows.get(family)
        return window.remaining if window and window.until > self._now() else None

    def blocked_until(self, family: Family) -> float | None:
        """Until when calls of this family are refused; None if they are not."""
        with self._lock:
            return self._end(family, needed=1)

    def share_used_until(self, family: Family, host: str) -> float | None:
        """Until when a host has used up its share of this family of calls, or of all; None if it has not."""
        with self._lock:
            ends = [self._end(each, needed=1 + self._used[each][host]) for each in (family, ALL)]
        return max((end for end in ends if end is not None), default=None)

    def _end(self, family: Family, *, needed: int) -> float | None:
        """When the window ends, if fewer calls than needed remain; None if enough do, or if it has ended."""
        window = self._windows.get(family)
        return window.until if window and window.remaining < needed and window.until > self._now() else None

    def _default_wait(self, family: Family, headers: Mapping[str, str]) -> float:
        """Seconds to wait after a 429 without an end time."""
        retry_after = headers.get("Retry-After", "")
        if retry_after.isdecimal():
            return min(float(retry_after), MAX_WINDOW_S)
        with self._lock:
            self._n_without_window[family] += 1
            return min(DEFAULT_WAIT_S * 2.0 ** min(self._n_without_window[family] - 1, 16), MAX_DEFAULT_WAIT_S)

    def _reset(self, headers: Mapping[str, str]) -> float | None:
        """The end of the window by our clock; None if the server gives no future one.

        It is computed relative to the response's own Date header.
        """
        raw = headers.get("X-RateLimit-Reset", "")
        try:
            ahead = _seconds_ahead(raw, since=self._date(headers))
        except (ValueError, OverflowError):
            return None
        return self._now() + min(ahead, MAX_WINDOW_S) if ahead > 0 else None

    def _date(self, headers: Mapping[str, str]) -> float:
        try:
            return parsedate_to_datetime(headers["Date"]).timestamp()
        except (KeyError, TypeError, ValueError, OverflowError):
            return self._now()


def _seconds_ahead(reset: str, *, since: float) -> float:
    """Seconds from `since` to a reset, given as an ISO 8601 time, seconds since 1970, or seconds from now."""
    if reset.isdecimal():
        seconds = float(reset)
        return seconds if seconds < _EPOCH_S else seconds - since
    return _epoch(reset) - since


def _epoch(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
