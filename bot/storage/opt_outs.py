"""The accounts that want no answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

from bot.storage.database import Database


@dataclass(eq=False)
class OptOuts:
    """Account ids; every change is on the disk when the method returns.

    Raises (all methods):
        StorageError: the disk is full, or the file locked or damaged; nothing was changed.
    """

    database: Database
    _: KW_ONLY
    now: Callable[[], float] = time.time

    def add(self, account_id: str) -> None:
        """Adds an account that wants no answers."""
        with self.database.transaction() as db:
            db.execute("INSERT OR IGNORE INTO opt_outs VALUES (?, ?)", (account_id, self.now()))
        self.database.flush()

    def remove(self, account_id: str) -> None:
        """Removes an account that wants answers again."""
        with self.database.transaction() as db:
            db.execute("DELETE FROM opt_outs WHERE account_id = ?", (account_id,))
        self.database.flush()

    def __contains__(self, account_id: str) -> bool:
        """Whether this account wants no answers."""
        with self.database.transaction() as db:
            return db.execute("SELECT 1 FROM opt_outs WHERE account_id = ?", (account_id,)).fetchone() is not None
