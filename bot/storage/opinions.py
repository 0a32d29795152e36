"""What people say about answers, and admins about a random sample of them: right or wrong, and nothing else.

An opinion or a sample is about a mention's answer; it counts while that answer stands, and goes with the mention's
record.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

from bot.storage.database import Database

_OF_ANSWERS = "JOIN inbox USING (notification_id) WHERE inbox.state = 'answered' AND inbox.label IS NOT NULL"
_TALLY = "SELECT label, version, count(*) AS n, sum(is_right) AS n_right"
_BY_VERSION = "GROUP BY version, label ORDER BY version DESC, label"
# The newest opinion of each account about each version: SQLite takes the other columns from the row of the maximum.
_NEWEST = (
    "SELECT version, is_right, max(said_at) FROM opinions"  # noqa: S608
    f" {_OF_ANSWERS} GROUP BY version, opinions.account_id"
)
_MAY_BE_SHOWN = "visibility IN ('public', 'unlisted') AND account_id NOT IN (SELECT account_id FROM opt_outs)"


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many answers with a label, by a version, were called right, of `n` that were called right or wrong."""

    label: str
    version: str
    n: int
    n_right: int


@dataclass(frozen=True, slots=True)
class Sample:
    """An answer that waits to be sent to the admins."""

    number: int
    reply_id: str
    label: str
    version: str


@dataclass(eq=False)
class Opinions:
    """The tables of opinions and of samples; every method is one transaction.

    Raises (all methods):
        StorageError: the disk is full, or the file locked or damaged; nothing was changed.
    """

    database: Database
    _: KW_ONLY
    now: Callable[[], float] = time.time

    def note(self, notification_id: str, *, account_id: str, status_id: str, is_right: bool, said_at: float) -> bool:
        """Notes an account's opinion about the answer to a mention, unless a newer one of that account is noted.

        Returns:
            Whether this status is the account's first word about the answer; it stays so if it is noted again.
        """
        with self.database.transaction() as db:
            db.execute(
                "INSERT INTO opinions VALUES (?1, ?2, ?3, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET"
                " status_id = ?3, is_right = ?4, said_at = ?5 WHERE said_at <= ?5",
                (notification_id, account_id, status_id, is_right, said_at),
            )
            row = db.execute(
                "SELECT thanked_id FROM opinions WHERE notification_id = ? AND account_id = ?",
                (notification_id, account_id),
            ).fetchone()
        return bool(row[0] == status_id)

    def about(self, status_id: str) -> str | None:
        """The notification id of the mention whose answer an opinion in this status is about; None if there is none."""
        with self.database.transaction() as db:
            row = db.execute("SELECT notification_id FROM opinions WHERE status_id = ?", (status_id,)).fetchone()
        return None if row is None else str(row[0])

    def forget(self, status_id: str) -> None:
        """Deletes the opinion that a status gave, as it says so no more."""
        with self.database.transaction() as db:
            db.execute("DELETE FROM opinions WHERE status_id = ?", (status_id,))

    def forget_account(self, account_id: str) -> None:
        """Deletes all opinions of an account; they are in no file afterwards."""
        with self.database.transaction() as db:
            db.execute("DELETE FROM opinions WHERE account_id = ?", (account_id,))
        self.database.vacuum()

    def tally(self, *, since: float = 0.0) -> list[Agreement]:
        """How often people agreed, by version, the newest first, and label; opinions given since then."""
        return self._tally(f"{_TALLY} FROM opinions {_OF_ANSWERS} AND said_at >= ? {_BY_VERSION}", since)

    def by_account(self, version: str) -> tuple[int, int]:
        """How many accounts have said something about a version's answers, and how many of them agreed at last."""
        with self.database.transaction() as db:
            row = db.execute(
                f"SELECT count(*), coalesce(sum(is_right), 0) FROM ({_NEWEST}) WHERE version = ?",  # noqa: S608
                (version,),
            ).fetchone()
        return int(row[0]), int(row[1])

    def version_before(self, version: str) -> str | None:
        """The version that gave the newest answer which is not this version's; None if there is no such answer."""
        with self.database.transaction() as db:
            row = db.execute(
                "SELECT version FROM inbox WHERE state = 'answered' AND version != ? ORDER BY finished_at DESC LIMIT 1",
                (version,),
            ).fetchone()
        return None if row is None else str(row[0])

    # Samples

    def candidates(self, *, since: float, before: float) -> list[str]:
        """The notification ids of mentions of that time whose answers may be sampled: none of a private question."""
        with self.database.transaction() as db:
            rows = db.execute(
                "SELECT notification_id FROM inbox WHERE state = 'answered' AND label IS NOT NULL"  # noqa: S608
                f" AND {_MAY_BE_SHOWN} AND finished_at >= ? AND finished_at < ?"
                " AND notification_id NOT IN (SELECT notification_id FROM samples) ORDER BY notification_id",
                (since, before),
            ).fetchall()
        return [str(row[0]) for row in rows]

    def draw(self, notification_ids: Sequence[str]) -> None:
        """Adds the answers to these mentions to the samples."""
        with self.database.transaction() as db:
            rows = [(notification_id, self.now()) for notification_id in notification_ids]
            db.executemany("INSERT OR IGNORE INTO samples (notification_id, drawn_at) VALUES (?, ?)", rows)

    def n_drawn(self, *, since: float) -> int:
        """How many samples were drawn since then."""
        with self.database.transaction() as db:
            return int(db.execute("SELECT count(*) FROM samples WHERE drawn_at >= ?", (since,)).fetchone()[0])

    def unsent(self) -> list[Sample]:
        """The samples that the admins have not got yet, and may get."""
        with self.database.transaction() as db:
            rows = db.execute(
                f"SELECT number, reply_id, label, version FROM samples {_OF_ANSWERS}"  # noqa: S608
                f" AND is_sent = 0 AND {_MAY_BE_SHOWN} ORDER BY number"
            ).fetchall()
        return [Sample(*row) for row in rows]

    def sent(self, number: int) -> None:
        """Records that the admins get a sample."""
        with self.database.transaction() as db:
            db.execute("UPDATE samples SET is_sent = 1 WHERE number = ?", (number,))

    def drop(self, number: int) -> None:
        """Removes a sample, whose answer is gone or must not be shown."""
        with self.database.transaction() as db:
            db.execute("DELETE FROM samples WHERE number = ?", (number,))

    def sampled(self, number: int) -> str | None:
        """The label of a sample's answer; None if there is no such sample any more."""
        with self.database.transaction() as db:
            row = db.execute(f"SELECT label FROM samples {_OF_ANSWERS} AND number = ?", (number,)).fetchone()  # noqa: S608
        return None if row is None else str(row[0])

    def judge(self, number: int, *, is_right: bool) -> None:
        """Records what an admin says about a sample; the last word counts."""
        with self.database.transaction() as db:
            db.execute("UPDATE samples SET is_right = ? WHERE number = ?", (is_right, number))

    def tally_samples(self, *, since: float = 0.0) -> list[Agreement]:
        """How often admins found sampled answers right, by version, the newest first, and label; drawn since then."""
        where = "AND is_right IS NOT NULL AND drawn_at >= ?"
        return self._tally(f"{_TALLY} FROM samples {_OF_ANSWERS} {where} {_BY_VERSION}", since)

    def _tally(self, query: str, since: float) -> list[Agreement]:
        with self.database.transaction() as db:
            rows: list[sqlite3.Row] = db.execute(query, (since,)).fetchall()
        return [Agreement(row["label"], row["version"], row["n"], row["n_right"]) for row in rows]
