"""Stores accounts, with their follows, blocks and mutes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sandbox.instance.errors import not_found
from sandbox.instance.host import Host
from sandbox.instance.records import Account


class Accounts:
    """The local accounts of an instance, and its known remote accounts."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._by_id: dict[int, Account] = {}
        self._by_acct: dict[str, Account] = {}

    def add(
        self,
        acct: str,
        *,
        display_name: str | None = None,
        note: str = "",
        bot: bool = False,
        created_at: datetime | None = None,
    ) -> Account:
        """Create an account; `user@host` creates a remote one.

        Raises:
            ValueError: the name is taken.
        """
        username, _, domain = acct.partition("@")
        with self._host.lock:
            if acct.lower() in self._by_acct:
                raise ValueError(f"account {acct}: exists already; choose another name")
            account = Account(
                id=self._host.next_id(),
                username=username,
                domain=domain or None,
                display_name=username if display_name is None else display_name,
                note=note,
                bot=bot,
                created_at=created_at or self._host.now(),
            )
            self._by_id[account.id] = account
            self._by_acct[acct.lower()] = account
            return account

    def get(self, account_id: int) -> Account:
        """The account with an id. Raises ApiError 404 if there is none."""
        account = self._by_id.get(account_id)
        if account is None:
            raise not_found()
        return account

    def find(self, username: str, domain: str | None = None) -> Account | None:
        """The account with a name, or None; the local domain is optional."""
        if domain is None or domain.lower() == self._host.settings.domain:
            return self._by_acct.get(username.lower())
        return self._by_acct.get(f"{username}@{domain}".lower())

    def local(self) -> list[Account]:
        """The local accounts, in order of creation."""
        with self._host.lock:
            return [account for account in self._by_id.values() if account.domain is None]

    def followers_of(self, account: Account) -> Iterable[Account]:
        return [other for other in self._by_id.values() if account.id in other.following]

    def block(self, account: Account, target: Account) -> None:
        """Block an account; this ends follows in both directions."""
        with self._host.lock:
            account.blocking.add(target.id)
            account.following.discard(target.id)
            target.following.discard(account.id)
