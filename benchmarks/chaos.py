"""Sends mentions while many faults occur, then checks on the instance that each has exactly one answer.

A real bot process (`benchmarks.quick_bot`) runs with a sandbox instance. While users post and delete mentions, the
instance has the faults of `benchmarks.weather`; streams are closed, cut and stalled; notifications appear out of order;
the server changes between 4.5 and 4.6; the database is locked, damaged and deleted; and the process is killed with
SIGKILL at random moments and restarted, as a service manager does. Then the faults stop, the bot gets time to finish,
and the instance's statuses are checked. The moments come from a seed; the state of the machine at these moments is not
repeatable.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.home import Home, draw_photos, quick_home
from benchmarks.quick_bot import STAND_IN
from benchmarks.result import Figure, Goal, Result
from benchmarks.weather import REQUEST_TIMEOUT_S, SPELLS
from bot.storage.store import DATABASE
from sandbox.instance import Account, Status

SEED = 20260801
KINDS = ("photo", "photo", "photo", "two photos", "own photo above", "words", "direct", "warned")
REREAD_S = 20.0  # until a bot without its database has read its mentions again
OPEN_STATES = ("new", "working", "posting", "deferred")
# Short pauses, so that hours on a real server take minutes; all other settings are the defaults.
SETTINGS = {
    "MASTODON__REQUEST_TIMEOUT_S": str(REQUEST_TIMEOUT_S),
    "MASTODON__RECONNECT_PAUSE_S": "0.2",
    "MASTODON__MAX_RECONNECT_PAUSE_S": "5",
    "MASTODON__CATCH_UP_EVERY_S": "5",
    "MASTODON__POLL_EVERY_S": "2",
    "MASTODON__OVERLAP_S": "20",
    "WEB__TOTAL_TIMEOUT_S": "4",
    "WEB__BACKOFF_S": "0.2",
    "BOT__RETRY_PAUSE_S": "0.5",
    "BOT__MAX_RETRY_PAUSE_S": "10",
    "SCHEDULE__SWEEP__WHEN": "every 5 s",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """The number of mentions and faults.

    Attributes:
        storm_s: seconds during which mentions and faults come.
        kill_every_s, spell_s: mean intervals; the moments are random.
        deleted: share of the mentions that are deleted within `delete_within_s` seconds.
        n_damaged: how often the database is damaged or deleted, alternately.
        settle_s: maximum seconds for the bot to catch up after the faults have stopped.
        quiet_s: seconds to wait for a late duplicate answer.
    """

    n_mentions: int = 1000
    storm_s: float = 420.0
    kill_every_s: float = 7.0
    spell_s: float = 5.0
    deleted: float = 0.08
    delete_within_s: float = 12.0
    n_damaged: int = 4
    settle_s: float = 240.0
    quiet_s: float = 10.0
    pictures: bool = True
    seed: int = SEED


QUICK = Plan(n_mentions=100, storm_s=45.0, n_damaged=2, quiet_s=5.0)


@dataclass
class Tally:
    """The counts on the instance, and the faults applied to the bot."""

    n_asked: int = 0
    n_deleted: int = 0
    n_kills: int = 0
    ended_by_itself: Counter[int] = field(default_factory=Counter)  # exit status -> how often
    acts: Counter[str] = field(default_factory=Counter)
    lost: list[Status] = field(default_factory=list)
    twice: list[Status] = field(default_factory=list)
    n_left: int = 0  # answers to deleted mentions
    n_left_with_books: int = 0  # the same, when the database with them was deleted
    n_set_aside: int = 0  # according to the bot's database
    n_unexplained: int = 0  # deleted mentions in the inbox without a reason for no answer
    storm_s: float = 0.0
    settled_after_s: float | None = None


class ChaosRun:
    """Users who post mentions, and a bot process with faults."""

    def __init__(self, place: Home, plan: Plan) -> None:
        self.tally = Tally()
        self._place = place
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._askers = [place.person(f"asker{number}") for number in range(20)]
        self._photos = draw_photos(8, seed=plan.seed)
        self._questions: list[Status] = []
        self._deleted: list[Status] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._starts_at = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._orphaned: dict[int, float] = {}  # answer -> time when its mention was deleted
        self._books_lost_at: list[float] = []
        self._lock: sqlite3.Connection | None = None

    def run(self) -> Tally:
        """Run with faults, stop the faults, then count."""
        started = time.monotonic()
        self._plan_events(started)
        try:
            while self._events:
                moment, _, act = heapq.heappop(self._events)
                self._keep_running_until(moment)
                act()
            self.tally.storm_s = time.monotonic() - started
            self._stop_faults()
            self._settle()
            self._count()
        finally:
            self._unlock()
            if self._process is not None:
                self._process.kill()
                self._process.wait()
        return self.tally

    # Schedule

    def _plan_events(self, now: float) -> None:
        plan, draw = self._plan, self._random
        for _ in range(plan.n_mentions):
            self._at(now + draw.uniform(0, plan.storm_s), self._ask)
        moment = now
        while (moment := moment + draw.expovariate(1 / plan.kill_every_s)) < now + plan.storm_s:
            self._at(moment, self._kill)
        moment = now
        while moment < now + plan.storm_s:
            self._at(moment, self._change_faults)
            self._at(moment + draw.uniform(0, plan.spell_s), draw.choice(self._faults()))
            moment += plan.spell_s * draw.uniform(0.5, 1.5)
        for number in range(plan.n_damaged):
            act = self._damage if number % 2 == 0 else self._lose
            self._at(now + plan.storm_s * (number + draw.uniform(0.5, 1.0)) / plan.n_damaged, act)

    def _at(self, moment: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._order), act))

    def _faults(self) -> tuple[Callable[[], None], ...]:
        faults, notifications = self._place.instance.faults, self._place.instance.notifications
        return (
            lambda: faults.close_streams("end"),
            lambda: faults.close_streams("cut"),
            lambda: faults.stall_streams(),
            lambda: notifications.hold_next(3),
            self._lock_database,
            self._change_version,
        )

    # Users

    def _ask(self) -> None:
        draw = self._random
        asker, kind = draw.choice(self._askers), draw.choice(KINDS)
        self._questions.append(self._question(asker, kind))
        self.tally.acts[f"asked: {kind}"] += 1
        if draw.random() < self._plan.deleted:
            question = self._questions.pop()
            self._deleted.append(question)
            self._at(time.monotonic() + draw.uniform(0, self._plan.delete_within_s), lambda: self._delete(question))

    def _question(self, asker: Account, kind: str) -> Status:
        instance = self._place.instance
        n_photos = {"words": 0, "two photos": 2, "own photo above": 0}.get(kind, 1)
        attachments = [instance.attach(asker, self._random.choice(self._photos)) for _ in range(n_photos)]
        above = None
        if kind == "own photo above":
            photo = instance.attach(asker, self._random.choice(self._photos))
            above = instance.post(asker, "my costume", attachments=[photo])
        return instance.post(
            asker,
            "@dokocos which gallery?",
            attachments=attachments,
            in_reply_to=above,
            visibility="direct" if kind == "direct" else "public",
            spoiler_text="costume" if kind == "warned" else "",
        )

    def _delete(self, question: Status) -> None:
        now = time.monotonic()
        self._orphaned |= {answer.id: now for answer in self._place.answers(question)}
        self._place.instance.delete(question)
        self.tally.n_deleted += 1

    # Faults of the instance

    def _change_faults(self) -> None:
        faults = self._place.instance.faults
        name = self._random.choice(list(SPELLS))
        faults.clear()
        faults.add(*SPELLS[name])
        self._place.instance.notifications.release()
        self.tally.acts[f"weather: {name}"] += 1

    def _change_version(self) -> None:
        instance = self._place.instance
        version = self._random.choice(("4.5.15", "4.6.5"))
        instance.settings = replace(instance.settings, version=version, idempotency_lag_s=self._random.choice((0, 1)))

    # The database

    def _lock_database(self) -> None:
        """Lock the database like a badly behaved tool, sometimes longer than SQLite's timeout."""
        self._unlock()
        with suppress(sqlite3.Error):
            self._lock = sqlite3.connect(self._database, timeout=1.0, isolation_level=None)
            self._lock.execute("BEGIN IMMEDIATE")
        self._at(time.monotonic() + self._random.uniform(0, 14), self._unlock)

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _damage(self) -> None:
        self._kill()
        self._books_lost_at.append(time.monotonic())
        with suppress(FileNotFoundError), self._database.open("r+b") as file:
            file.seek(100)
            file.write(self._random.randbytes(8000))
        self.tally.acts["database damaged"] += 1

    def _lose(self) -> None:
        self._kill()
        self._books_lost_at.append(time.monotonic())
        for path in self._place.data_dir.glob(f"{DATABASE}*"):
            path.unlink()
        self.tally.acts["database lost"] += 1

    @property
    def _database(self) -> Path:
        return self._place.data_dir / DATABASE

    # The process

    def _kill(self) -> None:
        self._unlock()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.tally.n_kills += 1
        self._starts_at = time.monotonic() + self._random.uniform(0, 1.5)

    def _keep_running_until(self, moment: float) -> None:
        """Wait, and restart the bot whenever it has exited."""
        while True:
            now = time.monotonic()
            if self._process is not None and self._process.poll() is not None:
                self.tally.ended_by_itself[self._process.returncode] += 1
                self._process, self._starts_at = None, now + 1.0
            if self._process is None and now >= self._starts_at:
                self._process = self._place.start_bot()
            if now >= moment:
                return
            time.sleep(min(0.05, moment - now))

    # After the faults

    def _stop_faults(self) -> None:
        self._unlock()
        instance = self._place.instance
        instance.faults.clear()
        instance.faults.close_streams()
        instance.notifications.release()
        self.tally.acts.update({f"struck: {kind}": n for kind, n in instance.faults.fired.items()})

    def _settle(self) -> None:
        """Wait until the bot has caught up, then wait for late answers, which would be an error."""
        started = time.monotonic()
        while time.monotonic() - started < self._plan.settle_s:
            self._keep_running_until(time.monotonic() + 0.5)
            if not self._is_open():
                self.tally.settled_after_s = time.monotonic() - started
                break
        self._keep_running_until(time.monotonic() + self._plan.quiet_s)

    def _is_open(self) -> bool:
        """Whether the bot has unfinished work."""
        unanswered = any(not self._place.answers(question) for question in self._questions)
        return unanswered or self._left()[0] > 0 or any(state in OPEN_STATES for state in self._states().values())

    def _left(self) -> tuple[int, int]:
        """Count answers to deleted mentions: those the bot should know of, and those lost with its database.

        When a status is deleted, the server removes the link to it from its replies.
        """
        last_loss = max(self._books_lost_at, default=-math.inf)
        left = [each.id for each in self._place.instance.statuses_of(self._place.me) if each.in_reply_to_id is None]
        n_forgotten = sum(self._orphaned.get(each, math.inf) < last_loss + REREAD_S for each in left)
        return len(left) - n_forgotten, n_forgotten

    def _states(self) -> dict[str, str]:
        """Status id -> state, from the bot's database."""
        with closing(sqlite3.connect(f"file:{self._database}?mode=ro", uri=True, timeout=10.0)) as books:
            return dict(books.execute("SELECT status_id, state FROM inbox").fetchall())

    def _count(self) -> None:
        tally, states = self.tally, self._states()
        counts = [(question, len(self._place.answers(question))) for question in self._questions]
        tally.n_asked = len(self._questions) + len(self._deleted)
        tally.lost = [question for question, n in counts if n == 0]
        tally.twice = [question for question, n in counts if n > 1]
        tally.n_left, tally.n_left_with_books = self._left()
        tally.n_set_aside = sum(state == "failed" for state in states.values())
        tally.n_unexplained = sum(states.get(str(each.id), "refused") != "refused" for each in self._deleted)


