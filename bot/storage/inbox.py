"""The inbox: mentions to answer, and each one's outcome.

A mention's states:

    new -> working -> posting -> answered | refused | failed
              \\________\\__ deferred (until next_try_at) -> working ...

"posting" is written before the post is sent and sets `look_first`: from then on an answer may be in the thread, and
each further try checks the thread before it posts. No text and no photo is stored; docs/PRIVACY.md lists what is.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Collection
from dataclasses import KW_ONLY, asdict, dataclass

from bot.entities import Mention
from bot.storage.database import Database

HOUR_S = 3600.0
# Longer than any rate-limit window and any retry pause: a longer wait means that a clock was set back.
MAX_WAIT_S = 6 * HOUR_S
_NEWEST = "mentioned_at DESC, rowid DESC"
_AMONG = "(? OR account_id IN (SELECT value FROM json_each(?)))"
# Of each account the mention that is due longest: SQLite takes the other columns from the row of the minimum.
_DUE = (
    "SELECT notification_id, account_id, acct, min(next_try_at) AS due_at FROM inbox"  # noqa: S608
    f" WHERE state IN ('new', 'deferred') AND (next_try_at <= ? OR next_try_at > ?) AND {_AMONG}"
    " GROUP BY account_id ORDER BY due_at, received_at"
)
# The rank of an account, by its id and acct: the lowest is served first, and one without a rank is not served now.
Rank = Callable[[str, str], tuple[int, ...] | None]


@dataclass(frozen=True, slots=True)
class Entry:
    """One mention's row in the inbox; times are seconds since the epoch."""

    notification_id: str
    status_id: str
    account_id: str
    acct: str
    visibility: str
    state: str
    look_first: bool
    attempts: int  # tries that count against the maximum, this one included
    tries: int  # all tries; determines the length of the pause
    next_try_at: float
    reason: str
    mentioned_at: float
    received_at: float
    finished_at: float | None
    idempotency_key: str
    kind: str
    reply_id: str | None
    label: str | None
    score: float | None
    version: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a mention ended.

    Attributes:
        state: answered, refused (no answer, on purpose) or failed (no more tries).
        reason: why, in a few words; empty for an answer.
        kind: the kind of answer: "answer", "order" or the name of a text in texts.yaml.
    """

    state: str
    reason: str = ""
    kind: str = ""
    reply_id: str | None = None
    label: str | None = None
    score: float | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """The number of mentions with one outcome on one day (UTC, like 2026-11-23)."""

    day: str
    state: str
    reason: str
    n: int


@dataclass(eq=False)
class Inbox:
    """The table of mentions; every method is one transaction and may be called from any thread.

    Attributes:
        changed: called when mentions may be due earlier than `next_due` said; set by the worker.

    Raises (all methods):
        StorageError: the disk is full, or the file locked or damaged; nothing was changed.
    """

    database: Database
    _: KW_ONLY
    now: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self.changed: Callable[[], None] = lambda: None

    def put(self, mention: Mention, *, look_first: bool) -> bool:
        """Adds a mention; returns False if it, or its status, is there already."""
        status = mention.status
        key = hashlib.sha256(f"{mention.notification_id} {status.id}".encode()).hexdigest()[:32]
        with self.database.transaction() as db:
            cursor = db.execute(
                "INSERT OR IGNORE INTO inbox (notification_id, status_id, account_id, acct, visibility, state,"
                " look_first, next_try_at, mentioned_at, received_at, idempotency_key)"
                " VALUES (?, ?, ?, ?, ?, 'new', ?, 0, ?, ?, ?)",
                (
                    mention.notification_id,
                    status.id,
                    status.account.id,
                    status.account.acct,
                    status.visibility,
                    look_first,
                    status.created_at.timestamp(),
                    self.now(),
                    key,
                ),
            )
            return cursor.rowcount > 0

    def take(self, limit: int, *, only: Collection[str] | None = None, rank: Rank = lambda *_: ()) -> list[Entry]:
        """Marks up to `limit` due mentions as "working" and returns them, those of one rank longest waiting first.

        Args:
            only: ids of the accounts whose mentions are taken; None: all.
            rank: whose mention is taken first.
        """
        now = self.now()
        taken: list[Entry] = []
        with self.database.transaction() as db:
            while len(taken) < limit:
                due = db.execute(_DUE, (now, now + MAX_WAIT_S, *_among(only))).fetchall()
                ranked = [(place, row) for row in due if (place := rank(row["account_id"], row["acct"])) is not None]
                if not ranked:
                    break
                _, first = min(ranked, key=lambda each: each[0])
                row = db.execute(
                    "UPDATE inbox SET state = 'working', attempts = attempts + 1, tries = tries + 1"
                    " WHERE notification_id = ? RETURNING *",
                    (first["notification_id"],),
                ).fetchone()
                taken.append(_entry(row))
        return taken

    def next_due(self, *, only: Collection[str] | None = None, after: float = -1.0) -> float | None:
        """When the next waiting mention is due that is so after this time; None if none is. `only` as in `take`."""
        with self.database.transaction() as db:
            row = db.execute(
                "SELECT min(next_try_at) FROM inbox WHERE state IN ('new', 'deferred') AND next_try_at > ?"  # noqa: S608
                f" AND {_AMONG}",
                (after, *_among(only)),
            ).fetchone()
        return None if row[0] is None else float(row[0])

    def requeue(self, in_progress: Collection[str], *, look_first: bool = False, under_way_s: float = 0.0) -> int:
        """Defers mentions that are marked as in progress but are not; returns how many.

        Args:
            in_progress: notification ids that are really in progress.
            look_first: mark all open mentions as possibly answered, as after a power cut.
            under_way_s: how long the server may still be processing a post that was sent.
        """
        with self.database.transaction() as db:
            if look_first:
                db.execute("UPDATE inbox SET look_first = 1 WHERE state IN ('new', 'working', 'posting', 'deferred')")
            return db.execute(
                "UPDATE inbox SET next_try_at = ? + CASE state WHEN 'posting' THEN ? ELSE 0 END,"
                " state = 'deferred', reason = 'interrupted'"
                " WHERE state IN ('working', 'posting') AND notification_id NOT IN (SELECT value FROM json_each(?))",
                (self.now(), under_way_s, json.dumps(list(in_progress))),
            ).rowcount

    def mark_posting(self, notification_id: str) -> None:
        """Records that from now on an answer to this mention may be in its thread."""
        with self.database.transaction() as db:
            db.execute(
                "UPDATE inbox SET state = 'posting', look_first = 1 WHERE notification_id = ?", (notification_id,)
            )

    def defer(self, notification_id: str, *, until: float, reason: str, charged: bool) -> None:
        """Schedules another try of a mention; `charged`: whether this one counts as an attempt."""
        with self.database.transaction() as db:
            db.execute(
                "UPDATE inbox SET state = 'deferred', next_try_at = ?, reason = ?, attempts = attempts - ?"
                " WHERE notification_id = ? AND state IN ('working', 'posting')",
                (until, reason, 0 if charged else 1, notification_id),
            )

    def finish(self, notification_id: str, outcome: Outcome) -> None:
        """Records a mention's outcome; opinions about an answer that is gone go with it."""
        with self.database.transaction() as db:
            if outcome.reply_id is None:
                db.execute("DELETE FROM opinions WHERE notification_id = ?", (notification_id,))
                db.execute("DELETE FROM samples WHERE notification_id = ?", (notification_id,))
            db.execute(
                "UPDATE inbox SET state = :state, reason = :reason, kind = :kind, reply_id = :reply_id, label = :label,"
                " score = :score, version = :version, finished_at = :now WHERE notification_id = :notification_id",
                asdict(outcome) | {"now": self.now(), "notification_id": notification_id},
            )

    def retry(self, notification_id: str | None = None) -> int:
        """Makes a failed mention (None: all of them) due again, with no attempts counted; returns how many."""
        with self.database.transaction() as db:
            n_rows = db.execute(
                "UPDATE inbox SET state = 'deferred', next_try_at = 0, attempts = 0, tries = 0, finished_at = NULL"
                " WHERE state = 'failed' AND (:id IS NULL OR notification_id = :id)",
                {"id": notification_id},
            ).rowcount
        self.changed()
        return n_rows

    def reopen(self, notification_id: str, *, salt: str, not_before: float) -> None:
        """Reopens an answered mention as a new question, with a new Idempotency-Key."""
        key = hashlib.sha256(f"{notification_id} {salt}".encode()).hexdigest()[:32]
        with self.database.transaction() as db:
            db.execute(
                "UPDATE inbox SET state = 'deferred', next_try_at = ?, attempts = 0, tries = 0, finished_at = NULL,"
                " reply_id = NULL, kind = '', look_first = 1, idempotency_key = ? WHERE notification_id = ?",
                (not_before, key, notification_id),
            )

    def make_due(self, notification_id: str) -> None:
        """Makes a waiting mention due now."""
        with self.database.transaction() as db:
            db.execute(
                "UPDATE inbox SET next_try_at = 0 WHERE notification_id = ? AND state = 'deferred'", (notification_id,)
            )
        self.changed()

    # Queries

    def entry(self, notification_id: str) -> Entry | None:
        """One mention's row."""
        return self._one("notification_id = ?", notification_id)

    def by_status(self, status_id: str) -> Entry | None:
        """The row of the mention in this status."""
        return self._one("status_id = ?", status_id)

    def by_reply(self, reply_id: str) -> Entry | None:
        """The row of the mention that this status of the bot answers."""
        return self._one("reply_id = ?", reply_id)

    def entries(self, *, open_only: bool = False, limit: int = 100) -> list[Entry]:
        """Rows of the inbox, newest first."""
        where = "state IN ('new', 'working', 'posting', 'deferred', 'failed')" if open_only else "1"
        return self._entries(f"{where} ORDER BY {_NEWEST} LIMIT ?", limit)

    def followed_since(self, moment: float) -> list[Entry]:
        """Mentions dealt with since then that are followed, oldest first.

        Those are the answered ones, as far as the answer has not been deleted, and those that gave an opinion.
        """
        return self._entries(
            "(state = 'answered' AND reply_id IS NOT NULL OR status_id IN (SELECT status_id FROM opinions))"
            " AND finished_at >= ? ORDER BY finished_at",
            moment,
        )

    def counts(self) -> dict[str, int]:
        """The number of mentions in each state."""
        with self.database.transaction() as db:
            return {row[0]: row[1] for row in db.execute("SELECT state, count(*) FROM inbox GROUP BY state")}

    def ended_since(self, moment: float) -> list[Tally]:
        """The number of mentions that ended since then, by day, state and, if refused, reason."""
        with self.database.transaction() as db:
            rows = db.execute(
                "SELECT date(finished_at, 'unixepoch') AS day, state,"
                " CASE state WHEN 'refused' THEN reason ELSE '' END AS why, count(*) AS n FROM inbox"
                " WHERE finished_at >= ? GROUP BY day, state, why ORDER BY day, state, why",
                (moment,),
            ).fetchall()
        return [Tally(row["day"], row["state"], row["why"], row["n"]) for row in rows]

    # Limits

    def admit(self, notification_id: str, *, account_id: str, limit: int) -> bool:
        """Counts this mention against its account's hourly limit; False if that is used up.

        A mention that was admitted once stays admitted in further tries.
        """
        with self.database.transaction() as db:
            now = self.now()  # a later `admitted_at` means that a clock was set back; it does not count
            row = db.execute(
                "SELECT count(*) FILTER (WHERE admitted_at BETWEEN ? AND ?),"
                " max(notification_id = ? AND admitted_at IS NOT NULL) FROM inbox WHERE account_id = ?",
                (now - HOUR_S, now, notification_id, account_id),
            ).fetchone()
            if row[1]:
                return True
            if row[0] >= limit:
                return False
            db.execute("UPDATE inbox SET admitted_at = ? WHERE notification_id = ?", (now, notification_id))
            return True

    def claim_notice(self, notification_id: str, *, account_id: str, kind: str) -> bool:
        """Let this mention be the one that gets a notice; False if another of this account did within an hour, or will.

        However many of them are answered at once, one has it.
        """
        with self.database.transaction() as db:
            now = self.now()  # in here: one that ended while this one waited must not have ended later
            row = db.execute(
                "SELECT 1 FROM inbox WHERE account_id = ? AND kind = ? AND notification_id != ? AND"
                " (finished_at BETWEEN ? AND ? OR state IN ('working', 'posting', 'deferred'))",
                (account_id, kind, notification_id, now - HOUR_S, now),
            ).fetchone()
            if row is None:
                db.execute("UPDATE inbox SET kind = ? WHERE notification_id = ?", (kind, notification_id))
        return row is None

    # Housekeeping

    def prune(self, *, before: float) -> int:
        """Deletes mentions that ended before this time; returns how many."""
        with self.database.transaction() as db:
            n_rows = db.execute("DELETE FROM inbox WHERE finished_at < ?", (before,)).rowcount
        self.database.vacuum()
        return n_rows

    def _one(self, where: str, value: str) -> Entry | None:
        return next(iter(self._entries(where, value)), None)

    def _entries(self, where: str, value: float | str) -> list[Entry]:
        with self.database.transaction() as db:
            return [_entry(row) for row in db.execute(f"SELECT * FROM inbox WHERE {where}", (value,))]  # noqa: S608


def _among(only: Collection[str] | None) -> tuple[bool, str]:
    """The two values of `_AMONG`."""
    return only is None, json.dumps(list(only or ()))


def _entry(row: sqlite3.Row) -> Entry:
    values = {name: row[name] for name in Entry.__dataclass_fields__}
    values["look_first"] = bool(values["look_first"])
    return Entry(**values)
