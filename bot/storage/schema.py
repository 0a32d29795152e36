"""Opens, checks and migrates the database file, and replaces a damaged one.

The format version is SQLite's `user_version`; each migration below takes a file from one version to the next.
"""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from trainer.errors import StorageError

logger = logging.getLogger(__name__)

BUSY_TIMEOUT_S = 10.0
OLDEST_SQLITE = (3, 37, 0)  # has STRICT tables

MIGRATIONS = (
    """
    CREATE TABLE inbox (
        notification_id TEXT PRIMARY KEY,
        status_id TEXT NOT NULL UNIQUE,
        account_id TEXT NOT NULL,
        acct TEXT NOT NULL,
        visibility TEXT NOT NULL,
        state TEXT NOT NULL,
        look_first INTEGER NOT NULL,     -- 1: an answer may have been posted; look into the thread before posting
        attempts INTEGER NOT NULL DEFAULT 0,
        tries INTEGER NOT NULL DEFAULT 0,
        next_try_at REAL NOT NULL,       -- seconds since the epoch, as all times here
        reason TEXT NOT NULL DEFAULT '',
        mentioned_at REAL NOT NULL,
        received_at REAL NOT NULL,
        admitted_at REAL,                -- when it was counted against the account's limit
        finished_at REAL,
        idempotency_key TEXT NOT NULL,
        kind TEXT NOT NULL DEFAULT '',
        reply_id TEXT,
        label TEXT,
        score REAL,
        version TEXT
    ) STRICT;
    CREATE INDEX inbox_by_state ON inbox (state, next_try_at);
    CREATE INDEX inbox_by_account ON inbox (account_id, admitted_at);
    CREATE INDEX inbox_by_reply ON inbox (reply_id);
    CREATE TABLE cursor (
        notification_id TEXT PRIMARY KEY,
        read_at REAL NOT NULL
    ) STRICT;
    CREATE TABLE opt_outs (
        account_id TEXT PRIMARY KEY,
        since REAL NOT NULL
    ) STRICT;
    """,
    """
    CREATE TABLE runs (                  -- of jobs; the newest of each tells when the next is due
        id INTEGER PRIMARY KEY,
        job TEXT NOT NULL,
        started_at REAL NOT NULL,
        ended_at REAL,                   -- NULL while it runs, and for ever when the bot died meanwhile
        outcome TEXT NOT NULL DEFAULT '',  -- done, failed, skipped or stopped
        detail TEXT NOT NULL DEFAULT ''
    ) STRICT;
    CREATE INDEX runs_by_job ON runs (job, started_at);
    CREATE TABLE outbox (                -- statuses to post unasked: to admins, and announcements
        id INTEGER PRIMARY KEY,
        acct TEXT,                       -- to whom, privately; NULL: to everybody
        text TEXT NOT NULL,
        picture BLOB,                    -- a JPEG of figures, never of a person
        alt_text TEXT NOT NULL DEFAULT '',
        idempotency_key TEXT NOT NULL,
        created_at REAL NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE TABLE faults (                -- what the admins were told of
        kind TEXT PRIMARY KEY,
        told_at REAL NOT NULL
    ) STRICT;
    CREATE TABLE switches (              -- what the admins set
        name TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) STRICT;
    """,
    """
    CREATE TABLE home (                  -- whose ids these are; another instance gives out the same ones
        base_url TEXT NOT NULL,
        account_id TEXT NOT NULL
    ) STRICT;
    """,
    """
    CREATE TABLE shown (                 -- answers about photos in another status than the question
        notification_id TEXT PRIMARY KEY,
        photo_id TEXT NOT NULL,          -- the status with the photos
        author_id TEXT NOT NULL,         -- whose photos they are
        media TEXT NOT NULL              -- ids of the photos, separated by spaces
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX shown_by_photo ON shown (photo_id);
    CREATE TRIGGER shown_is_pruned AFTER DELETE ON inbox BEGIN
        DELETE FROM shown WHERE notification_id = OLD.notification_id;
    END;
    CREATE TABLE consents (
        photo_id TEXT NOT NULL,
        asker_id TEXT NOT NULL,
        author_id TEXT NOT NULL,
        yes_id TEXT NOT NULL,            -- the status in which the author agreed
        media TEXT NOT NULL,             -- ids of the photos at that time, separated by spaces
        agreed_at REAL NOT NULL,
        PRIMARY KEY (photo_id, asker_id)
    ) STRICT, WITHOUT ROWID;
    ALTER TABLE opt_outs ADD COLUMN moved_to TEXT;  -- the account that was opted out because this one moved there
    """,
    """
    CREATE TABLE opinions (              -- whether an answer is right, as its asker or the photo's author says
        notification_id TEXT NOT NULL,   -- of the mention that was answered
        account_id TEXT NOT NULL,
        status_id TEXT NOT NULL,         -- the status that says so
        thanked_id TEXT NOT NULL,        -- the first one, which gets the thanks
        is_right INTEGER NOT NULL,
        said_at REAL NOT NULL,
        PRIMARY KEY (notification_id, account_id)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE samples (               -- answers drawn at random, for admins to call right or wrong
        number INTEGER PRIMARY KEY AUTOINCREMENT,  -- no number is given twice: admins reply to it
        notification_id TEXT NOT NULL UNIQUE,
        drawn_at REAL NOT NULL,
        is_sent INTEGER NOT NULL DEFAULT 0,
        is_right INTEGER                 -- NULL until an admin has said so
    ) STRICT;
    CREATE TRIGGER opinions_are_pruned AFTER DELETE ON inbox BEGIN
        DELETE FROM opinions WHERE notification_id = OLD.notification_id;
        DELETE FROM samples WHERE notification_id = OLD.notification_id;
    END;
    """,
)


