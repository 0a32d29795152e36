"""The cursor: up to which id the notifications have been read."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

from bot.storage.database import Database

# In the order they were read in, as only the server knows the order of ids.
_SETTLED = "SELECT notification_id FROM cursor WHERE read_at <= ? ORDER BY read_at DESC, rowid DESC LIMIT 1"
_OLDEST = "SELECT notification_id FROM cursor ORDER BY read_at, rowid LIMIT 1"


@dataclass(eq=False)
class Cursor:
    """Notification ids and when each was read; every method is one transaction.

    Raises (all methods):
        StorageError: the disk is full, or the file locked or damaged; nothing was changed.
    """

    database: Database
    _: KW_ONLY
    now: Callable[[], float] = time.time

    def position(self, *, overlap_s: float) -> str | None:
        """The id to continue from: the newest that was read at least `overlap_s` ago; None at the very first start.

        The overlap finds notifications that appear late, with lower ids than others read before.
        """
        with self.database.transaction() as db:
            settled = db.execute(_SETTLED, (self.now() - overlap_s,)).fetchone()
            row = settled or db.execute(_OLDEST).fetchone()
        return None if row is None else str(row[0])

    def move(self, notification_id: str, *, overlap_s: float) -> None:
        """Records that everything up to this id has been read now."""
        with self.database.transaction() as db:
            now = self.now()
            db.execute("INSERT OR IGNORE INTO cursor VALUES (?, ?)", (notification_id, now))
            # After a clock was set back, times in the future count as now.
            db.execute("UPDATE cursor SET read_at = ? WHERE read_at > ?", (now, now))
            settled = db.execute(_SETTLED, (now - overlap_s,)).fetchone()
            if settled:
                db.execute(
                    "DELETE FROM cursor WHERE read_at <= ? AND notification_id != ?", (now - overlap_s, settled[0])
                )
