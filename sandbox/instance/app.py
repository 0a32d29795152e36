"""Builds the web application of an instance."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sandbox.instance.instance import Instance
from sandbox.instance.page import Timeline
from sandbox.instance.routes import accounts, files, meta, notifications, oauth, statuses, uploads
from sandbox.instance.streaming import Streaming
from sandbox.misbehaviour import FaultMiddleware


class _TrailingSlash:
    """Serves /path/ as /path, as Rails does and Mastodon.py relies on."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"].rstrip("/")}
        await self.app(scope, receive, send)


async def _not_found(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette's signature
    if request.scope["path"].startswith("/api/"):
        return JSONResponse({"error": "Not Found"}, 404)
    return HTMLResponse("<!DOCTYPE html><title>404</title><p>The page you are looking for isn't here.</p>", 404)


def create_app(instance: Instance) -> Starlette:
    """Create the web application of an instance; run it with `sandbox.server.serve`."""
    streaming = Streaming(instance.tokens, instance.hub, instance.host)
    routes = [
        *meta.routes(instance),
        *oauth.routes(instance),
        *accounts.routes(instance),
        *statuses.routes(instance),
        *uploads.routes(instance),
        *notifications.routes(instance),
        *streaming.routes(),
        *files.routes(instance),
        *Timeline(instance).routes(),
    ]
    middleware = [Middleware(FaultMiddleware, faults=instance.faults), Middleware(_TrailingSlash)]
    app = Starlette(routes=routes, middleware=middleware, exception_handlers={404: _not_found, 405: _not_found})
    app.state.on_bound = instance.bind
    return app
