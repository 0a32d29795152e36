"""A web server on loopback that answers whatever a test tells it to, byte by byte if need be."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for."""

    path: str
    headers: dict[str, str]


class Exchange(BaseHTTPRequestHandler):
    """One request, with a few short ways to answer it."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(Request(self.path, dict(self.headers)))
        path = self.path.partition("?")[0]
        answer = self.server.answers.get(self.path) or self.server.answers.get(path)
        if answer is None:
            self.reply(status=404)
        elif isinstance(answer, bytes):
            self.reply(answer)
        else:
            answer(self)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.posted(self)

    def reply(self, body: bytes = b"", *, status: int = 200, **headers: str) -> None:
        """A whole answer; `Content_Type="x"` is the header Content-Type."""
        self.send_response(status)
        named = {"Content-Length": str(len(body))} | {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in named.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def drip(self, pieces: Iterator[bytes]) -> None:
        """Send pieces one by one until they end or nobody listens; the test's end stops it, too."""
        self.close_connection = True
        for piece in pieces:
            try:
                self.wfile.write(piece)
            except OSError:
                return
            if self.server.over.wait(0.02):
                return

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class' name
        """Nothing on the terminal."""


Answer = bytes | Callable[[Exchange], object]


class Server(ThreadingHTTPServer):
    """The server.

    Attributes:
        answers: by path, with its query or without; what is not there is a 404.
        requests: all that was asked by GET, in order.
        posted: the answer to whatever is posted.
    """

    daemon_threads = True

    def __init__(self, answers: dict[str, Answer]) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.answers = answers
        self.requests: list[Request] = []
        self.over = threading.Event()
        self.posted: Callable[[Exchange], object] = status(404)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def paths(self) -> list[str]:
        """The paths that were asked for, in order."""
        return [request.path for request in self.requests]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what some tests are about."""


@contextmanager
def serving(answers: dict[str, Answer] | None = None) -> Iterator[Server]:
    """A server that runs while the context lasts; its answers may be changed meanwhile."""
    server = Server({} if answers is None else answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def in_turn(*answers: Answer) -> Callable[[Exchange], object]:
    """A different answer each time; the last one stays."""
    left = list(answers)

    def answer(exchange: Exchange) -> None:
        now = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(now, bytes):
            exchange.reply(now)
        else:
            now(exchange)

    return answer


def status(code: int, body: bytes = b"", **headers: str) -> Callable[[Exchange], object]:
    """An answer with this status."""
    return lambda exchange: exchange.reply(body, status=code, **headers)
