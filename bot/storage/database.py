"""One connection to the bot's database file, which the classes of its tables share."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bot.storage.schema import open_database, transaction


class Database:
    """The connection; every method may be called from any thread.

    Args:
        heal: set a damaged file aside and start a new one; not where a bot may be using it.

    Raises (all methods):
        StorageError: the disk is full, or the file locked or damaged; nothing was changed.
    """

    def __init__(self, path: Path, *, heal: bool) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._connection = open_database(path, heal=heal)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing of what is written while the context lasts."""
        with self._lock, transaction(self._connection, self.path) as db:
            yield db

    def flush(self) -> None:
        """Write what was committed to the disk now, so that a power cut cannot undo it."""
        with self._lock:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def vacuum(self) -> None:
        """Give deleted rows' space back to the file system."""
        with self._lock:
            self._connection.execute("PRAGMA incremental_vacuum").fetchall()

    def close(self) -> None:
        """Close the file; later calls fail."""
        with self._lock:
            self._connection.close()
