"""The running bot: its parts built from settings, started in order, stopped in time."""

from __future__ import annotations

import fcntl
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from bot.admin.operations import Operations
from bot.admin.subprocesses import Subprocesses
from bot.config import MastodonSettings, Settings
from bot.entities import Account, Mention
from bot.errors import RateLimited, Transient
from bot.instance.client import Client
from bot.instance.home import Instance
from bot.mentions.answer import Answerer
from bot.mentions.catch_up import CatchUp
from bot.mentions.cleanup import Cleanup
from bot.mentions.stream import Stream
from bot.mentions.worker import Worker
from bot.monitor.health import Heartbeat
from bot.monitor.metrics import CONTENT_TYPE, Metrics
from bot.monitor.pages import DAYS_SHOWN, Page, Pages, status_page
from bot.photos.photos import Decoder, Judge
from bot.photos.predict import Loader, Predictor
from bot.reply.texts import load_texts
from bot.reply.writer import Writer
from bot.storage.records import DAY_S
from bot.storage.store import Store
from trainer.errors import ConfigError, StorageError
from trainer.web.fetch import Fetcher, user_agent

logger = logging.getLogger(__name__)

DATABASE = "bot.sqlite3"
HOUR_S = 3600.0
# A stop may take ten seconds altogether; mentions at work get most of them.
STOP_S = 8.0
CLOCK_STEP_S = 1.0  # what a server's Date header leaves out
# An instance that is away at the start is asked again at least this often.
MAX_START_PAUSE_S = 60.0
# While the champion loads, a request to stop is heard after this long.
LISTEN_TO_SIGNALS_S = 0.2
# The inbox tries again by itself; a hand must not be kept waiting by a slow file server for long.
FETCH_ATTEMPTS = 2


