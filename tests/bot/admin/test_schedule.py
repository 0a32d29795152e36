"""Jobs run when due, once if missed, and never twice at once; the clock is passed in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bot.admin.schedule import Schedule
from bot.admin.subprocesses import SubprocessStoppedError
from bot.config import ScheduleSettings
from bot.storage.records import Records
from tests.bot.conftest import until
from tests.bot.storage.test_store import Clock
from tests.fakes import apscheduler_clock
from trainer.errors import ProjectError, StorageError

HOUR = 3600.0
SETTINGS = ScheduleSettings.model_validate(
    {"train": {"when": "every 24 h", "jitter_s": 0, "misfire_grace_h": 48}, "prune": {"when": "every 6 h"}}
)


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    with apscheduler_clock(clock):
        yield clock


@pytest.fixture
def records(tmp_path: Path, clock: Clock) -> Iterator[Records]:
    records = Records(tmp_path / "bot.sqlite3", now=clock)
    yield records
    records.close()


class Counter:
    """A job that counts its runs, and fails on request."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.asked: list[bool] = []
        self.failure = failure

    def __call__(self, asked: bool) -> str:
        self.asked.append(asked)
        if self.failure is not None:
            raise self.failure
        return "counted"


Start = Callable[..., Schedule]


@pytest.fixture
def start(records: Records, clock: Clock) -> Iterator[Start]:
    """Starts a schedule with one job, as a new process does, after stopping the previous one."""
    schedules: list[Schedule] = []

    def make(job: Counter, settings: ScheduleSettings = SETTINGS) -> Schedule:
        if schedules:
            schedules.pop().stop(5)
        schedule = Schedule(records, now=clock)
        schedules.append(schedule)
        schedule.add("train", job, lane="long")
        schedule.plan(settings)
        schedule.start()
        settle(schedule)
        return schedule

    yield make
    for schedule in schedules:
        schedule.stop(5)


def settle(schedule: Schedule) -> None:
    """Runs what is due now and waits for its end."""
    schedule.run_due()
    assert schedule.wait_until_idle(30)


def test_a_job_runs_when_it_is_due_and_not_before(start: Start, clock: Clock) -> None:
    job = Counter()
    schedule = start(job)
    assert job.asked == []
    clock.now += 24 * HOUR
    settle(schedule)
    settle(schedule)
    assert job.asked == [False]


def test_a_job_missed_while_the_machine_was_off_runs_once_at_the_start(start: Start, clock: Clock) -> None:
    job = Counter()
    start(job)
    clock.now += 3 * 24 * HOUR  # due three times
    settle(start(job))
    assert job.asked == [False]


def test_a_run_missed_by_more_than_its_grace_time_is_skipped(records: Records, start: Start, clock: Clock) -> None:
    job = Counter()
    weekly = ScheduleSettings.model_validate({"train": {"when": "every 7 d", "jitter_s": 0, "misfire_grace_h": 48}})
    start(job, weekly)
    clock.now += 10 * 24 * HOUR  # three days late
    schedule = start(job, weekly)
    assert job.asked == []
    assert records.runs(limit=1)[0].outcome == "skipped"
    assert records.runs(limit=1)[0].detail == "72.0 hours late"
    clock.now += 4 * 24 * HOUR
    settle(schedule)
    assert job.asked == [False]


def test_the_first_start_runs_nothing_at_once(start: Start) -> None:
    job = Counter()
    start(job)
    assert job.asked == []


def test_a_job_that_is_off_runs_only_when_asked_for(start: Start, clock: Clock) -> None:
    job = Counter()
    schedule = start(job, ScheduleSettings.model_validate({"train": {"enabled": False}}))
    clock.now += 1000 * HOUR
    settle(schedule)
    assert schedule.jobs()[0].due_at is None
    for n_runs in (1, 2):
        assert schedule.ask("train")
        settle(schedule)
        assert job.asked == [True] * n_runs


def test_a_job_on_demand_runs_however_long_its_lane_is_busy(records: Records, clock: Clock) -> None:
    gate, began = threading.Event(), threading.Event()
    job = Counter()

    def scrape(_asked: bool) -> str:
        began.set()
        gate.wait(30)
        return "done"

    schedule = Schedule(records, now=clock)
    schedule.add("scrape", scrape, lane="long")
    schedule.add("train", job, lane="long")
    schedule.plan(SETTINGS)
    schedule.start()
    try:
        assert schedule.ask("scrape")
        schedule.run_due()
        assert began.wait(30)
        assert schedule.ask("train")
        assert not schedule.ask("train")
        schedule.run_due()
        clock.now += 100 * HOUR  # twice the grace time
        gate.set()
        assert schedule.wait_until_idle(30)
    finally:
        gate.set()
        schedule.stop(5)
    assert job.asked == [True]


