"""Defines the records of an instance, as in a database.

They are compared by identity and modified only under the instance's lock. Ids are numbers here, and strings in JSON.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

VISIBILITIES = ("public", "unlisted", "private", "direct")

# Policy for each kind of notification: accept, filter or drop. Defaults of the real server.
DEFAULT_POLICY = {
    "for_not_following": "accept",
    "for_not_followers": "accept",
    "for_new_accounts": "accept",
    "for_private_mentions": "filter",
    "for_limited_accounts": "filter",
    "for_bots": "accept",
}


@dataclass(slots=True, eq=False)
class Account:
    """A local account, or a remote one if `domain` is set."""

    id: int
    username: str
    domain: str | None
    display_name: str
    note: str
    bot: bool
    created_at: datetime
    token: str = field(default="", repr=False)  # access token with all user scopes; "" for a remote account
    suspended: bool = False
    moved_to: Account | None = None
    following: set[int] = field(default_factory=set)
    blocking: set[int] = field(default_factory=set)
    muting: set[int] = field(default_factory=set)
    policy: dict[str, str] = field(default_factory=lambda: dict(DEFAULT_POLICY), repr=False)
    accepted: set[int] = field(default_factory=set)  # accounts whose notification request was accepted

    @property
    def acct(self) -> str:
        """`user`, or `user@host` when remote."""
        return self.username if self.domain is None else f"{self.username}@{self.domain}"


@dataclass(slots=True, eq=False)
class Media:
    """A media attachment; not attached until `status_id` is set."""

    id: int
    account: Account
    type: str  # image, gifv, video, audio or unknown
    content_type: str
    data: bytes = field(repr=False)
    description: str
    created_at: datetime
    ready_at: float = 0.0  # on the instance's clock; processed until then
    failed: bool = False
    status_id: int | None = None
    width: int | None = None
    height: int | None = None
    preview: bytes | None = field(
        default=None, repr=False
    )  # None: made from `data` on request, or `data` itself if that fails
    preview_type: str = "image/jpeg"
    url: str | None = None  # replaces the instance's own URL of the file
    remote_url: str | None = None


@dataclass(frozen=True, slots=True)
class App:
    """An application registered at POST /api/v1/apps."""

    id: int
    name: str
    website: str | None
    redirect_uris: tuple[str, ...]
    scopes: tuple[str, ...]
    client_id: str
    client_secret: str


@dataclass(frozen=True, slots=True)
class Token:
    """An access token; `account` is None for an app token."""

    id: int
    value: str = field(repr=False)
    account: Account | None
    app: App | None
    scopes: tuple[str, ...]
    created_at: datetime


@dataclass(slots=True, eq=False)
class Status:
    """A status, or a boost of one."""

    id: int
    account: Account
    text: str  # as written
    content: str  # as HTML
    created_at: datetime
    visibility: str
    spoiler_text: str = ""
    sensitive: bool = False
    language: str | None = "en"
    in_reply_to_id: int | None = None
    in_reply_to_account_id: int | None = None
    mentions: tuple[Account, ...] = ()
    tags: tuple[str, ...] = ()
    media: list[Media] = field(default_factory=list)
    app: App | None = None
    edited_at: datetime | None = None
    reblog: Status | None = None
    quoted: Status | None = None
    quote_state: str = "accepted"  # or pending, rejected, revoked, ...
    n_replies: int = 0
    favourited_by: set[int] = field(default_factory=set)
    reblogged_by: set[int] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class Notification:
    """A notification for `account`."""

    id: int
    type: str  # mention, favourite, reblog, follow, ...
    account: Account  # the recipient
    sender: Account
    created_at: datetime
    status: Status | None = None
    filtered: bool = False
    held: bool = False  # it has an id, but is not visible yet
