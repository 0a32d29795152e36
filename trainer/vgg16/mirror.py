"""Keeps the shards of a feature cache in a bucket too; the local folder is what is mapped into memory.

The bucket belongs to one data_dir, so a shard that only one side has was not copied yet: it is copied, also when the
bucket is new or the local folder was lost. A shard is deleted here first, so that a crash brings it back, and a row
that is there twice does no harm. What is in a shard, and whether it is whole, is the cache's business.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from trainer.bucket import Bucket
from trainer.errors import StorageError
from trainer.files import write_file

FOLDER = "features"  # in a bucket; in it, a folder for each cache
MAX_BYTES = 512 * 1024 * 1024  # of a shard; the largest that are written have a quarter of it


class Mirror:
    """The shards of one cache in a bucket.

    Args:
        folder: the cache's own; its name is that of the objects' folder.
    """

    def __init__(self, bucket: Bucket, folder: Path) -> None:
        self._bucket = bucket
        self._folder = folder
        self._there: set[str] = set()  # names of the shards in the bucket

    def pull(self) -> None:
        """Copy the shards that the local folder lacks. Raises StorageError."""
        self._there = {name.rpartition("/")[2] for name in self._bucket.names(self._name(""))}
        for name in sorted(self._there):
            if not (self._folder / name).exists():
                self._copy(name)

    def pull_again(self, path: Path) -> bool:
        """Copy a shard that is damaged here; returns whether the bucket has it. Raises StorageError."""
        if path.name not in self._there:
            return False
        self._copy(path.name)
        return True

    def push(self, paths: Iterable[Path]) -> None:
        """Copy whole shards that the bucket lacks into it.

        Raises:
            StorageError: a shard cannot be read, or the bucket does not answer; the next `push` goes on.
        """
        for path in paths:
            if path.name not in self._there:
                try:
                    self._bucket.write(self._name(path.name), path.read_bytes())
                except OSError as error:
                    raise StorageError(f"{path}: cannot be read: {error.strerror}; check the disk") from error
                self._there.add(path.name)

    def delete(self, name: str) -> None:
        """Delete a shard from the bucket, if it is there. Raises StorageError."""
        if name in self._there:
            self._bucket.delete(self._name(name))
            self._there.discard(name)

    def _copy(self, name: str) -> None:
        try:
            data = self._bucket.read(self._name(name), max_bytes=MAX_BYTES)
        except OSError as error:
            raise StorageError(f"{self._bucket.url}/{self._name(name)}: {error.strerror}; run it again") from error
        write_file(self._folder / name, lambda file: file.write(data))

    def _name(self, name: str) -> str:
        return f"{FOLDER}/{self._folder.name}/{name}".rstrip("/")


def mirrored(bucket: Bucket) -> set[str]:
    """The names of all caches in a bucket. Raises StorageError."""
    return {name.split("/")[1] for name in bucket.names(FOLDER) if name.count("/") == 2}


def drop(bucket: Bucket, key: str) -> None:
    """Delete a cache from a bucket. Raises StorageError; the next call goes on."""
    for name in bucket.names(f"{FOLDER}/{key}"):
        bucket.delete(name)
