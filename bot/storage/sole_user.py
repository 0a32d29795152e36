"""Allows only one bot for each data_dir: two would answer every mention twice."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from trainer.errors import StorageError


@contextmanager
def sole_user(data_dir: Path) -> Iterator[None]:
    """Holds the lock on a data_dir; creates the folder if it is missing.

    Raises:
        StorageError: the folder cannot be written, or another bot is running with it.
    """
    path = data_dir / "bot.lock"
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        file: IO[str] = path.open("w")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error}; this user must be able to write data_dir") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageError(f"{data_dir}: another bot is running with this data_dir; stop it first") from error
        yield
