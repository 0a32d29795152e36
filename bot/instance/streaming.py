"""Opens and closes the user stream, by whichever way the server offers it.

Mastodon speaks server-sent events and WebSocket; GoToSocial, Pleroma and Akkoma speak WebSocket alone. The address in
an instance's description may be wrong: GoToSocial says `wss` even where nothing speaks TLS. So each way is tried at the
described address, then at the instance's own; the one that worked is tried first the next time.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import requests
from mastodon.errors import MastodonNetworkError
from websockets.exceptions import InvalidStatus, WebSocketException

from bot.config import home_url
from bot.errors import InstanceError, NoSuchPage, NotFound, RateLimited, Transient, Unauthorized
from bot.instance import websocket
from bot.instance.calls import Calls
from bot.instance.home import Home
from bot.instance.listener import Listener, is_event_stream
from bot.instance.transport import STREAMS

logger = logging.getLogger(__name__)

# In this order. A token in Sec-WebSocket-Protocol is more likely to be logged, but Pleroma and Akkoma read no other
# header; a token in the address is logged everywhere, so that way is left out.
Speech = Literal["server-sent events", "WebSocket", "WebSocket with the token as protocol"]
SPEECHES: tuple[Speech, ...] = ("server-sent events", "WebSocket", "WebSocket with the token as protocol")


@dataclass(frozen=True, slots=True)
class Way:
    """A way to the stream: how, and at which address."""

    speech: Speech
    address: str


class EventStream:
    """The user stream; one at a time.

    Attributes:
        way: the way that worked last; None before the first connection.
    """

    def __init__(self, calls: Calls, home: Home) -> None:
        self._calls = calls
        self._home = home
        self._lock = threading.Lock()
        self._hang_up: Callable[[], None] | None = None
        self._is_closed = False
        self._avoided: Way | None = None
        self._was_open = False  # during this call of `read`
        self.way: Way | None = None

    def read(self, listener: Listener) -> None:
        """Passes the user stream's events to the listener; blocks until the stream ends cleanly.

        Raises:
            Unauthorized: the token is refused.
            NotFound, Refused, NoSuchPage: the server has no such stream.
            Transient, RateLimited: it broke, timed out or could not be opened.
        """
        own = self._calls.settings.base_url
        known, self._was_open = self.way, False
        failures: dict[Way, InstanceError] = {}
        for way in self._ways():
            try:
                self._read(way, listener)
            except RateLimited:
                raise
            except InstanceError as error:
                is_down = type(error) is Transient and error.outage  # a page of any kind is no such sign
                if self._was_open or (is_down and way.address == own):
                    raise
                logger.debug("no stream by %s at %s: %s", way.speech, way.address, error)
                failures[way] = error
            else:
                return
        raise min(failures.items(), key=lambda failed: _rank(*failed, known=known, own=own))[1]

    def drop(self, *, avoid: bool) -> None:
        """Ends the stream that another thread is reading; it may be opened again.

        Args:
            avoid: by another way, if there is one.
        """
        with self._lock:
            if avoid:
                self.way, self._avoided = None, self.way
            self._hang_up_now()

    def close(self) -> None:
        """Ends the stream that another thread is reading, and prevents new ones."""
        with self._lock:
            self._is_closed = True
            self._hang_up_now()

    def _hang_up_now(self) -> None:
        if self._hang_up is not None:
            with suppress(OSError, RuntimeError, ValueError):  # closed already
                self._hang_up()

    def _is_open(self, way: Way, hang_up: Callable[[], None]) -> None:
        self.way, self._was_open = way, True
        with self._lock:
            self._hang_up = hang_up
            if self._is_closed:
                self._hang_up_now()

    def _ways(self) -> list[Way]:
        try:
            described = self._home.instance().streaming
        except InstanceError:
            described = ""
        own = self._calls.settings.base_url
        addresses = dict.fromkeys([*_addresses(described, secure=urlsplit(own).scheme == "https"), own])
        ways = [Way(speech, address) for speech in SPEECHES for address in addresses]
        return sorted(ways, key=lambda way: (way == self._avoided, way != self.way))

    def _read(self, way: Way, listener: Listener) -> None:
        try:
            self._calls.api()
            self._calls.begin("stream")  # often on another server, with its own limits
            if way.speech == "server-sent events":
                self._read_events(way, listener)
            else:
                self._read_messages(way, listener)
        except InstanceError:
            raise
        except Exception as error:
            raise self._calls.instance_error(error, "stream", "the stream") from error
        finally:
            with self._lock:
                self._hang_up = None

    def _read_events(self, way: Way, listener: Listener) -> None:
        settings = self._calls.settings
        answer = self._calls.api().session.get(
            f"{way.address}{STREAMS}/user",
            headers={"Authorization": f"Bearer {self._calls.token}", "User-Agent": self._calls.user_agent},
            stream=True,
            timeout=(settings.request_timeout_s, settings.stream_timeout_s),
        )
        with closing(answer):
            if answer.status_code >= 400:
                raise MastodonNetworkError(f"no stream but {answer.reason}")
            if answer.status_code != 200 or not is_event_stream(answer):  # some have a page for every address
                what = f"the stream: HTTP {answer.status_code}, not an event stream"
                raise NoSuchPage(what, outage=False, status=answer.status_code)
            self._is_open(way, answer.raw.shutdown)
            listener.handle_stream(answer)

    def _read_messages(self, way: Way, listener: Listener) -> None:
        try:
            connection = websocket.connect(
                f"{way.address.replace('http', 'ws', 1)}{STREAMS}?stream=user",
                token=self._calls.token,
                as_protocol=way.speech != "WebSocket",
                user_agent=self._calls.user_agent,
                open_timeout_s=self._calls.settings.request_timeout_s,
                silence_s=self._calls.settings.stream_timeout_s,
                session=self._calls.api().session,
            )
        except InvalidStatus as error:
            answer = requests.Response()
            answer.url, answer.status_code = way.address, error.response.status_code
            answer.headers.update(error.response.headers.raw_items())
            answer._content = bytes(error.response.body or b"")
            self._calls.on_response(answer)
            raise
        try:
            self._is_open(way, lambda: connection.socket.shutdown(socket.SHUT_RDWR))
            listener.handle_messages(connection)
        except WebSocketException as error:
            raise MastodonNetworkError(f"the WebSocket ended: {error}") from error
        finally:
            connection.close()


def _rank(way: Way, error: InstanceError, *, known: Way | None, own: str) -> tuple[bool, ...]:
    """Sorts the failures of all ways: first the one that tells most."""
    is_missing = isinstance(error, NotFound | NoSuchPage)
    return not isinstance(error, Unauthorized), way != known, way.address != own, is_missing


def _addresses(described: str, *, secure: bool) -> list[str]:
    """The described address as http or https, or none; `secure`: never without TLS."""
    with suppress(ValueError):
        parts = urlsplit(described.strip())
        if parts.scheme in ("http", "https", "ws", "wss") and parts.netloc:
            scheme = "https" if secure or parts.scheme in ("https", "wss") else "http"
            return [home_url(f"{scheme}://{parts.netloc}")]
    return []
