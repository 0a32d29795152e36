"""The collection that `scale` makes up, and how its steps are measured and added."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from benchmarks import scale
from benchmarks.scale import N_FILES, NEAR_DUPLICATES, SHARES, Used, figures_of_steps, made_up
from trainer.config import SplitSettings
from trainer.photos.dataset import OTHER_LABEL, OTHER_SPLIT, build_dataset
from trainer.photos.manifest import Photo

N_PHOTOS = 4000
FILES = {label: [Path(f"{label}/{number}.jpg") for number in range(N_FILES)] for label in ("brazil", "china", "japan")}


@pytest.fixture(scope="module")
def collection() -> list[Photo]:
    return list(made_up(N_PHOTOS, FILES))


def test_the_photos_differ_and_a_member_has_one_label(collection: list[Photo]) -> None:
    for name in ("sha256", "photo_id", "image_url"):
        assert len({getattr(photo, name) for photo in collection}) == N_PHOTOS
    labels = defaultdict(set)
    for photo in collection:
        labels[photo.member_id].add(photo.label)
    assert {len(of_member) for of_member in labels.values()} == {1}
    counts = Counter(photo.label for photo in collection)
    np.testing.assert_allclose([counts[label] / N_PHOTOS for label in FILES], SHARES, atol=0.06)


def test_near_duplicates_are_excluded_from_the_splits(collection: list[Photo]) -> None:
    dataset = build_dataset(collection, split=SplitSettings(), data_dir=Path("data"))
    reasons = Counter(reason for _, reason in dataset.excluded)
    assert set(reasons) == {OTHER_LABEL, OTHER_SPLIT}
    n_near = NEAR_DUPLICATES * N_PHOTOS
    assert n_near / 2 < reasons[OTHER_LABEL] / 2 + reasons[OTHER_SPLIT] < 1.5 * n_near


def test_a_step_that_is_begun_again_is_added_to() -> None:
    watcher = scale._Steps()
    for step in ("features", "head", "features", "end"):
        watcher.step(step)
    assert list(watcher.used) == ["features", "head"]
    assert all(used.peak_mb > 10 for used in watcher.used.values())
    assert scale._added(Used(1, 2, 30), Used(4, 5, 6)) == Used(5, 7, 30)


def test_the_peak_of_a_step_is_what_is_held_during_it() -> None:
    n_bytes = 100_000_000
    held = scale._used(lambda: np.ones(n_bytes, dtype=np.uint8).sum())
    after = scale._used(lambda: None)
    assert held.peak_mb - after.peak_mb > 0.9 * n_bytes / 2**20


def test_all_steps_together_add_up_and_the_highest_peak_counts() -> None:
    found = figures_of_steps({"photos": Used(2, 1, 300), "head": Used(9, 8, 200)})
    assert (found["s"], found["processor_s"], found["peak_mb"]) == (11, 9, 300)
    assert (found["head_processor_s"], found["head_mb"]) == (8, 200)
