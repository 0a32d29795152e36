"""Leaves accounts alone for their instance's sake: blocked in the settings, or with #nobot in its description."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from bot.config import host_name
from bot.entities import Account
from bot.instance.home import Home
from bot.instance.neighbours import Neighbours
from bot.mentions.etiquette import has_no_bots_tag
from bot.shares import waiting


@dataclass(frozen=True, slots=True)
class Hosts:
    """Knows which instances' accounts get no answer and have no photo looked at.

    Args:
        blocked: `bot.blocked_domains`; subdomains are meant too.
        neighbours: None: other instances are not asked for their description.
    """

    home: Home
    blocked: Collection[str]
    neighbours: Neighbours | None

    def is_blocked(self, account: Account) -> bool:
        """Whether the settings block an account's instance."""
        labels = self._host(account).split(".")
        return any(".".join(labels[start:]) in self.blocked for start in range(len(labels)))

    def leaves_alone(self, account: Account) -> bool:
        """Whether an account's instance is blocked or asks bots to stay away; asks it, once a day at most."""
        return self.is_blocked(account) or has_no_bots_tag(self._description(account))

    def _description(self, account: Account) -> str:
        host = self._host(account)
        if host == self._own_host():
            return self.home.instance().description
        with waiting():
            return "" if self.neighbours is None else self.neighbours.description(host)

    def _host(self, account: Account) -> str:
        given = account.acct.rpartition("@")[2] if "@" in account.acct else ""
        try:
            return host_name(given) if given else self._own_host()
        except ValueError:
            return given.lower()

    def _own_host(self) -> str:
        return urlsplit(self.home.calls.settings.base_url).hostname or ""
