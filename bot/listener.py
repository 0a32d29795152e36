"""What Mastodon.py calls for each event of the stream; nothing that goes wrong with one event may end it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from mastodon import StreamListener

logger = logging.getLogger(__name__)


class Listener(StreamListener):  # type: ignore[misc]
    """Hands events on as they come.

    Args:
        opened: called once for each connection, when its first bytes arrive.
        notified: with a notification's JSON.
        edited: with a status' JSON.
        deleted: with a status' id.
    """

    def __init__(
        self,
        *,
        opened: Callable[[], None],
        notified: Callable[[dict[str, Any]], None],
        edited: Callable[[dict[str, Any]], None],
        deleted: Callable[[str], None],
    ) -> None:
        super().__init__()
        self._opened = opened
        self._notified = notified
        self._edited = edited
        self._deleted = deleted
        self._is_open = False

    def handle_heartbeat(self) -> None:
        """The server is there: it greets with a comment line, then sends one every 15 seconds."""
        if not self._is_open:
            self._is_open = True
            self._guard(self._opened)

    def on_notification(self, notification: dict[str, Any]) -> None:
        """Somebody mentioned us, or did something else."""
        self._guard(self._notified, notification)

    def on_status_update(self, status: dict[str, Any]) -> None:
        """A status was edited."""
        self._guard(self._edited, status)

    def on_delete(self, status_id: object) -> None:
        """A status was deleted."""
        self._guard(self._deleted, str(status_id))

    def on_unknown_event(self, name: str, unknown_event: object = None) -> None:
        """Servers have more kinds of events than we know."""

    def _guard(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            function(*arguments)
        except Exception:
            # The catch-up finds what is lost here.
            logger.exception("an event of the stream could not be taken in")
