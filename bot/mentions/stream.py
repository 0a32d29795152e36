"""The user stream: a hint that is fast, opened again with growing pauses; polling takes over where it fails."""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import Any

from bot.config import MastodonSettings
from bot.ending import Ending
from bot.errors import InstanceError, RateLimited, Unauthorized
from bot.instance.client import Client
from bot.instance.listener import Listener
from bot.instance.reading import readable_mention
from bot.mentions.catch_up import CatchUp
from bot.mentions.intake import Intake

logger = logging.getLogger(__name__)

# A connection that lived shorter counts as failed; the server's heartbeats come every 15 s.
HEALTHY_S = 20.0
# After so many failures in a row the bot says that it polls; the stream is still tried, rarely.
FAILURES_TO_POLL = 3
MAX_DOUBLINGS = 16


class Stream:
    """Keeps a stream open on a thread of its own.

    Args:
        catch_up: reads what was missed whenever a connection is opened or has ended.
    """

    def __init__(
        self,
        client: Client,
        settings: MastodonSettings,
        intake: Intake,
        catch_up: CatchUp,
        ending: Ending,
    ) -> None:
        self._client = client
        self._settings = settings
        self._intake = intake
        self._catch_up = catch_up
        self._ending = ending
        self._n_failures = 0
        self.n_connections = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)

    @property
    def is_open(self) -> bool:
        """Whether a stream stands at the moment."""
        return self._catch_up.streaming

    def start(self) -> None:
        """Open the stream, unless config says to poll."""
        if self._settings.streaming:
            self._thread.start()
        else:
            logger.info("polling every_s=%g, as mastodon.streaming is false", self._settings.poll_every_s)

    def stop(self, timeout_s: float) -> None:
        """Close the stream and open no other."""
        self._stopping.set()
        self._client.stream.close()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping.is_set():
            started = time.monotonic()
            reason, min_pause_s = self._listen()
            if reason is None or self._stopping.is_set():
                return
            self._catch_up.ask()
            lived_s = time.monotonic() - started
            self._n_failures = 1 if lived_s >= HEALTHY_S else self._n_failures + 1
            pause = max(self._pause(), min_pause_s)
            self._log_end(reason, lived_s, pause)
            self._stopping.wait(pause)

    def _listen(self) -> tuple[str | None, float]:
        """One connection from start to end; returns why it ended (None: for good) and the least pause after it."""
        try:
            self._client.stream.read(Listener(self))
            return "closed by the server", 0.0
        except Unauthorized as error:
            return self._is_token_good(error), 0.0
        except RateLimited as error:
            return str(error), error.until - time.time()
        except InstanceError as error:
            return str(error), 0.0
        finally:
            self._catch_up.streaming = False

    def _is_token_good(self, refusal: Unauthorized) -> str | None:
        """Tell a revoked token from a stream that wants another scope; the reason, or None after a revoked one."""
        try:
            self._client.home.me(again=True)
        except Unauthorized as error:
            self._ending.fatal(error)
            return None
        except InstanceError:
            return str(refusal)
        return f"{refusal}; the token itself is good, perhaps it lacks read:statuses or read:notifications"

    # What the listener calls

    def opened(self) -> None:
        """A connection has brought its first line."""
        self._catch_up.streaming = True
        self.n_connections += 1
        if self._n_failures >= FAILURES_TO_POLL:
            logger.info("stream open again after failures=%d", self._n_failures)
        else:
            logger.info("stream open connection=%d", self.n_connections)
        self._catch_up.ask()

    def notified(self, raw: dict[str, Any]) -> None:
        """A notification, as JSON; what is no mention is passed over."""
        mention = readable_mention(raw)
        if mention is not None:
            self._intake.received(mention)

    def edited(self, raw: dict[str, Any]) -> None:
        """A status was edited; `raw` is its JSON."""
        self._intake.edited(raw)

    def deleted(self, status_id: str) -> None:
        """A status was deleted."""
        self._intake.deleted(status_id)

    def _pause(self) -> float:
        pause = self._settings.reconnect_pause_s * 2.0 ** min(self._n_failures - 1, MAX_DOUBLINGS)
        capped = min(pause, self._settings.max_reconnect_pause_s)
        return capped * random.uniform(0.5, 1.0)  # noqa: S311 - spreads reconnects, no secret

    def _log_end(self, reason: str, lived_s: float, pause: float) -> None:
        if self._n_failures == FAILURES_TO_POLL:
            logger.warning(
                "no lasting stream reason=%s; polling every_s=%g instead, the stream is tried now and then",
                reason,
                self._settings.poll_every_s,
            )
        else:
            level = logging.WARNING if self._n_failures < FAILURES_TO_POLL else logging.DEBUG
            if lived_s >= HEALTHY_S:  # as servers and proxies end them now and then
                level = logging.INFO
            logger.log(level, "stream ended lived_s=%.0f again_in_s=%.1f reason=%s", lived_s, pause, reason)
