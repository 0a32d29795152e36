"""Rows on disk read like an array in memory, and leave nothing behind."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.errors import StorageError
from trainer.vgg16.stored_rows import Floats, StoredRows, every, rows_at

N_ROWS, WIDTH = 23, 5
VALUES: Floats = np.random.default_rng(0).random((N_ROWS, WIDTH), dtype=np.float32)
ends = st.none() | st.integers(-N_ROWS - 3, N_ROWS + 3)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> StoredRows:
    """All rows, written in parts and in no order."""
    order = np.random.default_rng(1).permutation(N_ROWS)
    parts = [(part, VALUES[part]) for part in np.array_split(order, 4)]
    return StoredRows.write(parts, VALUES.shape, folder=tmp_path_factory.mktemp("rows"))


@given(start=ends, stop=ends, step=st.none() | st.integers(1, 6))
def test_a_slice_is_that_of_an_array(rows: StoredRows, start: int | None, stop: int | None, step: int | None) -> None:
    np.testing.assert_array_equal(rows[start:stop:step], VALUES[start:stop:step])
    np.testing.assert_array_equal(every(rows, 3)[start:stop:step], VALUES[::3][start:stop:step])


@pytest.mark.parametrize("key", [np.array([7, 0, 7, 22]), np.arange(N_ROWS) % 4 == 1, np.array([], dtype=np.int64)])
def test_rows_by_number_or_flag_are_those_of_an_array(rows: StoredRows, key: Any) -> None:
    np.testing.assert_array_equal(rows[key], VALUES[key])
    chosen = rows_at(rows, key)
    assert isinstance(chosen, StoredRows)
    assert chosen.shape == VALUES[key].shape
    np.testing.assert_array_equal(chosen[:], rows_at(VALUES, key))
    np.testing.assert_array_equal(every(chosen, 2)[:], VALUES[key][::2])


def test_an_array_that_was_read_can_be_written_to(rows: StoredRows) -> None:
    rows[2:4][:] = 0
    rows[np.array([2])][:] = 0
    np.testing.assert_array_equal(rows[2:4], VALUES[2:4])


def test_the_file_has_no_name(tmp_path: Path) -> None:
    stored = StoredRows.write([(np.arange(N_ROWS), VALUES)], VALUES.shape, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    np.testing.assert_array_equal(stored[:], VALUES)


def test_a_full_disk_is_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageError, match="disk is full"):
        StoredRows.write([(np.arange(N_ROWS), VALUES)], VALUES.shape, folder=tmp_path)
