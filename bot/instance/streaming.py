"""Opens and closes the user stream."""

from __future__ import annotations

import logging
import warnings

from mastodon.errors import MastodonWarning

from bot.instance.calls import Calls
from bot.instance.listener import Listener

logger = logging.getLogger(__name__)


class EventStream:
    """The user stream; one at a time."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def read(self, listener: Listener) -> None:
        """Passes the user stream's events to the listener; blocks until the stream ends cleanly.

        Raises:
            Unauthorized: the token is refused.
            NotFound, Refused: the server has no such stream.
            Transient, RateLimited: it broke, timed out or could not be opened.
        """
        api = self._calls.api()
        self._calls.begin("stream")  # often on another server, with its own limits
        try:
            with warnings.catch_warnings():
                # Whether strangers may read the public timeline does not matter here.
                warnings.simplefilter("ignore", MastodonWarning)
                api.stream_user(listener, timeout=self._calls.settings.stream_timeout_s)
        except Exception as error:
            raise self._calls.instance_error(error, "stream", "the stream") from error
        finally:
            self._calls.stream = None

    def close(self) -> None:
        """Ends a stream that another thread is reading, and prevents new ones."""
        self._calls.closing = True
        stream = self._calls.stream
        if stream is not None:
            try:
                stream.raw.shutdown()
            except (OSError, RuntimeError, ValueError):
                logger.debug("the stream was closed already")
