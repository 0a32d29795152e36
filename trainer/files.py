"""Writes files atomically: after a crash or on a full disk, a file has its old or its new content, never a part."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from trainer.errors import StorageError

UNFINISHED_FILE = ".*.tmp"  # what a crash leaves of `write_file`


def write_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a temporary file, then move it to `path`; the file and its folder are synced to disk.

    Args:
        path: target file; a missing folder is created.
        write: called with the open binary file.

    Raises:
        StorageError: the disk is full or the file cannot be written; `path` is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def open_file(path: Path) -> BufferedReader:
    """Open a regular file for reading. Raises OSError, also for a link, a pipe or a device."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe would wait for its other end
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a file")
    return os.fdopen(descriptor, "rb")


def read_file(path: Path, *, max_bytes: int) -> bytes:
    """Read a regular file of at most `max_bytes`. Raises OSError, also for a larger one, or a link."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise OSError(errno.EFBIG, f"{size:,} bytes, more than {max_bytes:,}")
        data = file.read(size)
        if len(data) != size or file.read(1):
            raise OSError(errno.EIO, "it changes while it is read")
        return data


def rewrite_lines(path: Path, change: Callable[[str], str]) -> None:
    """Change each line of a UTF-8 text file; "" removes it. A missing file stays missing.

    Raises:
        StorageError: it cannot be read or written; it is unchanged.
    """
    try:
        old = path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return
    except OSError as error:
        raise storage_error(path, error) from error
    new = "".join(map(change, old.splitlines(keepends=True)))
    if new != old:
        write_file(path, lambda file: file.write(new.encode(errors="surrogateescape")))


def sync_folder(folder: Path) -> None:
    """Sync a folder to disk, so that created, renamed and deleted files survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def storage_error(path: Path, error: OSError) -> StorageError:
    """The `StorageError` for a failed write to `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"{path}: the disk is full; nothing was changed. Free some space and run it again")
    reason = error.strerror or error
    return StorageError(f"{path}: cannot be written: {reason}; nothing was changed. Check data_dir and its permissions")
