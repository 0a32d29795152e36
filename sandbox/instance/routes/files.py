"""Routes for the files of attachments and avatars."""

from __future__ import annotations

import functools
import io

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.instance.errors import ApiError
from sandbox.instance.instance import Instance
from sandbox.instance.media import preview_of


def routes(instance: Instance) -> list[Route]:
    async def file(request: Request) -> Response:
        try:
            media = instance.media.get(int(request.path_params["id"]))
        except ApiError:
            return Response(status_code=404)
        if request.path_params["kind"] == "original":
            return _answer(media.data, media.content_type)
        return _answer(*await run_in_threadpool(preview_of, media))

    async def avatar(request: Request) -> Response:  # noqa: ARG001 - Starlette's signature
        return _answer(_blank(), "image/png")

    return [
        Route("/system/media_attachments/files/{id:int}/{kind}/{name}", file),
        Route("/media_proxy/{id:int}/{kind}", file),
        Route("/avatars/original/missing.png", avatar),
    ]


def _answer(data: bytes, content_type: str) -> Response:
    # The header is set here because Starlette would add a charset to text types.
    return Response(data, headers={"Content-Type": content_type, "X-Content-Type-Options": "nosniff"})


@functools.cache
def _blank() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (48, 48), "#6b7280").save(out, "PNG")
    return out.getvalue()
