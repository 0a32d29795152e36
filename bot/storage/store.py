"""The bot's database by tables: inbox, cursor, opt-outs, consents, opinions, and the photos that answers show."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from bot.storage.consents import Consents
from bot.storage.cursor import Cursor
from bot.storage.database import Database
from bot.storage.inbox import Inbox
from bot.storage.opinions import Opinions
from bot.storage.opt_outs import OptOuts
from bot.storage.shown import ShownPhotos
from trainer.errors import ConfigError

DATABASE = "bot.sqlite3"


class Store:
    """The tables needed to answer mentions.

    Args:
        heal: rename a damaged file and start a new one; only if no bot may be using it.

    Raises (all methods):
        StorageError: the disk is full, or the file locked or damaged; nothing was changed.
    """

    def __init__(self, path: Path, *, heal: bool = True, now: Callable[[], float] = time.time) -> None:
        self._database = Database(path, heal=heal)
        self.inbox = Inbox(self._database, now=now)
        self.cursor = Cursor(self._database, now=now)
        self.opt_outs = OptOuts(self._database, now=now)
        self.consents = Consents(self._database, now=now)
        self.shown = ShownPhotos(self._database)
        self.opinions = Opinions(self._database, now=now)

    def close(self) -> None:
        """Closes the file; later calls fail."""
        self._database.close()

    def belongs_to(self, base_url: str, account_id: str) -> None:
        """Binds this inbox to one account on one instance.

        Raises:
            ConfigError: it belongs to another account; its ids would be mistaken for this account's.
        """
        with self._database.transaction() as db:
            row = db.execute("SELECT base_url, account_id FROM home").fetchone()
            if row is None:
                db.execute("INSERT INTO home VALUES (?, ?)", (base_url, account_id))
            elif tuple(row) != (base_url, account_id):
                raise ConfigError(
                    f"{self._database.path}: this inbox belongs to account {row[0]} id {row[1]}, the token is for "
                    f"{base_url} id {account_id}; rename the file if the bot has moved for good, or use another "
                    "data_dir"
                )
