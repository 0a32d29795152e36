"""A server of pages on a local port, for callers that may be slow, many, or a web page of somebody else's.

A browser on this machine can be made to ask a local port under any name that points there (DNS rebinding); so the
Host header must be an address or a known name.
"""

from __future__ import annotations

import io
import ipaddress
import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from trainer.web.connections import TimedReader

logger = logging.getLogger(__name__)

HEAD_TIMEOUT_S = 5.0  # for all of a request together
ANSWER_TIMEOUT_S = 10.0
MAX_CONNECTIONS = 32
MAX_BODY_BYTES = 4096
ALWAYS_KNOWN = "localhost"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Page:
    """A response.

    Attributes:
        headers: beside `HEADERS`, or in place of some of them.
    """

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """What a caller asks for.

    Attributes:
        values: of the query, or of the form that was posted; the last one of a name.
    """

    method: str
    path: str
    values: Mapping[str, str]
    headers: Message


class LocalServer:
    """Answers requests on its own threads.

    Args:
        host, port: the address; port 0 means any free port.
        answer: makes the page for a request. What it raises is logged, and answered with status 500.
        names: host names under which it may be asked, beside "localhost", `host` and any IP address.
        posts: whether forms may be posted.

    Raises:
        OSError, UnicodeError: the address cannot be used.
    """

    def __init__(
        self,
        host: str,
        port: int,
        answer: Callable[[Request], Page],
        *,
        names: Collection[str] = (),
        posts: bool = False,
    ) -> None:
        known = frozenset(name.casefold().rstrip(".") for name in (ALWAYS_KNOWN, host, *names))

        class Handler(_Handler):
            def do_GET(self) -> None:
                self.connection.settimeout(ANSWER_TIMEOUT_S)
                url = urlsplit(self.path)
                _send(self, answer, Request("GET", url.path, dict(parse_qsl(url.query)), self.headers), known)

            def do_POST(self) -> None:
                length = self.headers.get("Content-Length", "")
                if not posts or not length.isdecimal() or int(length) > MAX_BODY_BYTES:
                    self.send_error(413 if posts else 501)
                    return
                body = self.rfile.read(int(length)).decode(errors="replace")
                self.connection.settimeout(ANSWER_TIMEOUT_S)
                path = urlsplit(self.path).path
                _send(self, answer, Request("POST", path, dict(parse_qsl(body)), self.headers), known)

        self._server = _Server((host, port), Handler)
        self.url = f"http://{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="pages", daemon=True)

    def start(self) -> None:
        """Starts answering requests."""
        self._thread.start()

    def stop(self) -> None:
        """Stops and frees the port."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    timeout = HEAD_TIMEOUT_S
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(code)d %(message)s\n"
    own_headers: Mapping[str, str] = {}  # of the page that is being sent

    def setup(self) -> None:
        super().setup()
        self.rfile: Any = io.BufferedReader(TimedReader(self.connection, self.rfile.detach()))

    def end_headers(self) -> None:
        for name, value in {**HEADERS, **self.own_headers}.items():
            self.send_header(name, value)
        super().end_headers()

    def version_string(self) -> str:
        return "dokocos"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002, ARG002 - as the base class has it
        """Logs no query: it may hold what only the caller may know."""
        logger.debug("%s %s", self.command or "-", getattr(self, "path", "").partition("?")[0])


class _Server(ThreadingHTTPServer):
    """At most `MAX_CONNECTIONS` at a time; those beyond are closed at once."""

    daemon_threads = True
    request_queue_size = 128  # with few, a burst waits for seconds until its packets are sent again

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            logger.debug("connection refused, there are %d", MAX_CONNECTIONS)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base class' arguments
        """The caller hung up in the midst of it."""
        logger.debug("page not sent to=%s", client_address, exc_info=True)


def _send(handler: _Handler, answer: Callable[[Request], Page], request: Request, known: Collection[str]) -> None:
    try:
        if not _is_known(handler.headers.get_all("Host", []), known):
            page = Page(b"not under this name\n", status=421)
        else:
            page = answer(request)
    except Exception:
        logger.exception("page failed path=%s", request.path)
        page = Page(b"this page failed; see the log\n", status=500)
    handler.own_headers = page.headers
    handler.send_response(page.status)
    handler.send_header("Content-Type", page.content_type)
    handler.send_header("Content-Length", str(len(page.body)))
    handler.end_headers()
    handler.wfile.write(page.body)


def _is_known(hosts: list[str], known: Collection[str]) -> bool:
    """Whether the Host headers are one, with an IP address or a known name."""
    if len(hosts) != 1:
        return False
    host = hosts[0].strip()
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name.casefold().rstrip(".") in known
    return True
