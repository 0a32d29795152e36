"""The SQLite file of the collection: opened, migrated, and its failures explained.

`manifest` and `decisions` are its tables. Each change is one transaction.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from trainer.errors import StorageError
from trainer.files import storage_error

BUSY_TIMEOUT_S = 30.0
# Each entry migrates the file to the next format version. Never change an entry, only add new ones.
MIGRATIONS = (
    """
    CREATE TABLE photos (
        number INTEGER PRIMARY KEY AUTOINCREMENT,  -- order of admission
        sha256 TEXT NOT NULL,
        label TEXT NOT NULL,
        source TEXT NOT NULL,
        photo_id TEXT NOT NULL,
        member_id TEXT,
        page_url TEXT NOT NULL,
        image_url TEXT NOT NULL,
        path TEXT NOT NULL,
        n_bytes INTEGER NOT NULL,
        width INTEGER NOT NULL,
        height INTEGER NOT NULL,
        phash TEXT NOT NULL,
        split TEXT,
        flag TEXT,
        fetched_at TEXT NOT NULL,
        UNIQUE (source, photo_id),
        UNIQUE (source, sha256)
    );
    CREATE INDEX photos_image_url ON photos (image_url);
    CREATE INDEX photos_member ON photos (source, member_id);
    CREATE TABLE refusals (
        source TEXT NOT NULL,
        photo_id TEXT NOT NULL,
        label TEXT NOT NULL,
        reason TEXT NOT NULL,
        detail TEXT NOT NULL,
        sha256 TEXT,
        final INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        refused_at TEXT NOT NULL,
        PRIMARY KEY (source, photo_id)
    );
    CREATE INDEX refusals_sha256 ON refusals (source, sha256);
    CREATE TABLE forgotten (  -- ids alone, so that what was taken down never comes back
        source TEXT NOT NULL,
        kind TEXT NOT NULL CHECK (kind IN ('photo', 'member')),
        id TEXT NOT NULL,
        forgotten_at TEXT NOT NULL,
        PRIMARY KEY (source, kind, id)
    );
    CREATE TABLE listings (  -- how far each listing was read; no row: not at all, NULL: nothing is expected further on
        source TEXT NOT NULL,
        label TEXT NOT NULL,
        next_page INTEGER,
        PRIMARY KEY (source, label)
    );
    """,
    """
    CREATE TABLE decisions (  -- about photos; none is deleted, so that a version can be trained again
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        source TEXT NOT NULL,
        photo_id TEXT NOT NULL,
        sha256 TEXT NOT NULL,
        verdict TEXT NOT NULL CHECK (verdict IN ('keep', 'relabel', 'drop')),
        label TEXT,
        by TEXT NOT NULL CHECK (by IN ('person', 'program')),
        reason TEXT NOT NULL,
        decided_at TEXT NOT NULL,
        undone_at TEXT
    );
    CREATE INDEX decisions_photo ON decisions (source, photo_id);
    CREATE INDEX decisions_sha256 ON decisions (source, sha256);
    """,
)

Values = Sequence[object] | Mapping[str, object]


class Database:
    """An open file, for one thread; other processes may use it at the same time."""

    def __init__(self, path: Path) -> None:
        """Open the file; create it if it is missing, migrate it if it is older.

        Raises:
            StorageError: it is damaged, of a newer format, or cannot be written.
        """
        self.path = path
        with self.explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            try:
                self.db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")
                self._migrate()
            except BaseException:
                self.db.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.db.close()

    def rows(self, query: str, values: Values = ()) -> Iterator[tuple[Any, ...]]:
        with self.explained():
            yield from self.db.execute(query, values)

    def value(self, query: str, values: Values = ()) -> Any:
        return next(self.rows(query, values))[0]

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        with self.explained():
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise

    def clear_out(self) -> None:
        """Overwrite in the file what deleted rows held.

        Raises:
            StorageError: another process still reads what they held.
        """
        with self.explained():
            self.db.execute("VACUUM")
            is_busy = self.value("PRAGMA wal_checkpoint(TRUNCATE)")
        if is_busy:
            raise StorageError(f"{self.path}: another process reads it, so deleted rows are still in it; run it again")

    def _migrate(self) -> None:
        version = self.value("PRAGMA user_version")
        if version > len(MIGRATIONS):
            raise StorageError(
                f"{self.path}: has format {version}, this program knows {len(MIGRATIONS)}; update this program"
            )
        for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
            self.db.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn errors of SQLite and of the file system into StorageError, with advice."""
        try:
            yield
        except sqlite3.IntegrityError:
            raise  # a bug
        except sqlite3.DatabaseError as error:
            raise StorageError(f"{self.path}: {_advice(error)}") from error
        except OSError as error:
            raise storage_error(self.path, error) from error


def _advice(error: sqlite3.DatabaseError) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return "the disk is full; nothing was changed. Free some space and run it again"
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "is in use by another process; nothing was changed. Wait for it to end and run it again"
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
        return (
            f"is damaged ({error}); restore a backup, or move it away and run `python -m trainer scrape`, "
            "which fetches the photos again"
        )
    return f"cannot be read or written ({error}); nothing was changed. Check whether the disk is full or damaged"
