"""Pure functions of the training benchmarks: the reference recipe, its extrapolation, draws, simulations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import real, reference
from benchmarks.calibration import errors_by_chance
from benchmarks.imbalance import drop_every_second_member
from benchmarks.retrain import grow
from benchmarks.studio import Studio, create_gallery, seconds_of_steps, with_other_members
from tests.trainer.collection import paint_photos
from trainer.config import FeatureSettings, SplitSettings
from trainer.errors import ConfigError
from trainer.photos.dataset import Dataset, Item, build_dataset
from trainer.photos.manifest import Photo
from trainer.vgg16.backend import load_keras
from trainer.vgg16.weights import load_weights


@pytest.fixture(scope="module")
def recipe() -> Any:
    """The reference's network for three labels."""
    return reference.build(load_keras(), 3)


def test_the_reference_freezes_the_first_fifteen_layers_and_trains_block5(recipe: Any) -> None:
    assert [layer.name for layer in recipe.layers if layer.trainable and layer.count_params()][:3] == [
        "block5_conv1",
        "block5_conv2",
        "block5_conv3",
    ]
    assert sum(not layer.trainable for layer in recipe.layers) == reference.N_FROZEN == 15


def test_the_reference_is_vgg16_under_one_hidden_layer_of_1024(recipe: Any) -> None:
    kinds = Counter(type(layer).__name__ for layer in recipe.layers)
    assert (kinds["Conv2D"], kinds["MaxPooling2D"], kinds["GlobalAveragePooling2D"], kinds["Dense"]) == (13, 5, 1, 2)
    assert [layer.units for layer in recipe.layers[-2:]] == [1024, 3]
    assert recipe.input_shape == (None, 224, 224, 3)
    assert recipe.layers[-1].activation.__name__ == "softmax"
    assert recipe.compute_dtype == "float32"


def test_the_reference_uses_sgd_with_a_low_learning_rate(recipe: Any) -> None:
    assert recipe.optimizer.name.lower().startswith("sgd")
    assert float(recipe.optimizer.learning_rate) == pytest.approx(1e-4)
    assert recipe.optimizer.momentum == 0.9


