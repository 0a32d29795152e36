"""Routes for statuses: post, read, threads, edit, delete, favourite and boost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from starlette.routing import Route

from sandbox.instance.api import Call, route
from sandbox.instance.errors import ApiError, not_found
from sandbox.instance.instance import Instance
from sandbox.instance.records import Media, Status
from sandbox.instance.statuses import REPLY_TO_NOTHING, Draft

PREFIX = "/api/v1/statuses"


def routes(instance: Instance) -> list[Route]:
    read, write = ("read", "read:statuses"), ("write", "write:statuses")
    favour = ("write", "write:favourites")
    one = f"{PREFIX}/{{id}}"
    return [
        route(instance, PREFIX, _several, scopes=read, optional=True),
        route(instance, PREFIX, _post, method="POST", scopes=write),
        route(instance, one, _show, scopes=read, optional=True),
        route(instance, one, _edit, method="PUT", scopes=write),
        route(instance, one, _delete, method="DELETE", scopes=write),
        route(instance, f"{one}/context", _context, scopes=read, optional=True),
        route(instance, f"{one}/source", _source, scopes=read),
        route(instance, f"{one}/favourite", _favourite, method="POST", scopes=favour),
        route(instance, f"{one}/unfavourite", _unfavourite, method="POST", scopes=favour),
        route(instance, f"{one}/reblog", _reblog, method="POST", scopes=write),
        route(instance, f"{one}/unreblog", _unreblog, method="POST", scopes=write),
    ]


def _status(call: Call) -> Status:
    return call.instance.statuses.get(call.id(), call.viewer)


def _shown(call: Call, status: Status) -> Any:
    return call.instance.entities.status(status, call.viewer)


async def _show(call: Call) -> Any:
    return _shown(call, _status(call))


async def _several(call: Call) -> Any:
    """The statuses with the requested ids that exist."""
    if not call.instance.settings.profile.lists_statuses:
        raise not_found()
    found = [call.instance.statuses.find(each) for each in call.ids("id")]
    return [_shown(call, each) for each in found if each and call.instance.statuses.can_see(call.viewer, each)]


async def _context(call: Call) -> Any:
    status, statuses = _status(call), call.instance.statuses
    return {
        "ancestors": [_shown(call, each) for each in statuses.ancestors(status, call.viewer)],
        "descendants": [_shown(call, each) for each in statuses.descendants(status, call.viewer)],
    }


async def _source(call: Call) -> Any:
    status = call.instance.statuses.get_own(call.id(), call.user)
    return {"id": call.instance.host.shown_id(status.id), "text": status.text, "spoiler_text": status.spoiler_text}


async def _post(call: Call) -> Any:
    user, limits = call.user, call.instance.limits
    draft = _draft(call)
    limits.check("statuses", str(user.id))
    n_before = len(call.instance.statuses)
    status = call.instance.statuses.post(user, draft, key=call.request.headers.get("idempotency-key"))
    if len(call.instance.statuses) > n_before:
        call.headers |= limits.take("statuses", str(user.id))
    return _shown(call, status)


def _draft(call: Call) -> Draft:
    params = call.params
    parent = call.instance.host.read_id(params.text("in_reply_to_id"))
    if params.text("in_reply_to_id") and parent is None:
        raise ApiError(404, REPLY_TO_NOTHING)
    return Draft(
        text=params.text("status"),
        visibility=params.text("visibility") or "public",
        spoiler_text=params.text("spoiler_text"),
        sensitive=params.flag("sensitive"),
        language=params.text("language") or "en",
        in_reply_to_id=parent,
        media_ids=tuple(dict.fromkeys(call.ids("media_ids"))),
        app=call.token.app if call.token else None,
    )


async def _edit(call: Call) -> Any:
    status = call.instance.statuses.get_own(call.id(), call.user)
    draft = replace(_draft(call), language=call.params.text("language") or status.language)
    edited = call.instance.statuses.edit(status, draft, _media_after_edit(call, status))
    return _shown(call, edited)


def _media_after_edit(call: Call, status: Status) -> list[Media] | None:
    """The attachments in the call, including those already attached; None if the call has none."""
    if "media_ids" not in call.params:
        return None
    wanted = call.ids("media_ids")
    own = {media.id: media for media in status.media}
    new = call.instance.media.take(call.user, [each for each in wanted if each not in own])
    own |= {media.id: media for media in new}
    return [own[each] for each in wanted]


async def _delete(call: Call) -> Any:
    status = call.instance.statuses.get_own(call.id(), call.user)
    shown = call.instance.entities.deleted_status(status)
    call.instance.statuses.delete(status, delete_media=call.params.flag("delete_media"))
    return shown


async def _favourite(call: Call) -> Any:
    status = _status(call)
    call.instance.statuses.favourite(call.user, status)
    return _shown(call, status)


async def _unfavourite(call: Call) -> Any:
    status = _status(call)
    status.favourited_by.discard(call.user.id)
    return _shown(call, status)


async def _reblog(call: Call) -> Any:
    return _shown(call, call.instance.statuses.reblog(call.user, _status(call)))


async def _unreblog(call: Call) -> Any:
    status = _status(call)
    boost = call.instance.statuses.boost_of(call.user, status)
    if boost is not None:
        call.instance.statuses.delete(boost)
        status.reblogged_by.discard(call.user.id)
    return _shown(call, status)
