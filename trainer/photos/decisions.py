"""What was decided about photos: kept as they are, moved to another label, or taken out of training.

A decision is about a photo id and about the photo's bytes, so it holds when either comes back with a later scrape.
Nothing is deleted: a decision that was undone stays in the file, and so a version can be trained again. Only what was
decided about a photo that its author took back goes with the photo.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from trainer.photos.database import Database
from trainer.photos.manifest import Photo

Verdict = Literal["keep", "relabel", "drop"]
Judge = Literal["person", "program"]
COLUMNS = "source, photo_id, sha256, verdict, label, by, reason, decided_at"


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about a photo.

    Attributes:
        sha256: of the file at that time.
        label: the new one, for "relabel"; else None.
        reason: in words.
        decided_at: aware datetime, UTC.
    """

    source: str
    photo_id: str
    sha256: str
    verdict: Verdict
    label: str | None
    by: Judge
    reason: str
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class Standing:
    """The decisions that stand at one moment.

    Attributes:
        of_id: photo id -> decision.
        of_content: SHA-256 -> decision.
        at: the moment; None: of no file.
    """

    of_id: Mapping[str, Decision] = field(default_factory=dict)
    of_content: Mapping[str, Decision] = field(default_factory=dict)
    at: datetime | None = None

    def find(self, photo: Photo) -> Decision | None:
        """The decision about a photo: a person's before a program's, then the newest."""
        found = [each for each in (self.of_id.get(photo.photo_id), self.of_content.get(photo.sha256)) if each]
        return max(found, key=_precedence, default=None)


class Decisions:
    """The table of decisions.

    Raises (all methods):
        StorageError: the file cannot be read or written.
    """

    def __init__(self, database: Database) -> None:
        """`database`: an open manifest."""
        self._database = database

    def put(self, decisions: Iterable[Decision]) -> None:
        """Record decisions, all or none; a photo's earlier decisions stay, and stand again when these are undone."""
        with self._database.transaction():
            for each in decisions:
                values = (each.verdict, each.label, each.by, each.reason, each.decided_at.isoformat())
                self._database.db.execute(
                    f"INSERT INTO decisions ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                    (each.source, each.photo_id, each.sha256, *values),
                )

    def undo(self, source: str, photo_id: str, *, now: datetime) -> Decision | None:
        """Take back the newest decision about a photo that stands; returns it, or None if there is none."""
        with self._database.transaction():
            newest = "SELECT max(number) FROM decisions WHERE source = ? AND photo_id = ? AND undone_at IS NULL"
            rows = self._database.db.execute(
                f"UPDATE decisions SET undone_at = ? WHERE number = ({newest}) RETURNING {COLUMNS}",  # noqa: S608
                (now.isoformat(), source, photo_id),
            ).fetchall()
        return _decision(rows[0]) if rows else None

    def keep_only(self, source: str, photo_ids: Collection[str]) -> None:
        """Delete all that was decided about other photos of a source, gone for good; it is in no file afterwards."""
        with self._database.transaction():
            n_gone = self._database.db.execute(
                "DELETE FROM decisions WHERE source = ? AND photo_id NOT IN (SELECT value FROM json_each(?))",
                (source, json.dumps(list(photo_ids))),
            ).rowcount
        if n_gone:
            self._database.clear_out()

    def undo_programs(self, source: str, *, now: datetime) -> int:
        """Take back all decisions of the program; returns their number."""
        with self._database.transaction():
            return self._database.db.execute(
                "UPDATE decisions SET undone_at = ? WHERE source = ? AND by = 'program' AND undone_at IS NULL",
                (now.isoformat(), source),
            ).rowcount

    def standing(self, source: str, *, at: datetime) -> Standing:
        """The decisions that stood at a moment."""
        of_id: dict[str, Decision] = {}
        of_content: dict[str, Decision] = {}
        rows = self._database.rows(
            f"SELECT {COLUMNS} FROM decisions WHERE source = :source AND decided_at <= :at"  # noqa: S608
            " AND (undone_at IS NULL OR undone_at > :at) ORDER BY number",
            {"source": source, "at": at.isoformat()},
        )
        for row in rows:
            decision = _decision(row)
            for key, known in ((decision.photo_id, of_id), (decision.sha256, of_content)):
                if key not in known or _precedence(decision) >= _precedence(known[key]):
                    known[key] = decision
        return Standing(of_id, of_content, at)

    def count(self, source: str, *, since: datetime | None = None) -> Counter[tuple[Judge, Verdict]]:
        """The number of decisions that stand, by who made them and what they say; of those made since then."""
        rows = self._database.rows(
            "SELECT by, verdict, count(*) FROM decisions WHERE source = ? AND undone_at IS NULL AND decided_at >= ?"
            " GROUP BY by, verdict",
            (source, since.isoformat() if since else ""),
        )
        return Counter({(by, verdict): n for by, verdict, n in rows})


def _precedence(decision: Decision) -> tuple[bool, datetime]:
    return decision.by == "person", decision.decided_at


def _decision(row: tuple[Any, ...]) -> Decision:
    source, photo_id, sha256, verdict, label, by, reason, decided_at = row
    return Decision(source, photo_id, sha256, verdict, label, by, reason, datetime.fromisoformat(decided_at))
