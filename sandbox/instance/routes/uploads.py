"""Routes for uploading attachments, and for waiting until they are processed."""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.routing import Route

from sandbox.instance.api import Call, route
from sandbox.instance.errors import ApiError, invalid
from sandbox.instance.instance import Instance
from sandbox.instance.records import Media


def routes(instance: Instance) -> list[Route]:
    write = ("write", "write:media")
    one = "/api/v1/media/{id}"
    return [
        route(instance, "/api/v1/media", _post_and_wait, method="POST", scopes=write),
        route(instance, "/api/v2/media", _post, method="POST", scopes=write),
        route(instance, one, _show, scopes=write),
        route(instance, one, _update, method="PUT", scopes=write),
        route(instance, one, _delete, method="DELETE", scopes=write),
    ]


async def _post(call: Call) -> Any:
    media = await _upload(call, wait=False)
    status = 202 if media.type != "image" or call.instance.media.is_processing(media) else 200
    shown = call.instance.entities.media(media)
    return JSONResponse(shown | {"url": None} if status == 202 else shown, status)


async def _post_and_wait(call: Call) -> Any:
    return call.instance.entities.media(await _upload(call, wait=True))


async def _upload(call: Call, *, wait: bool) -> Media:
    user, file = call.user, call.params.file("file")
    if file is None:
        raise invalid("File can't be blank")
    data = await file.read()
    description = call.params.text("description")
    return await run_in_threadpool(call.instance.media.upload, user, data, description, wait=wait)


def _media(call: Call) -> Media:
    return call.instance.media.get_unattached(call.user, call.id())


async def _show(call: Call) -> Any:
    """An attachment; 206 during processing, 422 if it failed."""
    media = _media(call)
    processing = call.instance.media.is_processing(media)
    if media.failed and not processing:
        raise ApiError(422, "Error processing thumbnail for uploaded media")
    return JSONResponse(call.instance.entities.media(media), 206 if processing else 200)


async def _update(call: Call) -> Any:
    media, description = _media(call), call.params.text("description")
    if "description" in call.params:
        call.instance.media.check_description(description)
        media.description = description
    return call.instance.entities.media(media)


async def _delete(call: Call) -> Any:
    call.instance.media.delete(_media(call))
    return {}
