"""Photos unlike all training photos are detected, and few others are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainer.errors import ModelError
from trainer.head.head import Floats
from trainer.head.novelty import FILE_NAME, MAX_REFERENCES, REFUSED, Novelty
from trainer.vgg16.stored_rows import StoredRows

LAYERS = ("block3_conv3", "block5_conv3")  # 256 and 512 features


def photos(n: int, *, seed: int, kind: int = 0) -> Floats:
    """Features of photos of one kind: a few common directions with noise."""
    directions = np.abs(np.random.default_rng(kind).normal(0, 1, (6, 768)))
    rng = np.random.default_rng(seed)
    return np.abs(rng.dirichlet(np.ones(6), n) @ directions + rng.normal(0, 0.1, (n, 768))).astype(np.float32)


@pytest.fixture(scope="module")
def novelty() -> Novelty:
    return Novelty.fit(photos(300, seed=1), photos(200, seed=2), layers=LAYERS)


def test_few_photos_of_the_same_kind_are_refused_and_almost_all_of_another(novelty: Novelty) -> None:
    assert novelty.is_known(photos(200, seed=2)).mean() >= 1 - REFUSED
    assert novelty.is_known(photos(500, seed=3)).mean() > 0.85
    assert novelty.is_known(photos(500, seed=4, kind=9)).mean() < 0.05


def test_rows_on_disk_give_the_same_limit_and_distances(novelty: Novelty, tmp_path: Path) -> None:
    def stored(rows: Floats) -> StoredRows:
        return StoredRows.write([(np.arange(len(rows)), rows)], rows.shape, folder=tmp_path)

    there = Novelty.fit(stored(photos(300, seed=1)), stored(photos(200, seed=2)), layers=LAYERS)
    assert there.limit == novelty.limit
    assert (there.references == novelty.references).all()
    unseen = photos(300, seed=3)  # more than are compared at a time
    assert (there.distances(stored(unseen)) == novelty.distances(unseen)).all()


def test_of_unseen_photos_of_the_same_kind_as_few_are_refused_as_promised() -> None:
    """With thirty validation photos, the 95% quantile of their own distances would refuse 6.5% of others."""
    rows = photos(4000, seed=11)
    refused = [
        1 - Novelty.fit(rows[:300], part, layers=LAYERS).is_known(rows[2500:]).mean()
        for part in rows[300:2490].reshape(73, 30, -1)
    ]
    assert np.mean(refused) < REFUSED


def test_only_block5_is_used_if_it_is_among_the_layers(novelty: Novelty) -> None:
    changed = photos(50, seed=5)
    before = novelty.distances(changed)
    changed[:, :256] = 7.0
    np.testing.assert_array_equal(novelty.distances(changed), before)
    assert Novelty.fit(changed, changed, layers=("block3_conv3", "block4_conv3")).columns == (0, 768)


def test_a_photo_without_any_feature_is_not_known(novelty: Novelty) -> None:
    assert not novelty.is_known(np.zeros((1, 768), dtype=np.float32)).any()


def test_a_saved_novelty_decides_the_same_when_loaded(novelty: Novelty, tmp_path: Path) -> None:
    novelty.save(tmp_path)
    loaded = Novelty.load(tmp_path)
    assert loaded is not None
    rows = np.concatenate([photos(100, seed=7), photos(100, seed=8, kind=9)])
    np.testing.assert_array_equal(loaded.distances(rows), novelty.distances(rows))
    assert (loaded.limit, loaded.columns) == (novelty.limit, novelty.columns)


def test_a_version_without_it_has_none_and_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    assert Novelty.load(tmp_path) is None
    (tmp_path / FILE_NAME).write_bytes(b"no archive")
    with pytest.raises(ModelError, match="roll back, or train again"):
        Novelty.load(tmp_path)


def test_references_of_100_000_photos_are_sampled(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).random((MAX_REFERENCES * 5, 8), dtype=np.float32)
    rows = np.concatenate([np.zeros((len(rows), 504), dtype=np.float32), rows], axis=1)
    novelty = Novelty.fit(rows, rows[:50], layers=("block5_conv3",))
    novelty.save(tmp_path)
    assert len(novelty.references) == MAX_REFERENCES
    assert (tmp_path / FILE_NAME).stat().st_size < 50_000_000


def test_fewer_photos_than_neighbours_are_enough() -> None:
    novelty = Novelty.fit(photos(3, seed=1), photos(3, seed=1), layers=LAYERS)
    assert novelty.is_known(photos(3, seed=1)).all()
