"""How a sandbox server is told to misbehave: in process, or by `POST /sandbox/faults`.

    faults.add(Fault(kind="answer", path="/api/v1/statuses", methods=("POST",), status=503, times=3))
    faults.add(Fault(kind="store_then_cut", path="/api/v1/statuses", methods=("POST",), share=0.1))
    faults.close_streams()

    curl -d '{"add": [{"kind": "delay", "path": "/api/.*", "seconds": 5}]}' http://127.0.0.1:4000/sandbox/faults
    curl -d '{"clear": true, "close_streams": "cut", "stall_streams": true}' http://127.0.0.1:4000/sandbox/faults
    curl http://127.0.0.1:4000/sandbox/faults

`FaultMiddleware` stands before a whole app, so that the app itself knows nothing of all this.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sandbox.server import CUT, receive_until

PATH = "/sandbox/faults"
Kind = Literal[
    "answer",  # `status` instead of the app's answer; the app is not asked
    "rate_limit",  # 429 with X-RateLimit headers that end in `seconds`; the app is not asked
    "cut",  # the connection is reset before any answer; the app is not asked
    "delay",  # `seconds` later; further faults may strike as well
    "store_then_answer",  # the app does its work, then `status` is answered
    "store_then_cut",  # the app does its work, then the connection is reset
    "store_then_delay",  # the app does its work, its answer comes `seconds` later
    "truncate",  # the body ends after the share `keep`, and Content-Length agrees
    "cut_body",  # the connection is reset after the share `keep` of the body
    "html",  # 200 and a page of HTML instead of the body
    "drip",  # the body comes at `bytes_per_s`
]
DRIP_STEP_S = 0.25
PROXY_PAGE = "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n" + (
    "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)
REASONS = {429: "Too Many Requests", 500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable"}


class Fault(BaseModel):
    """One way to misbehave, and when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    path: str = ".*"  # a regular expression for the whole path
    methods: tuple[str, ...] = ()  # none: all
    times: Annotated[int, Field(ge=1)] | None = None  # how often it strikes; None: until it is cleared
    share: Annotated[float, Field(gt=0, le=1)] = 1.0  # of the matching requests, drawn with the seed
    status: Annotated[int, Field(ge=400, le=599)] = 503
    html: bool = False  # for answers: a proxy's page instead of the app's JSON
    seconds: Annotated[float, Field(ge=0)] = 1.0
    keep: Annotated[float, Field(ge=0, le=1)] = 0.5
    bytes_per_s: Annotated[float, Field(gt=0)] = 64.0

    @field_validator("path")
    @classmethod
    def _compiles(cls, path: str) -> str:
        try:
            re.compile(path)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return path

    def matches(self, method: str, path: str) -> bool:
        return (not self.methods or method in self.methods) and re.fullmatch(self.path, path) is not None


class Orders(BaseModel):
    """What can be sent to `POST /sandbox/faults`; carried out from top to bottom."""

    model_config = ConfigDict(extra="forbid")

    seed: int | None = None
    clear: bool = False
    add: tuple[Fault, ...] = ()
    close_streams: Literal["end", "cut"] | None = None
    stall_streams: bool | None = None


class Faults:
    """The faults that are set. Thread-safe.

    Attributes:
        fired: how often each kind has struck.
        swallowed: how many frames of stalled event streams were not sent.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.fired: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._random = random.Random(seed)
        self._set: list[tuple[Fault, int | None]] = []  # with how often it may still strike
        self._streams: list[_OpenStream] = []
        self.streams_stalled = False
        self.swallowed = 0

    def reseed(self, seed: int) -> None:
        """Draw anew which requests are struck."""
        self._random = random.Random(seed)

    def add(self, *faults: Fault) -> None:
        """Set faults besides those that are set already."""
        with self._lock:
            self._set += [(fault, fault.times) for fault in faults]

    def clear(self) -> None:
        """Behave well again; streams that were closed stay closed."""
        with self._lock:
            self._set.clear()
            self.streams_stalled = False

    def close_streams(self, how: Literal["end", "cut"] = "end") -> None:
        """Close all open event streams: with a clean end, or by a reset."""
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            stream.close(how)

    def stall_streams(self, stalled: bool = True) -> None:
        """Let event streams stay open in silence; what would have been sent is lost."""
        self.streams_stalled = stalled

    def obey(self, orders: Orders) -> None:
        """Carry out what was posted."""
        if orders.seed is not None:
            self.reseed(orders.seed)
        if orders.clear:
            self.clear()
        self.add(*orders.add)
        if orders.close_streams is not None:
            self.close_streams(orders.close_streams)
        if orders.stall_streams is not None:
            self.stall_streams(orders.stall_streams)

    def state(self) -> dict[str, Any]:
        """What is set, for people to read."""
        with self._lock:
            return {
                "faults": [fault.model_dump(exclude_defaults=True) | {"left": left} for fault, left in self._set],
                "streams_stalled": self.streams_stalled,
                "streams_open": len(self._streams),
                "fired": dict(self.fired),
            }

    def strike(self, method: str, path: str) -> list[Fault]:
        """The faults for one request: delays as they were set, then at most one of another kind."""
        struck: list[Fault] = []
        with self._lock:
            kept: list[tuple[Fault, int | None]] = []
            for fault, left in self._set:
                done = bool(struck) and struck[-1].kind != "delay"
                if not done and fault.matches(method, path) and self._random.random() < fault.share:
                    struck.append(fault)
                    self.fired[fault.kind] += 1
                    left = None if left is None else left - 1
                if left != 0:
                    kept.append((fault, left))
            self._set = kept
        return struck

    def _opened(self, stream: _OpenStream) -> None:
        with self._lock:
            self._streams.append(stream)

    def _ended(self, stream: _OpenStream) -> None:
        with self._lock:
            self._streams.remove(stream)


class _OpenStream:
    """An event stream that can be closed from any thread."""

    def __init__(self, cut: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        self._cut = cut

    def close(self, how: Literal["end", "cut"]) -> None:
        self._loop.call_soon_threadsafe(self._cut if how == "cut" else self._closing.set)

    async def receive(self, receive: Receive) -> Message:
        """As the server's own, but reports a disconnect when the stream is to be closed."""
        return await receive_until(self._closing, receive)


