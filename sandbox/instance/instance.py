"""The instance as a whole, and the short ways to it that tests and demos use."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime

from sandbox.faults import Faults
from sandbox.instance.accounts import Accounts
from sandbox.instance.entities import Entities
from sandbox.instance.host import Host
from sandbox.instance.limits import RateLimits
from sandbox.instance.media import MediaStore
from sandbox.instance.notifications import Notifications
from sandbox.instance.records import Account, Media, Notification, Status
from sandbox.instance.settings import InstanceSettings
from sandbox.instance.statuses import Draft, Statuses
from sandbox.instance.streaming import Hub
from sandbox.instance.text import escape
from sandbox.instance.tokens import ALL_SCOPES, Tokens


class Instance:
    """A Mastodon instance in memory. Its methods can be called from any thread while it is served.

    `attach(account, data, content_type, description)` makes an attachment of any bytes, unchecked: `MediaStore.attach`.

    Args:
        clock: seconds since 1970; all times, rate-limit windows and the memory for Idempotency-Keys follow it.
        seed: of the faults that strike by chance.
    """

    def __init__(
        self, settings: InstanceSettings | None = None, *, clock: Callable[[], float] = time.time, seed: int = 0
    ) -> None:
        self.host = Host(settings or InstanceSettings(), clock)
        self.accounts = Accounts(self.host)
        self.tokens = Tokens(self.host)
        self.media = MediaStore(self.host)
        self.entities = Entities(self.host, self.media)
        self.hub = Hub()
        self.statuses = Statuses(self.host, self.accounts, self.media, self.entities, self.hub)
        self.notifications: Notifications = self.statuses.notifications
        self.attach = self.media.attach
        self.limits = RateLimits(self.host)
        self.faults = Faults(seed=seed)

    @property
    def settings(self) -> InstanceSettings:
        return self.host.settings

    @settings.setter
    def settings(self, settings: InstanceSettings) -> None:
        """Set up again; what is stored stays."""
        self.host.settings = settings

    @property
    def base_url(self) -> str:
        return self.host.base_url

    def bind(self, base_url: str) -> None:
        """Learn the address under which it is served; the addresses in its answers start with it."""
        self.host.base_url = base_url

    def add_account(
        self,
        acct: str,
        *,
        bot: bool = False,
        display_name: str | None = None,
        note: str = "",
        created_at: datetime | None = None,
    ) -> Account:
        """Make an account with a token for everything; `user@host` makes one of another server, without a token.

        Args:
            note: the profile's text, as written.
        """
        html = f"<p>{escape(note)}</p>" if note else ""
        account = self.accounts.add(acct, display_name=display_name, note=html, bot=bot, created_at=created_at)
        if account.domain is None:
            account.token = self.tokens.issue(account).value
        return account

    def account(self, acct: str) -> Account:
        """Raises KeyError where there is none of that name."""
        username, _, domain = acct.partition("@")
        account = self.accounts.find(username, domain or None)
        if account is None:
            raise KeyError(acct)
        return account

    def token(self, account: Account, *scopes: str) -> str:
        """A new access token for these scopes, or for everything where none is named."""
        return self.tokens.issue(account, scopes=scopes or ALL_SCOPES).value

    def revoke(self, token: str) -> None:
        """End an access token: its open streams end, and calls with it are answered 401."""
        revoked = self.tokens.revoke(token)
        if revoked is not None:
            self.hub.end(revoked)

    def post(
        self,
        account: Account,
        text: str,
        *,
        attachments: Sequence[Media] = (),
        visibility: str = "public",
        in_reply_to: Status | int | str | None = None,
        language: str | None = "en",
        spoiler_text: str = "",
        sensitive: bool = False,
    ) -> Status:
        """Post as `account`, unchecked: any length, any attachments.

        Args:
            in_reply_to: a status or its id, as a number or in a string.

        Raises:
            KeyError: there is no such status to reply to.
        """
        parent = self.status(in_reply_to) if in_reply_to is not None else None
        draft = Draft(text, visibility, spoiler_text, sensitive, language)
        return self.statuses.store(account, draft, list(attachments), parent)

    def status(self, status: Status | int | str) -> Status:
        """A status by its id. Raises KeyError where there is none."""
        found = self.statuses.find(status.id if isinstance(status, Status) else int(status))
        if found is None:
            raise KeyError(status)
        return found

    def delete(self, status: Status | int | str) -> None:
        """Delete a status as its account would."""
        self.statuses.delete(self.status(status))

    def edit(self, status: Status | int | str, text: str) -> Status:
        """Change a status's text; all else stays as it is."""
        old = self.status(status)
        draft = Draft(text, old.visibility, old.spoiler_text, old.sensitive, old.language)
        return self.statuses.edit(old, draft, None)

    def replies_to(self, status: Status | int | str) -> list[Status]:
        """The direct answers to a status, oldest first."""
        return self.statuses.replies_to(status.id if isinstance(status, Status) else int(status))

    def statuses_of(self, account: Account) -> list[Status]:
        """All of an account's statuses, oldest first."""
        return self.statuses.of(account)

    def follow(self, account: Account, target: Account) -> Notification | None:
        """Let `account` follow `target`; the notification of it, None where it did before."""
        with self.host.lock:
            if target.id in account.following:
                return None
            account.following.add(target.id)
            return self.notifications.add(target, "follow", account)
