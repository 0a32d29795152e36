"""The records of jobs, messages and faults; databases of all past formats are migrated with their rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bot.storage.records import DAY_S, Records
from bot.storage.schema import MIGRATIONS
from bot.storage.store import Store
from tests.bot.storage.test_store import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def records(tmp_path: Path, clock: Clock) -> Iterator[Records]:
    records = Records(tmp_path / "bot.sqlite3", now=clock)
    yield records
    records.close()


@pytest.mark.parametrize("version", range(len(MIGRATIONS)))
def test_a_database_of_each_past_format_is_migrated_with_its_rows(tmp_path: Path, version: int) -> None:
    path = tmp_path / "bot.sqlite3"
    with closing(sqlite3.connect(path)) as old:
        for script in MIGRATIONS[:version]:
            old.executescript(script)
        if version:
            old.execute("INSERT INTO opt_outs (account_id, since) VALUES ('7', 1.0)")
            old.execute("INSERT INTO cursor VALUES ('55', 1.0)")
        old.execute(f"PRAGMA user_version = {version}")
        old.commit()
    store = Store(path)
    assert ("7" in store.opt_outs) == (version > 0)
    assert store.cursor.position(overlap_s=0) == ("55" if version else None)
    store.close()
    records = Records(path)
    records.set_switch("paused", "yes")
    assert records.switch("paused") == "yes"
    records.close()


def test_a_stopped_run_does_not_count_as_a_turn(records: Records, clock: Clock) -> None:
    records.note("train", "planned", "")
    planned_at = clock.now
    clock.now += 100
    records.note("train", "stopped", "")
    assert records.last_turn("train") == planned_at
    records.note("train", "failed", "")
    assert records.last_turn("train") == clock.now


def test_a_turn_is_never_in_the_future(records: Records, clock: Clock) -> None:
    records.note("train", "done", "")
    clock.now -= 10 * DAY_S
    assert records.last_turn("train") == clock.now


def test_an_interrupted_run_has_failed(records: Records) -> None:
    records.begin("train")
    assert records.n_failures("train") == 0
    assert records.close_runs() == 1
    assert records.n_failures("train") == 1
    assert records.runs(limit=5)[0].detail == "the bot or the machine ended meanwhile"


def test_failures_in_a_row_are_counted_from_the_last_success(records: Records) -> None:
    for outcome in ("failed", "done", "failed", "stopped", "failed"):
        records.note("train", outcome, "")
    assert records.n_failures("train") == 2


def test_a_fault_is_reported_once_a_day_and_again_when_it_comes_back(records: Records, clock: Clock) -> None:
    assert records.should_report("disk")
    assert not records.should_report("disk")
    clock.now += DAY_S
    assert records.should_report("disk")
    assert records.resolved("disk")
    assert not records.resolved("disk")
    assert records.should_report("disk")


def test_messages_wait_in_order_until_they_are_sent(records: Records) -> None:
    records.write("one", acct="alice")
    records.write("two", acct=None, picture=b"jpeg", alt_text="a table")
    first, second = records.queued()
    assert (first.text, second.text, second.picture) == ("one", "two", b"jpeg")
    assert first.idempotency_key != second.idempotency_key
    records.tried(first)
    assert records.queued()[0].attempts == 1
    records.sent(first)
    assert [letter.text for letter in records.queued()] == ["two"]


def test_pruning_runs_keeps_the_newest_turn_of_each_job(records: Records, clock: Clock) -> None:
    for job in ("train", "train", "scrape"):
        records.note(job, "done", "")
        clock.now += 1
    records.note("train", "stopped", "")
    assert records.prune(before=clock.now + 1) == 2
    assert {run.job for run in records.runs(limit=9)} == {"train", "scrape"}
