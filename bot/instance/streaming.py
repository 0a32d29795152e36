"""Opens and closes the user stream."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass

from mastodon.errors import MastodonWarning

from bot.instance.calls import Calls
from bot.instance.listener import Listener

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class EventStream:
    """The user stream; one at a time."""

    calls: Calls

    def read(self, listener: Listener) -> None:
        """Passes the user stream's events to the listener; blocks until the stream ends cleanly.

        Raises:
            Unauthorized: the token is refused.
            NotFound, Refused: the server has no such stream.
            Transient, RateLimited: it broke, timed out or could not be opened.
        """
        api = self.calls.api()
        self.calls.begin("stream")  # often on another server, with its own limits
        try:
            with warnings.catch_warnings():
                # Whether strangers may read the public timeline does not matter here.
                warnings.simplefilter("ignore", MastodonWarning)
                api.stream_user(listener, timeout=self.calls.settings.stream_timeout_s)
        except Exception as error:
            raise self.calls.instance_error(error, "stream", "the stream") from error
        finally:
            self.calls.stream = None

    def close(self) -> None:
        """Ends a stream that another thread is reading, and prevents new ones."""
        self.calls.closing = True
        stream = self.calls.stream
        if stream is not None:
            try:
                stream.raw.shutdown()
            except (OSError, RuntimeError, ValueError):
                logger.debug("the stream was closed already")
