"""Accounts and how they stand to each other."""

from __future__ import annotations

from typing import Any

from starlette.routing import Route

from sandbox.instance.api import Call, route
from sandbox.instance.errors import not_found
from sandbox.instance.instance import Instance
from sandbox.instance.records import Account

PREFIX = "/api/v1/accounts"


def routes(instance: Instance) -> list[Route]:
    read = ("read", "read:accounts")

    def post(action: str, handler: Any, what: str) -> Route:
        return route(instance, f"{PREFIX}/{{id}}/{action}", handler, method="POST", scopes=("write", f"write:{what}"))

    return [
        route(instance, f"{PREFIX}/verify_credentials", _verify_credentials, scopes=("profile", *read)),
        route(instance, f"{PREFIX}/lookup", _lookup, scopes=read, optional=True),
        route(instance, f"{PREFIX}/relationships", _relationships, scopes=("read", "read:follows")),
        route(instance, f"{PREFIX}/{{id}}", _show, scopes=read, optional=True),
        route(instance, f"{PREFIX}/{{id}}/statuses", _statuses, scopes=("read", "read:statuses"), optional=True),
        post("follow", _follow, "follows"),
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
    found = [call.instance.accounts.get(int(each)) for each in call.params.list("id") if each.isdigit()]
    return [call.instance.entities.relationship(call.user, account) for account in found]


async def _statuses(call: Call) -> Any:
    if call.params.flag("pinned"):
        return []  # nobody pins anything here
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


def _stand(call: Call, target: Account) -> Any:
    return call.instance.entities.relationship(call.user, target)


async def _follow(call: Call) -> Any:
    target = _target(call)
    call.instance.follow(call.user, target)
    return _stand(call, target)


async def _unfollow(call: Call) -> Any:
    target = _target(call)
    call.user.following.discard(target.id)
    return _stand(call, target)


async def _block(call: Call) -> Any:
    target = _target(call)
    call.instance.accounts.block(call.user, target)
    return _stand(call, target)


async def _unblock(call: Call) -> Any:
    target = _target(call)
    call.user.blocking.discard(target.id)
    return _stand(call, target)


async def _mute(call: Call) -> Any:
    target = _target(call)
    call.user.muting.add(target.id)
    return _stand(call, target)


async def _unmute(call: Call) -> Any:
    target = _target(call)
    call.user.muting.discard(target.id)
    return _stand(call, target)
