"""Stores job runs, messages to send, reported faults, and the switches that admins set.

The tables are in the inbox's file (`schema`), with their own connection.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bot.storage.database import Database

DAY_S = 86400.0
# A run that was stopped with the bot does not count as the job's turn.
_TURNS = "outcome != 'stopped'"
# After a clock was set back, times in the future count as now.
_LAST_TURN = f"SELECT min(started_at, ?) FROM runs WHERE job = ? AND {_TURNS} ORDER BY id DESC LIMIT 1"  # noqa: S608
_LAST_TURNS = f"SELECT max(id) FROM runs WHERE {_TURNS} GROUP BY job"  # noqa: S608


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a job; times are seconds since the epoch.

    Attributes:
        outcome: done, failed, skipped (too late) or stopped (with the bot); empty while it runs.
    """

    job: str
    started_at: float
    ended_at: float | None
    outcome: str
    detail: str

    @property
    def summary(self) -> str:
        """Start (UTC), outcome and detail in one line."""
        began = datetime.fromtimestamp(self.started_at, UTC)
        return f"{began:%b %d %H:%M}, {self.outcome or 'running'}{f', {self.detail}' if self.detail else ''}"


@dataclass(frozen=True, slots=True)
class QueuedMessage:
    """A message to admins or an announcement that waits to be posted.

    Attributes:
        acct: who gets it privately; None for everybody.
        picture: a JPEG, with its alt text.
    """

    id: int
    acct: str | None
    text: str
    picture: bytes | None
    alt_text: str
    idempotency_key: str
    created_at: float
    attempts: int


class Records:
    """The tables; every method is one transaction and may be called from any thread.

    Raises (all methods):
        StorageError: the disk is full, or the file locked or damaged; nothing was changed.
    """

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        self._database = Database(path, heal=False)
        self._now = now

    def close(self) -> None:
        """Closes the file; later calls fail."""
        self._database.close()

    # Runs of jobs

    def begin(self, job: str) -> int:
        """Records a run's start; returns its number."""
        with self._database.transaction() as db:
            number = db.execute("INSERT INTO runs (job, started_at) VALUES (?, ?)", (job, self._now())).lastrowid
        assert number is not None  # noqa: S101 - a row was inserted
        return number

    def end(self, number: int, outcome: str, detail: str) -> None:
        """Records a run's end."""
        with self._database.transaction() as db:
            db.execute(
                "UPDATE runs SET ended_at = ?, outcome = ?, detail = ? WHERE id = ?",
                (self._now(), outcome, detail, number),
            )

    def note(self, job: str, outcome: str, detail: str) -> None:
        """Records an event without duration: a skipped run, or a job's first planning."""
        self.end(self.begin(job), outcome, detail)

    def last_turn(self, job: str) -> float | None:
        """The time of a job's last turn; never in the future, None before the first."""
        with self._database.transaction() as db:
            row = db.execute(_LAST_TURN, (self._now(), job)).fetchone()
        return None if row is None else float(row[0])

    def runs(self, *, limit: int, job: str | None = None) -> list[Run]:
        """Runs that ended or are running, newest first."""
        with self._database.transaction() as db:
            rows = db.execute(
                "SELECT * FROM runs WHERE outcome != 'planned' AND (:job IS NULL OR job = :job) ORDER BY id DESC"
                " LIMIT :limit",
                {"job": job, "limit": limit},
            ).fetchall()
        return [Run(*(row[name] for name in Run.__dataclass_fields__)) for row in rows]

    def run_counts(self) -> dict[tuple[str, str], int]:
        """(job, outcome) -> number of recorded runs."""
        with self._database.transaction() as db:
            rows = db.execute(
                "SELECT job, outcome, count(*) FROM runs WHERE ended_at IS NOT NULL AND outcome != 'planned'"
                " GROUP BY job, outcome"
            ).fetchall()
        return {(row[0], row[1]): row[2] for row in rows}

    def n_failures(self, job: str) -> int:
        """How many times in a row a job has failed."""
        with self._database.transaction() as db:
            row = db.execute(
                "SELECT count(*) FROM runs WHERE job = :job AND outcome = 'failed' AND id >"
                " coalesce((SELECT max(id) FROM runs WHERE job = :job AND outcome = 'done'), 0)",
                {"job": job},
            ).fetchone()
        return int(row[0])

    def close_runs(self) -> int:
        """Marks runs that an earlier process did not end as failed; returns how many."""
        with self._database.transaction() as db:
            return db.execute(
                "UPDATE runs SET ended_at = started_at, outcome = 'failed',"
                " detail = 'the bot or the machine ended meanwhile' WHERE ended_at IS NULL"
            ).rowcount

    # Messages to send

    def write(self, text: str, *, acct: str | None, picture: bytes | None = None, alt_text: str = "") -> None:
        """Adds a message to the outbox."""
        with self._database.transaction() as db:
            db.execute(
                "INSERT INTO outbox (acct, text, picture, alt_text, idempotency_key, created_at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (acct, text, picture, alt_text, secrets.token_hex(16), self._now()),
            )

    def queued(self) -> list[QueuedMessage]:
        """Messages still to be sent, oldest first."""
        with self._database.transaction() as db:
            rows = db.execute("SELECT * FROM outbox ORDER BY id").fetchall()
        return [QueuedMessage(*(row[name] for name in QueuedMessage.__dataclass_fields__)) for row in rows]

    def tried(self, message: QueuedMessage) -> None:
        """Counts a failed attempt to send a message."""
        with self._database.transaction() as db:
            db.execute("UPDATE outbox SET attempts = attempts + 1 WHERE id = ?", (message.id,))

    def sent(self, message: QueuedMessage) -> None:
        """Removes a message that was sent or dropped."""
        with self._database.transaction() as db:
            db.execute("DELETE FROM outbox WHERE id = ?", (message.id,))

    # Faults

    def should_report(self, kind: str, *, again_after_s: float = DAY_S) -> bool:
        """Whether the admins should be told about a fault now; if so, records that they were."""
        with self._database.transaction() as db:
            now = self._now()
            row = db.execute("SELECT told_at FROM faults WHERE kind = ?", (kind,)).fetchone()
            if row is not None and 0 <= now - row[0] < again_after_s:
                return False
            db.execute("INSERT OR REPLACE INTO faults VALUES (?, ?)", (kind, now))
            return True

    def resolved(self, kind: str) -> bool:
        """Removes a fault that is over; True if the admins had been told about it."""
        with self._database.transaction() as db:
            return db.execute("DELETE FROM faults WHERE kind = ?", (kind,)).rowcount > 0

    # Switches

    def switch(self, name: str) -> str | None:
        """A switch's value; None if it is not set."""
        with self._database.transaction() as db:
            row = db.execute("SELECT value FROM switches WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_switch(self, name: str, value: str | None) -> None:
        """Sets a switch; None removes it."""
        with self._database.transaction() as db:
            db.execute("DELETE FROM switches WHERE name = ?", (name,))
            if value is not None:
                db.execute("INSERT INTO switches VALUES (?, ?)", (name, value))

    # Housekeeping

    def prune(self, *, before: float) -> int:
        """Deletes runs that began before this time, but never a job's last turn; returns how many."""
        with self._database.transaction() as db:
            return db.execute(
                f"DELETE FROM runs WHERE started_at < ? AND id NOT IN ({_LAST_TURNS})",  # noqa: S608
                (before,),
            ).rowcount
