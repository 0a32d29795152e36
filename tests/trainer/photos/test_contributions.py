"""A contributed photo is whole or not there; one that is taken back is gone at once, and its traces are known."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from trainer.errors import StorageError
from trainer.files import write_file
from trainer.photos.contributions import SOURCE, Contribution, Contributions, draw, new_id

DATA = draw(np.full((60, 40, 3), 200, dtype=np.uint8))
NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
SHA256 = hashlib.sha256(DATA).hexdigest()
FIRST = Contribution(new_id(), SHA256, "japan", "7", "11", "12", "13", "14", 40, 60, len(DATA), NOON)


@pytest.fixture
def folder(tmp_path: Path) -> Contributions:
    folder = Contributions(tmp_path)
    folder.put(FIRST, DATA)
    return folder


def names(folder: Contributions) -> set[str]:
    return {path.suffix for path in folder.folder.iterdir()}


def test_a_photo_is_there_with_its_record_the_oldest_first(folder: Contributions, tmp_path: Path) -> None:
    earlier = replace(FIRST, id=new_id(), offered_at=FIRST.offered_at - timedelta(days=1))
    folder.put(earlier, DATA)
    assert Contributions(tmp_path).all() == [earlier, FIRST]
    assert (tmp_path / FIRST.path).read_bytes() == DATA
    assert not folder.is_empty()
    assert Contributions(tmp_path / "elsewhere").is_empty()


def test_only_a_photo_whose_hash_is_known_can_be_learned_from(folder: Contributions) -> None:
    assert folder.photos() == []
    folder.set_phash(FIRST.id, "ab" * 32)
    (photo,) = folder.photos()
    assert (photo.source, photo.photo_id, photo.label, photo.phash) == (SOURCE, FIRST.id, "japan", "ab" * 32)
    assert photo.split is None


def test_what_is_taken_back_is_gone_at_once_and_its_traces_are_known_until_they_are(folder: Contributions) -> None:
    folder.set_phash(FIRST.id, "ab" * 32)
    assert folder.take_back(FIRST.id)
    assert folder.all() == []
    assert names(folder) == {".taken_back"}
    assert folder.taken_back() == [FIRST]
    assert not folder.take_back(FIRST.id)
    folder.forget(FIRST.id)
    assert folder.is_empty()


def test_a_crash_between_photo_and_record_leaves_no_contribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(path: Path, write: object) -> None:
        if path.suffix == ".json":
            raise StorageError("the disk is full")
        real(path, write)  # type: ignore[arg-type]

    real = write_file
    monkeypatch.setattr("trainer.photos.contributions.write_file", crash)
    folder = Contributions(tmp_path)
    with pytest.raises(StorageError):
        folder.put(FIRST, DATA)
    assert folder.all() == []
    folder.delete_leftovers(before=time.time() - 60)
    assert names(folder) == {".jpg"}  # it may be one that is being written
    os.utime(tmp_path / FIRST.path, (0, 0))
    folder.delete_leftovers(before=time.time() - 60)
    assert folder.is_empty()


@pytest.mark.parametrize("record", ["", "{}", "[]", '{"id": 3}'])
def test_a_damaged_record_is_no_contribution(folder: Contributions, record: str) -> None:
    (folder.folder / f"{FIRST.id}.json").write_text(record)
    assert folder.all() == []


@pytest.mark.parametrize("id_", ["../manifest", "contribution-", "contribution-" + 16 * "A", ""])
def test_only_ids_of_contributions_name_files(folder: Contributions, id_: str) -> None:
    with pytest.raises(ValueError, match="no contribution"):
        folder.take_back(id_)
