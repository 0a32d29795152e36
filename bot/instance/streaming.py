"""The user stream, as long as it lasts."""

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
    """Opens the stream and closes it."""

    calls: Calls

    def read(self, listener: Listener) -> None:
        """Hand the user stream's events to the listener until it ends; blocks, and returns on a clean end.

        Raises:
            Unauthorized: the token is refused.
            NotFound, Refused: there is no such stream here.
            Transient, RateLimited: it broke, fell silent or could not be opened.
        """
        api = self.calls.api()
        self.calls.begin("stream")  # often another server's, with limits of its own
        try:
            with warnings.catch_warnings():
                # Whether strangers may read the public timeline is no concern of ours.
                warnings.simplefilter("ignore", MastodonWarning)
                api.stream_user(listener, timeout=self.calls.settings.stream_timeout_s)
        except Exception as error:
            raise self.calls.sorted_error(error, "stream", "the stream") from error
        finally:
            self.calls.stream = None

    def close(self) -> None:
        """End a stream that another thread is reading, and let none begin."""
        self.calls.closing = True
        stream = self.calls.stream
        if stream is not None:
            try:
                stream.raw.shutdown()
            except (OSError, RuntimeError, ValueError):
                logger.debug("the stream was closed already")
