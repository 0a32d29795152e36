"""The user stream: fast but incomplete. It reconnects with growing pauses; if it keeps failing, the bot polls."""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import Any

from bot.config import MastodonSettings
from bot.ending import Ending
from bot.errors import InstanceError, RateLimited, Unauthorized
from bot.instance import parse
from bot.instance.client import Client
from bot.instance.listener import Listener
from bot.instance.reading import readable_mention
from bot.mentions.catch_up import CatchUp
from bot.mentions.delivery import Delivery
from bot.mentions.intake import Intake

logger = logging.getLogger(__name__)

# A shorter connection counts as failed; the server's heartbeats come every 15 s.
HEALTHY_S = 20.0
# After this many failures in a row the bot logs that it polls; it still tries the stream, but rarely.
FAILURES_TO_POLL = 3
MAX_DOUBLINGS = 16


class Stream:
    """Keeps a stream open on its own thread.

    Args:
        catch_up: asked to read what was missed whenever a connection opens or ends.
    """

    def __init__(
        self,
        client: Client,
        settings: MastodonSettings,
        intake: Intake,
        catch_up: CatchUp,
        delivery: Delivery,
        ending: Ending,
    ) -> None:
        self._client = client
        self._settings = settings
        self._intake = intake
        self._catch_up = catch_up
        self._delivery = delivery
        delivery.reopen = self._reopen
        self._ending = ending
        self._n_failures = 0
        self._deaf: bool | None = None  # the connection was closed as it brought nothing; True: not the first time
        self.n_connections = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)

    @property
    def is_open(self) -> bool:
        """Whether a stream is open now."""
        return self._delivery.is_open

    def start(self) -> None:
        """Opens the stream, unless the configuration says to poll."""
        if self._settings.streaming:
            self._thread.start()
        else:
            logger.info("polling every_s=%g, as mastodon.streaming is false", self._settings.poll_every_s)

    def stop(self, timeout_s: float) -> None:
        """Closes the stream for good."""
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
            if self._deaf is None:
                self._n_failures = 1 if lived_s >= HEALTHY_S else self._n_failures + 1
            else:
                reason = "it brought nothing"
                self._n_failures = self._n_failures + 1 if self._deaf else 0
                self._deaf = None
            pause = max(self._pause(), min_pause_s) if self._n_failures else 0.0
            self._log_end(reason, lived_s, pause)
            self._stopping.wait(pause)

    def _listen(self) -> tuple[str | None, float]:
        """Runs one connection; returns why it ended (None: do not reconnect) and the minimum pause after it."""
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
            self._delivery.ended()

    def _reopen(self, again: bool) -> None:
        """Closes the stream, which brings nothing, to open it again: at once, or later and by another way."""
        self._deaf = again
        self._client.stream.drop(avoid=again)

    def _is_token_good(self, refusal: Unauthorized) -> str | None:
        """Tells a revoked token from a missing scope; returns the reason, or None if the token is revoked."""
        try:
            self._client.home.me(again=True)
        except Unauthorized as error:
            self._ending.fatal(error)
            return None
        except InstanceError:
            return str(refusal)
        return f"{refusal}; the token is valid, perhaps it lacks read:statuses or read:notifications"

    # What the listener calls

    def opened(self) -> None:
        """Handles the first line of a connection."""
        self._deaf = None
        self._delivery.opened()
        self.n_connections += 1
        if self._n_failures >= FAILURES_TO_POLL:
            logger.info("stream open again after failures=%d", self._n_failures)
        else:
            logger.info("stream open connection=%d", self.n_connections)
        self._catch_up.ask()

    def notified(self, raw: dict[str, Any]) -> None:
        """Handles a notification, as JSON; ignores other types than mentions."""
        mention = readable_mention(raw)
        self._delivery.heard(mention.status.id if mention else "")
        if mention is not None:
            self._intake.received(mention)

    def edited(self, raw: dict[str, Any]) -> None:
        """Handles an edited status; `raw` is its JSON."""
        self._intake.edited(parse.status(raw))

    def deleted(self, status_id: str) -> None:
        """Handles a deleted status."""
        self._intake.deleted(status_id)

    def _pause(self) -> float:
        pause = self._settings.reconnect_pause_s * 2.0 ** min(self._n_failures - 1, MAX_DOUBLINGS)
        capped = min(pause, self._settings.max_reconnect_pause_s)
        return capped * random.uniform(0.5, 1.0)  # noqa: S311 - spreads reconnects, no secret

    def _log_end(self, reason: str, lived_s: float, pause: float) -> None:
        if self._n_failures == FAILURES_TO_POLL:
            logger.warning(
                "stream keeps failing reason=%s; polling every_s=%g, the stream is still tried at times",
                reason,
                self._settings.poll_every_s,
            )
        else:
            level = logging.WARNING if self._n_failures < FAILURES_TO_POLL else logging.DEBUG
            if lived_s >= HEALTHY_S:  # servers and proxies close streams at times
                level = logging.INFO
            logger.log(level, "stream ended lived_s=%.0f again_in_s=%.1f reason=%s", lived_s, pause, reason)
