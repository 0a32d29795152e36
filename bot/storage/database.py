"""One connection to the bot's database file, shared by the classes of its tables."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bot.storage.schema import open_database, transaction

SQLITE_VERSION = sqlite3.sqlite_version


class Database:
    """The connection; every method may be called from any thread.

    Args:
        heal: rename a damaged file and start a new one; only if no bot may be using it.

    Raises (all methods):
        StorageError: the disk is full, or the file locked or damaged; nothing was changed.
    """

    def __init__(self, path: Path, *, heal: bool) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._connection = open_database(path, heal=heal)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all changes made in the context are written, or none."""
        with self._lock, transaction(self._connection, self.path) as db:
            yield db

    def flush(self) -> None:
        """Writes committed changes to the disk now, so that a power cut cannot undo them."""
        with self._lock:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def vacuum(self) -> None:
        """Returns the space of deleted rows to the file system; what they held is in no file afterwards."""
        with self._lock:
            self._connection.execute("PRAGMA incremental_vacuum").fetchall()
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Closes the file; later calls fail."""
        with self._lock:
            self._connection.close()
