"""Where the bytes of stored photos are: files in data_dir, or objects in a bucket.

A photo has a path either way: below data_dir, or that of a file which is used in place. What lies in data_dir/images
is an object of the same name in the bucket, if there is one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from trainer.bucket import Bucket, open_bucket
from trainer.config import ImageSettings, Settings
from trainer.errors import ImageError
from trainer.files import UNFINISHED_FILE, write_file

FOLDER = "images"  # in data_dir, and in a bucket
OUR_FILE = re.compile(r"[0-9a-f]{64}\.\w+")


class Stored(Protocol):
    """A photo and its path: an `Item` of the data set, a `Todo` of an engine."""

    @property
    def sha256(self) -> str: ...

    @property
    def path(self) -> Path: ...


class PhotoFiles(Protocol):
    """Reads and writes the bytes of photos; reading is thread-safe.

    All methods raise StorageError if a bucket does not answer, or refuses.
    """

    def read(self, path: Path) -> bytes:
        """Raises OSError: the photo is missing, or cannot be read, or is too large."""

    def write(self, path: Path, data: bytes) -> None:
        """Store a photo; it is there whole or not at all. Raises StorageError also when the disk is full."""

    def delete(self, path: Path) -> None:
        """Delete a photo, if it is there."""

    def clear_up(self) -> None:
        """Delete what a crash left of a photo; bring into a bucket what was stored before there was one."""

    def paths(self) -> Iterator[Path]:
        """All photos that are stored, and not used in place."""


class LocalFiles:
    """`PhotoFiles` on disk.

    Args:
        data_dir: of those that are not used in place.
    """

    def __init__(self, data_dir: Path = Path()) -> None:
        self._data_dir = data_dir

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def write(self, path: Path, data: bytes) -> None:
        write_file(path, lambda file: file.write(data))

    def delete(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def clear_up(self) -> None:
        for path in self._data_dir.glob(f"{FOLDER}/*/{UNFINISHED_FILE}"):
            path.unlink(missing_ok=True)

    def paths(self) -> Iterator[Path]:
        return self._data_dir.glob(f"{FOLDER}/*/*")


class BucketFiles:
    """`PhotoFiles` in a bucket; those used in place stay files.

    Args:
        data_dir: absolute; where the photos would be without a bucket. It need not exist.
        max_bytes: a photo has no more.
    """

    def __init__(self, bucket: Bucket, data_dir: Path, *, max_bytes: int) -> None:
        self._bucket = bucket
        self._data_dir = data_dir
        self._max_bytes = max_bytes
        self._in_place = LocalFiles(data_dir)

    def read(self, path: Path) -> bytes:
        name = self._name(path)
        return self._in_place.read(path) if name is None else self._bucket.read(name, max_bytes=self._max_bytes)

    def write(self, path: Path, data: bytes) -> None:
        name = self._name(path)
        assert name is not None, path  # noqa: S101 - what is used in place is never written
        self._bucket.write(name, data)

    def delete(self, path: Path) -> None:
        if name := self._name(path):
            self._bucket.delete(name)
        self._in_place.delete(path)

    def clear_up(self) -> None:
        self._in_place.clear_up()
        for path in self._in_place.paths():
            if OUR_FILE.fullmatch(path.name):
                self.write(path, path.read_bytes())
                path.unlink()

    def paths(self) -> Iterator[Path]:
        return (self._data_dir / name for name in self._bucket.names(FOLDER))

    def _name(self, path: Path) -> str | None:
        """The object of a photo; None for one that is used in place."""
        path = path.absolute()
        return path.relative_to(self._data_dir).as_posix() if path.is_relative_to(self._data_dir / FOLDER) else None


def open_files(settings: Settings) -> PhotoFiles:
    """Where the photos of these settings are. Raises ConfigError if the library for a bucket is not installed."""
    bucket = open_bucket(settings)
    if bucket is None:
        return LocalFiles(settings.data_dir)
    return in_bucket(bucket, settings.data_dir.absolute(), settings.images)


def in_bucket(bucket: Bucket, data_dir: Path, limits: ImageSettings) -> PhotoFiles:
    """The photos of a data_dir, absolute, in a bucket."""
    return BucketFiles(bucket, data_dir, max_bytes=limits.max_bytes)


def read_photo(photo: Stored, files: PhotoFiles) -> bytes:
    """Read a photo's bytes and check their SHA-256.

    Raises:
        ImageError: it is missing, or not as it was.
        StorageError: the bucket does not answer, or refuses.
    """
    try:
        data = files.read(photo.path)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}", reason="missing") from error
    if hashlib.sha256(data).hexdigest() != photo.sha256:
        raise ImageError("the file has changed since it was added: its SHA-256 differs", reason="changed")
    return data
