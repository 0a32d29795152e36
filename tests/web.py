"""A web server on loopback that gives any answer a test defines, byte by byte if needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, slots=True)
class Request:
    """A received request."""

    path: str
    headers: dict[str, str]


class Exchange(BaseHTTPRequestHandler):
    """One request, with helpers to answer it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits 40 ms for the ACK of its headers
    server: Server
    body = b""  # of a POST

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
        self.body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.posted(self)

    def reply(self, body: bytes = b"", *, status: int = 200, **headers: str) -> None:
        """Sends a complete answer; `Content_Type="x"` is the header Content-Type."""
        self.send_response(status)
        named = {"Content-Length": str(len(body))} | {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in named.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def drip(self, pieces: Iterator[bytes]) -> None:
        """Sends pieces one by one until they end, the client hangs up, or the test ends."""
        self.close_connection = True
        for piece in pieces:
            try:
                self.wfile.write(piece)
            except OSError:
                return
            if self.server.over.wait(0.02):
                return

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class' name
        """Prints nothing."""


Answer = bytes | Callable[[Exchange], object]


class Server(ThreadingHTTPServer):
    """The server.

    Attributes:
        answers: by path, with or without its query; other paths get a 404.
        requests: all GET requests, in order.
        posted: the answer to every POST.
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
        """The requested paths, in order."""
        return [request.path for request in self.requests]

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores clients that hang up, as some tests do that."""


@contextmanager
def serving(answers: dict[str, Answer] | None = None) -> Iterator[Server]:
    """Runs a server while the context lasts; its answers may be changed meanwhile."""
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
    """Gives the answers in turn, then always the last one."""
    left = list(answers)

    def answer(exchange: Exchange) -> None:
        now = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(now, bytes):
            exchange.reply(now)
        else:
            now(exchange)

    return answer


def status(code: int, body: bytes = b"", **headers: str) -> Callable[[Exchange], object]:
    """Answers with this status."""
    return lambda exchange: exchange.reply(body, status=code, **headers)
