"""Routes for notifications, the notification policy, and notification requests."""

from __future__ import annotations

from typing import Any

from starlette.routing import Route

from sandbox.instance.api import Call, route
from sandbox.instance.entities import Json, stamp
from sandbox.instance.errors import ApiError, not_found
from sandbox.instance.instance import Instance
from sandbox.instance.notifications import POLICIES
from sandbox.instance.records import Account, Notification

PREFIX = "/api/v1/notifications"
POLICY = "/api/v2/notifications/policy"


def routes(instance: Instance) -> list[Route]:
    read, write = ("read", "read:notifications"), ("write", "write:notifications")
    request = f"{PREFIX}/requests/{{id}}"
    return [
        route(instance, PREFIX, _page, scopes=read),
        route(instance, f"{PREFIX}/clear", _clear, method="POST", scopes=write),
        route(instance, f"{PREFIX}/requests", _requests, scopes=read),
        route(instance, f"{PREFIX}/requests/merged", _merged, scopes=read),
        route(instance, request, _request, scopes=read),
        route(instance, f"{request}/accept", _accept, method="POST", scopes=write),
        route(instance, f"{request}/dismiss", _dismiss_request, method="POST", scopes=write),
        route(instance, f"{PREFIX}/{{id}}", _show, scopes=read),
        route(instance, f"{PREFIX}/{{id}}/dismiss", _dismiss, method="POST", scopes=write),
        route(instance, POLICY, _policy, scopes=read),
        route(instance, POLICY, _set_policy, method="PATCH", scopes=write),
        route(instance, POLICY, _set_policy, method="PUT", scopes=write),
    ]


async def _page(call: Call) -> Any:
    page = call.page(default=40, most=80)
    found = call.instance.notifications.page(
        call.user,
        page,
        types=call.params.list("types"),
        exclude_types=call.params.list("exclude_types"),
        include_filtered=call.params.flag("include_filtered"),
        sender_id=call.instance.host.read_id(call.params.text("account_id")),
    )
    call.link([each.id for each in found], page)
    return [call.instance.entities.notification(each) for each in found]


async def _show(call: Call) -> Any:
    return call.instance.entities.notification(call.instance.notifications.get(call.user, call.id()))


async def _clear(call: Call) -> Any:
    call.instance.notifications.clear(call.user)
    return {}


async def _dismiss(call: Call) -> Any:
    call.instance.notifications.dismiss(call.user, call.id())
    return {}


async def _policy(call: Call) -> Any:
    if not call.instance.settings.profile.filters_notifications:
        raise not_found()
    requests = call.instance.notifications.requests(call.user)
    summary = {
        "pending_requests_count": len(requests),
        "pending_notifications_count": sum(len(each) for each in requests.values()),
    }
    return call.user.policy | {"summary": summary}


async def _set_policy(call: Call) -> Any:
    wanted = {name: value for name, value in call.params.last().items() if name in call.user.policy}
    for name, value in wanted.items():
        if value not in POLICIES:
            raise ApiError(422, f"'{value}' is not a valid {name}")
    call.user.policy |= wanted
    return await _policy(call)


async def _requests(call: Call) -> Any:
    page = call.page(default=40, most=80)
    waiting = {_request_id(filtered): (sender, filtered) for sender, filtered in _waiting(call).items()}
    ids = page.of(list(waiting))
    call.link(ids, page)
    return [_shown(call, *waiting[each]) for each in ids]


def _waiting(call: Call) -> dict[Account, list[Notification]]:
    return call.instance.notifications.requests(call.user)


def _request_id(filtered: list[Notification]) -> int:
    """The id of a request: that of its first notification."""
    return filtered[-1].id


def _shown(call: Call, sender: Account, filtered: list[Notification]) -> Json:
    last = filtered[0].status
    return {
        "id": call.instance.host.shown_id(_request_id(filtered)),
        "created_at": stamp(filtered[-1].created_at),
        "updated_at": stamp(filtered[0].created_at),
        "account": call.instance.entities.account(sender),
        "notifications_count": str(len(filtered)),
        "last_status": call.instance.entities.status(last, call.user) if last else None,
    }


def _named(call: Call) -> tuple[Account, list[Notification]]:
    """The request in the path. Raises ApiError 404 if there is none."""
    for sender, filtered in _waiting(call).items():
        if _request_id(filtered) == call.id():
            return sender, filtered
    raise ApiError(404, "Record not found")


async def _request(call: Call) -> Any:
    return _shown(call, *_named(call))


async def _accept(call: Call) -> Any:
    call.instance.notifications.accept(call.user, _named(call)[0])
    return {}


async def _dismiss_request(call: Call) -> Any:
    call.instance.notifications.dismiss_request(call.user, _named(call)[0])
    return {}


async def _merged(call: Call) -> Any:  # noqa: ARG001 - a handler's signature
    return {"merged": True}
