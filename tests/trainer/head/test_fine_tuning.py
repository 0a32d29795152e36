"""Fine-tuning can be resumed bit-identically, is kept only if it helps, and serves the evaluated scores."""

import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer.collection import Silent, gather, paint_photos, settings_for
from trainer.config import FeatureSettings, HeadSettings, Settings, load_settings
from trainer.errors import ConfigError
from trainer.head import checkpoint as checkpoint_module
from trainer.head.fine_tuning import Rows, Tuning, fine_tune
from trainer.head.fit import FittedHead, fit_head, judge
from trainer.head.head import FILE_NAME as HEAD
from trainer.head.head import Head
from trainer.photos.images import prepare
from trainer.registry.registry import BLOCK5, METRICS, PHOTOS, REPORT, Registry, Version
from trainer.registry.serving import Classifier
from trainer.training.fitting import CHECKPOINT, repeat
from trainer.training.journal import Journal
from trainer.training.reproduce import reproduce
from trainer.training.train import Outcome, clear_up, evaluate_version, train
from trainer.training.training_data import TrainingData, features_dir
from trainer.vgg16.backbone import Backbone
from trainer.vgg16.cache import FeatureCache, remove_everywhere
from trainer.vgg16.last_block import Block5
from trainer.vgg16.maps import open_maps
from trainer.vgg16.weights import fingerprint

SIDE_PX = 32  # a small VGG16, for speed
START = datetime(2026, 11, 23, tzinfo=UTC)
FEATURES = FeatureSettings(weights="random", layers=("block5_conv1", "block3_conv3"))
UNRIPE = {"l2": 30.0, "fine_tune": "block5"}  # a head that is not fully fitted


@pytest.fixture(scope="module", autouse=True)
def small_images() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.vgg16.backbone.SIDE_PX", SIDE_PX)
        yield


@pytest.fixture
def write_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a checkpoint after every batch."""
    monkeypatch.setattr(checkpoint_module, "EVERY_S", 0.0)
    monkeypatch.setattr(checkpoint_module, "LARGEST_SHARE", np.inf)


@dataclass(frozen=True, eq=False)
class Stage:
    """Photos with features and maps, and a head that was fitted on them."""

    backbone: Backbone
    train: Rows
    validation: Rows
    maps: FeatureCache
    images: Any

    def head(self, settings: HeadSettings) -> FittedHead:
        return fit_head(
            self.train.features,
            self.train.class_indexes,
            validation_features=self.validation.features,
            validation_class_indexes=self.validation.class_indexes,
            labels=("a", "b", "c"),
            settings=settings,
        )

    def tune(self, settings: HeadSettings, checkpoint: Path, *, head: Head | None = None, **options: Any) -> Tuning:
        return fine_tune(
            head or self.head(settings).head,
            self.backbone,
            self.train,
            self.validation,
            maps=self.maps,
            settings=settings,
            checkpoint=checkpoint,
            **options,
        )


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Noise images with a little more of one colour for each of three classes."""
    backbone = Backbone.load(FEATURES, precision="float32")
    maps = open_maps(tmp_path_factory.mktemp("features"), backbone, ["whole"])
    rng = np.random.default_rng(0)
    rows, pictures = [], None
    for n in (70, 40):
        classes = np.arange(n) % 3
        blocks = rng.integers(0, 200, (n, 4, 4, 3))
        blocks[np.arange(n), :, :, classes] += rng.integers(0, 56, (n, 1, 1))
        pictures = blocks.repeat(8, axis=1).repeat(8, axis=2).astype(np.uint8)
        extracted = backbone.extract(pictures, batch_size=8, with_block4=True)
        assert extracted.block4_map is not None
        keys = [(hashlib.sha256(f"{n} {number}".encode()).hexdigest(), "whole") for number in range(n)]
        maps.append_rows(keys, extracted.block4_map.reshape(n, -1))
        rows.append(Rows(keys, extracted.features, classes))
    return Stage(backbone, train=rows[0], validation=rows[1], maps=maps, images=pictures)


def bits(tuning: Tuning) -> list[bytes]:
    arrays = [array for pair in (*tuning.block5.values(), *tuning.head.layers) for array in pair]
    return [array.tobytes() for array in arrays]


def head_settings(**changes: Any) -> HeadSettings:
    return HeadSettings.model_validate({"hidden_units": 0, "fine_tune_max_epochs": 3, **UNRIPE, **changes})


