"""What can be set about an instance: its version, its limits, and how slowly it works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MINUTE = 60
HOUR = 3600


@dataclass(frozen=True, slots=True)
class RateLimit:
    """So many requests in a window; windows are aligned to the clock, as on the real server."""

    count: int
    period_s: int


# Source: config/initializers/rack_attack.rb and app/lib/rate_limiter.rb of Mastodon 4.5. A name that is left out of a
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
    """An instance as its operators set it up; the defaults are the real server's."""

    version: str = (
        "4.6.5"  # 4.6.0 to 4.6.5 answer a repeated Idempotency-Key with 500, all others with the first status
    )
    domain: str = "sandbox.test"  # what stands behind the second @ of a local account
    title: str = "Sandbox"
    max_characters: int = 500
    max_media_attachments: int = 4
    max_description_characters: int = 10_000
    image_max_bytes: int = 16 * 1024**2
    image_max_pixels: int = 33_177_600
    video_max_bytes: int = 99 * 1024**2
    rate_limits: Mapping[str, RateLimit] = field(default_factory=lambda: DEFAULT_RATE_LIMITS)
    idempotency_ttl_s: float = 3600.0  # how long a key is remembered
    idempotency_lag_s: float = 0.0  # a status is there this long before its key is known
    media_processing_s: float = 0.0  # above 0 every upload is answered 202 and done so much later
    media_processing_fails: bool = False
    heartbeat_s: float = 15.0
    streaming: bool = True  # False: 404, as on a server of this API without server-sent events
    first_notification_id: int = 95  # so that ids soon gain a digit, and text order is wrong

    @property
    def version_numbers(self) -> tuple[int, ...]:
        """The version for comparing, e.g. (4, 6, 5); what follows the numbers is left out."""
        return tuple(int(part) for part in self.version.split("+")[0].split("-")[0].split("."))

    @property
    def repeats_answer_500(self) -> bool:
        """Whether a repeated Idempotency-Key is answered 500 (mastodon#40399)."""
        return (4, 6, 0) <= self.version_numbers <= (4, 6, 5)