def test_a_run_on_demand_does_not_change_the_plan(start: Start, clock: Clock) -> None:
    job = Counter()
    schedule = start(job)
    schedule.ask("train")
    settle(schedule)
    clock.now += 23 * HOUR
    settle(schedule)
    assert job.asked == [True]
    clock.now += HOUR  # an interval counts from the last run
    settle(schedule)
    assert job.asked == [True, False]


@pytest.mark.parametrize("failure", [ProjectError("not today"), ZeroDivisionError("a fault of ours")])
def test_a_failed_job_is_recorded_and_runs_again_next_time(
    records: Records, start: Start, clock: Clock, failure: Exception
) -> None:
    job = Counter(failure)
    schedule = start(job)
    for _ in range(2):
        clock.now += 24 * HOUR
        settle(schedule)
    assert len(job.asked) == 2
    assert records.n_failures("train") == 2
    assert str(failure).split()[0] in records.runs(limit=1)[0].detail


def test_a_run_that_was_stopped_with_the_bot_is_repeated_at_the_next_start(
    records: Records, start: Start, clock: Clock
) -> None:
    job = Counter(SubprocessStoppedError("stopped"))
    schedule = start(job)
    clock.now += 24 * HOUR
    settle(schedule)
    assert records.runs(limit=1)[0].outcome == "stopped"
    job.failure = None
    start(job)
    assert records.runs(limit=1)[0].outcome == "done"


def test_scrape_and_train_never_run_at_once_and_do_not_delay_short_jobs(records: Records) -> None:
    at_work: list[str] = []
    overlaps: list[list[str]] = []
    gate, pruned = threading.Event(), threading.Event()

    def long_job(name: str) -> object:
        def run(_asked: bool) -> str:
            at_work.append(name)
            overlaps.append(list(at_work))
            gate.wait()
            at_work.remove(name)
            return "done"

        return run

    def prune(_asked: bool) -> str:
        pruned.set()
        return "done"

    schedule = Schedule(records)
    schedule.add("scrape", long_job("scrape"), lane="long")  # type: ignore[arg-type]
    schedule.add("train", long_job("train"), lane="long")  # type: ignore[arg-type]
    schedule.add("prune", prune)
    schedule.start()
    try:
        schedule.ask("scrape")
        schedule.ask("train")
        until(lambda: at_work)
        schedule.ask("prune")
        assert pruned.wait(30)
        assert len(at_work) == 1
        gate.set()
        until(lambda: len(overlaps) == 2 and not at_work)
    finally:
        gate.set()
        schedule.stop(5)
    assert all(len(each) == 1 for each in overlaps)


def test_nothing_can_be_asked_for_after_the_end(start: Start) -> None:
    job = Counter()
    schedule = start(job)
    schedule.stop(5)
    assert not schedule.ask("train")
    assert job.asked == []


def test_wake_sends_messages_between_jobs(records: Records) -> None:
    calls = threading.Semaphore(0)
    schedule = Schedule(records, between=calls.release)
    schedule.start()
    try:
        assert calls.acquire(timeout=30)
        schedule.wake()
        assert calls.acquire(timeout=30)
    finally:
        schedule.stop(5)


def test_new_settings_change_the_plan_at_once(start: Start, clock: Clock) -> None:
    job = Counter()
    schedule = start(job)
    clock.now += HOUR
    schedule.plan(ScheduleSettings.model_validate({"train": {"when": "every 30 min", "jitter_s": 0}}))
    settle(schedule)
    assert job.asked == [False]


def test_a_running_job_is_not_started_again(records: Records, clock: Clock) -> None:
    n_at_once: list[int] = []
    at_work: list[str] = []

    def look_again(_asked: bool) -> str:
        at_work.append("train")
        clock.now += 24 * HOUR  # it runs so long that it is due again
        schedule.run_due()
        n_at_once.append(len(at_work))
        at_work.remove("train")
        return "counted"

    schedule = Schedule(records, now=clock)
    schedule.add("train", look_again, lane="long")
    schedule.plan(SETTINGS)
    schedule.start()
    clock.now += 24 * HOUR
    try:
        settle(schedule)
    finally:
        schedule.stop(5)
    assert n_at_once == [1]


def test_a_run_that_cannot_be_recorded_is_logged_and_the_next_one_runs(
    records: Records, start: Start, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = Counter()
    schedule = start(job)

    def full(*_: object) -> int:
        raise StorageError("the disk is full")

    clock.now += 24 * HOUR
    with monkeypatch.context() as patch:
        patch.setattr(records, "begin", full)
        settle(schedule)
    assert "job's run not recorded job=train error=the disk is full" in caplog.text
    clock.now += 24 * HOUR
    settle(schedule)
    assert job.asked == [False]
