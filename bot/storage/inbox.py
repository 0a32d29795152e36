"""The mentions to answer and how each one ended.

A mention's states:

    new -> working -> posting -> answered | refused | failed
              \\________\\__ deferred (until next_try_at) -> working ...

"posting" is written before the post is sent and sets `look_first`: from then on an answer may be in the thread, and no
further try posts before it has looked. No words and no photo of anybody are kept; docs/PRIVACY.md lists what is.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Collection
from dataclasses import KW_ONLY, dataclass

from bot.entities import Mention
from bot.storage.database import Database

HOUR_S = 3600.0
# No server's window and no pause of ours is longer: who waits beyond it waits because a clock was set back.
LONGEST_WAIT_S = 6 * HOUR_S
# The same order as entities.id_order.
_NEWEST = "length(notification_id) DESC, notification_id DESC"
_AMONG = "(? OR account_id IN (SELECT value FROM json_each(?)))"
_DUE = (
    "SELECT notification_id FROM inbox WHERE state IN ('new', 'deferred') AND (next_try_at <= ? OR next_try_at > ?)"  # noqa: S608
    f" AND {_AMONG} ORDER BY next_try_at, received_at LIMIT ?"
)


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
    attempts: int  # failures charged to it, this try included
    tries: int  # times it was taken, for the length of the pause
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
        state: answered, refused (no answer, on purpose) or failed (set aside).
        reason: why, in a few words of ours; empty for an answer.
        kind: which sort of answer it was: a name of a text in texts.yaml.
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
    """So many mentions ended on one day (UTC, like 2026-11-23) in one way."""

    day: str
    state: str
    reason: str
    n: int


@dataclass(eq=False)
class Inbox:
    """The table of mentions; every method is one transaction and may be called from any thread.

    Attributes:
        changed: called when mentions may be taken sooner than they seemed to be; set by whoever takes them.

    Raises (all methods):
        StorageError: the disk is full, or the file locked or damaged; nothing was changed.
    """

    database: Database
    _: KW_ONLY
    now: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self.changed: Callable[[], None] = lambda: None

    def put(self, mention: Mention, *, look_first: bool) -> bool:
        """Take a mention in; returns False when it, or its status, is here already."""
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

    def take(self, limit: int, *, only: Collection[str] | None = None) -> list[Entry]:
        """Mark up to `limit` mentions that are due as being worked on; those waiting longest come first.

        Args:
            only: ids of the accounts whose mentions are taken; None: everybody's.
        """
        now = self.now()
        with self.database.transaction() as db:
            rows = db.execute(
                "UPDATE inbox SET state = 'working', attempts = attempts + 1, tries = tries + 1"  # noqa: S608
                f" WHERE notification_id IN ({_DUE}) RETURNING *",
                (now, now + LONGEST_WAIT_S, *_among(only), limit),
            ).fetchall()
        return sorted(map(_entry, rows), key=lambda entry: entry.received_at)

    def next_due(self, *, only: Collection[str] | None = None) -> float | None:
        """When the next waiting mention is due; None when none waits. `only` as in `take`."""
        with self.database.transaction() as db:
            row = db.execute(
                f"SELECT min(next_try_at) FROM inbox WHERE state IN ('new', 'deferred') AND {_AMONG}",  # noqa: S608
                _among(only),
            ).fetchone()
        return None if row[0] is None else float(row[0])

    def revive(self, at_work: Collection[str], *, look_first: bool = False, under_way_s: float = 0.0) -> int:
        """Put back what is marked as being worked on by nobody; returns how many there were.

        Args:
            at_work: notification ids that somebody does work on.
            look_first: nothing is known about any open mention, as after a power cut.
            under_way_s: for so long the server may still be at work on a post that was sent.
        """
        with self.database.transaction() as db:
            if look_first:
                db.execute("UPDATE inbox SET look_first = 1 WHERE state IN ('new', 'working', 'posting', 'deferred')")
            return db.execute(
                "UPDATE inbox SET next_try_at = ?1 + CASE state WHEN 'posting' THEN ?2 ELSE 0 END,"
                " state = 'deferred', reason = 'interrupted'"
                " WHERE state IN ('working', 'posting') AND notification_id NOT IN (SELECT value FROM json_each(?3))",
                (self.now(), under_way_s, json.dumps(list(at_work))),
            ).rowcount

    def posting(self, notification_id: str) -> None:
        """From now on an answer to this mention may be in its thread."""
        with self.database.transaction() as db:
            db.execute(
                "UPDATE inbox SET state = 'posting', look_first = 1 WHERE notification_id = ?", (notification_id,)
            )

    def defer(self, notification_id: str, *, until: float, reason: str, charged: bool) -> None:
        """Try this mention again later; `charged` says whether the failure counts against its budget."""
        with self.database.transaction() as db:
            db.execute(
                "UPDATE inbox SET state = 'deferred', next_try_at = ?, reason = ?, attempts = attempts - ?"
                " WHERE notification_id = ? AND state IN ('working', 'posting')",
                (until, reason, 0 if charged else 1, notification_id),
            )

    def finish(self, notification_id: str, outcome: Outcome) -> None:
        """Record how a mention ended."""
        with self.database.transaction() as db:
            db.execute(
                "UPDATE inbox SET state = ?, reason = ?, kind = ?, reply_id = ?, label = ?, score = ?, version = ?,"
                " finished_at = ? WHERE notification_id = ?",
                (
                    outcome.state,
                    outcome.reason,
                    outcome.kind,
                    outcome.reply_id,
                    outcome.label,
                    outcome.score,
                    outcome.version,
                    self.now(),
                    notification_id,
                ),
            )

    def retry(self, notification_id: str | None = None) -> int:
        """Give a failed mention (None: all of them) a fresh budget; returns how many there were."""
        with self.database.transaction() as db:
            n_rows = db.execute(
                "UPDATE inbox SET state = 'deferred', next_try_at = 0, attempts = 0, tries = 0, finished_at = NULL"
                " WHERE state = 'failed' AND (?1 IS NULL OR notification_id = ?1)",
                (notification_id,),
            ).rowcount
        self.changed()
        return n_rows

    def ask_again(self, notification_id: str, *, salt: str, not_before: float) -> None:
        """Open an answered mention again, as a new question with an Idempotency-Key of its own."""
        key = hashlib.sha256(f"{notification_id} {salt}".encode()).hexdigest()[:32]
        with self.database.transaction() as db:
            db.execute(
                "UPDATE inbox SET state = 'deferred', next_try_at = ?, attempts = 0, tries = 0, finished_at = NULL,"
                " reply_id = NULL, kind = '', look_first = 1, idempotency_key = ? WHERE notification_id = ?",
                (not_before, key, notification_id),
            )

    def hurry(self, notification_id: str) -> None:
        """Let a waiting mention be due now."""
        with self.database.transaction() as db:
            db.execute(
                "UPDATE inbox SET next_try_at = 0 WHERE notification_id = ? AND state = 'deferred'", (notification_id,)
            )
        self.changed()

    # Looking

    def entry(self, notification_id: str) -> Entry | None:
        """One mention's row."""
        return self._one("notification_id = ?", notification_id)

    def by_status(self, status_id: str) -> Entry | None:
        """The row of the mention in this status."""
        return self._one("status_id = ?", status_id)

    def by_reply(self, reply_id: str) -> Entry | None:
        """The row of the mention that this status of ours answers."""
        return self._one("reply_id = ?", reply_id)

    def entries(self, *, open_only: bool = False, limit: int = 100) -> list[Entry]:
        """Rows of the inbox, newest first."""
        where = "state IN ('new', 'working', 'posting', 'deferred', 'failed')" if open_only else "1"
        with self.database.transaction() as db:
            rows = db.execute(
                f"SELECT * FROM inbox WHERE {where} ORDER BY {_NEWEST} LIMIT ?",  # noqa: S608
                (limit,),
            )
            return [_entry(row) for row in rows]

    def answered_since(self, moment: float) -> list[Entry]:
        """Answered mentions whose answer still stands, for all we know, oldest first."""
        with self.database.transaction() as db:
            rows = db.execute(
                "SELECT * FROM inbox WHERE state = 'answered' AND reply_id IS NOT NULL"
                " AND finished_at >= ? ORDER BY finished_at",
                (moment,),
            )
            return [_entry(row) for row in rows]

    def counts(self) -> dict[str, int]:
        """How many mentions are in each state."""
        with self.database.transaction() as db:
            return {row[0]: row[1] for row in db.execute("SELECT state, count(*) FROM inbox GROUP BY state")}

    def ended_since(self, moment: float) -> list[Tally]:
        """How many mentions ended since then: by day, state and, for those refused on purpose, reason."""
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
        """Count this mention against its account's limit for an hour; False when that is used up.

        A mention that was admitted once stays so, however often it is tried.
        """
        with self.database.transaction() as db:
            now = self.now()  # what was admitted later than that, a clock was set back after
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

    def told_within_hour(self, *, account_id: str, kind: str, but: str) -> bool:
        """Whether this account got such an answer in the last hour, apart from the mention `but`."""
        with self.database.transaction() as db:
            row = db.execute(
                "SELECT 1 FROM inbox WHERE account_id = ?1 AND kind = ?2 AND finished_at BETWEEN ?3 - ?4 AND ?3"
                " AND notification_id != ?5",
                (account_id, kind, self.now(), HOUR_S, but),
            ).fetchone()
        return row is not None

    # Housekeeping

    def prune(self, *, before: float) -> int:
        """Forget mentions that were finished before this moment; returns how many."""
        with self.database.transaction() as db:
            n_rows = db.execute("DELETE FROM inbox WHERE finished_at < ?", (before,)).rowcount
        self.database.vacuum()
        return n_rows

    def _one(self, where: str, value: str) -> Entry | None:
        with self.database.transaction() as db:
            row = db.execute(f"SELECT * FROM inbox WHERE {where}", (value,)).fetchone()  # noqa: S608
        return None if row is None else _entry(row)


def _among(only: Collection[str] | None) -> tuple[bool, str]:
    """The two values of `_AMONG`."""
    return only is None, json.dumps(list(only or ()))


def _entry(row: sqlite3.Row) -> Entry:
    values = {name: row[name] for name in Entry.__dataclass_fields__}
    values["look_first"] = bool(values["look_first"])
    return Entry(**values)
