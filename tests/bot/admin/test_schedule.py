"""Jobs run when they are due, once when they were missed, and never one beside itself; the clock is handed in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.admin.schedule import Schedule
from bot.admin.subprocesses import SubprocessStoppedError
from bot.config import ScheduleSettings
from bot.storage.records import Records
from tests.bot.conftest import until
from tests.bot.storage.test_store import Clock
from trainer.errors import ProjectError

HOUR = 3600.0
SETTINGS = ScheduleSettings.model_validate(
    {"train": {"when": "every 24 h", "jitter_s": 0, "misfire_grace_h": 48}, "prune": {"when": "every 6 h"}}
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def records(tmp_path: Path, clock: Clock) -> Iterator[Records]:
    records = Records(tmp_path / "bot.sqlite3", now=clock)
    yield records
    records.close()


class Counter:
    """A job that counts its runs, and fails as told."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.asked: list[bool] = []
        self.failure = failure

    def __call__(self, asked: bool) -> str:
        self.asked.append(asked)
        if self.failure is not None:
            raise self.failure
        return "counted"


def started(records: Records, clock: Clock, job: Counter, settings: ScheduleSettings = SETTINGS) -> Schedule:
    """A schedule with one job, as a new process has it."""
    schedule = Schedule(records, now=clock)
    schedule.add("train", job, lane="long")
    schedule.plan(settings)
    return schedule


def test_a_job_runs_when_it_is_due_and_not_before(records: Records, clock: Clock) -> None:
    job = Counter()
    schedule = started(records, clock, job)
    schedule.run_due("long")
    assert job.asked == []
    clock.now += 24 * HOUR
    schedule.run_due("long")
    schedule.run_due("long")
    assert job.asked == [False]


def test_runs_missed_while_the_machine_was_off_take_place_once_at_the_start(records: Records, clock: Clock) -> None:
    job = Counter()
    started(records, clock, job)
    clock.now += 3 * 24 * HOUR  # three moments went by; the last was due 48 hours ago at most
    schedule = started(records, clock, job)
    schedule.run_due("long")
    schedule.run_due("long")
    assert len(job.asked) == 1


def test_a_missed_run_that_is_not_worth_it_any_more_is_struck_off(records: Records, clock: Clock) -> None:
    job = Counter()
    started(records, clock, job)
    clock.now += 10 * 24 * HOUR
    schedule = started(records, clock, job)
    schedule.run_due("long")
    assert job.asked == []
    assert records.runs(limit=1)[0].outcome == "skipped"
    clock.now += 24 * HOUR
    schedule.run_due("long")
    assert job.asked == [False]


def test_the_first_start_runs_nothing_at_once(records: Records, clock: Clock) -> None:
    job = Counter()
    assert started(records, clock, job).run_due("long") <= 30
    assert job.asked == []


def test_a_job_that_is_off_runs_only_when_asked_for(records: Records, clock: Clock) -> None:
    job = Counter()
    schedule = started(records, clock, job, ScheduleSettings.model_validate({"train": {"enabled": False}}))
    clock.now += 1000 * HOUR
    schedule.run_due("long")
    assert schedule.ask("train")
    assert not schedule.ask("train")
    schedule.run_due("long")
    assert job.asked == [True]


@pytest.mark.parametrize("failure", [ProjectError("not today"), ZeroDivisionError("a fault of ours")])
def test_a_job_that_fails_is_recorded_and_runs_again_next_time(
    records: Records, clock: Clock, failure: Exception
) -> None:
    job = Counter(failure)
    schedule = started(records, clock, job)
    for _ in range(2):
        clock.now += 24 * HOUR
        schedule.run_due("long")
    assert len(job.asked) == 2
    assert records.n_failures("train") == 2
    assert str(failure).split()[0] in records.runs(limit=1)[0].detail


def test_a_run_that_was_stopped_with_the_bot_takes_place_at_the_next_start(records: Records, clock: Clock) -> None:
    job = Counter(SubprocessStoppedError("stopped"))
    schedule = started(records, clock, job)
    clock.now += 24 * HOUR
    schedule.stop(0)
    schedule = started(records, clock, job)
    schedule._jobs["train"].asked = False
    assert schedule._jobs["train"].due_at == clock.now
    job.failure = None
    schedule.run_due("long")
    assert records.runs(limit=1)[0].outcome == "done"


def test_a_scrape_and_a_training_never_run_at_once_and_do_not_hold_up_short_jobs(records: Records) -> None:
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


def test_between_jobs_messages_are_sent_as_soon_as_asked(records: Records) -> None:
    calls = threading.Semaphore(0)
    schedule = Schedule(records, between=calls.release)
    schedule.start()
    try:
        assert calls.acquire(timeout=30)
        schedule.poke()
        assert calls.acquire(timeout=30)
    finally:
        schedule.stop(5)


def test_a_new_plan_counts_at_once(records: Records, clock: Clock) -> None:
    job = Counter()
    schedule = started(records, clock, job)
    clock.now += HOUR
    schedule.plan(ScheduleSettings.model_validate({"train": {"when": "every 30 min", "jitter_s": 0}}))
    schedule.run_due("long")
    assert job.asked == [False]


def test_a_job_that_runs_is_not_begun_again_from_elsewhere(records: Records, clock: Clock) -> None:
    meanwhile: list[float] = []

    def look_again(_asked: bool) -> str:
        meanwhile.append(schedule.run_due("long"))
        return "counted"

    schedule = Schedule(records, now=clock)
    schedule.add("train", look_again, lane="long")
    schedule.plan(SETTINGS)
    clock.now += 24 * HOUR
    schedule.run_due("long")
    assert len(meanwhile) == 1
