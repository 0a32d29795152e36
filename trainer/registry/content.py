"""Reads the files of a finished version: none is a link, and what is used is what was checked.

A file is read once, into memory, and its hash is compared before it is used. So it does not matter whether it is
exchanged afterwards.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

from trainer.errors import ModelError
from trainer.files import UNFINISHED_FILE, open_file, read_file
from trainer.registry.rewrite import SUMS

# The largest file, the weights of block5, has 28 MB.
MAX_FILE_BYTES = 256 * 1024 * 1024
MAX_SUMS_BYTES = 1024 * 1024
ADVICE = "promote another version (`python -m trainer models` lists them), or train again"

Sums = Mapping[str, frozenset[str]]  # name -> SHA-256; two while `rewrite` is at work


def check_files(folder: Path) -> Sums:
    """Check every file of a version against SHA256SUMS; returns the hashes.

    Raises:
        ModelError: a file is missing or changed, or is a link.
    """
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise ModelError(f"{folder}: is a link, not a folder; {ADVICE}")
        while True:
            recorded = read_file(folder / SUMS, max_bytes=MAX_SUMS_BYTES)
            sums = _parse(recorded.decode())
            fault = _find_fault(folder, sums)
            if fault is None:
                return sums
            if read_file(folder / SUMS, max_bytes=MAX_SUMS_BYTES) == recorded:
                raise ModelError(f"{fault}; {ADVICE}")  # else `rewrite` was at work
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{folder / SUMS}: cannot be read ({error}); {ADVICE}") from error


def read_checked(folder: Path, name: str, sums: Sums) -> bytes:
    """The content of a version's file, compared with the hash that `check_files` has returned.

    Raises:
        ModelError: it has been changed or removed since.
    """
    path = folder / name
    try:
        data = read_file(path, max_bytes=MAX_FILE_BYTES)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error}); {ADVICE}") from error
    if hashlib.sha256(data).hexdigest() not in sums.get(name, frozenset()):
        raise ModelError(f"{path}: has changed since it was checked; {ADVICE}")
    return data


def files_of(folder: Path) -> Iterator[Path]:
    """A version's files, and whatever else is no folder, without files that `write_file` has not finished."""
    for path in sorted(folder.rglob("*")):
        if not stat.S_ISDIR(path.lstat().st_mode) and not fnmatch(path.name, UNFINISHED_FILE):
            yield path


def sha256_of(path: Path) -> str:
    """The hash of a file. Raises OSError, also for a link."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_file(path: Path) -> None:
    """Sync a file to disk. Raises OSError."""
    with open_file(path) as file:
        os.fsync(file.fileno())


def _parse(text: str) -> Sums:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for digest, _, name in (line.partition("  ") for line in text.splitlines()):
        found[name].add(digest)
    return {name: frozenset(digests) for name, digests in found.items()}


def _find_fault(folder: Path, sums: Sums) -> str | None:
    """What is wrong with a version's files; None if nothing is."""
    found = {str(path.relative_to(folder)): path for path in files_of(folder)}
    for name in sorted(sums.keys() | found.keys() - {SUMS}):
        if name not in found:
            return f"{folder / name}: is missing"
        if not stat.S_ISREG(found[name].lstat().st_mode):
            return f"{folder / name}: is a link, or no file"
        if name not in sums or sha256_of(found[name]) not in sums[name]:
            return f"{folder / name}: does not match its SHA-256 in {SUMS}"
    return None
