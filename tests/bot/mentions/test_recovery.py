"""Rare cases found by `benchmarks.chaos`, between a post, a deletion, a restart and an outage."""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import pytest

from bot.storage.schema import DamagedError
from sandbox.faults import Fault
from tests.bot.conftest import ROOT, World, settle, until

POSTS = "/api/v1/statuses"
API = "/api/.*"


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="answer", path=API, status=503, html=True, times=3),
        Fault(kind="answer", path=API, status=500, times=3),
        Fault(kind="cut", path=API, times=3),
        Fault(kind="answer", path=API, status=404, html=True, times=3),
        Fault(kind="rate_limit", path=API, seconds=0.2, times=1),
    ],
    ids=["503", "500", "cut", "404", "429"],
)
def test_the_bot_waits_for_an_instance_that_is_down_at_the_start(world: World, fault: Fault) -> None:
    world.instance.faults.add(fault)
    with world.bot():
        world.answer(world.ask())


@pytest.mark.parametrize("kind", ["store_then_answer", "store_then_cut"])
def test_an_answer_posted_without_confirmation_is_deleted_with_its_question(world: World, kind: str) -> None:
    fault = Fault.model_validate({"kind": kind, "path": POSTS, "methods": ("POST",), "times": 1})
    with world.bot(bot={"retry_pause_s": 1.0, "max_retry_pause_s": 1.0}) as bot:
        stays = world.ask()
        world.answer(stays)
        world.instance.faults.add(fault)
        gone = world.ask()
        world.answer(gone)
        world.instance.delete(gone)
        until(lambda: bot.store.inbox.counts() == {"answered": 1, "refused": 1})
    assert [status.in_reply_to_id for status in world.instance.statuses_of(world.me)] == [stays.id]


def test_an_answer_is_deleted_if_its_question_goes_while_it_is_recorded(world: World) -> None:
    late = Fault(kind="store_then_delay", path=POSTS, methods=("POST",), times=1, seconds=1.0)
    world.instance.faults.add(late)
    with world.bot(mastodon={"request_timeout_s": 10.0}) as bot:
        until(lambda: bot.stream.is_open)
        question = world.ask()
        world.answer(question)  # it is posted, but the bot has no response yet
        world.instance.delete(question)
        until(lambda: bot.store.inbox.counts() == {"refused": 1})
    assert not world.instance.statuses_of(world.me)


def test_a_404_from_a_proxy_does_not_count_as_a_deleted_question(world: World) -> None:
    page = Fault(kind="answer", path=rf"{POSTS}/.*", status=404, html=True, times=2)
    with world.bot() as bot:
        parent = world.ask(text="my costume")
        world.instance.faults.add(page)
        question = world.ask(label=None, in_reply_to=parent)
        world.answer(question)
        settle(bot)
    assert world.instance.faults.fired["answer"] == 2


def test_a_clock_that_is_days_ahead_makes_no_mention_too_old(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with world.bot() as bot:
        until(lambda: bot.stream.is_open)
        monkeypatch.setattr(bot.client.calls, "_now", lambda: time.time() + 10 * 86400)
        monkeypatch.setattr(bot.worker, "_now", lambda: time.time() + 10 * 86400)
        world.answer(world.ask())


def test_a_database_damaged_while_the_bot_runs_ends_it_and_the_next_start_repairs_it(world: World) -> None:
    with world.bot(mastodon={"catch_up_every_s": 0.2}) as bot:
        first = world.ask()
        world.answer(first)
        settle(bot)
        with bot.store._database._lock:  # like a failing disk, between two transactions
            bot.store._database._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            bot.store._database._connection.execute("PRAGMA cache_size = 0")
            with (world.data_dir / "bot.sqlite3").open("r+b") as file:
                file.seek(4096)
                file.write(b"\xff" * 4096 * 8)
        second = world.ask()
        bot.wait()
        assert isinstance(bot.failure, DamagedError)
    with world.bot() as bot:
        world.answer(second)
        settle(bot)
    assert len(world.answers(first)) == 1


def test_a_full_disk_loses_no_mention(world: World) -> None:
    environment = world.environment(
        DOKOCOS_MASTODON__ACCESS_TOKEN=world.me.token, DOKOCOS_MASTODON__CATCH_UP_EVERY_S="1"
    )
    command = [sys.executable, "-m", "benchmarks.quick_bot"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        until(lambda: world.instance.hub.listeners(world.me))
        world.answer(world.ask())
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))  # no file can be written
        asked = [world.ask() for _ in range(3)]
        assert any("is the disk full" in line for line in process.stderr)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        for question in asked:
            world.answer(question)
    finally:
        process.kill()
        process.communicate()
    assert [len(world.answers(question)) for question in asked] == [1, 1, 1]


@pytest.mark.parametrize("path", ["/api/v1/notifications", rf"{POSTS}/.*/context"])
def test_an_endless_slow_response_is_given_up(world: World, path: str) -> None:
    parent = world.ask("my costume")
    question = world.ask(label=None, in_reply_to=parent)
    world.instance.faults.add(Fault(kind="endless", path=path, times=1))
    with world.bot():
        world.answer(question)
    assert world.instance.faults.fired["endless"] == 1
