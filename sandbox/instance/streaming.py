"""Sends events to open streams, as server-sent events or over a WebSocket."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from sandbox.instance.errors import ApiError
from sandbox.instance.host import Host
from sandbox.instance.records import Account, Token
from sandbox.instance.tokens import Tokens, covers
from sandbox.server import until_gone

TIMELINE = "timeline"
NOTIFICATIONS = "notifications"
PATHS = {"/api/v1/streaming/user": "user", "/api/v1/streaming/user/notification": "user:notification"}


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a stream."""

    name: str
    payload: str


class Subscription:
    """An open stream; its events are queued in the server's event loop."""

    def __init__(self, token: Token, channels: frozenset[str], kind: str) -> None:
        self.kind = kind  # events or websocket
        self.token = token
        self.channels = channels
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()

    def put(self, event: Event | None) -> None:
        """Queue an event, or None to end the stream; thread-safe."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    async def get(self) -> Event | None:
        return await self._queue.get()


class Hub:
    """Sends events to open streams; events are not stored."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscriptions: list[Subscription] = []
        self.addresses: list[str] = []  # at which streams were asked for
        self.silent: set[str] = set()  # kinds of streams that bring nothing, as behind a proxy that holds all back

    def subscribe(self, subscription: Subscription) -> None:
        with self._lock:
            self._subscriptions.append(subscription)

    def unsubscribe(self, subscription: Subscription) -> None:
        with self._lock:
            self._subscriptions.remove(subscription)

    def forget(self) -> None:
        """Send nothing more to the streams that are open now, as the real server does after its Redis was restarted.

        They stay open, with heartbeats.
        """
        with self._lock:
            for subscription in self._subscriptions:
                subscription.channels = frozenset()

    def listeners(self, account: Account | None = None) -> int:
        """Number of open streams, of one account or of all."""
        return len(self._of(account))

    def _of(self, account: Account | None) -> list[Subscription]:
        with self._lock:
            return [each for each in self._subscriptions if account is None or each.token.account is account]

    def publish(self, account: Account, channel: str, event: str, payload: Any) -> None:
        """Send an event to an account's streams with `channel`; a str payload is sent unchanged, others as JSON."""
        listening = [each for each in self._of(account) if channel in each.channels and each.kind not in self.silent]
        if not listening:
            return
        data = payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False)
        for subscription in listening:
            subscription.put(Event(event, data))

    def end(self, token: Token) -> None:
        """Close the streams of a token, as the real server does when it is revoked."""
        for subscription in self._of(None):
            if subscription.token is token:
                subscription.put(None)


class _EventStream:
    """The response to a stream request, as an ASGI app."""

    def __init__(self, hub: Hub, subscription: Subscription, heartbeat_s: float) -> None:
        self.hub = hub
        self.subscription = subscription
        self.heartbeat_s = heartbeat_s

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"private, no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        self.hub.subscribe(self.subscription)
        gone = asyncio.ensure_future(until_gone(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            frame: str | None = ":)\n"
            while frame is not None:
                await send({"type": "http.response.body", "body": frame.encode(), "more_body": True})
                frame = await self._next(gone)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            self.hub.unsubscribe(self.subscription)

    async def _next(self, gone: asyncio.Future[None]) -> str | None:
        """The next frame: an event, a heartbeat after a timeout, or None at the end."""
        event = asyncio.ensure_future(self.subscription.get())
        waiting: set[asyncio.Future[Any]] = {event, gone}
        try:
            await asyncio.wait(waiting, timeout=self.heartbeat_s, return_when=asyncio.FIRST_COMPLETED)
            if event.done():
                found = event.result()
                return None if found is None else f"event: {found.name}\ndata: {found.payload}\n\n"
            return None if gone.done() else ":thump\n"
        finally:
            event.cancel()


class Streaming:
    """The streaming server; in the real Mastodon a separate process with its own error texts."""

    def __init__(self, tokens: Tokens, hub: Hub, host: Host) -> None:
        self._tokens = tokens
        self._hub = hub
        self._host = host

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/api/v1/streaming/health", self._health),
            WebSocketRoute("/api/v1/streaming", self._talk),
            Route("/api/v1/streaming", self._stream),
            Route("/api/v1/streaming/{rest:path}", self._stream),
        ]

    async def _health(self, request: Request) -> Response:  # noqa: ARG002 - Starlette's signature
        return PlainTextResponse("OK")

    async def _stream(self, request: Request) -> Any:
        settings = self._host.settings
        try:
            if not (settings.streaming and settings.profile.server_sent_events):
                raise ApiError(404, "Not Found")
            name = PATHS.get(request.scope["path"])
            return _EventStream(self._hub, self._subscription(request, name), settings.heartbeat_s)
        except ApiError as error:
            return JSONResponse({"error": error.message}, error.status)

    async def _talk(self, socket: WebSocket) -> None:
        """Source: streaming/index.js of Mastodon; internal/api/client/streaming of GoToSocial."""
        try:
            if not (self._host.settings.streaming and self._host.settings.profile.websocket):
                raise ApiError(404, "Not Found")
            subscription = self._subscription(socket, socket.query_params.get("stream"))
        except ApiError as error:
            await socket.send_denial_response(JSONResponse({"error": error.message}, error.status))
            return
        await socket.accept(subprotocol=socket.headers.get("sec-websocket-protocol"))
        self._hub.subscribe(subscription)
        sender = asyncio.ensure_future(_send_messages(socket, subscription))
        try:
            while (await socket.receive())["type"] != "websocket.disconnect":
                pass
        finally:
            sender.cancel()
            self._hub.unsubscribe(subscription)

    def _subscription(self, asked: HTTPConnection, name: str | None) -> Subscription:
        """Check a request and subscribe.

        Source: streaming/index.js: authenticationMiddleware, checkScopes, channelsForUserStream.
        """
        if name not in PATHS.values():
            raise ApiError(400, "Unknown channel requested")
        self._hub.addresses.append(str(asked.url))
        scheme, _, value = asked.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not (
            asked.scope["type"] == "http" or self._host.settings.profile.bearer_sockets
        ):
            value = asked.query_params.get("access_token", "") or asked.headers.get("sec-websocket-protocol", "")
        if not value:
            raise ApiError(401, "Missing access token")
        token = self._tokens.find(value)
        if token is None or token.account is None:
            raise ApiError(401, "Invalid access token")
        if not covers(self._tokens.granted(token), "read:statuses" if name == "user" else "read:notifications"):
            raise ApiError(401, "Access token does not have the required scopes")
        channels = {TIMELINE} if name == "user" else set()
        if covers(self._tokens.granted(token), "read:notifications"):
            channels.add(NOTIFICATIONS)
        return Subscription(token, frozenset(channels), "events" if asked.scope["type"] == "http" else "websocket")


async def _send_messages(socket: WebSocket, subscription: Subscription) -> None:
    """Send events until the subscription ends; the keep-alive pings are uvicorn's."""
    with suppress(WebSocketDisconnect):
        while (event := await subscription.get()) is not None:
            await socket.send_json({"stream": ["user"], "event": event.name, "payload": event.payload})
        await socket.close()
