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
            db.execute("INSERT OR IGNORE INTO opt_outs (account_id, since) VALUES (?, ?)", (account_id, self.now()))
        self.database.flush()

    def remove(self, account_id: str) -> None:
        """Removes an account that wants answers again."""
        with self.database.transaction() as db:
            db.execute("DELETE FROM opt_outs WHERE account_id = ?", (account_id,))
        self.database.flush()

    def moved(self, account_id: str, *, to: str) -> bool:
        """Opts out the account that an opted-out one moved to, once: a later "start" of the new one counts.

        Returns:
            Whether the new account was opted out now.
        """
        with self.database.transaction() as db:
            is_news = db.execute(
                "UPDATE opt_outs SET moved_to = ?2 WHERE account_id = ?1 AND moved_to IS NOT ?2", (account_id, to)
            ).rowcount
            if is_news:
                db.execute("INSERT OR IGNORE INTO opt_outs (account_id, since) VALUES (?, ?)", (to, self.now()))
        self.database.flush()
        return is_news > 0

    def after(self, account_id: str, limit: int) -> list[str]:
        """Up to `limit` account ids that follow this one in some fixed order; "" is before the first."""
        with self.database.transaction() as db:
            rows = db.execute(
                "SELECT account_id FROM opt_outs WHERE account_id > ? ORDER BY account_id LIMIT ?", (account_id, limit)
            )
            return [str(row[0]) for row in rows]

    def __contains__(self, account_id: str) -> bool:
        """Whether this account wants no answers."""
        with self.database.transaction() as db:
            return db.execute("SELECT 1 FROM opt_outs WHERE account_id = ?", (account_id,)).fetchone() is not None
