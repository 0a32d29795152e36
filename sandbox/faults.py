"""Sets the faults of a sandbox server, from the same process or with `POST /sandbox/faults`.

    faults.add(Fault(kind="answer", path="/api/v1/statuses", methods=("POST",), status=503, times=3))
    faults.add(Fault(kind="store_then_cut", path="/api/v1/statuses", methods=("POST",), share=0.1))
    faults.close_streams()

    curl -d '{"add": [{"kind": "delay", "path": "/api/.*", "seconds": 5}]}' http://127.0.0.1:4000/sandbox/faults
    curl -d '{"clear": true, "close_streams": "cut", "stall_streams": true}' http://127.0.0.1:4000/sandbox/faults
    curl http://127.0.0.1:4000/sandbox/faults

`sandbox.misbehaviour.FaultMiddleware` wraps an app and applies these faults.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.types import Message, Receive

from sandbox.server import receive_until

Kind = Literal[
    "answer",  # `status` instead of the app's response; the app is not called
    "rate_limit",  # 429 with X-RateLimit headers, reset after `seconds`; the app is not called
    "redirect",  # 302 to `location`; the app is not called
    "cut",  # the connection is reset without a response; the app is not called
    "delay",  # a pause of `seconds`; can be combined with other faults
    "store_then_answer",  # the app handles the request, but the response is `status`
    "store_then_cut",  # the app handles the request, then the connection is reset
    "store_then_delay",  # the app handles the request, its response is sent `seconds` later
    "truncate",  # the body ends after the share `keep`, with a matching Content-Length
    "cut_body",  # the connection is reset after the share `keep` of the body
    "html",  # 200 and an HTML page instead of the body
    "drip",  # the body is sent at `bytes_per_s`
    "endless",  # the same, followed by endless zeros
]


class Fault(BaseModel):
    """One kind of fault, and the requests it applies to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    path: str = ".*"  # regular expression for the whole path
    methods: tuple[str, ...] = ()  # empty means all
    times: Annotated[int, Field(ge=1)] | None = None  # how often it applies; None means until it is cleared
    share: Annotated[float, Field(gt=0, le=1)] = 1.0  # share of the matching requests, chosen at random with the seed
    status: Annotated[int, Field(ge=400, le=599)] = 503
    html: bool = False  # for "answer": a proxy's HTML page instead of JSON
    seconds: Annotated[float, Field(ge=0)] = 1.0
    location: str = "/"
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
    """The body of `POST /sandbox/faults`; carried out from top to bottom."""

    model_config = ConfigDict(extra="forbid")

    seed: int | None = None
    clear: bool = False
    add: tuple[Fault, ...] = ()
    close_streams: Literal["end", "cut"] | None = None
    stall_streams: bool | None = None


class OpenStream:
    """An event stream that can be closed from any thread."""

    def __init__(self, cut: Callable[[], None] | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        self._cut = cut or self._closing.set  # a WebSocket has no cut

    def close(self, how: Literal["end", "cut"]) -> None:
        self._loop.call_soon_threadsafe(self._cut if how == "cut" else self._closing.set)

    async def receive(self, receive: Receive) -> Message:
        """Like the server's `receive`, but reports a disconnect when the stream is closed."""
        return await receive_until(self._closing, receive)


class Faults:
    """The faults of a server; thread-safe.

    Attributes:
        fired: how often each kind was applied.
        swallowed: number of frames of stalled event streams that were not sent.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.fired: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._random = random.Random(seed)
        self._set: list[tuple[Fault, int | None]] = []  # with the remaining number of times
        self._streams: list[OpenStream] = []
        self.streams_stalled = False
        self.swallowed = 0

    def reseed(self, seed: int) -> None:
        """Restart the random choice of requests."""
        self._random = random.Random(seed)

    def add(self, *faults: Fault) -> None:
        """Add faults to the existing ones."""
        with self._lock:
            self._set += [(fault, fault.times) for fault in faults]

    def clear(self) -> None:
        """Remove all faults; closed streams stay closed."""
        with self._lock:
            self._set.clear()
            self.streams_stalled = False

    def close_streams(self, how: Literal["end", "cut"] = "end") -> None:
        """Close all open event streams, cleanly or by a connection reset."""
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            stream.close(how)

    def stall_streams(self, stalled: bool = True) -> None:
        """Keep event streams open without sending anything; events are lost."""
        self.streams_stalled = stalled

    def apply(self, orders: Orders) -> None:
        """Carry out the orders."""
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
        """The current faults, as JSON values."""
        with self._lock:
            return {
                "faults": [fault.model_dump(exclude_defaults=True) | {"left": left} for fault, left in self._set],
                "streams_stalled": self.streams_stalled,
                "streams_open": len(self._streams),
                "fired": dict(self.fired),
            }

    def choose(self, method: str, path: str) -> list[Fault]:
        """Choose the faults for a request: all delays in order, then at most one of another kind."""
        chosen: list[Fault] = []
        with self._lock:
            kept: list[tuple[Fault, int | None]] = []
            for fault, left in self._set:
                done = bool(chosen) and chosen[-1].kind != "delay"
                if not done and fault.matches(method, path) and self._random.random() < fault.share:
                    chosen.append(fault)
                    self.fired[fault.kind] += 1
                    left = None if left is None else left - 1
                if left != 0:
                    kept.append((fault, left))
            self._set = kept
        return chosen

    def opened(self, stream: OpenStream) -> None:
        """Register an event stream, so that it can be closed."""
        with self._lock:
            self._streams.append(stream)

    def ended(self, stream: OpenStream) -> None:
        """Unregister an event stream."""
        with self._lock:
            self._streams.remove(stream)
