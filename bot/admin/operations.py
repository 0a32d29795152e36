"""Builds and connects the parts that run the bot: jobs, orders, and messages to admins."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping

from bot.admin.handlers import CommandHandlers
from bot.admin.jobs import Jobs
from bot.admin.outbox import Outbox
from bot.admin.sampling import Sampler
from bot.admin.schedule import Schedule
from bot.admin.status import StatusReader
from bot.admin.subprocesses import Subprocesses
from bot.config import Settings
from bot.errors import InstanceError
from bot.instance.client import Client
from bot.storage.records import Records
from bot.storage.store import DATABASE, Store

logger = logging.getLogger(__name__)


class Operations:
    """The schedule, the orders and the outbox of one bot.

    Args:
        subprocesses: runs the trainer's commands.
        max_characters: the instance's limit for a status.
        log_lines: returns the last warnings and errors.
        now: seconds since the epoch.

    Raises:
        StorageError: the database cannot be opened.
    """

    def __init__(
        self,
        settings: Settings,
        client: Client,
        store: Store,
        subprocesses: Subprocesses,
        *,
        max_characters: int,
        log_lines: Callable[[], list[str]],
        now: Callable[[], float] = time.time,
    ) -> None:
        admins = resolve(client, settings.bot.admins, home=settings.mastodon.base_url)
        self.records = Records(settings.data_dir / DATABASE, now=now)
        self.outbox = Outbox(client, self.records, admins=list(admins.values()), max_characters=max_characters, now=now)
        self.jobs = Jobs(settings, store, self.records, subprocesses, self.outbox, now=now)
        self.sampler = Sampler(client, store, self.outbox, per_week=settings.bot.sample_answers_per_week, now=now)
        self.schedule = Schedule(self.records, between=self.outbox.send, now=now)
        self.status_reader = StatusReader(settings, store, self.records, now=now)
        self.handlers = CommandHandlers(
            admins,
            store,
            self.records,
            self.schedule,
            subprocesses,
            self.jobs,
            self.status_reader,
            log_lines=log_lines,
            now=now,
        )
        self._settings = settings
        self._client = client
        self._subprocesses = subprocesses
        self._add_jobs()

    def start(self) -> None:
        """Plans and starts the jobs. Raises StorageError."""
        self.schedule.plan(self._settings.schedule)
        self.schedule.start()

    def stop(self, timeout_s: float) -> None:
        """Ends child processes and jobs, and starts no more."""
        self._subprocesses.stop()
        self.schedule.stop(timeout_s)

    def close(self) -> None:
        """Closes the database."""
        self.records.close()

    def reload(self, settings: Settings) -> list[str]:
        """Applies settings that may change while the bot runs: the schedule and the admins.

        Returns:
            The names of changed settings that need a restart.

        Raises:
            StorageError: the jobs cannot be planned.
        """
        before, self._settings = self._settings, settings
        if settings.bot.admins != before.bot.admins:
            self._find_admins()
        # All other settings, such as data_dir and training, stay as they were at the start.
        self.jobs.settings = before.model_copy(update={"schedule": settings.schedule})
        self.status_reader.settings = self.jobs.settings
        self.schedule.plan(settings.schedule)
        return changed(before, settings)

    def _find_admins(self) -> None:
        """Looks up the admins' accounts; those found before are kept, even while the instance is down."""
        bot, home = self._settings.bot, self._settings.mastodon.base_url
        self.handlers.admins = resolve(self._client, bot.admins, home=home, known=self.handlers.admins)
        self.outbox.admins = tuple(self.handlers.admins.values())

    def _add_jobs(self) -> None:
        def watch(asked: bool) -> str:
            if len(self.handlers.admins) < len(self._settings.bot.admins):
                self._find_admins()
            return self.jobs.watch(asked)

        jobs = self.jobs
        self.schedule.add("scrape", jobs.scrape, lane="long")
        self.schedule.add("train", jobs.train, lane="long")
        self.schedule.add("review", jobs.review, lane="long")
        self.schedule.add("tidy", jobs.tidy, lane="long")
        self.schedule.add("report", jobs.report)
        self.schedule.add("prune", jobs.prune)
        self.schedule.add("watch", watch)
        self.schedule.add("sample", self.sampler.run_job)


def resolve(
    client: Client, accts: Collection[str], *, home: str, known: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Looks up accounts by acct; returns account id -> acct. Logs those not found; they may give no orders.

    Args:
        accts: user, or user@host.
        home: the instance's address; its own accounts may be given with or without its host, or the host of our acct.
        known: the result of an earlier call; these are not looked up again.
    """
    ids = {acct.casefold(): account_id for account_id, acct in (known or {}).items()}
    # Some servers give their own accounts a host, and not always that of their address.
    hosts = {home.split("://", 1)[-1].rstrip("/").casefold(), client.home.me().acct.partition("@")[2].casefold()}

    def local(acct: str) -> str:
        name, _, host = acct.casefold().partition("@")
        return name if host in hosts else acct.casefold()

    found = {}
    for acct in accts:
        wanted = local(acct.strip().removeprefix("@"))
        if wanted in ids:
            found[ids[wanted]] = (known or {})[ids[wanted]]
            continue
        try:
            account = client.reader.lookup(wanted)
        except InstanceError as error:
            logger.error("admin not found acct=%s error=%s; bot.admins wants user or user@host", acct, error)
            continue
        if local(account.acct) != wanted:  # a server may return a similar account; that one must not give orders
            logger.error("admin not found acct=%s; the instance offers %s instead", acct, account.acct)
            continue
        found[account.id] = account.acct
        logger.info("admin acct=%s id=%s", account.acct, account.id)
    return found


def changed(before: Settings, after: Settings) -> list[str]:
    """The settings that differ and need a restart, as "section.key"."""
    taken_over = {"schedule", "log"}
    apart = {("bot", "admins"), ("mastodon", "access_token")}  # applied too; read once and then hidden
    names = []
    for section, old in before:
        new = getattr(after, section)
        if section in taken_over or old == new:
            continue
        keys = [key for key, value in old if getattr(new, key) != value] if hasattr(old, "model_fields_set") else [""]
        names += [f"{section}.{key}".rstrip(".") for key in keys if (section, key) not in apart]
    return names
