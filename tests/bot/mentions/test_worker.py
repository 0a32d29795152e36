"""What the worker does about failures: which mentions wait, for how long, and which fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bot.config import BotSettings
from bot.ending import Ending
from bot.entities import Account, Mention, Status
from bot.errors import Transient
from bot.instance.limits import DEFAULT_WAIT_S, MAX_DEFAULT_WAIT_S, Limits
from bot.mentions.worker import Worker
from bot.storage.inbox import Entry, Outcome
from bot.storage.store import Store
from tests.bot.conftest import until

START = 1_800_000_000.0
N_THREADS = 16
PATIENCE_S = 30.0
ENDING = Ending("https://example.social")
Answer = Callable[[Entry, Mention | None], Outcome]
Start = Callable[[Answer], Worker]


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


class Everybody:
    """A gate that lets everybody be answered."""

    admins = ()

    def serves_only(self) -> None:
        return None


class NoCounts:
    """Counts nothing."""

    def finished(self, entry: Entry, outcome: Outcome) -> None:
        pass


class FunctionAnswerer:
    """Answers by calling a function."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def answer(self, entry: Entry, mention: Mention | None) -> Outcome:
        return self._answer(entry, mention)


def mention(number: int) -> Mention:
    account = Account(str(number), f"asker{number}", bot=False, created_at=None, profile="")
    status = Status(
        id=str(1000 + number),
        account=account,
        created_at=datetime.fromtimestamp(START, UTC),
        visibility="public",
        text="which?",
        language="en",
        spoiler_text="",
        sensitive=False,
        attachments=(),
        in_reply_to_id=None,
        mentioned_ids=frozenset(),
        is_boost=False,
    )
    return Mention(str(number), status)


def answered(entry: Entry) -> Outcome:
    return Outcome("answered", reply_id=f"9{entry.notification_id}")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    store = Store(tmp_path / "bot.sqlite3", now=clock)
    yield store
    store.close()


@pytest.fixture
def start(store: Store, clock: Clock) -> Iterator[Start]:
    """Returns a function that starts a worker with a function as answerer."""
    workers = []

    def make(answer: Answer) -> Worker:
        settings = BotSettings(concurrent_mentions=N_THREADS)
        worker = Worker(
            store.inbox,
            FunctionAnswerer(answer),
            settings,
            Everybody(),
            NoCounts(),
            ENDING,
            patience_s=PATIENCE_S,
            now=clock,
        )
        workers.append(worker)
        worker.start()
        return worker

    yield make
    for worker in workers:
        worker.stop(5.0)


def test_many_failures_at_once_count_as_one_outage(store: Store, clock: Clock, start: Start) -> None:
    all_working = threading.Barrier(N_THREADS)
    failures = iter(range(N_THREADS))

    def answer(entry: Entry, _: Mention | None) -> Outcome:
        if next(failures, None) is None:
            return answered(entry)
        all_working.wait(10)
        raise Transient("HTTP 503", outage=True)

    for number in range(N_THREADS):
        store.inbox.put(mention(number), look_first=False)
    worker = start(answer)
    until(lambda: store.inbox.counts() == {"deferred": N_THREADS})
    clock.now += 10.0  # the pause after one failure, not after sixteen in a row
    worker.wake()
    until(lambda: store.inbox.counts() == {"answered": N_THREADS})


def test_after_a_long_outage_the_server_is_tried_at_least_once_a_minute(
    store: Store, clock: Clock, start: Start
) -> None:
    is_back = threading.Event()

    def answer(entry: Entry, _: Mention | None) -> Outcome:
        if is_back.is_set():
            return answered(entry)
        raise Transient("HTTP 503", outage=True)

    store.inbox.put(mention(1), look_first=False)
    worker = start(answer)
    for _ in range(20):
        until(lambda: store.inbox.counts() == {"deferred": 1} and worker.is_idle())
        clock.now += 60.0
        worker.wake()
    is_back.set()
    until(lambda: store.inbox.counts() == {"deferred": 1} or store.inbox.counts() == {"answered": 1})
    clock.now += 60.0
    worker.wake()
    until(lambda: store.inbox.counts() == {"answered": 1})


def test_a_post_that_a_killed_bot_sent_is_given_time_to_arrive(store: Store, clock: Clock, start: Start) -> None:
    store.inbox.put(mention(1), look_first=False)
    store.inbox.put(mention(2), look_first=False)
    store.inbox.take(2)
    store.inbox.mark_posting("1")  # then it was killed, while the server processed the post
    start(lambda entry, _: answered(entry))
    until(lambda: store.inbox.counts() == {"answered": 1, "deferred": 1})
    waiting = store.inbox.entry("1")
    assert waiting is not None
    assert waiting.look_first
    assert waiting.next_try_at == clock.now + PATIENCE_S


def test_a_mention_that_kills_the_process_again_and_again_fails(store: Store, start: Start) -> None:
    store.inbox.put(mention(1), look_first=False)
    for _ in range(BotSettings().max_attempts):
        store.inbox.take(1)  # then the process died
        store.inbox.requeue([])
    start(lambda entry, _: answered(entry))
    until(lambda: store.inbox.counts() == {"failed": 1})
    (entry,) = store.inbox.entries()
    assert "the bot died while answering" in entry.reason


def test_the_wait_after_a_429_without_a_time_doubles(clock: Clock) -> None:
    limits = Limits(now=clock)
    waits = []
    for _ in range(8):
        limits.note("call", {}, status=429)
        waits.append((limits.blocked_until("call") or 0.0) - clock.now)
    assert waits[:3] == [DEFAULT_WAIT_S, 2 * DEFAULT_WAIT_S, 4 * DEFAULT_WAIT_S]
    assert waits[-1] == MAX_DEFAULT_WAIT_S
    limits.note("call", {}, status=200)
    limits.note("call", {}, status=429)
    assert limits.blocked_until("call") == clock.now + DEFAULT_WAIT_S
