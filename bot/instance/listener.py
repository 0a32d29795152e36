"""Reads the stream's server-sent events; an error in one event does not end the stream.

Mastodon.py only reads lines as Mastodon writes them. It ends the stream at carriage returns, which some servers and
proxies add, at a field without a space, and at an id that is not JSON. This parser follows the standard.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import requests
from mastodon import StreamListener
from mastodon.errors import MastodonNetworkError

logger = logging.getLogger(__name__)

NOT_EVENTS = ("html", "json")  # in the content type of a response that is not a stream, whatever its status


class Events(Protocol):
    """Handles the stream's events: `bot.mentions.stream.Stream`."""

    def opened(self) -> None:
        """Handles the first line of the connection."""

    def notified(self, raw: dict[str, Any]) -> None:
        """Handles a notification, as JSON."""

    def edited(self, raw: dict[str, Any]) -> None:
        """Handles an edited status, as JSON."""

    def deleted(self, status_id: str) -> None:
        """Handles a deleted status."""


class Listener(StreamListener):  # type: ignore[misc]
    """Passes events on as they arrive."""

    def __init__(self, events: Events) -> None:
        super().__init__()
        self._opened = events.opened
        # Other kinds of events are ignored.
        self._handlers: dict[str, Callable[[Any], None]] = {
            "notification": lambda data: events.notified(json.loads(data)),
            "status.update": lambda data: events.edited(json.loads(data)),
            "delete": lambda data: events.deleted(data.strip().strip('"')),
        }

    def handle_stream(self, response: requests.Response) -> None:
        """Reads an open stream until it ends; called by Mastodon.py.

        Raises:
            MastodonNetworkError: it is not an event stream.
            requests.RequestException: the connection broke or timed out.
        """
        kind = response.headers.get("Content-Type", "")
        if any(never in kind for never in NOT_EVENTS):
            raise MastodonNetworkError(f"not an event stream but {kind}")
        is_open = False
        event = ""
        data: list[str] = []
        for line in _lines(response):
            if not is_open:
                is_open = True
                self._guard(self._opened)
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not line:
                self._dispatch_to_handler(event, "\n".join(data))
                event = ""
                data.clear()
            elif name == "event":
                event = value
            elif name == "data":
                data.append(value)

    def _dispatch_to_handler(self, event: str, data: str) -> None:
        handler = self._handlers.get(event)
        if handler is not None:
            self._guard(handler, data)

    def _guard(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            function(*arguments)
        except Exception:
            # The catch-up finds what is lost here.
            logger.exception("a stream event could not be handled")


def _lines(response: requests.Response) -> Iterator[str]:
    """Yields the lines of a stream as they arrive; a line ends with LF or CRLF."""
    line = bytearray()
    for piece in response.iter_content(chunk_size=1):
        for byte in piece:
            if byte != ord("\n"):
                line.append(byte)
                continue
            yield line.decode(errors="replace").removesuffix("\r").removeprefix("\ufeff")
            line.clear()
