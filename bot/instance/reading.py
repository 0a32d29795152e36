"""Reads notifications, statuses, threads and accounts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mastodon import Mastodon

from bot.entities import Account, Mention, Status, Thread
from bot.errors import NoSuchPage, Refused
from bot.instance import parse
from bot.instance.calls import Calls
from bot.instance.home import Home

logger = logging.getLogger(__name__)

PAGE_SIZE = 80  # Mastodon's maximum
MAX_PAGES_BACK = 10


@dataclass(frozen=True, slots=True)
class Page:
    """One page of notifications.

    Attributes:
        mentions: the mentions among them that can be parsed.
        ids: of all notifications on the page, oldest first; empty at the end. The order is the server's: a list may mix
            ids of several forms and lengths.
        streamed: the ids of those mentions' statuses that a stream brings too, as they are not filtered.
    """

    mentions: tuple[Mention, ...]
    ids: tuple[str, ...]
    streamed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """The relation between the bot's account and another."""

    blocked_or_muted: bool  # one of the two has blocked or muted the other


@dataclass(eq=False)
class Reader:
    """Reads; changes nothing on the server.

    Raises (all methods that call the server):
        RateLimited, Unauthorized, NotFound, Refused, Transient: see `bot.errors`.
    """

    calls: Calls
    home: Home

    def __post_init__(self) -> None:
        self._no_filters = False  # the server refuses parameters of notifications

    def notifications(self, *, min_id: str | None = None, max_id: str | None = None) -> Page:
        """The page right after `min_id`, or right before `max_id`, or the newest; filtered notifications included."""

        def ask(api: Mastodon) -> Any:
            api.session.params = {"include_filtered": "true"}
            try:
                return api.notifications(types=["mention"], min_id=min_id, max_id=max_id, limit=PAGE_SIZE)
            finally:
                api.session.params = {}

        def ask_unfiltered(api: Mastodon) -> Any:
            return api.notifications(min_id=min_id, max_id=max_id)

        what = "notifications"
        if self._no_filters:
            return self.calls.read("page", what, ask_unfiltered, _page)
        try:
            return self.calls.read("page", what, ask, _page)
        except (Refused, NoSuchPage) as error:  # the server refuses unknown parameters
            if isinstance(error, NoSuchPage) and error.outage:
                raise
            page = self.calls.read("page", what, ask_unfiltered, _page)
            self._no_filters = True
            return page

    def backwards(self, *, below: str | None = None) -> Iterator[Page]:
        """Pages of notifications towards the oldest, from the newest or from `below` on.

        A server that does not know `max_id` gives one page.
        """
        seen: set[str] = set()
        while True:
            page = self.notifications(max_id=below)
            if seen.issuperset(page.ids):  # the end, or a server without max_id
                return
            yield page
            seen.update(page.ids)
            below = page.ids[0]

    def status(self, status_id: str) -> Status:
        """One status, as it is now."""
        return self.calls.read("call", f"status {status_id}", lambda api: api.status(status_id), parse.status)

    def existing(self, status_ids: Sequence[str]) -> set[str]:
        """The ids of those of these statuses (at most 20) that exist and are visible to the bot."""
        return self.calls.read(
            "call",
            "several statuses",
            lambda api: api.statuses(list(status_ids)),
            lambda found: {str(item["id"]) for item in found},
        )

    def statuses(self, status_ids: Sequence[str]) -> list[Status]:
        """Those of these statuses (at most 20) that exist, are visible to the bot and can be read, as they are now."""

        def readable(found: Sequence[parse.Json]) -> list[Status]:
            statuses = []
            for item in found:
                with suppress(KeyError, TypeError, ValueError, AttributeError):
                    statuses.append(parse.status(item))
            return statuses

        return self.calls.read("call", "several statuses", lambda api: api.statuses(list(status_ids)), readable)

    def account(self, account_id: str) -> Account:
        """One account, as it is now."""
        return self.calls.read("call", f"account {account_id}", lambda api: api.account(account_id), parse.account)

    def thread(self, status_id: str) -> Thread:
        """Ancestors and descendants of a status."""
        what = f"the thread of status {status_id}"
        return self.calls.read("call", what, lambda api: api.status_context(status_id), parse.thread)

    def orphaned_replies(self, account_id: str, *, since: str) -> list[str]:
        """The bot's replies to an account, posted after the status `since`, whose question is gone.

        When a status is deleted, its replies lose `in_reply_to_id` and keep `in_reply_to_account_id`.
        """
        me, position = self.home.me().id, since
        found: dict[str, bool] = {}

        def ask(api: Mastodon) -> Any:
            return api.account_statuses(me, min_id=position, limit=40)

        for _ in range(MAX_PAGES_BACK):
            items = self.calls.call("page", "our own statuses", ask)
            page = {str(item["id"]): _is_orphan(item, of=account_id) for item in items}
            if found.keys() >= page.keys():  # the end, or a server without min_id
                break
            found |= page
            position = next(iter(page))
        return [status_id for status_id, is_orphan in found.items() if is_orphan]

    def relation(self, account_id: str) -> Relation:
        """The relation to an account; needs the scope read:follows."""
        names = ("blocking", "blocked_by", "muting", "domain_blocking")
        return self.calls.read(
            "call",
            "the relation to an account",
            lambda api: api.account_relationships([account_id]),
            lambda found: Relation(blocked_or_muted=any(item.get(name) for item in found for name in names)),
        )

    def lookup(self, acct: str) -> Account:
        """The account with that name. Raises NotFound if this instance knows none."""
        return self.calls.read("call", f"the account {acct}", lambda api: api.account_lookup(acct), parse.account)


def _is_orphan(item: parse.Json, *, of: str) -> bool:
    return str(item.get("in_reply_to_account_id")) == of and not item.get("in_reply_to_id")


def _page(items: Sequence[parse.Json]) -> Page:
    read = [(item, mention) for item in items if (mention := readable_mention(item))]
    ids = [str(item["id"]) for item in reversed(items)]  # the newest comes first
    streamed = [mention.status.id for item, mention in read if not item.get("filtered")]
    return Page(tuple(mention for _, mention in read), tuple(ids), tuple(streamed))


def readable_mention(raw: parse.Json) -> Mention | None:
    """Parses a notification into a mention, or None; logs one that cannot be parsed."""
    try:
        return parse.mention(raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        logger.warning("unreadable notification=%s error=%r", raw.get("id"), error)
        return None
