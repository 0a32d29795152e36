"""Decides whose mention is answered next."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Container

from bot.shares import Asker, host_of
from bot.storage.inbox import MAX_WAIT_S, Entry, Rank

PER_ACCOUNT = 2  # mentions of one account in progress
# A mention that has waited so long for its photos holds no hand until it goes on.
SLOW_AFTER_S = 0.25
# For each hand, so many mentions may be in progress, those that hold none included.
CROWD = 4
ADMINS = "@"  # is no host


class Hands:
    """Mentions in progress, most of which hold a hand; the worker's lock guards it.

    An account has two mentions in progress at most. A host has half of the hands at most, and half of all that may be
    in progress. So there is a free hand for somebody else, whatever one account or one host asks.

    Args:
        n: number of hands.

    Attributes:
        admins: ids of the accounts whose orders must get through; they count as a host of their own.
        blocked_until: hosts that used up their share of the server's limits, until when (seconds since the epoch).
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self.admins: Container[str] = ()
        self.blocked_until: dict[str, float] = {}
        self.in_progress: dict[str, Asker] = {}  # by notification id

    def begin(self, entry: Entry) -> Asker:
        """Puts a mention in progress."""
        asker = Asker(entry.account_id, self._host(entry.account_id, entry.acct))
        self.in_progress[entry.notification_id] = asker
        return asker

    def is_free(self, limit: int) -> bool:
        """Whether another mention may begin, with at most `limit` hands in use."""
        return len(self._holding()) < min(limit, self._n) and len(self.in_progress) < self._n * CROWD

    def ranking(self, now: float) -> Rank:
        """Ranks the accounts whose mentions wait: those with fewest in progress first, then those of such hosts."""
        blocked = self.blocked(now)
        of_account = Counter(asker.account_id for asker in self.in_progress.values())
        of_host = Counter(asker.host for asker in self.in_progress.values())
        holding = Counter(asker.host for asker in self._holding())

        def rank(account_id: str, acct: str) -> tuple[int, int] | None:
            host = self._host(account_id, acct)
            is_full = holding[host] >= _half(self._n) or of_host[host] >= _half(self._n * CROWD)
            if is_full or host in blocked or of_account[account_id] >= PER_ACCOUNT:
                return None
            return of_account[account_id], of_host[host]

        return rank

    def blocked(self, now: float) -> set[str]:
        """The hosts that are blocked now."""
        return {host for host, until in self.blocked_until.items() if now < until <= now + MAX_WAIT_S}

    def _host(self, account_id: str, acct: str) -> str:
        return ADMINS if account_id in self.admins else host_of(acct)

    def _holding(self) -> list[Asker]:
        """Those that hold a hand."""
        slow_since = time.monotonic() - SLOW_AFTER_S
        return [
            asker for asker in self.in_progress.values() if (since := asker.waits_since) is None or since > slow_since
        ]


def _half(n: int) -> int:
    return max(1, n // 2)
