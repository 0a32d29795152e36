"""Who has agreed that the bot looks at a photo of theirs, for whom, and when."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import KW_ONLY, dataclass

from bot.storage.database import Database


@dataclass(frozen=True, slots=True)
class Given:
    """A consent.

    Attributes:
        yes_id: the status in which the author agreed.
        media_ids: the photos that were in the author's status then.
    """

    yes_id: str
    media_ids: frozenset[str]


@dataclass(eq=False)
class Consents:
    """The table of consents, one for each photo and asker.

    Raises (all methods):
        StorageError: the disk is full, or the file locked or damaged; nothing was changed.
    """

    database: Database
    _: KW_ONLY
    now: Callable[[], float] = time.time

    def add(self, *, photo_id: str, asker_id: str, author_id: str, yes_id: str, media_ids: Collection[str]) -> None:
        """Records that the author of the photos in status `photo_id` agreed now, in status `yes_id`."""
        with self.database.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO consents VALUES (?, ?, ?, ?, ?, ?)",
                (photo_id, asker_id, author_id, yes_id, " ".join(sorted(media_ids)), self.now()),
            )

    def find(self, *, photo_id: str, asker_id: str) -> Given | None:
        """The consent that the bot looks for this asker; None if there is none."""
        with self.database.transaction() as db:
            row = db.execute(
                "SELECT yes_id, media FROM consents WHERE photo_id = ? AND asker_id = ?", (photo_id, asker_id)
            ).fetchone()
        return None if row is None else Given(row[0], frozenset(row[1].split(" ")))

    def withdraw(self, author_id: str, *, photo_id: str | None = None) -> None:
        """Removes all consents of an author, or those for one status."""
        with self.database.transaction() as db:
            db.execute(
                "DELETE FROM consents WHERE author_id = ?1 AND (?2 IS NULL OR photo_id = ?2)", (author_id, photo_id)
            )

    def prune(self, *, before: float) -> None:
        """Deletes consents that were given before this time."""
        with self.database.transaction() as db:
            db.execute("DELETE FROM consents WHERE agreed_at < ?", (before,))