class DamagedError(StorageError):
    """The database file is damaged; only opening it again, with repair, helps."""


def open_database(path: Path, *, heal: bool) -> sqlite3.Connection:
    """Opens a checked database in the current format; several threads may use the connection under a lock.

    Args:
        heal: rename a damaged file and make a new one, with those opt-outs that can still be read. Only for the sole
            user of the file: another process would continue writing to the renamed one.

    Raises:
        StorageError: it cannot be opened or written, or was written by a newer dokocos.
        DamagedError: it is damaged, and `heal` is false.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        wanted = ".".join(map(str, OLDEST_SQLITE))
        raise StorageError(
            f"SQLite {sqlite3.sqlite_version} is too old for {path.name}, which needs {wanted} or newer; use a newer "
            "Python or a newer system"
        )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            return _connect(path)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            if not heal:
                raise _damaged(path, error) from error
            return _replace_damaged(path, error)
    except (sqlite3.Error, OSError) as error:
        raise StorageError(f"{path}: cannot be opened: {error}; is the disk full, or owned by another user?") from error


@contextmanager
def transaction(connection: sqlite3.Connection, path: Path) -> Iterator[sqlite3.Connection]:
    """One transaction: all changes made in the context are written, or none.

    Raises:
        StorageError: the disk is full, or the file at `path` is locked; nothing was changed.
        DamagedError: it is damaged.
    """
    try:
        with connection:  # commits, or rolls back after an error
            connection.execute("BEGIN IMMEDIATE")
            yield connection
    except sqlite3.Error as error:
        if is_damage(error):
            raise _damaged(path, error) from error
        raise StorageError(f"{path}: {error}; is the disk full, or the file in use elsewhere?") from error


def _damaged(path: Path, error: sqlite3.Error) -> DamagedError:
    return DamagedError(f"{path}: {error}; restart the bot: it then renames this file and reads the last days again")


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is damaged; other errors (locked, full, misuse) are subclasses."""
    return type(error) is sqlite3.DatabaseError


def _connect(path: Path) -> sqlite3.Connection:
    path.touch(mode=0o600)
    with suppress(OSError):  # not every file system has modes
        path.chmod(0o600)  # SQLite gives the files beside it the same one
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        # A damaged text must not make its row, and so the inbox, unreadable.
        connection.text_factory = lambda text: text.decode(errors="replace")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        # A power cut may undo the last transactions, but none by half. A post whose record is lost is found in its
        # thread, as the thread of each mention from before the start is checked.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA journal_size_limit = 1000000")
        connection.execute("PRAGMA secure_delete = ON")
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        _migrate(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise StorageError(
            f"{path}: format {version}, this dokocos knows {len(MIGRATIONS)}; update dokocos, or restore a backup"
        )
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        # SQLite keeps comments and spaces of statements. Without them the schema fits into the file's first page, and
        # damage elsewhere leaves the opt-outs readable.
        script = " ".join(re.sub("--.*", "", script).split())
        connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")


def _replace_damaged(path: Path, cause: sqlite3.DatabaseError) -> sqlite3.Connection:
    aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    logger.error("database damaged file=%s error=%s renamed_to=%s; the last days are read again", path, cause, aside)
    connection = _connect(path)
    opt_outs = _salvage_opt_outs(aside)
    connection.executemany("INSERT OR IGNORE INTO opt_outs VALUES (?, ?, ?)", opt_outs)
    logger.warning("opt-outs saved from the damaged database n=%d", len(opt_outs))
    return connection


def _salvage_opt_outs(path: Path) -> list[tuple[str, float, str | None]]:
    """Reads as many opt-outs as possible from a damaged file, of any format."""
    rows: list[tuple[str, float, str | None]] = []
    with suppress(sqlite3.Error), closing(sqlite3.connect(path)) as damaged:
        for account_id, since, *moved_to in damaged.execute("SELECT * FROM opt_outs"):
            rows.append((str(account_id), float(since), moved_to[0] if moved_to else None))
    return rows
