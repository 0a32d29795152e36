"""Writes files atomically: after a crash or on a full disk there is the old content or the new, never a part."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from trainer.errors import StorageError


def write_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Have `write` fill a file beside `path`, then put it in its place; both the file and its folder reach the disk.

    Args:
        path: where the file shall stand; its folder is made when it is missing.
        write: is given the open binary file.

    Raises:
        StorageError: the disk is full or the file cannot be written; what stood at `path` is untouched.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make names that were added to or taken from a folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def storage_error(path: Path, error: OSError) -> StorageError:
    """What to tell when `path` could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"{path}: the disk is full; nothing was changed. Free some space and run it again")
    reason = error.strerror or error
    return StorageError(f"{path}: cannot be written: {reason}; nothing was changed. Check data_dir and its permissions")