class FaultMiddleware:
    """Stands before an app and lets it misbehave as its `Faults` say."""

    def __init__(
        self, app: ASGIApp, faults: Faults, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self.app = app
        self.faults = faults
        self.sleep = sleep

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"] == PATH:
            await (await self._orders(Request(scope, receive)))(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _orders(self, request: Request) -> Response:
        if request.method == "POST":
            try:
                self.faults.obey(Orders.model_validate_json(await request.body()))
            except ValidationError as error:
                problems = json.loads(error.json(include_url=False, include_input=False, include_context=False))
                return JSONResponse({"error": problems}, 422)
        return JSONResponse(self.faults.state())

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        cut = scope.get("extensions", {}).get(CUT, lambda: None)
        struck = self.faults.strike(scope["method"], scope["path"])
        last = struck[-1] if struck else None
        for fault in struck:
            if fault.kind == "delay":
                await self.sleep(fault.seconds)
        if last is None or last.kind == "delay":
            await self._pass_on(scope, receive, send, cut)
        elif last.kind == "cut":
            cut()
        elif last.kind in ("answer", "rate_limit"):
            await _answer(last)(scope, receive, send)
        else:
            await self._spoil(last, scope, receive, send, cut)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, cut: Callable[[], None]) -> None:
        """Serve as always; event streams are kept an eye on."""
        stream = _OpenStream(cut)
        opened = False

        async def watched_send(message: Message) -> None:
            nonlocal opened
            if message["type"] == "http.response.start" and _is_event_stream(message):
                opened = True
                self.faults._opened(stream)
            if opened and self.faults.streams_stalled and message["type"] == "http.response.body" and message["body"]:
                self.faults.swallowed += 1
                return
            await send(message)

        async def watched_receive() -> Message:
            return await stream.receive(receive)

        try:
            await self.app(scope, watched_receive, watched_send)
        finally:
            if opened:
                self.faults._ended(stream)

    async def _spoil(self, fault: Fault, scope: Scope, receive: Receive, send: Send, cut: Callable[[], None]) -> None:
        """Let the app do its work, then spoil its answer."""
        answer = await _collect(self.app, scope, receive, send)
        if answer is None:
            return
        if fault.kind == "store_then_cut":
            cut()
            return
        if fault.kind == "store_then_answer":
            answer = _answer(fault)
        elif fault.kind == "html":
            answer = HTMLResponse("<!DOCTYPE html><title>Please wait</title><p>Please wait…</p>")
        elif fault.kind == "truncate":
            answer.body = answer.body[: int(len(answer.body) * fault.keep)]
            answer.headers["content-length"] = str(len(answer.body))
        elif fault.kind == "store_then_delay":
            await self.sleep(fault.seconds)
        elif fault.kind == "drip":
            await self._drip(answer, send, fault.bytes_per_s)
            return
        elif fault.kind == "cut_body":
            await send(_start(answer))
            await send(
                {
                    "type": "http.response.body",
                    "body": answer.body[: int(len(answer.body) * fault.keep)],
                    "more_body": True,
                }
            )
            cut()
            return
        await answer(scope, receive, send)

    async def _drip(self, answer: Response, send: Send, bytes_per_s: float) -> None:
        """Send a body slowly, a few bytes at a time."""
        await send(_start(answer))
        step = max(1, int(bytes_per_s * DRIP_STEP_S))
        for at in range(0, len(answer.body), step):
            await send({"type": "http.response.body", "body": bytes(answer.body[at : at + step]), "more_body": True})
            await self.sleep(step / bytes_per_s)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _is_event_stream(message: Message) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in message["headers"])


def _answer(fault: Fault) -> Response:
    """The answer of a server, or of the proxy before it, that does not do what it was asked."""
    if fault.kind == "rate_limit":
        reset = datetime.now(UTC) + timedelta(seconds=fault.seconds)
        headers = {
            "X-RateLimit-Limit": "300",
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": reset.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        }
        return JSONResponse({"error": "Too many requests"}, 429, headers)
    reason = REASONS.get(fault.status, "Error")
    if fault.html:
        return HTMLResponse(PROXY_PAGE.format(title=f"{fault.status} {reason}"), fault.status)
    return JSONResponse({"error": reason}, fault.status)


async def _collect(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> Response | None:
    """The whole answer of an app; None for an event stream, which has no end and was passed on as it came."""
    response = Response()
    body = b""
    passed_on = False

    async def collect(message: Message) -> None:
        nonlocal body, passed_on
        passed_on = passed_on or (message["type"] == "http.response.start" and _is_event_stream(message))
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


def _start(answer: Response) -> Message:
    return {"type": "http.response.start", "status": answer.status_code, "headers": answer.raw_headers}
