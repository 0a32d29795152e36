"""Shares what is scarce, so that no account and no host can have all of it.

Whatever is done for a mention is done in the name of its asker (`asking`). A thing that runs out has a limit for all,
one for each account and one for each host (`Shares`). `bot.photos.photos` shares bytes in memory, decoders and the
classifier so, `bot.mentions.hands` the threads that answer, `bot.instance.limits` what the server allows.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from cachetools import TTLCache

REMEMBERED_S = 60.0  # how long it counts what somebody was served
MAX_REMEMBERED = 10_000  # accounts


def host_of(acct: str) -> str:
    """The host of `user@host`, in lower case; empty for the bot's own instance."""
    return acct.partition("@")[2].lower()


@dataclass(eq=False, slots=True)
class Asker:
    """Who a thread works for, while it answers one mention.

    Attributes:
        waits_since: since when it waits for photos or another server, by the monotonic clock; None: it does not.
    """

    account_id: str
    host: str
    waits_since: float | None = None


_current: ContextVar[Asker] = ContextVar("asker")


def asker() -> Asker | None:
    """Who the calling thread works for; None: for the bot itself."""
    return _current.get(None)


@contextmanager
def asking(who: Asker) -> Iterator[None]:
    """Within the context, the calling thread works for this asker."""
    token = _current.set(who)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def waiting() -> Iterator[None]:
    """Within the context, the calling thread's mention waits for its photos, or for another server."""
    who = asker()
    if who is not None:
        who.waits_since = time.monotonic()
    try:
        yield
    finally:
        if who is not None:
            who.waits_since = None


@dataclass(eq=False, slots=True)
class _Wish:
    """A thread that wants `n` units."""

    account_id: str
    host: str
    n: int


class Shares:
    """Something that several askers need at once; thread-safe.

    Those who wait are served in this order: who holds least, then whose host does, then who was served least in the
    last minute, then who waits longest. Who cannot have more now holds up nobody.

    Args:
        size: units for all together.
        per_account, per_host: units at most for one account, and for all accounts of one host.
    """

    def __init__(self, size: int, *, per_account: int, per_host: int) -> None:
        self._size = size
        self._per_account = per_account
        self._per_host = per_host
        self._changed = threading.Condition()
        self._wishes: list[_Wish] = []
        self._by_account: Counter[str] = Counter()
        self._by_host: Counter[str] = Counter()
        self._served: TTLCache[str, float] = TTLCache(MAX_REMEMBERED, REMEMBERED_S)  # units times seconds, by account

    @contextmanager
    def held(self, n: int = 1) -> Iterator[None]:
        """Waits for `n` units and holds them within the context; a wish above the share of an account is cut to it."""
        who = asker() or Asker("", "")
        wish = _Wish(who.account_id, who.host, min(n, self._per_account))
        with self._changed:
            self._wishes.append(wish)
            try:
                self._changed.wait_for(lambda: self._next() is wish)
                self._count(wish, wish.n)
            finally:
                self._wishes.remove(wish)
                self._changed.notify_all()  # the next one may fit too
        started = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                self._count(wish, -wish.n)
                cost = wish.n * (time.monotonic() - started)
                self._served[wish.account_id] = self._served.get(wish.account_id, 0.0) + cost
                self._changed.notify_all()

    def _count(self, wish: _Wish, n: int) -> None:
        for counter, name in ((self._by_account, wish.account_id), (self._by_host, wish.host)):
            counter[name] += n
            if not counter[name]:
                del counter[name]

    def _next(self) -> _Wish | None:
        """The wish that is fulfilled next; None if none can be now."""
        free = self._size - self._by_account.total()
        fitting = [
            wish
            for wish in self._wishes
            if wish.n <= free
            and self._by_account[wish.account_id] + wish.n <= self._per_account
            and self._by_host[wish.host] + wish.n <= self._per_host
        ]
        return min(fitting, key=self._rank, default=None)

    def _rank(self, wish: _Wish) -> tuple[int, int, float]:
        return (
            self._by_account[wish.account_id],
            self._by_host[wish.host],
            self._served.get(wish.account_id, 0.0),
        )