def test_the_reference_starts_from_the_weights_of_the_trainer(recipe: Any) -> None:
    for name, arrays in load_weights(FeatureSettings(weights="random"), keras=load_keras()).items():
        for mine, theirs in zip(recipe.get_layer(name).get_weights(), arrays, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_200_epochs_take_the_first_plus_199_times_the_mean_of_later_ones() -> None:
    assert reference.whole_training_s([50.0, 10.0, 12.0]) == pytest.approx(50 + 199 * 11)


def test_one_epoch_is_too_few_for_an_extrapolation() -> None:
    with pytest.raises(ValueError, match="two epochs"):
        reference.whole_training_s([50.0])


def test_the_reference_gets_the_same_photos_in_the_same_splits(tmp_path: Path) -> None:
    items = []
    for number, (split, label) in enumerate([("train", "a"), ("train", "b"), ("holdout", "a"), ("validation", "b")]):
        path = tmp_path / f"{number}.jpeg"
        path.write_bytes(bytes([number]))
        items.append(Item(f"{number:064x}", path, label, "ab".index(label), "somebody", split))  # type: ignore[arg-type]
    reference.link_photos(items, tmp_path / "recipe")
    for item in items:
        assert (tmp_path / "recipe" / item.split / item.label / item.path.name).read_bytes() == item.path.read_bytes()
    assert sum(path.is_file() for path in (tmp_path / "recipe").rglob("*")) == len(items)


def test_a_created_gallery_has_enough_intact_photos_per_label() -> None:
    gallery = create_gallery(30)
    for label in gallery.labels:
        assert sum(photo.flaw is None for photo in gallery.photos(label)) >= 30


def test_a_trainer_process_ignores_the_users_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOKOCOS_HEAD__SEED", "7")  # of whoever starts the benchmark
    place = Studio(create_gallery(10), "http://127.0.0.1:9", tmp_path, 10, {"FEATURES__PRECISION": "float32"})
    settings = place.settings()
    site = settings.source.worldcosplay
    assert (site.base_url, site.image_hosts) == ("http://127.0.0.1:9", ("127.0.0.1",))
    assert tuple(sorted(site.countries)) == place.gallery.labels
    assert (settings.features.weights, settings.features.precision, settings.head.seed) == ("random", "float32", 0)


def test_a_growing_gallery_has_new_photos_of_old_and_new_members(tmp_path: Path) -> None:
    place = Studio(create_gallery(10), "http://127.0.0.1:9", tmp_path, 10)
    before = {photo.photo_id for photo in place.gallery.photos()}
    members = {label: len(place.gallery.members(label)) for label in place.gallery.labels}
    assert grow(place, 4) == 12
    assert place.photos_per_label == 14
    for label in place.gallery.labels:
        new = [photo for photo in place.gallery.photos(label) if photo.photo_id not in before]
        assert len(new) == 4
        assert len(place.gallery.members(label)) == members[label] + 1


def entries(run: str, *marks: tuple[float, str, str | None]) -> list[dict[str, str]]:
    """Lines of a journal: (seconds, event, name of a step)."""
    start = datetime(2027, 1, 4, tzinfo=UTC)
    return [
        {
            "run": run,
            "at": (start + timedelta(seconds=at)).isoformat(),
            "event": event,
            **({"name": name} if name else {}),
        }
        for at, event, name in marks
    ]


def test_steps_are_timed_from_the_journal_of_the_last_run() -> None:
    before = entries("before", (0, "start", None), (1, "step", "head"), (90, "end", None))
    last = entries(
        "last",
        (0, "start", None),
        (2, "step", "features"),
        (4, "reading", None),
        (5, "step", "head"),
        (9, "step", "features"),
        (10, "end", None),
    )
    assert seconds_of_steps(before + last) == {"start": 2.0, "features": 4.0, "head": 4.0}


def photos(n_members: int, *, labels: Sequence[str] = ("a", "b")) -> list[Photo]:
    """Three photos by each member of each label."""
    rng = np.random.default_rng(0)
    return [
        Photo(
            sha256=rng.bytes(32).hex(),
            label=label,
            source="made up",
            photo_id=f"{label}{member}-{number}",
            member_id=f"{label}{member}",
            page_url="",
            image_url="",
            path=Path("photo.jpeg"),
            n_bytes=1,
            width=1,
            height=1,
            phash=rng.bytes(32).hex(),
            split=None,
            fetched_at=datetime(2027, 1, 4, tzinfo=UTC),
        )
        for member in range(n_members)
        for label in labels
        for number in range(3)
    ]


def splits(listed: Sequence[Photo]) -> Dataset:
    return build_dataset(listed, split=SplitSettings(), data_dir=Path())


def test_another_draw_has_other_holdout_members_and_does_not_divide_members() -> None:
    listed = photos(30)
    first, second = (splits(with_other_members(listed, turn)) for turn in (0, 1))
    assert first == splits(listed)
    assert {item.sha256 for item in first.split("holdout")} != {item.sha256 for item in second.split("holdout")}
    split_of = {item.sha256: item.split for item in second.items}
    for at in range(0, len(listed), 3):  # a member's three photos
        assert len({split_of[photo.sha256] for photo in listed[at : at + 3]}) == 1


def test_only_the_rare_label_loses_every_second_member() -> None:
    kept = drop_every_second_member(photos(10), "a")
    members = {photo.member_id for photo in kept}
    assert Counter(photo.label for photo in kept) == {"a": 15, "b": 30}
    assert {member for member in members if member and member.startswith("a")} == {f"a{n}" for n in range(0, 10, 2)}


def test_the_simulated_error_is_smaller_for_more_photos_and_zero_for_certain_scores() -> None:
    rng = np.random.default_rng(0)
    scores = rng.dirichlet([1, 1, 1], size=4000).astype(np.float32)
    few, many = (errors_by_chance(part, n=50).mean() for part in (scores[:100], scores))
    assert many < 0.02 < few < 0.15
    certain = np.eye(3, dtype=np.float32)[rng.integers(0, 3, 100)]
    assert errors_by_chance(certain, n=5).max() == 0


@pytest.mark.slow
def test_real_pictures_are_judged_draw_by_draw(tmp_path: Path) -> None:
    paint_photos(tmp_path / "pictures", per_label=16)
    result = real.run(quick=True, work_dir=tmp_path, say=lambda _: None, pictures=tmp_path / "pictures")
    figures = result.figures
    assert (figures["pictures"], figures["labels"], figures["draws"]) == (48, 3, 2)
    assert figures["weights"] == "VGG16 with seeded random weights"
    for name in ("balanced_accuracy", "regression_balanced_accuracy", "thinned_label_recall", "foreign_auroc"):
        value = figures[name]
        assert isinstance(value, float)
        assert 0 <= value <= 1
    assert {goal.figure for goal in result.goals} <= set(figures)


def test_real_pictures_need_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--pictures FOLDER"):
        real.run(quick=True, work_dir=tmp_path, say=lambda _: None)


def test_a_thinned_label_loses_training_photos_alone() -> None:
    listed = [
        replace(photo, split="train" if number < 8 else "holdout")
        for number, photo in enumerate(photos(12, labels=("a",))[:12])
    ]
    left = real._thinned(listed, "a")
    assert Counter(photo.split for photo in left) == {"train": 2, "holdout": 4}
