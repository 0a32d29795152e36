"""Defines the settings of an instance: version, limits and delays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sandbox.instance.profile import MASTODON, Profile

MINUTE = 60
HOUR = 3600


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Number of requests per window; windows are aligned to the clock, as on the real server."""

    count: int
    period_s: int


# Source: config/initializers/rack_attack.rb and app/lib/rate_limiter.rb of Mastodon 4.5. A name that is missing in a
# table is not limited.
DEFAULT_RATE_LIMITS: Mapping[str, RateLimit] = {
    "account": RateLimit(1500, 5 * MINUTE),
    "token": RateLimit(300, 5 * MINUTE),
    "address": RateLimit(300, 5 * MINUTE),  # calls without a token
    "media": RateLimit(30, 30 * MINUTE),
    "paging": RateLimit(300, 15 * MINUTE),
    "deletes": RateLimit(30, 30 * MINUTE),
    "statuses": RateLimit(300, 3 * HOUR),
}
NO_RATE_LIMITS: Mapping[str, RateLimit] = {}


@dataclass(frozen=True, slots=True)
class InstanceSettings:
    """The settings of an instance; the defaults are those of the real server."""

    version: str = (
        "4.6.5"  # 4.6.0 to 4.6.5 answer a repeated Idempotency-Key with 500, other versions with the first status
    )
    domain: str = "sandbox.test"  # domain of local accounts
    title: str = "Sandbox"
    description: str = "A small world on 127.0.0.1"
    max_characters: int = 500
    max_media_attachments: int = 4
    max_description_characters: int = 10_000
    image_max_bytes: int = 16 * 1024**2
    image_max_pixels: int = 33_177_600
    video_max_bytes: int = 99 * 1024**2
    rate_limits: Mapping[str, RateLimit] = field(default_factory=lambda: DEFAULT_RATE_LIMITS)
    idempotency_ttl_s: float = 3600.0  # how long a key is remembered
    idempotency_lag_s: float = 0.0  # delay between storing a status and its key
    media_processing_s: float = 0.0  # above 0: each upload gets 202 and is processed after this time
    media_processing_fails: bool = False
    heartbeat_s: float = 15.0
    streaming: bool = True  # False: 404, as on a compatible server without server-sent events
    profile: Profile = MASTODON
    first_notification_id: int = 95  # so that ids soon get one more digit, and sorting them as text is wrong

    @property
    def version_numbers(self) -> tuple[int, ...]:
        """The version as numbers, e.g. (4, 6, 5), without a suffix."""
        return tuple(int(part) for part in self.version.split("+")[0].split("-")[0].split("."))

    @property
    def repeats_answer_500(self) -> bool:
        """Whether a repeated Idempotency-Key gets 500 (mastodon#40399)."""
        return not self.profile.version and (4, 6, 0) <= self.version_numbers <= (4, 6, 5)
