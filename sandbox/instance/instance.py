"""Combines the parts of an instance, with shortcuts for tests and demos."""

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
    """A Mastodon instance in memory; thread-safe while it is served.

    `attach(account, data, content_type, description)` creates an attachment of any bytes, without checks:
    `MediaStore.attach`.

    Args:
        clock: returns seconds since 1970; used for all times, rate limits and the expiry of Idempotency-Keys.
        seed: of random faults.
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
        """Replace the settings; stored data is kept."""
        self.host.settings = settings

    @property
    def base_url(self) -> str:
        return self.host.base_url

    def bind(self, base_url: str) -> None:
        """Set the base URL of the server, used for all URLs in responses."""
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
        """Create an account with a token for all scopes; `user@host` creates a remote one, without a token.

        Args:
            note: text of the profile, as plain text.
        """
        html = f"<p>{escape(note)}</p>" if note else ""
        account = self.accounts.add(acct, display_name=display_name, note=html, bot=bot, created_at=created_at)
        if account.domain is None:
            account.token = self.tokens.issue(account).value
        return account

    def account(self, acct: str) -> Account:
        """The account with a name. Raises KeyError if there is none."""
        username, _, domain = acct.partition("@")
        account = self.accounts.find(username, domain or None)
        if account is None:
            raise KeyError(acct)
        return account

    def token(self, account: Account, *scopes: str) -> str:
        """Create an access token for scopes; without arguments, for all scopes."""
        return self.tokens.issue(account, scopes=scopes or ALL_SCOPES).value

    def revoke(self, token: str) -> None:
        """Revoke an access token: its streams are closed, and calls with it get 401."""
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
        quoting: Status | None = None,
        quote_state: str = "accepted",
    ) -> Status:
        """Post as `account` without checks: any length, any attachments.

        Args:
            in_reply_to: a status or its id, as a number or in a string.
            quote_state: whether the author of `quoting` has accepted that, as the API's Quote entity says it.

        Raises:
            KeyError: there is no such status to reply to.
        """
        parent = self.status(in_reply_to) if in_reply_to is not None else None
        draft = Draft(text, visibility, spoiler_text, sensitive, language, quoted=quoting, quote_state=quote_state)
        return self.statuses.store(account, draft, list(attachments), parent)

    def status(self, status: Status | int | str) -> Status:
        """The status with an id. Raises KeyError if there is none."""
        found = self.statuses.find(self._number(status))
        if found is None:
            raise KeyError(status)
        return found

    def _number(self, status: Status | int | str) -> int:
        if isinstance(status, str):
            return self.host.read_id(status) or 0
        return status.id if isinstance(status, Status) else status

    def delete(self, status: Status | int | str) -> None:
        """Delete a status as its author."""
        self.statuses.delete(self.status(status))

    def edit(self, status: Status | int | str, text: str) -> Status:
        """Change the text of a status."""
        old = self.status(status)
        draft = Draft(text, old.visibility, old.spoiler_text, old.sensitive, old.language)
        return self.statuses.edit(old, draft, None)

    def replies_to(self, status: Status | int | str) -> list[Status]:
        """The direct replies to a status, oldest first."""
        return self.statuses.replies_to(self._number(status))

    def statuses_of(self, account: Account) -> list[Status]:
        """All statuses of an account, oldest first."""
        return self.statuses.of(account)

    def follow(self, account: Account, target: Account) -> Notification | None:
        """Make `account` follow `target`; returns the notification, or None if it already did."""
        with self.host.lock:
            if target.id in account.following:
                return None
            account.following.add(target.id)
            return self.notifications.add(target, "follow", account)
