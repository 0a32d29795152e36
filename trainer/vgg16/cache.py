"""Caches bottleneck features on disk, so that VGG16 runs once per photo.

One folder holds the features of one backbone (its `key` is the folder name), or the maps of one layer with one
flattened map per row. Each `append` writes one shard atomically: an .npy table with one row per photo and view. The
file name contains the SHA-256 of the content, so a damaged shard is detected, set aside and computed again. Shards are
never modified. `compact` merges small ones into new ones; duplicate rows do no harm.

Only one process writes at a time (guaranteed by the training lock).
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from trainer.bucket import Bucket
from trainer.errors import StorageError
from trainer.files import UNFINISHED_FILE, storage_error, sync_folder, write_file
from trainer.vgg16.mirror import Mirror, mirrored
from trainer.vgg16.stored_rows import Places, StoredRows

logger = logging.getLogger(__name__)

Features = npt.NDArray[np.float32]
Values = npt.NDArray[np.float32] | npt.NDArray[np.float16]
Kind = Literal["<f4", "<f2"]  # dtype on disk
Table = npt.NDArray[np.void]  # rows of (sha256, view, features); see `FeatureCache.row_type`

SHARD = re.compile(r"(?P<number>\d{8})-(?P<digest>[0-9a-f]{64})\.npy")
SET_ASIDE = ".damaged"
MAX_ROWS = 2**32  # of a shard
DIGEST_BYTES = 32
PAIRS = "likeness-*.npz"  # beside the caches; written by `trainer.review`
MERGED_BYTES = 64 * 1024 * 1024  # `compact` leaves shards of this size unchanged


class FeatureCache:
    """Features of photos, by SHA-256 and view."""

    def __init__(
        self, folder: Path, *, views: Sequence[str], n_features: int, kind: Kind = "<f4", bucket: Bucket | None = None
    ) -> None:
        """Open the cache and check every shard; nothing is written before the first `append`.

        Args:
            folder: used by this cache only; may not exist yet.
            views: names of the views, in the order of the arrays of `append` and `load`. Other views in the folder are
                kept.
            n_features: length of one view's features.
            kind: dtype on disk: float32, or float16 for half the space.
            bucket: keeps every shard too (`trainer.vgg16.mirror`).

        Raises:
            StorageError: the folder cannot be read, or the bucket does not answer.
        """
        self.folder = folder
        self.views = tuple(views)
        self.n_features = n_features
        self.row_type = np.dtype([("sha256", "u1", 32), ("view", "S16"), ("features", kind, n_features)])
        self._shards: dict[int, Path] = {}  # shard number -> file
        # view -> sha256 -> shard number * MAX_ROWS + row: one integer for a row, as there may be millions
        self._places: defaultdict[str, dict[bytes, int]] = defaultdict(dict)
        self._number = 0
        self._mirror = None if bucket is None else Mirror(bucket, folder)
        self._read_folder()

    def __len__(self) -> int:
        """Number of rows (photos times views) that can be loaded."""
        return sum(map(len, self._places.values()))

    def missing(self, sha256s: Iterable[str]) -> list[str]:
        """Photos with at least one missing view, without duplicates, in the order given."""
        return [sha256 for sha256 in dict.fromkeys(sha256s) if self.missing_views(sha256)]

    def missing_views(self, sha256: str) -> tuple[str, ...]:
        """The views of a photo that are not stored."""
        key = bytes.fromhex(sha256)
        return tuple(view for view in self.views if key not in self._places[view])

    def holds(self, sha256: str, view: str) -> bool:
        """Whether a view of a photo can be loaded."""
        return bytes.fromhex(sha256) in self._places[view]

    def append(self, sha256s: Sequence[str], features: Features) -> None:
        """Store all views of some photos atomically.

        Args:
            sha256s: n photos.
            features: (n, n_views, n_features), finite.

        Raises:
            StorageError: the disk is full; nothing was stored.
        """
        expected = (len(sha256s), len(self.views), self.n_features)
        if features.shape != expected:
            raise ValueError(f"features of shape {features.shape}, expected {expected}")
        rows = [(sha256, view) for sha256 in sha256s for view in self.views]
        self.append_rows(rows, features.reshape(len(rows), self.n_features))

    def append_rows(self, rows: Sequence[tuple[str, str]], features: Values) -> None:
        """Store single views atomically.

        Args:
            rows: n pairs (SHA-256 of a photo, name of a view).
            features: (n, n_features), finite.

        Raises:
            StorageError: the disk is full; nothing was stored.
        """
        if not rows:
            return
        table = np.zeros(len(rows), dtype=self.row_type)
        for row, (sha256, view) in zip(table, rows, strict=True):
            row["sha256"] = np.frombuffer(bytes.fromhex(sha256), dtype=np.uint8)
            row["view"] = view.encode()
        table["features"] = features
        self._add_shard(table)

    def load(self, sha256s: Sequence[str], *, views: Sequence[str] | None = None) -> Features:
        """Load features in the order given; besides the result, at most one shard is in memory.

        Args:
            sha256s: n photos, all stored; may contain duplicates.
            views: which of them; None means all views of this cache.

        Returns:
            (n, n_views, n_features) float32.

        Raises:
            KeyError: a view of a photo is not stored.
            StorageError: a shard cannot be read.
        """
        views = self.views if views is None else tuple(views)
        places = self._find((sha256, view) for sha256 in sha256s for view in views)
        return self._load(places).reshape(len(sha256s), len(views), self.n_features)

    def load_rows(self, rows: Sequence[tuple[str, str]]) -> Features:
        """Load single views by photo and view, in the order given.

        Returns:
            (n, n_features) float32.

        Raises:
            KeyError: a view is not stored.
            StorageError: a shard cannot be read.
        """
        return self._load(self._find(rows))

    def load_to_disk(self, sha256s: Sequence[str], *, views: Sequence[str]) -> StoredRows:
        """As `load`, for more features than fit into memory: (n * n_views, n_features), photo by photo.

        Raises:
            KeyError: a view of a photo is not stored.
            StorageError: a shard cannot be read, or the cache's disk has no room for the rows.
        """
        places = self._find((sha256, view) for sha256 in sha256s for view in views)
        return StoredRows.write(self._parts(places), (len(places), self.n_features), folder=self.folder)

    def remove(self, sha256s: Iterable[str]) -> int:
        """Delete photos with all their views, e.g. after a take-down.

        Returns:
            number of deleted rows. If it is interrupted, run it again.

        Raises:
            StorageError: the disk is full; some rows may not be deleted yet.
        """
        unwanted = {bytes.fromhex(sha256) for sha256 in sha256s}
        n_removed = 0
        for number, path in list(self._shards.items()):
            table = self._open(path)
            keep = np.array([bytes(sha256) not in unwanted for sha256 in table["sha256"]], dtype=bool)
            if not keep.all():
                n_removed += int((~keep).sum())
                self._replace([number], np.array(table[keep]))
        if n_removed:
            logger.info("features removed rows=%d folder=%s", n_removed, self.folder)
        return n_removed

    def compact(self) -> None:
        """Merge small shards into large ones, to avoid thousands of files.

        Raises:
            StorageError: the disk is full; nothing is lost.
        """
        for numbers in list(self._small_shards()):
            self._replace(numbers, np.concatenate([self._open(self._shards[number]) for number in numbers]))

    def _small_shards(self) -> Iterator[list[int]]:
        """Groups of two or more shards that together stay below MERGED_BYTES."""
        group: list[int] = []
        size = 0
        for number, path in self._shards.items():
            n_bytes = path.stat().st_size
            if group and size + n_bytes > MERGED_BYTES:
                if len(group) > 1:
                    yield group
                group, size = [], 0
            group.append(number)
            size += n_bytes
        if len(group) > 1:
            yield group

    def _replace(self, numbers: Sequence[int], table: Table) -> None:
        """Replace some shards by a new one; the old ones are deleted after the new one is safely on disk."""
        if len(table):
            self._add_shard(table)
        for number in numbers:  # these rows alone: looking at all of them for each shard would be quadratic
            for view, key, place in _rows(number, self._open(self._shards[number])):
                if self._places[view].get(key) == place:
                    del self._places[view][key]
        try:
            for number in numbers:
                path = self._shards.pop(number)
                path.unlink()
                if self._mirror is not None:
                    self._mirror.delete(path.name)
            sync_folder(self.folder)
        except OSError as error:
            raise storage_error(self.folder, error) from error

    def _add_shard(self, table: Table) -> None:
        content = io.BytesIO()
        np.save(content, table, allow_pickle=False)
        number = self._number + 1
        path = self.folder / f"{number:08d}-{hashlib.sha256(content.getbuffer()).hexdigest()}.npy"
        write_file(path, lambda file: file.write(content.getbuffer()))
        self._number = number
        self._index(number, path, table)
        if self._mirror is not None:
            self._mirror.push([path])

    def _index(self, number: int, path: Path, table: Table) -> None:
        self._shards[number] = path
        for view, key, place in _rows(number, table):
            self._places[view][key] = place

    def _find(self, rows: Iterable[tuple[str, str]]) -> Places:
        """Where single views are stored; raises KeyError."""

        def find(sha256: str, view: str) -> int:
            place = self._places[view].get(bytes.fromhex(sha256))
            if place is None:
                raise KeyError(f"no features of {sha256}, view {view}, in {self.folder}")
            return place

        if not all(path.exists() for path in self._shards.values()):
            # Merged since, when this process opened the folder again for a version with other views.
            self._shards.clear()
            self._places.clear()
            self._read_folder()
        return np.fromiter((find(*row) for row in rows), dtype=np.int64)

    def _load(self, places: Places) -> Features:
        result = np.empty((len(places), self.n_features), dtype=np.float32)
        for positions, values in self._parts(places):
            result[positions] = values
        return result

    def _parts(self, places: Places) -> Iterator[tuple[Places, Values]]:
        """The rows at some places, one shard after another: positions in `places`, and their values."""
        order = np.argsort(places, kind="stable")
        numbers, rows = np.divmod(places[order], MAX_ROWS)
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        for start, stop in pairwise([*starts.tolist(), len(order)]):
            yield order[start:stop], self._open(self._shards[int(numbers[start])])["features"][rows[start:stop]]

    def _read_folder(self) -> None:
        if self._mirror is not None:
            self._mirror.pull()
        try:
            found = sorted(self.folder.iterdir()) if self.folder.exists() else []
        except OSError as error:
            raise StorageError(f"{self.folder}: cannot be read: {error.strerror}") from error
        for path in found:
            match = SHARD.fullmatch(path.name)
            if match is None:
                continue
            number = int(match["number"])
            self._number = max(self._number, number)
            if self._is_whole(path, match["digest"]):
                self._index(number, path, self._open(path))
            else:
                self._set_aside(path)
        if self._mirror is not None:
            self._mirror.push(self._shards.values())

    def _is_whole(self, path: Path, digest: str) -> bool:
        """Whether a shard is as it was written; one that is damaged here alone is copied from the bucket."""
        if _digest(path) == digest:
            return True
        return self._mirror is not None and self._mirror.pull_again(path) and _digest(path) == digest

    def _set_aside(self, path: Path) -> None:
        aside = path.with_name(path.name + SET_ASIDE)
        logger.warning("features damaged shard=%s kept_as=%s; its photos are computed again", path, aside.name)
        try:
            path.replace(aside)
        except OSError as error:
            raise storage_error(aside, error) from error
        if self._mirror is not None:
            self._mirror.delete(path.name)

    def _open(self, path: Path) -> Table:
        """Open a shard as a memory-mapped table."""
        try:
            table: Table = np.load(path, mmap_mode="r", allow_pickle=False)
        except OSError as error:
            raise StorageError(f"{path}: cannot be read: {error.strerror or error}; run it again") from error
        if table.dtype != self.row_type:
            raise StorageError(f"{path}: rows of {table.dtype}, expected {self.row_type}; move {self.folder} away")
        return table


def _rows(number: int, table: Table) -> Iterator[tuple[str, bytes, int]]:
    """(view, sha256, place) of each row of a shard."""
    digests, key = table["sha256"].tobytes(), b""
    names: dict[bytes, str] = {}
    for row, name in enumerate(table["view"].tolist()):
        here = digests[row * DIGEST_BYTES : (row + 1) * DIGEST_BYTES]
        key = key if key == here else here  # a photo's views follow each other and share the object
        yield names.setdefault(name, name.decode()), key, number * MAX_ROWS + row


def remove_everywhere(features_dir: Path, sha256s: Iterable[str], *, bucket: Bucket | None = None) -> int:
    """Delete photos from the caches of all current and past backbones, e.g. after a take-down.

    Damaged shards that were set aside, what a crash left, and compared pairs of photos are deleted too.

    Args:
        features_dir: the folder that holds the caches' folders.
        sha256s: the photos; unknown ones are ignored.
        bucket: has these caches too.

    Returns:
        number of deleted rows. If it is interrupted, run it again.

    Raises:
        StorageError: the disk is full, a shard cannot be read, or the bucket does not answer.
    """
    unwanted = set(sha256s)
    n_removed = 0
    if bucket is not None:
        for key in mirrored(bucket):
            Mirror(bucket, features_dir / key).pull()
    for folder in sorted(features_dir.iterdir()) if features_dir.is_dir() else []:
        shape = _shape_of_features(folder)
        if shape is not None:
            n_removed += FeatureCache(folder, views=(), n_features=shape[0], kind=shape[1], bucket=bucket).remove(
                unwanted
            )
    # Nobody can tell whose rows these hold, and pairs of photos are quickly compared again.
    for pattern in (f"*/*{SET_ASIDE}", f"*/{UNFINISHED_FILE}", UNFINISHED_FILE, PAIRS):
        for path in features_dir.glob(pattern):
            path.unlink(missing_ok=True)
    return n_removed


def _shape_of_features(folder: Path) -> tuple[int, Kind] | None:
    """Row length and dtype, read from a shard of the folder; None if no shard can be read."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = SHARD.fullmatch(path.name)
        if match is not None and _digest(path) == match["digest"]:
            row = np.load(path, mmap_mode="r", allow_pickle=False).dtype["features"]
            return row.shape[0], "<f2" if row.base == np.float16 else "<f4"
    return None


def _digest(path: Path) -> str:
    """SHA-256 of a shard's bytes; checked before they are parsed."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror or error}; check the disk") from error
