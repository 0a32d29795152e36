"""Pure functions of the training benchmarks: the reference recipe, its extrapolation, draws, simulations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import converged, foreign, pictures, real, reference
from benchmarks.calibration import errors_by_chance
from benchmarks.imbalance import drop_every_second_member, equally_many
from benchmarks.retrain import grow
from benchmarks.studio import Studio, seconds_of_steps, with_other_members
from sandbox.gallery import Gallery
from tests.trainer.collection import paint_photos
from trainer.config import FeatureSettings, ImageSettings, SplitSettings
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
    for name, arrays in load_weights(FeatureSettings(weights="random")).items():
        for mine, theirs in zip(recipe.get_layer(name).get_weights(), arrays, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_the_reference_on_maps_is_the_same_network(recipe: Any) -> None:
    frozen, trained = reference.halves(load_keras(), recipe)
    image = np.random.default_rng(0).random((1, 224, 224, 3), dtype=np.float32)
    maps = frozen.predict_on_batch(image)
    assert maps.shape == (1, 14, 14, 512)
    np.testing.assert_allclose(trained.predict_on_batch(maps), recipe.predict_on_batch(image), rtol=1e-4)
    assert len(trained.trainable_weights) == len(recipe.trainable_weights) == 10  # three convolutions, two layers


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


def test_the_reference_sees_transparent_pictures_on_white_as_the_trainer_does(tmp_path: Path) -> None:
    path = tmp_path / "drawn.png"
    Image.new("RGBA", (40, 50), (0, 0, 0, 0)).save(path)
    item = Item("ab" * 32, path, "a", 0, "somebody", "train")
    converged.write_pictures([item], tmp_path / "recipe", ImageSettings())
    with Image.open(tmp_path / "recipe/train/a" / f"{item.sha256}.png") as picture:
        assert (picture.mode, picture.size, picture.getpixel((0, 0))) == ("RGB", (40, 50), (255, 255, 255))


def test_a_created_gallery_has_enough_intact_photos_per_label() -> None:
    gallery = Gallery.of_size(30, photos_per_member=5)
    for label in gallery.labels:
        assert sum(photo.flaw is None for photo in gallery.photos(label)) >= 30


def test_a_trainer_process_ignores_the_users_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOKOCOS_HEAD__SEED", "7")  # of whoever starts the benchmark
    gallery = Gallery.of_size(10, photos_per_member=5)
    place = Studio(gallery, "http://127.0.0.1:9", tmp_path, 10, {"FEATURES__PRECISION": "float32"})
    settings = place.settings()
    site = settings.source.worldcosplay
    assert (site.base_url, site.image_hosts) == ("http://127.0.0.1:9", ("127.0.0.1",))
    assert tuple(sorted(site.countries)) == place.gallery.labels
    assert (settings.features.weights, settings.features.precision, settings.head.seed) == ("random", "float32", 0)


def test_a_growing_gallery_has_new_photos_of_old_and_new_members(tmp_path: Path) -> None:
    place = Studio(Gallery.of_size(10, photos_per_member=5), "http://127.0.0.1:9", tmp_path, 10)
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
def test_real_pictures_are_judged_draw_by_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.vgg16.backbone.SIDE_PX", 64)  # a small VGG16, for speed
    monkeypatch.setattr(pictures, "gather_pictures", partial(pictures.gather_pictures, precision="float32"))
    paint_photos(tmp_path / "pictures", per_label=16)
    options: dict[str, Any] = {"quick": True, "say": lambda _: None, "weights": "random"}
    result = real.run(work_dir=tmp_path / "real", pictures=tmp_path / "pictures", **options)
    figures = result.figures
    assert (figures["pictures"], figures["draws"], figures["pictures_brazil"]) == (48, 2, 16)
    assert figures["weights"] == "VGG16 with seeded random weights"
    for name in ("balanced_accuracy", "regression_balanced_accuracy", "2_2_1_rare_recall", "recall_brazil", "coverage"):
        value = figures[name]
        assert isinstance(value, float)
        assert 0 <= value <= 1
    assert figures["12_beside_50_points_below"] is None  # no label has two dozen to learn from
    assert figures["2_2_1_training_pictures"] == 8
    assert {goal.figure for goal in result.goals} == {"points_above_regression", "own_refused"}
    assert {goal.figure for goal in result.goals} <= set(figures)
    with pytest.raises(ConfigError, match="--pictures FOLDER"):
        foreign.run(work_dir=tmp_path / "foreign", pictures=tmp_path / "pictures", **options)


def test_real_pictures_need_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--pictures FOLDER"):
        real.run(quick=True, work_dir=tmp_path, say=lambda _: None)


def test_a_rare_label_loses_photos_for_training_and_validation_alone() -> None:
    drawn = pictures.split(photos(40), draw=1)
    learned = Counter(photo.label for photo in drawn if photo.split == "train")
    assert learned == {"a": 60, "b": 60}
    for name, counts in {
        "12_beside_50": {("b", "train"): 12, ("b", "validation"): 8, ("b", "holdout"): 36, ("a", "train"): 50},
        "2_2_1": {("b", "train"): 30, ("b", "validation"): 12, ("b", "holdout"): 36, ("a", "train"): 60},
    }.items():
        rare, limits = real._rare_cases(learned, 1)[name]
        kept = Counter((photo.label, photo.split) for photo in pictures.thinned(drawn, limits))
        assert rare == "b"
        assert counts.items() <= kept.items()


def test_real_pictures_are_as_many_of_each_label_and_their_own_members() -> None:
    listed = [photo for photo in photos(10) if photo.label == "a" or photo.photo_id < "b5"]
    kept = equally_many(listed)
    assert Counter(photo.label for photo in kept) == {"a": 15, "b": 15}
    assert len({photo.member_id for photo in kept}) == 30


def kind(n: int, *, centres: Sequence[int], seed: int) -> foreign.Kind:
    """Made-up features of labels with a direction each."""
    rng = np.random.default_rng(seed)
    directions = np.abs(np.random.default_rng(0).normal(0, 1, (10, 512)))

    def draw() -> Any:
        indexes = np.repeat(np.arange(len(centres)), n)
        rows = np.abs(directions[np.array(centres)[indexes]] + rng.normal(0, 0.2, (len(indexes), 512)))
        return rows.astype(np.float32), indexes

    return foreign.Kind(
        tuple("abcd"[: len(centres)]),
        ("block5_conv3",),
        {split: draw() for split in ("train", "validation", "holdout")},
    )


def test_foreign_pictures_are_told_kind_by_kind_and_label_by_label() -> None:
    drawn: dict[str, Callable[[int], foreign.Kind]] = {
        "drawings": lambda seed: kind(30, centres=[0, 1, 2], seed=seed),
        "photos": lambda seed: kind(30, centres=[3, 4], seed=seed),
    }
    figures: dict[str, Any] = dict(foreign.measure(drawn, n_draws=2, say=lambda _: None))
    assert (figures["drawings"], figures["photos"]) == (270, 180)
    assert figures["far_auroc_lowest"] > 0.99
    assert figures["far_refused"] > 0.99
    assert figures["neighbours_auroc"] > 0.99
    assert 0 < figures["own_refused"] < 0.15
    same = foreign.tell(kind(30, centres=[0], seed=1), kind(30, centres=[0], seed=2).features)
    assert 0.3 < same.auroc < 0.7