class Bot:
    """All parts of the bot, for one account.

    Args:
        loader: where the classifier comes from.
        decoder: turns strangers' files into photos; started and closed by the caller, after the bot has stopped.
        subprocesses: runs the trainer's commands; None: as this process is configured.
        log_lines: the last warnings and errors, for the admins.
        now: seconds since the epoch.
        sleep: waits so many seconds; for an instance that is away at the start.

    Raises:
        ConfigError: the texts are not usable.
        StorageError: the database cannot be opened, or another bot is using it.
        InstanceError: the instance refuses the token, or to say what it is.
    """

    def __init__(
        self,
        settings: Settings,
        token: str,
        loader: Loader,
        decoder: Decoder,
        *,
        subprocesses: Subprocesses | None = None,
        log_lines: Callable[[], list[str]] = list,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.failure: Exception | None = None
        self._settings = settings
        self._now = now
        self._started_at = now()
        self._is_serving = False
        self._over = threading.Event()
        self._reload_asked = threading.Event()
        with ExitStack() as stack:
            texts = load_texts(settings.bot.texts)
            stack.enter_context(_sole_user(settings.data_dir))
            self.store = Store(settings.data_dir / DATABASE, now=now)
            stack.callback(self.store.close)
            agent = user_agent(settings.web)
            self.client = Client(settings.mastodon, token, user_agent=agent, now=now)
            instance, me = _introduced(self.client, settings.mastodon, sleep=sleep)
            self._asked_before = self.client.calls.server_time() + CLOCK_STEP_S
            self.store.belongs_to(settings.mastodon.base_url, me.id)
            logger.info("at home on=%s version=%s as=%s", settings.mastodon.base_url, instance.version, me.acct)
            limits = settings.bot
            web = settings.web.model_copy(update={"max_attempts": FETCH_ATTEMPTS})
            fetcher = stack.enter_context(Fetcher(web))
            self.predictor = Predictor(loader, batch_size=limits.batch_size)
            writer = Writer(
                texts,
                limits.labels,
                widest=limits.visibility,
                max_characters=instance.max_characters,
                characters_per_url=instance.characters_per_url,
            )
            judge = Judge(fetcher, decoder, self.predictor, max_bytes=settings.images.max_bytes)
            self.operations = Operations(
                settings,
                self.client,
                self.store,
                settings.data_dir / DATABASE,
                subprocesses or Subprocesses(settings.schedule, settings.data_dir / "log"),
                max_characters=instance.max_characters,
                log_lines=log_lines,
                wake=lambda: self.worker.wake(),
                look=lambda: self.catch_up.ask(),
                sweep=lambda: self.cleanup.sweep(),
                now=now,
            )
            stack.callback(self.operations.close)
            self.metrics = Metrics(
                self.operations.status_reader,
                self.operations.records,
                stream=lambda: (self.stream.is_open, self.stream.n_connections),
                now=now,
            )
            self.heartbeat = Heartbeat(settings.data_dir, self.is_alive, now=now)
            self.pages = Pages(limits.http_host, limits.http_port, self._pages()) if limits.http_port else None
            if self.pages is not None:
                stack.callback(self.pages.stop)
            answerer = Answerer(
                self.client, self.store, judge, writer, limits, handlers=self.operations.handlers, now=now
            )
            self._build_loops(answerer)
            self._stack = stack.pop_all()

    def _build_loops(self, answerer: Answerer) -> None:
        mastodon, limits = self._settings.mastodon, self._settings.bot
        max_age_s = limits.max_mention_age_h * HOUR_S
        patience_s = mastodon.request_timeout_s
        self.worker = Worker(
            self.store,
            answerer,
            limits,
            patience_s=patience_s,
            fatal=self._give_up,
            only=self.operations.handlers.serves_only,
            finished=self.metrics.finished,
            now=self._now,
        )
        self.cleanup = Cleanup(
            self.client, self.store, self.worker, max_age_s=max_age_s, patience_s=patience_s, now=self._now
        )
        self.catch_up = CatchUp(
            self.client,
            self.store,
            self.received,
            every_s=lambda: mastodon.catch_up_every_s if self.stream.is_open else mastodon.poll_every_s,
            max_age_s=max_age_s,
            overlap_s=mastodon.overlap_s,
            fatal=self._give_up,
            now=self._now,
        )
        self.stream = Stream(
            self.client,
            mastodon,
            look=self.catch_up.ask,
            received=self.received,
            edited=self.cleanup.edited,
            deleted=self.cleanup.deleted,
            fatal=self._give_up,
        )

    def received(self, mention: Mention) -> None:
        """Take a mention into the inbox; one that is there already changes nothing.

        What was asked before this start may have been answered by an earlier run whose records are lost (a power cut,
        a restored backup): its thread is looked into first.
        """
        look_first = mention.status.created_at.timestamp() <= self._asked_before
        if self.store.inbox.put(mention, look_first=look_first):
            self.metrics.received()
            logger.info(
                "received notification=%s status=%s visibility=%s attachments=%d",
                mention.notification_id,
                mention.status.id,
                mention.status.visibility,
                len(mention.status.attachments),
            )
            self.worker.hand_over(mention)

    def start(self) -> None:
        """Start all parts; returns when the champion is loaded and mentions are listened for, or when asked to stop.

        Raises:
            ModelError: there is no version to answer with.
        """
        self.heartbeat.start()
        if self.pages is not None:
            self.pages.start()
        self.predictor.start()
        while not self.predictor.has_tried.wait(LISTEN_TO_SIGNALS_S):
            if self._over.is_set():
                return
        self.predictor.wait_until_ready()
        self.cleanup.start()
        self.worker.start()
        self.catch_up.start()
        self.stream.start()
        self.operations.start()
        self._is_serving = True
        self.heartbeat.notify("READY=1")
        logger.info("ready took_s=%.1f", self._now() - self._started_at)

    def wait(self) -> bool:
        """Wait until there is something to do for who runs the bot.

        Returns:
            True when settings are to be read again; False when `ask_to_stop` was called, or the bot gave up: `failure`
            then says why.
        """
        while not self._over.wait(LISTEN_TO_SIGNALS_S):
            if self._reload_asked.is_set():
                self._reload_asked.clear()
                return True
        return False

    def ask_to_stop(self) -> None:
        """Let `wait` return; fit for a signal handler."""
        self._over.set()

    def ask_to_reload(self) -> None:
        """Let `wait` return; fit for a signal handler."""
        self._reload_asked.set()

    def stop(self) -> bool:
        """Stop all parts within ten seconds; True when nothing had to be left at work."""
        deadline = time.monotonic() + STOP_S

        def left() -> float:
            return max(0.1, deadline - time.monotonic())

        self.heartbeat.stop()
        self.stream.stop(1.0)
        self.operations.stop(min(3.0, left()))
        clean = self.worker.stop(left())
        self.catch_up.stop(min(1.0, left()))
        self.cleanup.stop(min(1.0, left()))
        self.predictor.stop()
        self._stack.close()
        logger.info("stopped clean=%s", clean)
        return clean

    def is_alive(self) -> bool:
        """Whether the loops that answer mentions run, or are not to run yet."""
        return not self._is_serving or (self.worker.is_alive and self.catch_up.is_alive)

    def _pages(self) -> dict[str, Callable[[], Page]]:
        def healthz() -> Page:
            return Page(b"alive\n") if self.is_alive() else Page(b"a part of the bot is not alive\n", status=503)

        def status() -> Page:
            now = self._now()
            tallies = self.store.inbox.ended_since(now - DAYS_SHOWN * DAY_S)
            status_reader, jobs = self.operations.status_reader, self.operations.schedule.jobs()
            return status_page(status_reader.read(), tallies, status_reader.job_lines(jobs), now=now)

        return {"/healthz": healthz, "/metrics": lambda: Page(self.metrics.page(), CONTENT_TYPE), "/": status}

    def _give_up(self, error: Exception) -> None:
        """Something that this process cannot mend; the first such error is the one that counts."""
        if self.failure is None and isinstance(error, StorageError):
            self.failure = error
        if self.failure is None:
            self.failure = ConfigError(
                f"the instance refuses the token: {error}; run `python -m bot login {self._settings.mastodon.base_url}`"
            )
        self._over.set()


def _introduced(
    client: Client, settings: MastodonSettings, *, sleep: Callable[[float], object]
) -> tuple[Instance, Account]:
    """What the instance is and who we are there; one that is away is asked again until it is back."""
    pause = settings.reconnect_pause_s
    while True:
        try:
            return client.home.instance(), client.home.me()
        except (RateLimited, Transient) as error:
            until_s = error.until - time.time() if isinstance(error, RateLimited) else 0.0
            wait_s = max(pause, until_s)
            logger.warning(
                "%s does not answer, again in_s=%.0f (if it never does, is mastodon.base_url right?): %s",
                settings.base_url,
                wait_s,
                error,
            )
            sleep(wait_s)
            pause = min(pause * 2.0, MAX_START_PAUSE_S, settings.max_reconnect_pause_s)


@contextmanager
def _sole_user(data_dir: Path) -> Iterator[None]:
    """Make sure that no other bot works on the same inbox: two would answer everything twice."""
    path = data_dir / "bot.lock"
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        file: IO[str] = path.open("w")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error}; data_dir must be ours to write") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageError(f"{data_dir}: another bot is running with this data_dir; stop it first") from error
        yield