def storm(plan: Plan, work_dir: Path) -> Tally:
    """Run a bot with faults on a new instance; its log is in `work_dir`."""
    with quick_home(work_dir, **SETTINGS, BOT__PICTURES=str(plan.pictures).lower()) as place:
        return ChaosRun(place, plan).run()


def run(*, quick: bool, work_dir: Path, say: Callable[[str], None]) -> Result:
    """Run the benchmark.

    Args:
        quick: a tenth of the mentions.
        work_dir: an empty folder.
        say: prints a line of progress.
    """
    plan = QUICK if quick else Plan()
    say(f"{plan.n_mentions} mentions during {plan.storm_s:.0f} s of faults; the classifier is a stand-in: {STAND_IN}")
    tally = storm(plan, work_dir)
    for act, n in sorted(tally.acts.items()):
        say(f"{n:6d}  {act}")
    for question in (*tally.lost, *tally.twice):
        say(f"status {question.id} has {'no' if question in tally.lost else 'more than one'} answer")
    figures: dict[str, Figure] = {
        "lost": len(tally.lost),
        "answered_twice": len(tally.twice),
        "left_of_deleted": tally.n_left,
        "left_of_deleted_with_lost_database": tally.n_left_with_books,
        "deleted_without_reason": tally.n_unexplained,
        "set_aside": tally.n_set_aside,
        "mentions": tally.n_asked,
        "deleted": tally.n_deleted,
        "kills": tally.n_kills,
        "ended_by_itself": sum(tally.ended_by_itself.values()),
        "exit_statuses": " ".join(f"{status}:{n}" for status, n in sorted(tally.ended_by_itself.items())) or "none",
        "faults_struck": sum(n for act, n in tally.acts.items() if act.startswith("struck")),
        "storm_s": tally.storm_s,
        "settled_after_s": tally.settled_after_s,
        "seed": plan.seed,
        "classifier": f"stand-in: {STAND_IN}",
    }
    zero = ("lost", "answered_twice", "left_of_deleted", "deleted_without_reason", "set_aside")
    return Result(figures=figures, goals=tuple(Goal(name, at_most=0) for name in zero))