def test_block5_alone_gives_the_features_of_the_whole_network(stage: Stage) -> None:
    block5 = Block5(stage.backbone.block5(), layers=FEATURES.layers, map_shape=(2, 2, 512), precision="float32")
    frozen = stage.validation.features[:32]
    features = block5.features(
        np.where(np.arange(768) < 512, np.nan, frozen), stage.maps.load_rows(stage.validation.keys[:32])
    )
    np.testing.assert_allclose(features, frozen, rtol=2e-3, atol=2e-3 * frozen.max())
    assert all(
        np.array_equal(a, b)
        for name, pair in stage.backbone.block5().items()
        for a, b in zip(block5.weights[name], pair, strict=True)
    )


def test_fine_tuning_lowers_the_loss_of_serving(stage: Stage, tmp_path: Path) -> None:
    tuning = stage.tune(head_settings(l2=1000.0), tmp_path / CHECKPOINT)
    assert tuning.is_kept
    tuned = Backbone.load(FEATURES, precision="float32", block5=tuning.block5)
    served = tuning.head.logits(tuned.extract(stage.images, batch_size=8).features)
    assert tuning.best_epoch is not None
    loss, _ = judge(served, stage.validation.class_indexes)
    assert loss == pytest.approx(tuning.history[tuning.best_epoch].validation_loss, abs=1e-3)
    assert loss < tuning.before[0]
    assert tuned.fingerprint == stage.backbone.fingerprint
    assert tuned.tuned == fingerprint(tuning.block5) != fingerprint(stage.backbone.block5())
    assert tuned.key != tuned.frozen_key == stage.backbone.key


