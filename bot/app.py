"""Builds the bot's parts from settings, starts them in order, and stops them in time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

from bot.admin.operations import Operations
from bot.admin.subprocesses import Subprocesses
from bot.config import Settings
from bot.ending import Ending
from bot.instance.client import Client
from bot.instance.neighbours import Neighbours
from bot.mentions.answer import Answerer
from bot.mentions.catch_up import CatchUp
from bot.mentions.cleanup import Cleanup
from bot.mentions.contributions import ContributionKeeper
from bot.mentions.delivery import Delivery
from bot.mentions.feedback import Feedback
from bot.mentions.hosts import Hosts
from bot.mentions.intake import Intake
from bot.mentions.review import Review
from bot.mentions.stream import Stream
from bot.mentions.withdrawal import Withdrawal
from bot.mentions.worker import Worker
from bot.monitor.health import Heartbeat
from bot.monitor.metrics import Metrics
from bot.monitor.pages import pages_of
from bot.monitor.server import Pages
from bot.photos.photos import Decoder, PhotoReader
from bot.photos.predict import Loader, Predictor
from bot.reply.texts import load_texts
from bot.reply.writer import Writer
from bot.storage.sole_user import sole_user
from bot.storage.store import DATABASE, Store
from trainer.photos.contributions import Contributions
from trainer.web.fetch import Fetcher, user_agent

logger = logging.getLogger(__name__)

HOUR_S = 3600.0
# A stop may take ten seconds in all; mentions in progress get most of them.
STOP_S = 8.0
CLOCK_STEP_S = 1.0  # the resolution of a server's Date header
# How often requests to stop are checked.
LISTEN_TO_SIGNALS_S = 0.2
# The worker retries mentions by itself; its threads must not wait long for a slow file server.
FETCH_ATTEMPTS = 2


class Bot:
    """All parts of the bot, for one account.

    Args:
        loader: loads the classifier.
        decoder: decodes strangers' files; the caller starts it, and closes it after the bot has stopped.
        subprocesses: runs the trainer's commands; None: built from `settings`.
        log_lines: returns the last warnings and errors, for the admins.
        now: seconds since the epoch.
        sleep: waits a number of seconds; used while the instance is down at the start.

    Raises:
        ConfigError: the texts are not usable.
        StorageError: the database cannot be opened, or another bot is using it.
        InstanceError: the instance refuses the token, or its description.
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
        self._now = now
        self._started_at = now()
        self._is_serving = False
        self._reload_asked = threading.Event()
        limits, mastodon, data_dir = settings.bot, settings.mastodon, settings.data_dir
        max_age_s, patience_s = limits.max_mention_age_h * HOUR_S, mastodon.request_timeout_s
        subprocesses = subprocesses or Subprocesses(settings.schedule, data_dir / "log")
        with ExitStack() as stack:
            texts = load_texts(limits.texts)
            stack.enter_context(sole_user(data_dir))
            self.ending = Ending(mastodon.base_url)
            self.store = Store(data_dir / DATABASE, now=now)
            stack.callback(self.store.close)
            self.client = Client(mastodon, token, user_agent=user_agent(settings.web), now=now)
            instance, me = self.client.home.wait_for(sleep=sleep)
            self.store.belongs_to(mastodon.base_url, me.id)
            asked_before = self.client.calls.server_time() + CLOCK_STEP_S

            room = instance.max_characters
            self.operations = Operations(
                settings, self.client, self.store, subprocesses, max_characters=room, log_lines=log_lines, now=now
            )
            stack.callback(self.operations.close)
            schedule, handlers = self.operations.schedule, self.operations.handlers
            self.metrics = Metrics(self.operations.status_reader, self.operations.records, now=now)

            web = settings.web.model_copy(update={"max_attempts": FETCH_ATTEMPTS})
            fetcher = stack.enter_context(Fetcher(web, private=True))
            self.predictor = Predictor(loader, batch_size=limits.batch_size)
            self.photo_reader = PhotoReader(
                fetcher,
                decoder,
                self.predictor,
                max_bytes=settings.images.max_bytes,
                refuse_unknown=limits.refuse_unknown,
            )
            writer = Writer(
                texts,
                limits.labels,
                widest=limits.visibility,
                max_characters=room,
                characters_per_url=instance.characters_per_url,
                counts_strictly=not instance.is_mastodon,
            )

            inbox = self.store.inbox
            neighbours = None
            if limits.ask_instances:
                asker = stack.enter_context(Fetcher(settings.web.model_copy(update={"max_attempts": 1})))
                neighbours = Neighbours(asker, now=now)
            hosts = Hosts(self.client.home, frozenset(limits.blocked_domains), neighbours)
            contributions = ContributionKeeper(
                self.client,
                self.store,
                texts,
                hosts,
                self.photo_reader,
                Contributions(data_dir),
                is_asked=limits.contributions == "ask",
                tidy=lambda: schedule.ask("tidy"),
                now=now,
            )
            self.withdrawal = Withdrawal(self.client, self.store, texts, contributions, max_age_s=max_age_s, now=now)
            feedback = Feedback(self.store, writer)
            answerer = Answerer(
                self.client,
                self.store,
                self.photo_reader,
                writer,
                limits,
                handlers=handlers,
                hosts=hosts,
                withdrawal=self.withdrawal,
                feedback=feedback,
                contributions=contributions,
                now=now,
            )
            self.worker = Worker(
                inbox, answerer, limits, handlers, self.metrics, self.ending, patience_s=patience_s, now=now
            )
            self.cleanup = Cleanup(
                self.client, self.store, self.worker, feedback, max_age_s=max_age_s, patience_s=patience_s, now=now
            )
            intake = Intake(self.worker, self.cleanup, self.withdrawal, self.metrics, asked_before=asked_before)
            delivery = Delivery()
            review = Review(self.client, inbox, intake, max_age_s=max_age_s, now=now)
            self.catch_up = CatchUp(
                self.client, self.store, intake, mastodon, delivery, review, self.ending, max_age_s=max_age_s, now=now
            )
            self.stream = Stream(self.client, mastodon, intake, self.catch_up, delivery, self.ending)
            self.metrics.stream = self.stream
            schedule.add("catch_up", self.catch_up.run_job)
            schedule.add("sweep", self.cleanup.run_job)

            self.heartbeat = Heartbeat(data_dir, self.is_alive, now=now)
            self.pages: Pages | None = None
            if limits.http_port:
                pages = pages_of(self.is_alive, self.metrics, inbox, self.operations, now=now)
                self.pages = Pages(limits.http_host, limits.http_port, pages, names=limits.http_names)
                stack.callback(self.pages.stop)
            self._stack = stack.pop_all()

    @property
    def failure(self) -> Exception | None:
        """The error that ended the bot; None while it runs, or if it was asked to stop."""
        return self.ending.error

    def start(self) -> None:
        """Starts all parts; returns when the champion is loaded and the stream is started, or if asked to stop.

        Raises:
            ModelError: no version can serve.
        """
        self.heartbeat.start()
        if self.pages is not None:
            self.pages.start()
        self.predictor.start()
        while not self.predictor.has_tried.wait(LISTEN_TO_SIGNALS_S):
            if self.ending.is_over.is_set():
                return
        self.predictor.wait_until_ready()
        self.cleanup.start()
        self.withdrawal.start()
        self.worker.start()
        self.catch_up.start()
        self.stream.start()
        self.operations.start()
        self._is_serving = True
        self.heartbeat.notify("READY=1")
        logger.info("ready took_s=%.1f", self._now() - self._started_at)

    def wait(self) -> bool:
        """Waits until the caller has something to do.

        Returns:
            True: reload the settings. False: stop, as `ask_to_stop` was called or a fatal error occurred (`failure`).
        """
        while not self.ending.is_over.wait(LISTEN_TO_SIGNALS_S):
            if self._reload_asked.is_set():
                self._reload_asked.clear()
                return True
        return False

    def ask_to_stop(self) -> None:
        """Makes `wait` return False; safe in a signal handler."""
        self.ending.is_over.set()

    def ask_to_reload(self) -> None:
        """Makes `wait` return True; safe in a signal handler."""
        self._reload_asked.set()

    def stop(self) -> bool:
        """Stops all parts within ten seconds; True if no mention was left in progress."""
        deadline = time.monotonic() + STOP_S

        def left() -> float:
            return max(0.1, deadline - time.monotonic())

        self.heartbeat.stop()
        self.stream.stop(1.0)
        self.operations.stop(min(3.0, left()))
        clean = self.worker.stop(left())
        self.catch_up.stop(min(1.0, left()))
        self.cleanup.stop(min(1.0, left()))
        self.withdrawal.stop(min(1.0, left()))
        self.predictor.stop()
        self._stack.close()
        logger.info("stopped clean=%s", clean)
        return clean

    def is_alive(self) -> bool:
        """Whether the loops that answer mentions are running, or are not started yet."""
        return not self._is_serving or (self.worker.is_alive and self.catch_up.is_alive)
