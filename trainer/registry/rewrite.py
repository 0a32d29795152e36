"""Changes files of a finished version so that it can be loaded at every moment.

SHA256SUMS first holds the hashes of both contents, then the files are replaced, then it holds the new hashes alone. A
crash in between leaves a version that can be loaded, and the same call finishes the work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from trainer.files import storage_error, write_file

SUMS = "SHA256SUMS"


def rewrite(folder: Path, changes: Mapping[str, Callable[[bytes], bytes]]) -> None:
    """Change some files of a version; the caller holds the registry's lock.

    A file that does not match its recorded hash is changed too, and does not match afterwards either.

    Args:
        folder: of the version.
        changes: name of a file -> old content to new content; missing files are ignored.

    Raises:
        StorageError: a file cannot be read or written; the version can be loaded as before.
    """
    try:
        recorded = (folder / SUMS).read_text(encoding="utf-8").splitlines() if (folder / SUMS).exists() else []
        old = {name: (folder / name).read_bytes() for name in changes if (folder / name).is_file()}
    except (OSError, UnicodeDecodeError) as error:
        raise storage_error(folder, error if isinstance(error, OSError) else OSError(str(error))) from error
    new = {name: changes[name](content) for name, content in old.items()}
    added = [_line(name, new[name]) for name in old if _line(name, old[name]) in recorded]
    both = list(dict.fromkeys([*recorded, *added]))
    if both != recorded:
        _write_lines(folder / SUMS, both)
    for name, content in new.items():
        if content != old[name]:
            _write(folder / name, content)
    # A crash may have left the old hash of a file that was replaced.
    current = {name: _line(name, content) for name, content in new.items() if _line(name, content) in both}
    final = [line for line in both if line == current.get(line.partition("  ")[2], line)]
    if final != both:
        _write_lines(folder / SUMS, final)


def _line(name: str, content: bytes) -> str:
    return f"{hashlib.sha256(content).hexdigest()}  {name}"


def _write_lines(path: Path, lines: list[str]) -> None:
    _write(path, "".join(f"{line}\n" for line in lines).encode())


def _write(path: Path, content: bytes) -> None:
    write_file(path, lambda file: file.write(content))
