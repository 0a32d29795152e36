"""A small server with Mastodon's API that is not Mastodon and differs from it in details.

It has a few endpoints under exact paths, answers all others with an HTML page, omits what the API calls optional, and
has ids and times of other forms. `Ways` selects the differences.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from sandbox.server import serve, until_gone
from tests.bot.conftest import photo

Json = dict[str, Any]
TOKEN = "s3cret"
ME, ALICE = 1, 2
STATUS_404 = PlainTextResponse("Not Found", status_code=404)


def number(n: int) -> object:
    """An id as a JSON number, which the API does not allow."""
    return n


def ulid(n: int) -> object:
    """An id as GoToSocial generates it."""
    return f"01JD{n:022d}"


def mixed(n: int) -> object:
    """An id in one of the forms and lengths that one list of notifications may hold."""
    return (f"01JD{n:022d}", f"{1_700_000_000 - n}/mention/{n:032d}", n, f"zz-{n:012d}")[n % 4]


@dataclass
class Ways:
    """How this server differs from Mastodon."""

    id: Callable[[int], object] = str
    notification_id: Callable[[int], object] | None = None  # None: as the others
    time: str = "%Y-%m-%dT%H:%M:%S.%fZ"
    headers: dict[str, str] = field(default_factory=dict)  # of each response
    describes: Json | None = None  # /api/v1/instance; None: no such endpoint
    knows_min_id: bool = True
    refuses_parameters: bool = False
    page_size: int = 40
    media_path: str = "/api/v2/media"
    looks_for_media: int = 0  # requests until an upload is processed
    streams: str = ""  # line ending of its stream, "\n" or "\r\n"; empty: no stream
    refuses_relations: int = 404
    max_code_points: int | None = None  # in a status, with names whole
    too_long: Json = field(default_factory=lambda: {"status": 422, "error": "Validation failed: Text is too long"})
    stores_what_it_refuses: bool = False
    caches_refusals: bool = False  # a repeated Idempotency-Key gets the same refusal, as on Pleroma

    def __str__(self) -> str:
        usual = vars(Ways())
        odd = {name: getattr(value, "__name__", value) for name, value in vars(self).items() if value != usual[name]}
        return ", ".join(f"{name}: {value!r}" for name, value in odd.items()) or "as it comes"


class Stranger:
    """The server, with an account for the bot and one for Alice."""

    def __init__(self, ways: Ways | None = None) -> None:
        self.ways = ways or Ways()
        self.url = ""
        self.lock = threading.RLock()
        self.numbers = itertools.count(100)
        self.statuses: dict[int, Json] = {}
        self.parents: dict[int, int] = {}
        self.notifications: list[tuple[int, Json]] = []
        self.keys: dict[str, Json] = {}
        self.n_refused = 0
        self.media: dict[str, int] = {}  # requests left until each upload is processed
        self.listeners: list[asyncio.Queue[bytes]] = []
        self.loop: asyncio.AbstractEventLoop | None = None
        self.accounts = {
            n: {"id": self.ways.id(n), "username": name, "url": f"https://stranger.example/{name}"}
            for n, name in ((ME, "dokocos"), (ALICE, "alice"))
        }

    # For the tests

    def ask(self, text: str = "which gallery?", *, photos: int = 1, tell: bool = True, **more: Any) -> int:
        """Alice mentions the bot; returns the status' number."""
        attachments = [
            {"id": self.ways.id(900 + n), "type": "image", "url": f"{self.url}/p.jpg"} for n in range(photos)
        ]
        html = f'<p><a href="x" class="u-url mention">@<span>dokocos</span></a>{text}</p>'
        with self.lock:
            status = self._status(ALICE, html, more | {"media_attachments": attachments, "mentions": [{}]})
            n = next(self.numbers)
            show = self.ways.notification_id or self.ways.id
            notification = {"id": show(n), "type": "mention", "account": self.accounts[ALICE], "status": status}
            self.notifications.append((n, notification))
        if tell:
            self.say("notification", json.dumps(notification))
        return self._number(status["id"])

    def answers(self, question: int) -> list[Json]:
        """The replies to a status."""
        with self.lock:
            return [self.statuses[n] for n, parent in self.parents.items() if parent == question]

    def forget(self, question: int) -> None:
        """Deletes a status; its notification stays, as on some servers."""
        with self.lock:
            del self.statuses[question]

    def say(self, event: str, data: str) -> None:
        """Sends an event to all listeners."""
        end = self.ways.streams
        frame = f"id: 7{end}event:{event}{end}data: {data}{end}{end}".encode()
        for queue in list(self.listeners):
            assert self.loop is not None
            self.loop.call_soon_threadsafe(queue.put_nowait, frame)

    def _status(self, author: int, content: str, more: Json) -> Json:
        n = next(self.numbers)
        made = datetime.now(UTC).strftime(self.ways.time)
        status = {"id": self.ways.id(n), "account": self.accounts[author], "content": content, "created_at": made}
        self.statuses[n] = status | more
        return self.statuses[n]

    def _number(self, entity_id: object) -> int:
        return int(str(entity_id)[-12:])

    # Endpoints

    def app(self) -> Starlette:
        """The server as an app; its URL is set when it is bound."""
        get, post = ["GET"], ["POST"]
        routes = [
            Route("/api/v1/accounts/verify_credentials", self._me, methods=get),
            Route("/api/v1/accounts/relationships", self._relations, methods=get),
            Route("/api/v1/accounts/{id}/statuses", self._own, methods=get),
            Route("/api/v1/notifications", self._notifications, methods=get),
            Route("/api/v1/statuses", self._post, methods=post),
            Route("/api/v1/statuses/{id}", self._one, methods=get),
            Route("/api/v1/statuses/{id}/context", self._context, methods=get),
            Route(self.ways.media_path, self._upload, methods=post),
            Route("/api/v1/media/{id}", self._medium, methods=get),
            Route("/p.jpg", lambda _: Response(photo(), media_type="image/jpeg")),
        ]
        if self.ways.describes is not None:
            routes.append(Route("/api/v1/instance", lambda _: self._json(self.ways.describes), methods=get))
        if self.ways.streams:
            routes.append(Route("/api/v1/streaming/user", self._stream, methods=get))
        app = Starlette(routes=routes)
        app.router.redirect_slashes = False

        def on_bound(url: str) -> None:
            self.url = url

        app.state.on_bound = on_bound
        return app

    def _json(self, body: object) -> Response:
        return JSONResponse(body, headers=self.ways.headers)

    def _me(self, request: Request) -> Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return JSONResponse({"error": "The access token is invalid"}, status_code=401)
        return self._json(self.accounts[ME])

    def _relations(self, _: Request) -> Response:
        return PlainTextResponse("no", status_code=self.ways.refuses_relations)

    def _own(self, _: Request) -> Response:
        with self.lock:
            return self._json([each for each in self.statuses.values() if each["account"] is self.accounts[ME]])

    def _notifications(self, request: Request) -> Response:
        asked = request.query_params
        if self.ways.refuses_parameters and not set(asked) <= {"min_id", "max_id"}:
            return JSONResponse({"error": "unknown parameter"}, status_code=400)
        below = self._number(asked["max_id"]) if "max_id" in asked else 10**12
        above = self._number(asked["min_id"]) if "min_id" in asked else 0
        with self.lock:
            found = [(n, each) for n, each in self.notifications if above < n < below]
        oldest_first = self.ways.knows_min_id and "min_id" in asked
        page = found[: self.ways.page_size] if oldest_first else found[-self.ways.page_size :]
        return self._json([each for _, each in reversed(page)])

    async def _post(self, request: Request) -> Response:
        form = await request.form()
        with self.lock:
            key = request.headers.get("Idempotency-Key", "")
            said = self.ways.too_long
            n_characters = len(str(form["status"])) + len(str(form.get("spoiler_text", "")))
            is_too_long = self.ways.max_code_points is not None and n_characters > self.ways.max_code_points
            if is_too_long or self.keys.get(key) is said:
                self.n_refused += 1
                if self.ways.caches_refusals:
                    self.keys[key] = said
                if not self.ways.stores_what_it_refuses:
                    return JSONResponse(said, status_code=said["status"])
            if key not in self.keys:
                if "in_reply_to_id" in form and self._number(form["in_reply_to_id"]) not in self.statuses:
                    return STATUS_404
                more: Json = {name: form[name] for name in ("visibility", "language") if name in form}
                more["media"] = form.getlist("media_ids[]")
                more["in_reply_to_id"] = form.get("in_reply_to_id")
                self.keys[key] = self._status(ME, str(form["status"]), more)
                if form.get("in_reply_to_id"):
                    self.parents[self._number(self.keys[key]["id"])] = self._number(form["in_reply_to_id"])
            if is_too_long:
                return JSONResponse(said, status_code=said["status"])
            return self._json(self.keys[key])

    def _one(self, request: Request) -> Response:
        status = self.statuses.get(self._number(request.path_params["id"]))
        return self._json(status) if status else STATUS_404

    def _context(self, request: Request) -> Response:
        n = self._number(request.path_params["id"])
        if n not in self.statuses:
            return STATUS_404
        gone = {"id": self.ways.id(50), "account": None, "content": None, "created_at": None}
        above = [self.statuses[self.parents[n]]] if self.parents.get(n) in self.statuses else []
        return self._json({"ancestors": [gone, *above], "descendants": [*self.answers(n), gone]})

    async def _upload(self, _: Request) -> Response:
        media_id = str(next(self.numbers))
        self.media[media_id] = self.ways.looks_for_media
        return self._attachment(media_id)

    def _medium(self, request: Request) -> Response:
        self.media[request.path_params["id"]] -= 1
        return self._attachment(request.path_params["id"])

    def _attachment(self, media_id: str) -> Response:
        is_done = self.media[media_id] <= 0
        body = {"id": media_id, "type": "image", "url": f"{self.url}/p.jpg" if is_done else None}
        return JSONResponse(body, status_code=200 if is_done else 202, headers=self.ways.headers)

    async def _stream(self, request: Request) -> Response:
        self.loop = asyncio.get_running_loop()
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.listeners.append(queue)
        gone = asyncio.ensure_future(until_gone(request.receive))

        async def events() -> AsyncIterator[bytes]:
            yield f"retry: 5000{self.ways.streams}{self.ways.streams}".encode()
            while not gone.done():
                frame = asyncio.ensure_future(queue.get())
                await asyncio.wait({frame, gone}, return_when=asyncio.FIRST_COMPLETED)
                if frame.done():
                    yield frame.result()
            self.listeners.remove(queue)

        return StreamingResponse(events(), media_type="text/event-stream")


@contextmanager
def at_home(ways: Ways | None = None) -> Iterator[Stranger]:
    """A server that runs while the context lasts."""
    stranger = Stranger(ways)
    with serve(stranger.app()):
        yield stranger
