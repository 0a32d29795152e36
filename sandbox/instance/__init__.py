"""A Mastodon instance on loopback, in memory; it behaves like the real server as seen by a bot."""

from sandbox.instance.app import create_app
from sandbox.instance.instance import Instance
from sandbox.instance.people import BOT, YOU, add_people
from sandbox.instance.records import Account, Media, Notification, Status
from sandbox.instance.settings import DEFAULT_RATE_LIMITS, NO_RATE_LIMITS, InstanceSettings, RateLimit

__all__ = [
    "BOT",
    "DEFAULT_RATE_LIMITS",
    "NO_RATE_LIMITS",
    "YOU",
    "Account",
    "Instance",
    "InstanceSettings",
    "Media",
    "Notification",
    "RateLimit",
    "Status",
    "add_people",
    "create_app",
]