def test_no_more_than_a_batch_of_maps_is_read_at_a_time(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    load_rows = FeatureCache.load_rows

    def counted(cache: FeatureCache, rows: Sequence[tuple[str, str]]) -> Any:
        sizes.append(len(rows))
        return load_rows(cache, rows)

    monkeypatch.setattr(FeatureCache, "load_rows", counted)
    stage.tune(head_settings(fine_tune_max_epochs=1), tmp_path / CHECKPOINT)
    assert sizes == [32, 32, 32, 32, 8]  # 70 photos with padding, and 40 of validation


def test_a_worse_epoch_is_rolled_back_and_the_next_uses_a_lower_rate(stage: Stage, tmp_path: Path) -> None:
    settings = head_settings(max_epochs=30, fine_tune_learning_rate=0.01, fine_tune_max_epochs=8)
    tuning = stage.tune(settings, tmp_path / CHECKPOINT)
    losses = [epoch.validation_loss for epoch in tuning.history]
    assert len(losses) == 3
    assert min(losses) > tuning.before[0]
    assert losses[2] < losses[0]
    assert (tuning.is_kept, tuning.best_epoch, tuning.gain.mean) == (False, None, 0)
    assert "fine-tuned block5 discarded" in tuning.describe()
    fresh = stage.head(settings).head
    assert bits(tuning)[-2:] == [array.tobytes() for array in fresh.layers[0]]
    assert fingerprint(tuning.block5) == fingerprint(stage.backbone.block5())


@pytest.mark.slow
def test_a_resumed_fit_is_bit_identical(
    stage: Stage,
    tmp_path: Path,
    write_each_batch: None,  # noqa: ARG001
) -> None:
    settings = head_settings(hidden_units=8, fine_tune_max_epochs=2, dropout=0.3)
    linear = stage.head(settings).head
    rng = np.random.default_rng(0)
    kernels = [rng.normal(0, 0.05, shape).astype(np.float32) for shape in ((linear.n_features, 8), (8, 3))]
    head = replace(linear, layers=tuple((kernel, np.zeros(kernel.shape[1], np.float32)) for kernel in kernels))
    whole = stage.tune(settings, tmp_path / "whole", head=head)
    n_batches = 2 * (3 + 2)
    reached = 0
    for cut_after in (1, 4, 5, 8):  # in training, in validation, at the end of an epoch, and in training again

        def cut(done: int, total: int, first: int = reached, last: int = cut_after) -> None:
            assert total == n_batches
            assert first <= done <= last
            if done == last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stage.tune(settings, tmp_path / "cut", head=head, progress=cut)
        reached = cut_after
    resumed = stage.tune(settings, tmp_path / "cut", head=head)
    assert bits(resumed) == bits(whole)
    assert resumed.as_json() == whole.as_json()


def test_a_finished_fit_returns_at_once_and_another_one_starts_over(stage: Stage, tmp_path: Path) -> None:
    seen: list[int] = []
    settings = head_settings(fine_tune_max_epochs=1)
    first = stage.tune(settings, tmp_path / CHECKPOINT)
    again = stage.tune(settings, tmp_path / CHECKPOINT, progress=lambda done, _: seen.append(done))
    assert seen == [5]
    assert bits(again) == bits(first)
    other = head_settings(fine_tune_max_epochs=1, seed=1)
    stage.tune(other, tmp_path / CHECKPOINT, progress=lambda done, _: seen.append(done))
    assert seen[1:] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no archive", None])
def test_a_damaged_checkpoint_only_restarts_the_fit(
    stage: Stage, tmp_path: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    settings = head_settings(fine_tune_max_epochs=1)
    file = tmp_path / CHECKPOINT
    first = stage.tune(settings, file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content if damage is None else damage)
    assert bits(stage.tune(settings, file)) == bits(first)
    assert "starting over" in caplog.text


def test_checkpoints_take_at_most_a_thirtieth_of_the_time(tmp_path: Path) -> None:
    times = iter([0.0, 4.9, 5.0, 10.0, 11.0, 40.9, 41.1])  # one write from 10 to 11
    kept = checkpoint_module.Checkpoint(tmp_path / "file", "key", clock=lambda: next(times))
    assert [kept.is_due(), kept.is_due()] == [False, True]
    kept.write({"a": np.zeros(2)}, {"epoch": 1})
    assert [kept.is_due(), kept.is_due()] == [False, True]
    assert checkpoint_module.Checkpoint(tmp_path / "file", "other").load() is None
    found = checkpoint_module.Checkpoint(tmp_path / "file", "key").load()
    assert found is not None
    assert found[1] == {"epoch": 1}


# A whole training, from photos to a served version.


def tuning_settings(photos: Path, data_dir: Path, **head: Any) -> Settings:
    features = {"layers": ["block3_conv3", "block5_conv1"], "views": ["whole", "mirror"]}
    chosen = {**UNRIPE, "fine_tune_learning_rate": 0.0001, "fine_tune_max_epochs": 3, **head}
    return settings_for(photos, data_dir, features=features, head=chosen)


def run(settings: Settings, watcher: Silent | None = None, *, day: int = 0) -> Outcome:
    return train(settings, watcher or Silent(), now=lambda: START + timedelta(days=day))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    paint_photos(folder, per_label=30)
    return folder


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Outcome, list[str]]:
    """A data folder with a fine-tuned version, and the steps of its training."""
    settings = tuning_settings(photos, tmp_path_factory.mktemp("data"))
    gather(settings)
    watcher = Silent()
    return settings, run(settings, watcher), watcher.steps


def content(version: Version) -> dict[str, bytes]:
    names = (HEAD, PHOTOS, METRICS, BLOCK5)
    return {name: (version.folder / name).read_bytes() for name in names if (version.folder / name).exists()}


def test_a_fine_tuned_version_is_described_as_such_and_has_its_block5(
    trained: tuple[Settings, Outcome, list[str]],
) -> None:
    settings, outcome, steps = trained
    tuning = outcome.trained.tuning
    assert tuning is not None
    assert tuning.is_kept
    assert outcome.version.metrics["fine_tuning"] == tuning.as_json()
    assert outcome.version.facts.tuned == fingerprint(tuning.block5)
    held = outcome.version.block5()
    assert held is not None
    assert fingerprint(held) == outcome.version.facts.tuned
    with np.load(outcome.version.folder / BLOCK5, allow_pickle=False) as file:
        assert len(file.files) == 6
    page = (outcome.version.folder / REPORT).read_text()
    assert "Block5 fine-tuned and kept: validation loss" in page
    assert "validation loss by epoch of fine-tuning" in page
    assert steps[steps.index("head") :] == [
        "head",
        "fine-tuning",
        "features",
        "features",
        "evaluation",
        "curve",
        "comparison",
        "version",
    ]
    assert not (settings.data_dir / CHECKPOINT).exists()


def test_a_fine_tuned_version_serves_the_evaluated_scores(trained: tuple[Settings, Outcome, list[str]]) -> None:
    settings, outcome, _ = trained
    items = outcome.training_data.dataset.split("holdout")
    images = [
        prepare(item.path.read_bytes(), settings.images, [outcome.version.facts.view], side_px=SIDE_PX)[0]
        for item in items
    ]
    classifier = Classifier.load(settings)
    answers = classifier.predict(np.stack(images))
    np.testing.assert_allclose(np.stack([one.scores for one in answers]), outcome.trained.holdout_scores, atol=5e-3)
    assert {one.heatmap.shape for one in answers} == {(8, 8)}
    untuned = outcome.trained.fitted.head.scores(outcome.training_data.features(items)[:, 0])
    assert np.abs(untuned - outcome.trained.holdout_scores).max() > 0.02


def test_a_fine_tuned_version_is_trained_again_to_the_same_bits(
    trained: tuple[Settings, Outcome, list[str]],
) -> None:
    settings, outcome, _ = trained
    before = sorted(settings.data_dir.rglob("*"))
    found = reproduce(outcome.version.name, settings, Silent())
    assert BLOCK5 in found.compared
    assert found.differing == ()
    assert sorted(settings.data_dir.rglob("*")) == before


def test_evaluating_a_fine_tuned_version_again_needs_no_pass_of_vgg16(
    trained: tuple[Settings, Outcome, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, outcome, _ = trained
    for folder in features_dir(settings).glob("*-block5-*"):
        for file in folder.iterdir():
            file.unlink()
    monkeypatch.delattr(Backbone, "extract")
    version, report = evaluate_version(None, settings, Silent())
    assert version.name == outcome.version.name
    assert report.confusion == outcome.trained.report.confusion


def test_without_maps_a_fine_tuned_version_is_evaluated_from_photos(
    trained: tuple[Settings, Outcome, list[str]], tmp_path: Path
) -> None:
    settings, outcome, _ = trained
    (tmp_path / "versions").symlink_to(settings.data_dir / "versions")
    for name in ("registry.json", "manifest.sqlite3"):
        (tmp_path / name).symlink_to(settings.data_dir / name)
    elsewhere = settings.model_copy(update={"data_dir": tmp_path})
    report = evaluate_version(None, elsewhere, Silent())[1]
    assert report.confusion == outcome.trained.report.confusion


def test_the_same_training_again_is_bit_identical_and_not_promoted(
    trained: tuple[Settings, Outcome, list[str]],
) -> None:
    settings, first, _ = trained
    second = run(settings, day=1)
    same = {name: data for name, data in content(second.version).items() if name != METRICS}
    assert same == {name: data for name, data in content(first.version).items() if name != METRICS}
    assert (second.verdict.promoted, second.verdict.gain) == (False, 0)
    assert second.training_data.n_new == 0


def test_fine_tuning_that_does_not_help_gives_the_version_without_it(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ripe = {"max_epochs": 30, "learning_rate": 0.01, "fine_tune_learning_rate": 0.01}
    tried, untried = (tuning_settings(photos, tmp_path / name, fine_tune=name, **ripe) for name in ("block5", "none"))
    for settings in (tried, untried):
        gather(settings)
    with caplog.at_level(logging.INFO):
        with_it, without = run(tried), run(untried)
    assert "fine-tuned block5 discarded: validation loss" in caplog.text
    assert "Fine-tuned block5 discarded: validation loss" in (with_it.version.folder / REPORT).read_text()
    assert with_it.version.facts.tuned is None
    assert with_it.trained.report == without.trained.report
    names = {HEAD, PHOTOS}
    assert {name: content(with_it.version)[name] for name in names} == {
        name: content(without.version)[name] for name in names
    }
    assert not (with_it.version.folder / BLOCK5).exists()
    assert without.version.metrics["fine_tuning"] is None
    assert not list(features_dir(untried).glob("*block4_pool"))


def test_a_forgotten_photo_is_deleted_from_maps_and_fine_tuned_features_too(
    trained: tuple[Settings, Outcome, list[str]], tmp_path: Path
) -> None:
    settings, outcome, _ = trained
    features = tmp_path / "features"
    shutil.copytree(features_dir(settings), features)
    item = outcome.training_data.dataset.split("train")[0]
    # two views each of features and maps, one of tuned features and of colours
    assert remove_everywhere(features, [item.sha256]) == 2 + 2 + 1 + 1
    assert isinstance(outcome.training_data.backbone, Backbone)
    maps = open_maps(features, outcome.training_data.backbone, ["whole", "mirror"])
    assert maps.missing_views(item.sha256) == ("whole", "mirror")
    other = outcome.training_data.dataset.split("train")[1]
    assert maps.missing_views(other.sha256) == ()
    assert all(item.sha256.encode() not in path.read_bytes() for path in features.rglob("*.npy"))
    assert all(bytes.fromhex(item.sha256) not in path.read_bytes() for path in features.rglob("*.npy"))


def test_only_needed_maps_are_stored_and_a_damaged_one_is_computed_again(
    trained: tuple[Settings, Outcome, list[str]], tmp_path: Path
) -> None:
    settings, outcome, _ = trained
    (tmp_path / "manifest.sqlite3").symlink_to(settings.data_dir / "manifest.sqlite3")
    shutil.copytree(features_dir(settings), tmp_path / "features")
    elsewhere = settings.model_copy(update={"data_dir": tmp_path})
    maps = outcome.training_data.maps
    assert maps is not None
    splits = {name: len(outcome.training_data.dataset.split(name)) for name in ("train", "validation", "holdout")}
    assert len(maps) == 2 * splits["train"] + splits["validation"] + splits["holdout"]
    keys = [(item.sha256, "whole") for item in outcome.training_data.dataset.items]
    before = maps.load_rows(keys)
    assert isinstance(outcome.training_data.backbone, Backbone)
    (shard,) = (tmp_path / "features" / outcome.training_data.backbone.map_key).glob("*.npy")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    training_data = TrainingData.gather(elsewhere, Silent())
    assert training_data.n_new == len(keys)
    assert training_data.maps is not None
    assert np.array_equal(training_data.maps.load_rows(keys), before)
    assert len(training_data.cache) == len(outcome.training_data.cache)


def test_features_of_an_unused_block5_are_deleted(
    trained: tuple[Settings, Outcome, list[str]],
) -> None:
    settings, outcome, _ = trained
    past = features_dir(settings) / f"{outcome.training_data.backbone.key}-block5-{'0' * 16}"
    past.mkdir()
    clear_up(settings)
    assert not past.exists()
    assert outcome.version.facts.tuned is not None
    assert len(list(features_dir(settings).glob(f"*-block5-{outcome.version.facts.tuned[:16]}"))) == 1


def test_each_seed_of_a_repeated_training_is_fine_tuned(trained: tuple[Settings, Outcome, list[str]]) -> None:
    settings, outcome, _ = trained
    found = repeat(outcome.training_data, settings, Silent(), n=2, first=outcome.trained)
    clear_up(settings)
    assert [one.tuning is not None for one in found.values()] == [True, True]
    assert not np.array_equal(found[0].holdout_scores, found[1].holdout_scores)


def test_block5_cannot_be_fine_tuned_without_a_block5_layer(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("features: {layers: [block4_conv3]}\nhead: {fine_tune: block5}\n")
    with pytest.raises(ConfigError, match=r"fine_tune: block5 needs a block5 layer in features\.layers"):
        load_settings(Settings, file, {})
    file.write_text("head: {fine_tune: block4}\n")
    with pytest.raises(ConfigError, match="'none' or 'block5'"):
        load_settings(Settings, file, {})


# Trains like `python -m trainer train`, and prints the number of each batch of fine-tuning.
PROGRAM = """
import sys
from pathlib import Path
from datetime import UTC, datetime
from trainer.head import checkpoint
from trainer.vgg16 import backbone
from trainer.config import Settings
from trainer.training.session import session
from trainer.training.train import train

backbone.SIDE_PX, checkpoint.EVERY_S, checkpoint.LARGEST_SHARE = 32, 0.0, float("inf")
settings = Settings.model_validate_json(Path(sys.argv[1]).read_text())

class Telling:
    def step(self, name, total=None):
        self.name = name

    def update(self, done, total):
        if self.name == "fine-tuning":
            print(done, flush=True)

with session(settings.data_dir, "train") as run:
    train(settings, run.watcher(Telling()), now=lambda: datetime(2026, 11, 23, tzinfo=UTC))
"""


def train_in_a_process(settings: Settings, file: Path, *, kill_at: int | None = None) -> list[int]:
    """The batches that a training printed before it was killed or ended."""
    file.write_text(settings.model_dump_json())
    told = []
    command = [sys.executable, "-c", PROGRAM, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            told.append(int(line))
            if told[-1] == kill_at:
                os.kill(process.pid, signal.SIGKILL)
                break
    assert process.returncode == (0 if kill_at is None else -signal.SIGKILL)
    return told


@pytest.mark.slow
def test_a_training_killed_during_fine_tuning_resumes_to_the_same_version(photos: Path, tmp_path: Path) -> None:
    whole, killed = (tuning_settings(photos, tmp_path / name) for name in ("whole", "killed"))
    for settings in (whole, killed):
        gather(settings)
    kill_at = train_in_a_process(whole, tmp_path / "settings.json")[-1] // 2
    train_in_a_process(killed, tmp_path / "settings.json", kill_at=kill_at)
    assert Journal(killed.data_dir).runs()[-1].step == "fine-tuning"
    assert train_in_a_process(killed, tmp_path / "settings.json")[0] >= kill_at
    versions = [Registry(settings.data_dir).champion() for settings in (whole, killed)]
    assert versions[0] is not None
    assert versions[1] is not None
    assert content(versions[0]) == content(versions[1])
    assert BLOCK5 in content(versions[0])
