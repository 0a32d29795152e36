"""Routes for accounts and relationships."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.routing import Route

from sandbox.instance.api import Call, Handler, route
from sandbox.instance.errors import not_found
from sandbox.instance.instance import Instance
from sandbox.instance.records import Account

PREFIX = "/api/v1/accounts"


def routes(instance: Instance) -> list[Route]:
    read = ("read", "read:accounts")

    def post(action: str, change: Callable[[Instance, Account, Account], object], what: str) -> Route:
        path, scopes = f"{PREFIX}/{{id}}/{action}", ("write", f"write:{what}")
        return route(instance, path, _changing(change), method="POST", scopes=scopes)

    return [
        route(instance, f"{PREFIX}/verify_credentials", _verify_credentials, scopes=("profile", *read)),
        route(instance, f"{PREFIX}/lookup", _lookup, scopes=read, optional=True),
        route(instance, f"{PREFIX}/relationships", _relationships, scopes=("read", "read:follows")),
        route(instance, f"{PREFIX}/{{id}}", _show, scopes=read, optional=True),
        route(instance, f"{PREFIX}/{{id}}/statuses", _statuses, scopes=("read", "read:statuses"), optional=True),
        post("follow", Instance.follow, "follows"),
        post("unfollow", _unfollow, "follows"),
        post("block", _block, "blocks"),
        post("unblock", _unblock, "blocks"),
        post("mute", _mute, "mutes"),
        post("unmute", _unmute, "mutes"),
    ]


async def _verify_credentials(call: Call) -> Any:
    return call.instance.entities.own_account(call.user)


async def _lookup(call: Call) -> Any:
    username, _, domain = call.params.text("acct").removeprefix("@").partition("@")
    account = call.instance.accounts.find(username, domain or None)
    if account is None:
        raise not_found()
    return call.instance.entities.account(account)


async def _show(call: Call) -> Any:
    return call.instance.entities.account(_target(call))


async def _relationships(call: Call) -> Any:
    found = [call.instance.accounts.get(each) for each in call.ids("id")]
    return [call.instance.entities.relationship(call.user, account) for account in found]


async def _statuses(call: Call) -> Any:
    if call.params.flag("pinned"):
        return []  # pinned statuses are not supported
    account, page = _target(call), call.page(default=20, most=40)
    shown = {
        status.id: status
        for status in call.instance.statuses.of(account)
        if call.instance.statuses.can_see(call.viewer, status)
        and not (call.params.flag("exclude_replies") and status.in_reply_to_id is not None)
        and not (call.params.flag("exclude_reblogs") and status.reblog is not None)
        and not (call.params.flag("only_media") and not status.media)
    }
    ids = page.of(list(shown))
    call.link(ids, page)
    return [call.instance.entities.status(shown[each], call.viewer) for each in ids]


def _target(call: Call) -> Account:
    return call.instance.accounts.get(call.id())


def _changing(change: Callable[[Instance, Account, Account], object]) -> Handler:
    """A handler that changes the relationship to the account in the path, and returns it."""

    async def handler(call: Call) -> Any:
        target = _target(call)
        change(call.instance, call.user, target)
        return call.instance.entities.relationship(call.user, target)

    return handler


def _unfollow(_instance: Instance, account: Account, target: Account) -> None:
    account.following.discard(target.id)


def _block(instance: Instance, account: Account, target: Account) -> None:
    instance.accounts.block(account, target)


def _unblock(_instance: Instance, account: Account, target: Account) -> None:
    account.blocking.discard(target.id)


def _mute(_instance: Instance, account: Account, target: Account) -> None:
    account.muting.add(target.id)


def _unmute(_instance: Instance, account: Account, target: Account) -> None:
    account.muting.discard(target.id)
