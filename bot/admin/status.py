"""Collects the bot's current state for the `status` order, the status page, metrics and the command line."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from bot.admin.agreement import Opinions
from bot.admin.messages import figures
from bot.admin.outbox import QUIET_UNTIL
from bot.admin.schedule import Job
from bot.config import Settings
from bot.storage.records import Records
from bot.storage.store import Store
from trainer.errors import ProjectError
from trainer.registry import serving

PAUSED = "paused"
OPEN = ("new", "working", "posting", "deferred")


@dataclass(frozen=True, slots=True)
class BotStatus:
    """The bot's state at one moment.

    Attributes:
        counts: state -> number of mentions in the inbox.
        champion: the version on disk that would serve, or why there is none.
        figures: the champion's, a line each.
        report: the champion's, from metrics.json; None if there is no champion.
        free_bytes: on data_dir's disk.
        quiet_until: seconds since the epoch; None outside quiet hours.
        opinions: what people say about the answers of the last `bot.keep_days`.
    """

    uptime_s: float
    counts: dict[str, int]
    champion: str
    figures: tuple[str, ...]
    report: dict[str, Any] | None
    free_bytes: int
    paused: bool
    quiet_until: float | None
    opinions: Opinions

    @property
    def n_waiting(self) -> int:
        """The number of mentions still to be answered."""
        return sum(self.counts.get(state, 0) for state in OPEN)


@dataclass(eq=False)
class StatusReader:
    """Reads the bot's state from the database, the disk and the registry.

    Args:
        now: seconds since the epoch.
    """

    settings: Settings
    store: Store
    records: Records
    _: KW_ONLY
    now: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self._started_at = self.now()

    def read(self) -> BotStatus:
        """The current state. Raises StorageError."""
        until = self.records.switch(QUIET_UNTIL)
        champion, report = self._champion()
        return BotStatus(
            uptime_s=self.now() - self._started_at,
            counts=self.store.inbox.counts(),
            champion=champion,
            figures=tuple(figures(report)) if report else (),
            report=report,
            free_bytes=shutil.disk_usage(self.settings.data_dir).free,
            paused=self.records.switch(PAUSED) is not None,
            quiet_until=float(until) if until and float(until) > self.now() else None,
            opinions=Opinions(self.store.opinions.tally(), self.store.opinions.tally_samples()),
        )

    def job_lines(self, jobs: list[Job]) -> list[str]:
        """A line for each job: when it is due, and its last outcome."""
        lines = []
        for job in jobs:
            last = [run.summary for run in self.records.runs(limit=1, job=job.name) if run.ended_at is not None]
            due = "off" if job.due_at is None else self.clock(job.due_at)
            state = "running" if job.running else "queued" if job.asked else due
            lines.append(f"{job.name}: {state}{f' (last {last[0]})' if last else ''}")
        return lines

    def clock(self, moment: float) -> str:
        """A time in `schedule.time_zone`."""
        zone: tzinfo = ZoneInfo(self.settings.schedule.time_zone)
        return f"{datetime.fromtimestamp(moment, UTC).astimezone(zone):%b %d %H:%M %Z}"

    def _champion(self) -> tuple[str, dict[str, Any] | None]:
        try:
            version = serving.champion(self.settings)
        except ProjectError as error:
            return str(error), None
        if version is None:
            return "none yet", None
        return version.name, version.metrics["report"]


def span(seconds: float) -> str:
    """A duration in words, e.g. "3 d 4 h" or "12 min"."""
    minutes = int(seconds // 60)
    days, hours = minutes // 1440, minutes // 60 % 24
    return f"{days} d {hours} h" if days else f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
