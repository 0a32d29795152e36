"""Counts rate limits in windows that are aligned to the clock.

Source: config/initializers/rack_attack.rb, app/lib/rate_limiter.rb, app/controllers/concerns/api/rate_limit_headers.rb
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sandbox.instance.errors import ApiError
from sandbox.instance.host import Host
from sandbox.instance.records import Token

PAGING = ("page", "min_id", "max_id", "since_id")
MEDIA_PATH = re.compile(r"/api/v\d+/media", re.IGNORECASE)
DELETE_PATH = re.compile(r"/api/v1/statuses/\d+")
UNREBLOG_PATH = re.compile(r"/api/v1/statuses/\d+/unreblog")


@dataclass(frozen=True, slots=True)
class Standing:
    """The state of one limit for one caller."""

    limit: int
    remaining: int
    reset_at: float

    def headers(self) -> dict[str, str]:
        reset = datetime.fromtimestamp(self.reset_at, UTC).isoformat(timespec="microseconds")
        return {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": reset.replace("+00:00", "Z"),
        }


class RateLimits:
    """Counts calls by limit and caller."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._counts: dict[tuple[str, str], tuple[int, int]] = {}  # (limit, caller) -> (window, calls in it)

    def take_call(self, method: str, path: str, params: Mapping[str, object], token: Token | None) -> dict[str, str]:
        """Count an API call.

        Returns:
            headers of the limit with the fewest calls left; empty without a limit.

        Raises:
            ApiError: 429.
        """
        with self._host.lock:
            standings = [
                standing
                for name, caller in _apply(method, path, params, token)
                if (standing := self._count(name, caller)) is not None
            ]
            if not standings:
                return {}
            nearest = min(standings, key=lambda each: each.remaining)
            if nearest.remaining < 0:
                raise _too_many(nearest)
            return nearest.headers()

    def check(self, name: str, caller: str) -> None:
        """Raise ApiError 429 if a limit is reached; does not count."""
        standing = self._count(name, caller, n=0)
        if standing is not None and standing.remaining <= 0:
            raise _too_many(standing)

    def take(self, name: str, caller: str) -> dict[str, str]:
        """Count one use of a limit; returns its headers."""
        with self._host.lock:
            standing = self._count(name, caller)
            return standing.headers() if standing else {}

    def _count(self, name: str, caller: str, n: int = 1) -> Standing | None:
        limit = self._host.settings.rate_limits.get(name)
        if limit is None:
            return None
        now = self._host.clock()
        window = int(now // limit.period_s)
        last_window, count = self._counts.get((name, caller), (window, 0))
        count = (count if last_window == window else 0) + n
        self._counts[name, caller] = (window, count)
        # The fraction of a second is that of the request time, as in the real headers.
        reset_at = now + limit.period_s - int(now) % limit.period_s
        return Standing(limit.count, limit.count - count, reset_at)


def _too_many(standing: Standing) -> ApiError:
    return ApiError(429, "Too many requests", standing.headers() | {"X-RateLimit-Remaining": "0"})


def _apply(method: str, path: str, params: Mapping[str, object], token: Token | None) -> Iterator[tuple[str, str]]:
    """The limits that apply to a call, each with its caller key."""
    if token is None or token.account is None:
        yield "address", "127.0.0.1"
        return
    account = str(token.account.id)
    yield "account", account
    yield "token", str(token.id)
    if method == "POST" and MEDIA_PATH.fullmatch(path):
        yield "media", account
    if any(params.get(name) for name in PAGING):
        yield "paging", account
    if (method == "DELETE" and DELETE_PATH.fullmatch(path)) or (method == "POST" and UNREBLOG_PATH.fullmatch(path)):
        yield "deletes", account
