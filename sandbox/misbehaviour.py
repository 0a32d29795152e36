"""Applies faults to an app, as a middleware.

The app itself is not changed. `GET` and `POST /sandbox/faults` are handled here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sandbox.faults import Fault, Faults, OpenStream, Orders
from sandbox.server import CUT, until_gone

Sleep = Callable[[float], Awaitable[None]]

PATH = "/sandbox/faults"
INSTEAD = ("answer", "rate_limit", "redirect", "cut")  # faults without a call of the app
REFUSALS = ("answer", "rate_limit", "redirect")  # those of a WebSocket
DRIP_STEP_S = 0.25
REASONS = {429: "Too Many Requests", 500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable"}
PROXY_PAGE = (
    "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n"
    "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)
WAITING_PAGE = "<!DOCTYPE html><title>Please wait</title><p>Please wait…</p>"


class FaultMiddleware:
    """Wraps an app and applies faults to its requests."""

    def __init__(self, app: ASGIApp, faults: Faults, *, sleep: Sleep = asyncio.sleep) -> None:
        self.app = app
        self.faults = faults
        self.sleep = sleep

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._open_socket(scope, receive, send)
        elif scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"] == PATH:
            await (await self._apply_orders(Request(scope, receive)))(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _apply_orders(self, request: Request) -> Response:
        if request.method == "POST":
            try:
                self.faults.apply(Orders.model_validate_json(await request.body()))
            except ValidationError as error:
                problems = json.loads(error.json(include_url=False, include_input=False, include_context=False))
                return JSONResponse({"error": problems}, 422)
        return JSONResponse(self.faults.state())

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        chosen = self.faults.choose(scope["method"], scope["path"])
        for fault in chosen:
            if fault.kind == "delay":
                await self.sleep(fault.seconds)
        if not chosen or chosen[-1].kind == "delay":
            await self._watch(scope, receive, send)
        elif chosen[-1].kind in INSTEAD:
            await _replacement(chosen[-1])(scope, receive, send)
        else:
            await self._send_changed(chosen[-1], scope, receive, send)

    async def _watch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app normally, but close or stall event streams on request."""
        stream = OpenStream(scope.get("extensions", {}).get(CUT))
        opened = False

        async def watched_send(message: Message) -> None:
            nonlocal opened
            if _starts_event_stream(message):
                opened = True
                self.faults.opened(stream)
            if opened and self.faults.streams_stalled and (message.get("body") or message["type"] == "websocket.send"):
                self.faults.swallowed += 1
                return
            await send(message)

        async def watched_receive() -> Message:
            message = await stream.receive(receive)
            is_end = message["type"] == "http.disconnect"
            return {"type": "websocket.disconnect", "code": 1006} if is_end and scope["type"] != "http" else message

        try:
            await self.app(scope, watched_receive, watched_send)
        finally:
            if opened:
                self.faults.ended(stream)

    async def _open_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Open a WebSocket, or refuse it; other kinds of faults do not apply to it."""
        refusal = next((each for each in self.faults.choose("GET", scope["path"]) if each.kind in REFUSALS), None)
        if refusal is None:
            await self._watch(scope, receive, send)
            return

        async def deny(message: Message) -> None:
            await send({**message, "type": f"websocket.{message['type']}"})

        await _replacement(refusal)({**scope, "type": "http", "method": "GET"}, receive, deny)

    async def _send_changed(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app, then send a changed response."""
        answer = await _collect(self._watch, scope, receive, send)
        if answer is None:
            return
        if fault.kind == "store_then_delay":
            await self.sleep(fault.seconds)
        await _changed_response(answer, fault, self.sleep)(scope, receive, send)


def _starts_event_stream(message: Message) -> bool:
    """Whether an event stream begins with this message, of either kind."""
    if message["type"] == "http.response.start":
        return (b"content-type", b"text/event-stream") in [(name, value[:17]) for name, value in message["headers"]]
    return bool(message["type"] == "websocket.accept")


async def _collect(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> Response | None:
    """Collect an app's whole response; None for an event stream, which is passed through instead."""
    response = Response()
    body = b""
    passed_on = False

    async def collect(message: Message) -> None:
        nonlocal body, passed_on
        passed_on = passed_on or _starts_event_stream(message)
        if passed_on:
            await send(message)
        elif message["type"] == "http.response.start":
            response.status_code = message["status"]
            response.raw_headers = [(bytes(name), bytes(value)) for name, value in message["headers"]]
        else:
            body += message.get("body", b"")

    await app(scope, receive, collect)
    response.body = body
    return None if passed_on else response


def _replacement(fault: Fault) -> ASGIApp:
    """The response that replaces a call of the app."""
    if fault.kind == "cut":
        return _cut
    if fault.kind == "redirect":
        return RedirectResponse(fault.location, 302)
    if fault.kind == "rate_limit":
        reset = (datetime.now(UTC) + timedelta(seconds=fault.seconds)).isoformat(timespec="microseconds")
        headers = {"X-RateLimit-Limit": "300", "X-RateLimit-Remaining": "0"}
        headers["X-RateLimit-Reset"] = reset.replace("+00:00", "Z")
        return JSONResponse({"error": "Too many requests"}, 429, headers)
    return _failure(fault)


def _failure(fault: Fault) -> Response:
    """An error response of the server, or of a proxy in front of it."""
    reason = REASONS.get(fault.status, "Error")
    if fault.html:
        return HTMLResponse(PROXY_PAGE.format(title=f"{fault.status} {reason}"), fault.status)
    return JSONResponse({"error": reason}, fault.status)


def _changed_response(answer: Response, fault: Fault, sleep: Sleep) -> ASGIApp:
    """The changed response."""
    kept = bytes(answer.body[: int(len(answer.body) * fault.keep)])
    if fault.kind == "store_then_answer":
        return _failure(fault)
    if fault.kind == "store_then_cut":
        return _cut
    if fault.kind == "html":
        return HTMLResponse(WAITING_PAGE)
    if fault.kind == "truncate":
        answer.body = kept
        answer.headers["content-length"] = str(len(kept))
    elif fault.kind == "cut_body":
        return _cut_body(answer, kept)
    elif fault.kind in ("drip", "endless"):
        return _drip(answer, fault.bytes_per_s, sleep, endless=fault.kind == "endless")
    return answer


async def _cut(scope: Scope, _receive: Receive, _send: Send) -> None:
    scope["extensions"][CUT]()


def _start(answer: Response) -> Message:
    return {"type": "http.response.start", "status": answer.status_code, "headers": answer.raw_headers}


def _part(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


def _cut_body(answer: Response, kept: bytes) -> ASGIApp:
    """A response whose connection is reset before its end."""

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        await send(_start(answer))
        await send(_part(kept))
        await _cut(scope, receive, send)

    return respond


def _drip(answer: Response, bytes_per_s: float, sleep: Sleep, *, endless: bool) -> ASGIApp:
    """A response whose body is sent slowly, a few bytes at a time, while the client is connected."""
    body = bytes(answer.body)
    step = max(1, int(bytes_per_s * DRIP_STEP_S))
    if endless:
        del answer.headers["content-length"]

    async def respond(_scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(until_gone(receive))
        try:
            await send(_start(answer))
            at = 0
            while (at < len(body) or endless) and not gone.done():
                await send(_part(body[at : at + step].ljust(step if endless else 0, b"\0")))
                await sleep(step / bytes_per_s)
                at += step
            await send(_part(b"", more=False))
        finally:
            gone.cancel()

    return respond
