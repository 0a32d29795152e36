"""Reads the stream's events, from server-sent events or a WebSocket; an error in one event does not end the stream.

Mastodon.py only reads lines as Mastodon writes them. It ends the stream at carriage returns, which some servers and
proxies add, at a field without a space, and at an id that is not JSON. This parser follows the standard.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import requests
from mastodon import StreamListener
from mastodon.errors import MastodonNetworkError

logger = logging.getLogger(__name__)

NOT_EVENTS = ("html", "json")  # in the content type of a response that is not a stream, whatever its status

BLOCK_BYTES = 64 * 1024
# An event is one line. The catch-up reads what is longer.
MAX_LINE_BYTES = 8 * 1024 * 1024


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

    def handle_messages(self, messages: Iterable[str | bytes]) -> None:
        """Reads the messages of an open WebSocket until it ends.

        Raises:
            MastodonNetworkError: the server says that it sends no events.
        """
        self._guard(self._opened)
        for text in messages:
            message = _message(text)
            if "error" in message:  # Mastodon opens the WebSocket before it looks at the token's scopes
                raise MastodonNetworkError(f"no events: {str(message['error'])[:200]}")
            payload = message.get("payload")
            data = payload if isinstance(payload, str) else json.dumps(payload)
            self._dispatch_to_handler(str(message.get("event")), data)

    def handle_stream(self, response: requests.Response) -> None:
        """Reads an open event stream until it ends.

        Raises:
            requests.RequestException: the connection broke or timed out.
        """
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
                if data:
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


def is_event_stream(response: requests.Response) -> bool:
    """Whether a response may be an event stream; not every server says so."""
    kind = response.headers.get("Content-Type", "")
    return not any(never in kind for never in NOT_EVENTS)


def _message(text: str | bytes) -> dict[str, Any]:
    """A message of a WebSocket; empty if it is not JSON as it should be."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _lines(response: requests.Response) -> Iterator[str]:
    """Yields the lines of a stream as they arrive; a line ends with LF or CRLF. Drops lines that are too long."""
    rest = b""
    while block := response.raw.read1(BLOCK_BYTES, decode_content=True):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").removesuffix("\r").removeprefix("\ufeff")
        if len(rest) > MAX_LINE_BYTES:
            logger.warning("a stream event of more than %d bytes is passed over", MAX_LINE_BYTES)
            rest = b""
