"""Reads the stream's server-sent events; nothing that goes wrong with one event may end it.

Mastodon.py reads lines as Mastodon writes them, and ends the stream at any other: at the carriage returns that some
servers and proxies put in, at a field without a space, at an id that is no JSON. Here the format's own rules hold.

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

NOT_EVENTS = ("html", "json")  # in the content type of an answer that is no stream, whatever its status says


class Events(Protocol):
    """Takes the stream's events: `bot.mentions.stream.Stream`."""

    def opened(self) -> None:
        """The connection's first line has arrived."""

    def notified(self, raw: dict[str, Any]) -> None:
        """A notification, as JSON."""

    def edited(self, raw: dict[str, Any]) -> None:
        """An edited status, as JSON."""

    def deleted(self, status_id: str) -> None:
        """A status is gone."""


class Listener(StreamListener):  # type: ignore[misc]
    """Hands events on as they come."""

    def __init__(self, events: Events) -> None:
        super().__init__()
        self._opened = events.opened
        # Servers have more kinds of events than these.
        self._handlers: dict[str, Callable[[Any], None]] = {
            "notification": lambda data: events.notified(json.loads(data)),
            "status.update": lambda data: events.edited(json.loads(data)),
            "delete": lambda data: events.deleted(data.strip().strip('"')),
        }

    def handle_stream(self, response: requests.Response) -> None:
        """Called by Mastodon.py with an open stream; returns when it ends.

        Raises:
            MastodonNetworkError: it is no stream of events.
            requests.RequestException: it broke, or fell silent.
        """
        kind = response.headers.get("Content-Type", "")
        if any(never in kind for never in NOT_EVENTS):
            raise MastodonNetworkError(f"not a stream of events but {kind}")
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
            logger.exception("an event of the stream could not be taken in")


def _lines(response: requests.Response) -> Iterator[str]:
    """The lines of a stream as each of them ends, by a line feed, with a carriage return before it or not."""
    line = bytearray()
    for piece in response.iter_content(chunk_size=1):
        for byte in piece:
            if byte != ord("\n"):
                line.append(byte)
                continue
            yield line.decode(errors="replace").removesuffix("\r").removeprefix("\ufeff")
            line.clear()
