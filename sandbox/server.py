"""Runs a Starlette app on a loopback port, in a thread of this process.

It adds two things to uvicorn: a stop that ends open streams at once, and a connection reset for `sandbox.faults`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any, cast

import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

HOST = "127.0.0.1"
CUT = "sandbox.cut"  # ASGI extension: a function without arguments that resets the connection
TICK_S = 0.1
GRACE_S = 1  # time for running requests after the stop; streams end at once
BACKLOG = 2048


async def receive_until(event: asyncio.Event, receive: Receive) -> Message:
    """Like `receive()`, but returns a disconnect as soon as `event` is set."""
    message = asyncio.ensure_future(receive())
    stop = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({message, stop}, return_when=asyncio.FIRST_COMPLETED)
        return message.result() if message.done() else {"type": "http.disconnect"}
    finally:
        message.cancel()
        stop.cancel()


async def until_gone(receive: Receive) -> None:
    """Wait until the client disconnects; other messages are discarded."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _with_stop(app: ASGIApp, stopping: asyncio.Event) -> ASGIApp:
    """Ends open streams when the server stops: each waiting `receive()` returns a disconnect."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_or_stop() -> Message:
            return await receive_until(stopping, receive)

        await app(scope, receive_or_stop if scope["type"] == "http" else receive, send)

    return serve


class _Protocol(H11Protocol):
    """HTTP/1.1 with a connection reset for the app, through the ASGI extension `CUT`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        app = self.app

        async def with_cut(scope: Any, receive: Any, send: Any) -> None:
            scope.setdefault("extensions", {})[CUT] = transport.abort
            await app(scope, receive, send)

        self.app = with_cut


class _Server(uvicorn.Server):
    """A uvicorn server that reports when it is ready."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping
        self.ready = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None  # None until it is ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        self.ready.set()

    async def main_loop(self) -> None:
        """Like uvicorn's, but stops at once, not at the next tick."""
        counter = 0
        while not await self.on_tick(counter):
            counter += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), TICK_S)

    def stop(self) -> None:
        """End open streams, finish running requests, and return from `run_on`; thread-safe."""
        self.should_exit = True
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self._stopping.set)

    def run_on(self, listener: socket.socket) -> None:
        try:
            self.run(sockets=[listener])
        finally:
            self.ready.set()


@contextlib.contextmanager
def serve(app: Starlette, *, port: int = 0) -> Iterator[str]:
    """Run `app` on 127.0.0.1 while the context lasts.

    If the app needs its own URL, set `app.state.on_bound`, a function called with the base URL before the first
    request.

    Args:
        port: 0 means a free port; a port that was just closed can be reused.

    Yields:
        the base URL without trailing slash, e.g. "http://127.0.0.1:40123".

    Raises:
        OSError: the port is taken.
        RuntimeError: the server did not start; its log says why.
    """
    # Without an explicit TCP protocol, asyncio leaves Nagle's algorithm on, which costs 40 ms per request.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with contextlib.closing(listener):
        listener.bind((HOST, port))
        listener.listen(BACKLOG)
        url = f"http://{HOST}:{listener.getsockname()[1]}"
        on_bound = getattr(app.state, "on_bound", None)
        if on_bound is not None:
            on_bound(url)
        with _running(app, listener):
            yield url


@contextlib.contextmanager
def _running(app: Starlette, listener: socket.socket) -> Iterator[None]:
    stopping = asyncio.Event()
    config = uvicorn.Config(
        cast(Any, _with_stop(app, stopping)),
        http=_Protocol,
        ws="websockets-sansio",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = _Server(config, stopping)
    thread = threading.Thread(target=server.run_on, args=(listener,), name="sandbox-server", daemon=True)
    thread.start()
    server.ready.wait()
    if server.loop is None:
        raise RuntimeError("the sandbox server did not start")
    try:
        yield
    finally:
        server.stop()
        thread.join()
