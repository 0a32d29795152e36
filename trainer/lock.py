"""A lock for one process at a time, released when its holder ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import StorageError
from trainer.files import storage_error


@contextmanager
def only_one(path: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock at `path` while the context lasts.

    Args:
        path: an empty file that is left in place.
        what: is done under it, for the message, e.g. "scrape".
        wait: until the other process is done, for what takes a moment only.

    Raises:
        StorageError: another process holds it, or the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise storage_error(path, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise StorageError(f"another {what} is running in {path.parent}; wait for it to end, or stop it") from error
        yield


def is_held(path: Path) -> bool:
    """Whether a process holds the lock at `path` now."""
    try:
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
