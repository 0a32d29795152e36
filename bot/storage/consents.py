"""Who has agreed that the bot looks at a photo of theirs, for whom, and when."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

from bot.storage.database import Database


@dataclass(eq=False)
class Consents:
    """The table of consents, one for each photo and asker.

    Raises (all methods):
        StorageError: the disk is full, or the file locked or damaged; nothing was changed.
    """

    database: Database
    _: KW_ONLY
    now: Callable[[], float] = time.time

    def add(self, *, photo_id: str, asker_id: str, author_id: str, yes_id: str) -> None:
        """Records that the author of the photos in status `photo_id` agreed now, in status `yes_id`."""
        with self.database.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO consents VALUES (?, ?, ?, ?, ?)",
                (photo_id, asker_id, author_id, yes_id, self.now()),
            )

    def find(self, *, photo_id: str, asker_id: str) -> str | None:
        """The status in which the author agreed that the bot looks for this asker; None if there is none."""
        with self.database.transaction() as db:
            row = db.execute(
                "SELECT yes_id FROM consents WHERE photo_id = ? AND asker_id = ?", (photo_id, asker_id)
            ).fetchone()
        return None if row is None else str(row[0])

    def withdraw(self, author_id: str) -> None:
        """Removes all consents of an author."""
        with self.database.transaction() as db:
            db.execute("DELETE FROM consents WHERE author_id = ?", (author_id,))

    def prune(self, *, before: float) -> None:
        """Deletes consents that were given before this time."""
        with self.database.transaction() as db:
            db.execute("DELETE FROM consents WHERE agreed_at < ?", (before,))
