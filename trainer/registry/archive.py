"""Packs a version's files into one archive: a plain tar file, which any `tar` can list.

The same files give the same bytes, and no other bytes are accepted: what was read is packed again and compared. So
there are no links, no other names, owners or times, nothing compressed, nothing behind the end, and no file is larger
than the archive. Everything happens in memory.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Collection, Mapping

from trainer.errors import ModelError

FOLDER = re.compile(r"\d{4}-\d{2}-\d{2}-\d{1,6}")


def pack(name: str, files: Mapping[str, bytes]) -> bytes:
    """The archive of a version.

    Args:
        name: of the version; also the folder in the archive.
        files: name -> content.
    """
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for file, content in sorted(files.items()):
            member = tarfile.TarInfo(f"{name}/{file}")
            member.size, member.mode = len(content), 0o600
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def unpack(data: bytes, known: Collection[str], *, what: str) -> tuple[str, dict[str, bytes]]:
    """The version's name and its files, name -> content.

    Args:
        known: names that files may have.
        what: name of the file, for messages.

    Raises:
        ModelError: it is not what `pack` writes.
    """
    try:
        name, files = _read(data, known)
        if pack(name, files) != data:
            raise ValueError("it holds more than files of a version")
    except Exception as error:  # tarfile raises whatever it likes about a damaged file
        raise ModelError(
            f"{what}: is not the archive of a version ({error}); nothing was imported. Export it again; if the dokocos "
            "there is newer, update this one"
        ) from error
    return name, files


def _read(data: bytes, known: Collection[str]) -> tuple[str, dict[str, bytes]]:
    """As `unpack`, without the comparison. Raises ValueError, and whatever tarfile raises."""
    name, files = "", dict[str, bytes]()
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for member in archive:
            folder, _, file = member.name.partition("/")
            if not FOLDER.fullmatch(folder) or folder != (name or folder) or file not in known or file in files:
                raise ValueError("a name is not expected")
            content = archive.extractfile(member) if member.type == tarfile.REGTYPE and not member.sparse else None
            if content is None:
                raise ValueError(f"{file} is not a file")
            name, files[file] = folder, content.read()
    if not files:
        raise ValueError("it is empty")
    return name, files
