"""Rows of features that are too many for memory: in a temporary file without a name, read a part at a time.

Whoever reads an array by slices of rows reads these in the same way. They are read, not mapped, as mapped pages would
count as memory. The file's space is free again as soon as nobody holds its rows, also after `kill -9`.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.files import storage_error

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]

ITEM = np.dtype(np.float32).itemsize


class _File:
    """An open temporary file, closed when nobody holds it any more."""

    def __init__(self, folder: Path) -> None:
        file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - it lives as long as this
        self.descriptor = file.fileno()
        weakref.finalize(self, file.close)

    def write(self, data: memoryview, offset: int) -> None:
        while len(data):
            n_written = os.pwrite(self.descriptor, data, offset)
            data, offset = data[n_written:], offset + n_written

    def read(self, into: memoryview, offset: int) -> None:
        while len(into):  # a call reads 2 GiB at most
            n_read = os.preadv(self.descriptor, [into], offset)
            if not n_read:
                raise EOFError(f"the file of rows ends at {offset:,}")
            into, offset = into[n_read:], offset + n_read


class StoredRows:
    """(n, d) float32 on disk.

    Attributes:
        shape: (n, d).
    """

    def __init__(self, file: _File, shape: tuple[int, int], places: Places | None = None) -> None:
        """Use `write` and `at`.

        Args:
            file: rows of d values, one after another.
            shape: (n, d).
            places: (n,) which rows of the file these are; None: its first n.
        """
        self.shape = shape
        self._file = file
        self._places = places

    @classmethod
    def write(
        cls, parts: Iterable[tuple[Places, npt.NDArray[Any]]], shape: tuple[int, int], *, folder: Path
    ) -> StoredRows:
        """Store n rows.

        Args:
            parts: (m,) row numbers and their values (m, d), in any order; together each row once.
            shape: (n, d).
            folder: on the disk that gets the file, of n * d * 4 bytes.

        Raises:
            StorageError: the disk is full.
        """
        n_bytes = shape[1] * ITEM
        try:
            file = _File(folder)
            for places, values in parts:
                for place, row in zip(places.tolist(), np.ascontiguousarray(values, dtype=np.float32), strict=True):
                    file.write(row.data.cast("B"), place * n_bytes)
        except OSError as error:
            raise storage_error(folder, error) from error
        return cls(file, shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: slice | npt.NDArray[Any]) -> Floats:
        """The rows of a slice, or of an array of row numbers or flags, as an array."""
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if self._places is None and step == 1 and start < stop:
                rows = np.empty((stop - start, self.shape[1]), dtype=np.float32)
                self._file.read(rows.data.cast("B"), start * self.shape[1] * ITEM)
                return rows
            key = np.arange(start, stop, step)
        places = self._places_of(key)
        rows = np.empty((len(places), self.shape[1]), dtype=np.float32)
        for row, place in zip(rows, places.tolist(), strict=True):
            self._file.read(row.data.cast("B"), place * self.shape[1] * ITEM)
        return rows

    def at(self, key: npt.NDArray[Any]) -> StoredRows:
        """Some of the rows, by their numbers or flags, still on disk."""
        places = self._places_of(key)
        return StoredRows(self._file, (len(places), self.shape[1]), places)

    def _places_of(self, key: npt.NDArray[Any]) -> Places:
        places: Places = np.arange(len(self))[key] if self._places is None else self._places[key]
        return places


Table = Floats | StoredRows


def rows_at(table: Table, key: npt.NDArray[Any]) -> Table:
    """Some of the rows, by their numbers or flags: a copy of an array, or still on disk."""
    return table.at(key) if isinstance(table, StoredRows) else table[key]


def every(table: Table, n: int) -> Table:
    """Each n-th row: a view of an array, or still on disk."""
    return table.at(np.arange(0, len(table), n)) if isinstance(table, StoredRows) else table[::n]
