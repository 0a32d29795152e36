"""Runs the recurring jobs with APScheduler; a missed job runs once, and two jobs of a lane never run at once.

Scrape and train share a lane, so they never run at once, and short jobs do not wait for them. The database records each
job's last turn, so a job that was due while the machine was off runs after the next start.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from apscheduler import events
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.interval import IntervalTrigger

from bot.admin.subprocesses import SubprocessStoppedError
from bot.config import ScheduleSettings
from bot.storage.records import Records
from bot.timetable import Timetable
from trainer.errors import ProjectError

logger = logging.getLogger(__name__)

HOUR_S = 3600.0
BETWEEN_EVERY_S = 30  # a changed system clock is noticed after this time too
Lane = Literal["short", "long"]
LANES: tuple[Lane, ...] = ("short", "long")
# Takes whether an admin asked for this run; returns the outcome in a few words.
Action = Callable[[bool], str]


@dataclass(slots=True)
class Job:
    """One job and its state.

    Attributes:
        due_at: seconds since the epoch; None if it is not planned.
        asked: an admin asked for a run that has not started.
    """

    name: str
    action: Action
    lane: Lane
    due_at: float | None = None
    asked: bool = False
    running: bool = False


class TimetableTrigger(BaseTrigger):  # type: ignore[misc]
    """Adapts a timetable (None: never) to APScheduler; the first time is the one after the job's last turn."""

    def __init__(self, timetable: Timetable | None, *, last_turn: datetime) -> None:
        self._timetable = timetable
        self._last_turn = last_turn

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:  # noqa: ARG002
        """The first time after the previous run."""
        return None if self._timetable is None else self._timetable.after(previous_fire_time or self._last_turn)


