"""The bot's recurring jobs: each when it is due, missed ones once, never one beside itself.

Jobs of one lane take their turns: a scrape and a training never run at once, and neither keeps the short ones waiting.
When each had its turn is remembered on disk, so a job that was due while the machine was off is seen at the next start.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from bot.admin.subprocesses import SubprocessStoppedError
from bot.config import ScheduleSettings
from bot.storage.records import Records
from bot.timetable import Timetable
from trainer.errors import ProjectError

logger = logging.getLogger(__name__)

HOUR_S = 3600.0
LOOK_EVERY_S = 30.0  # a clock that was set is noticed after this long
Lane = Literal["short", "long"]
LANES: tuple[Lane, ...] = ("short", "long")
# Takes whether somebody asked for this run; returns the outcome in a few words.
Action = Callable[[bool], str]


@dataclass(slots=True)
class Job:
    """One job and where it stands.

    Attributes:
        timetable: None for one that runs only when asked for.
        grace_s: how late a run is still worth it.
        due_at: seconds since the epoch; None when it is not planned.
    """

    name: str
    action: Action
    lane: Lane
    timetable: Timetable | None = None
    grace_s: float = HOUR_S
    due_at: float | None = None
    asked: bool = False
    running: bool = False


class Schedule:
    """Runs jobs by their timetables, a thread for each lane.

    Args:
        between: called after each look at the short jobs, at least every `LOOK_EVERY_S`, and when `poke` asks for it.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        records: Records,
        *,
        between: Callable[[], object] = lambda: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._records = records
        self._between = between
        self._now = now
        self._jobs: dict[str, Job] = {}
        self._wake = threading.Condition()
        self._poked = False
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._loop, args=(lane,), name=f"jobs-{lane}", daemon=True) for lane in LANES
        ]

    def add(self, name: str, action: Action, *, lane: Lane = "short") -> None:
        """A job; it is planned by `plan`."""
        self._jobs[name] = Job(name, action, lane)

    def plan(self, settings: ScheduleSettings) -> None:
        """Plan all jobs by settings, at the start and whenever these have changed.

        Raises:
            StorageError: it cannot be read when each had its turn.
        """
        with self._wake:
            for name, wanted in settings.jobs().items():
                if name not in self._jobs:
                    continue
                job = self._jobs[name]
                job.timetable = (
                    Timetable(wanted.when, time_zone=settings.time_zone, jitter_s=wanted.jitter_s)
                    if wanted.enabled
                    else None
                )
                job.grace_s = wanted.misfire_grace_h * HOUR_S
                if self._records.last_turn(name) is None:  # from the first day on a missed run is seen
                    self._records.note(name, "planned", "")
                self._plan_next(job)
            self._wake.notify_all()

    def start(self) -> None:
        """Let the jobs run."""
        n_broken_off = self._records.close_runs()
        if n_broken_off:
            logger.warning("jobs were broken off n=%d", n_broken_off)
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float) -> None:
        """Start no more jobs; those that run are waited for so long."""
        deadline = time.monotonic() + timeout_s
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))

    def ask(self, name: str) -> bool:
        """Run a job as soon as its lane is free; False when it runs or waits already."""
        with self._wake:
            job = self._jobs[name]
            if job.running or job.asked:
                return False
            job.asked = True
            self._wake.notify_all()
            return True

    def poke(self) -> None:
        """There is something to do between jobs; returns at once."""
        with self._wake:
            self._poked = True
            self._wake.notify_all()

    def jobs(self) -> list[Job]:
        """All jobs, the next first; those that are not planned last."""
        with self._wake:
            return sorted(self._jobs.values(), key=lambda job: (job.due_at is None, job.due_at or 0.0))

    def run_due(self, lane: Lane) -> float:
        """Run what is due in a lane, one after another; returns the seconds until there may be more to do.

        Raises:
            StorageError: the outcome cannot be kept.
        """
        while (job := self._take(lane)) is not None:
            self._run(job)
        with self._wake:
            due = [job.due_at for job in self._jobs.values() if job.lane == lane and job.due_at is not None]
        return min(max(0.0, min(due, default=self._now() + LOOK_EVERY_S) - self._now()), LOOK_EVERY_S)

    def _loop(self, lane: Lane) -> None:
        while not self._stopping:
            try:
                pause = self.run_due(lane)
                if lane == "short":
                    self._poked = False
                    self._between()
            except ProjectError as error:
                logger.error("jobs wait: %s", error)
                pause = LOOK_EVERY_S
            except Exception:
                logger.exception("jobs wait")
                pause = LOOK_EVERY_S
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or self._is_wanted(lane), pause)

    def _is_wanted(self, lane: Lane) -> bool:
        asked = any(job.asked and not job.running for job in self._jobs.values() if job.lane == lane)
        return asked or (lane == "short" and self._poked)

    def _take(self, lane: Lane) -> Job | None:
        """The next job whose turn it is; what was asked for goes first, what is not worth it any more is struck off."""
        with self._wake:
            if self._stopping:
                return None
            now = self._now()
            idle = [job for job in self._jobs.values() if job.lane == lane and not job.running]
            for job in sorted(idle, key=lambda job: not job.asked):
                late_s = -1.0 if job.due_at is None else now - job.due_at
                if not job.asked and late_s > job.grace_s:
                    logger.warning(
                        "job missed, and not worth it any more job=%s late_h=%.1f", job.name, late_s / HOUR_S
                    )
                    self._records.note(job.name, "skipped", f"{late_s / HOUR_S:.1f} hours late")
                    self._plan_next(job)
                elif job.asked or late_s >= 0:
                    job.running = True
                    return job
        return None

    def _run(self, job: Job) -> None:
        asked = job.asked
        try:
            number = self._records.begin(job.name)
            outcome, detail = _guarded(job.name, lambda: job.action(asked))
            self._records.end(number, outcome, detail)
        finally:
            with self._wake:
                job.running = job.asked = False
                self._plan_next(job)
        self.poke()

    def _plan_next(self, job: Job) -> None:
        last = self._records.last_turn(job.name)
        if job.timetable is None or last is None:
            job.due_at = None
        else:
            job.due_at = job.timetable.after(datetime.fromtimestamp(last, UTC)).timestamp()


def _guarded(name: str, action: Callable[[], str]) -> tuple[str, str]:
    """The outcome and its detail; nothing gets out of here."""
    started = time.monotonic()
    try:
        detail = action()
    except SubprocessStoppedError as error:
        return "stopped", str(error)
    except ProjectError as error:
        logger.warning("job failed, it runs again next time job=%s error=%s", name, error)
        return "failed", str(error)
    except Exception as error:
        logger.exception("job failed job=%s", name)
        return "failed", repr(error)
    logger.info("job done job=%s took_s=%.1f outcome=%s", name, time.monotonic() - started, detail)
    return "done", detail