class Schedule:
    """Runs jobs by their timetables, on one thread for each lane.

    Args:
        between: called after each job, at least every `BETWEEN_EVERY_S`, and after `wake`.
        now: seconds since the epoch.
    """

    def __init__(
        self, records: Records, *, between: Callable[[], object] = lambda: None, now: Callable[[], float] = time.time
    ) -> None:
        self._records = records
        self._between = between
        self._now = now
        self._jobs: dict[str, Job] = {}
        self._settings = ScheduleSettings()
        self._changed = threading.Condition()
        self._n_submitted = 0  # submitted to the lanes and not ended
        self._stopping = False
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={lane: ThreadPoolExecutor(1, {"thread_name_prefix": f"jobs-{lane}"}) for lane in LANES},
            job_defaults={"coalesce": True, "max_instances": 1},
        )
        self._scheduler.add_listener(self._submitted, events.EVENT_JOB_SUBMITTED)
        ends = events.EVENT_JOB_EXECUTED | events.EVENT_JOB_ERROR | events.EVENT_JOB_MISSED
        self._scheduler.add_listener(self._ended, ends)

    def add(self, name: str, action: Action, *, lane: Lane = "short") -> None:
        """Adds a job; it has default times until `plan` is called."""
        self._jobs[name] = Job(name, action, lane)
        self._plan(self._jobs[name])

    def plan(self, settings: ScheduleSettings) -> None:
        """Plans all jobs, at the start and whenever the settings have changed.

        Raises:
            StorageError: the jobs' last turns cannot be read.
        """
        self._settings = settings
        for name in settings.jobs():
            if name in self._jobs:
                if self._records.last_turn(name) is None:  # so that a missed first run is noticed
                    self._records.note(name, "planned", "")
                self._plan(self._jobs[name])

    def start(self) -> None:
        """Starts running jobs."""
        n_interrupted = self._records.close_runs()
        if n_interrupted:
            logger.warning("jobs were interrupted n=%d", n_interrupted)
        self._scheduler.add_job(
            self._run_between,
            IntervalTrigger(seconds=BETWEEN_EVERY_S),
            id="between",
            executor="short",
            misfire_grace_time=None,
            next_run_time=self._time(),
        )
        self._scheduler.start()

    def stop(self, timeout_s: float) -> None:
        """Starts no more jobs; waits up to `timeout_s` for those running."""
        self._stopping = True
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
            self.wait_until_idle(timeout_s)

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Waits for running and queued jobs; False if some are left after `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._n_submitted == 0, timeout_s)

    def ask(self, name: str) -> bool:
        """Runs a job as soon as its lane is free; False if it is running or queued already, or no job runs any more."""
        with self._changed:
            job = self._jobs[name]
            if job.running or job.asked:
                return False
            job.asked = True
        try:  # without a grace time: it runs however long its lane is busy
            self._scheduler.modify_job(name, next_run_time=self._time(), misfire_grace_time=None)
        except JobLookupError:  # the scheduler's end forgets all jobs
            if not self._stopping:
                raise
            return False
        return True

    def wake(self) -> None:
        """Has `between` called now; returns at once."""
        if self._scheduler.running and not self._stopping:
            self._scheduler.modify_job("between", next_run_time=self._time())

    def run_due(self) -> None:
        """Starts due jobs now, after the clock was changed; otherwise the scheduler's thread does it when it wakes."""
        self._scheduler._process_jobs()

    def jobs(self) -> list[Job]:
        """All jobs, the next due first, those not planned last."""
        for job in self._jobs.values():
            due = getattr(self._scheduler.get_job(job.name), "next_run_time", None)
            job.due_at = None if due is None else due.timestamp()
        return sorted(self._jobs.values(), key=lambda job: (job.due_at is None, job.due_at or 0.0))

    def _time(self) -> datetime:
        return datetime.fromtimestamp(self._now(), UTC)

    def _plan(self, job: Job) -> None:
        """Plans a job's next run, counted from its last turn."""
        wanted = self._settings.jobs()[job.name]
        when = wanted.when if wanted.enabled else None
        timetable = when and Timetable(when, time_zone=self._settings.time_zone, jitter_s=wanted.jitter_s)
        last_turn = self._records.last_turn(job.name) or self._now()
        self._scheduler.add_job(
            self._run,
            TimetableTrigger(timetable or None, last_turn=datetime.fromtimestamp(last_turn, UTC)),
            [job],
            id=job.name,
            name=job.name,
            executor=job.lane,
            misfire_grace_time=max(1, round(wanted.misfire_grace_h * HOUR_S)),
            replace_existing=True,
        )

    def _run(self, job: Job) -> None:
        """Runs a job once, on its lane's thread."""
        with self._changed:
            if self._stopping:
                return
            asked, job.asked, job.running = job.asked, False, True
        try:
            number = self._records.begin(job.name)
            outcome, detail = _guarded(job.name, lambda: job.action(asked))
            self._records.end(number, outcome, detail)
            if asked and not self._stopping:
                self._plan(job)  # with its grace time again
        finally:
            job.running = False
        self.wake()

    def _run_between(self) -> None:
        try:
            self._between()
        except ProjectError as error:
            logger.error("messages not sent, they wait: %s", error)

    def _submitted(self, _event: events.JobEvent) -> None:
        with self._changed:
            self._n_submitted += 1

    def _ended(self, event: events.JobExecutionEvent) -> None:
        try:
            if event.code == events.EVENT_JOB_MISSED:
                late_h = (self._now() - event.scheduled_run_time.timestamp()) / HOUR_S
                logger.warning("job skipped, as it is too late job=%s late_h=%.1f", event.job_id, late_h)
                self._records.note(event.job_id, "skipped", f"{late_h:.1f} hours late")
            elif event.exception is not None:
                logger.error("job's run not recorded job=%s error=%s", event.job_id, event.exception)
        finally:
            with self._changed:
                self._n_submitted -= 1
                self._changed.notify_all()


def _guarded(name: str, action: Callable[[], str]) -> tuple[str, str]:
    """Runs an action; returns the outcome and its detail, and raises nothing."""
    started = time.monotonic()
    try:
        detail = action()
    except SubprocessStoppedError as error:
        return "stopped", str(error)
    except ProjectError as error:
        logger.warning("job failed, it stays planned job=%s error=%s", name, error)
        return "failed", str(error)
    except Exception as error:
        logger.exception("job failed job=%s", name)
        return "failed", repr(error)
    logger.info("job done job=%s took_s=%.1f outcome=%s", name, time.monotonic() - started, detail)
    return "done", detail
