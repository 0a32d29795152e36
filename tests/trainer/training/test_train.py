"""A training gives a bit-identical version, repeated or interrupted."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer.collection import LABELS, Silent, gather, paint_photos, settings_for
from trainer.config import Settings
from trainer.errors import DatasetError, ModelError, StorageError
from trainer.evaluation.promotion import Verdict
from trainer.head.head import FILE_NAME as HEAD
from trainer.head.novelty import Novelty
from trainer.photos.manifest import FILE_NAME, Manifest
from trainer.registry.registry import METRICS, PHOTOS, REPORT, Registry, Version
from trainer.registry.serving import Classifier
from trainer.training import advice
from trainer.training import train as train_module
from trainer.training import training_data as training_data_module
from trainer.training.fitting import repeat
from trainer.training.train import Outcome, evaluate_version, train
from trainer.training.training_data import TrainingData
from trainer.vgg16.cache import FeatureCache

START = datetime(2026, 11, 23, 21, 0, tzinfo=UTC)


def run(settings: Settings, watcher: Silent | None = None, *, day: int = 0) -> Outcome:
    return train(settings, watcher or Silent(), now=lambda: START + timedelta(days=day))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    paint_photos(folder)
    return folder


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Outcome]:
    """A data folder with a first version; not modified."""
    settings = settings_for(photos, tmp_path_factory.mktemp("data"))
    gather(settings)
    return settings, run(settings)


@pytest.fixture
def settings(trained: tuple[Settings, Outcome], tmp_path: Path) -> Settings:
    """A copy of that data folder."""
    shutil.copytree(trained[0].data_dir, tmp_path / "data")
    return trained[0].model_copy(update={"data_dir": tmp_path / "data"})


def content(version: Version) -> dict[str, bytes]:
    return {name: (version.folder / name).read_bytes() for name in (HEAD, PHOTOS)}


def test_the_first_version_becomes_the_champion_and_can_serve(trained: tuple[Settings, Outcome]) -> None:
    settings, outcome = trained
    assert outcome.verdict == Verdict(True, ("it is the first version",))
    assert Registry(settings.data_dir).champion_name() == outcome.version.name == "2026-11-23-1"
    assert outcome.version.facts.labels == LABELS
    accuracy = outcome.trained.report.balanced_accuracy.value
    assert accuracy is not None
    assert accuracy > outcome.trained.report.baselines["majority class"] + 0.2
    classifier = Classifier.load(settings)
    assert classifier.version == outcome.version.name
    assert classifier.thresholds == outcome.trained.thresholds


def test_training_and_serving_score_a_photo_the_same(trained: tuple[Settings, Outcome]) -> None:
    from trainer.photos.images import prepare

    settings, outcome = trained
    items = outcome.training_data.dataset.split("holdout")[:3]
    images = [prepare(item.path.read_bytes(), settings.images, [outcome.version.facts.view])[0] for item in items]
    served = [one.scores for one in Classifier.load(settings).predict(np.stack(images))]
    np.testing.assert_allclose(np.stack(served), outcome.trained.holdout_scores[:3], atol=1e-3)


def test_a_version_lists_its_training_and_validation_photos_only(trained: tuple[Settings, Outcome]) -> None:
    _, outcome = trained
    listed = set((outcome.version.folder / PHOTOS).read_text().split())
    items = outcome.training_data.dataset.items
    assert listed == {item.sha256 for item in items if item.split != "holdout"}
    assert (outcome.version.folder / REPORT).stat().st_size > 10_000
    assert outcome.version.metrics["report"] == json.loads(json.dumps(outcome.trained.report.as_json()))


def test_the_same_photos_in_another_folder_give_the_same_head_and_figures(
    trained: tuple[Settings, Outcome], photos: Path, tmp_path: Path
) -> None:
    settings = settings_for(photos, tmp_path / "other")
    gather(settings)
    other = run(settings, day=3).version
    assert content(other) == content(trained[1].version)
    assert (other.folder / METRICS).read_bytes() == (trained[1].version.folder / METRICS).read_bytes()


def test_more_photos_than_memory_holds_give_the_same_version_in_whatever_order_they_were_stored(
    trained: tuple[Settings, Outcome], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_data_module, "IN_MEMORY", 0)
    version = run(settings, day=1).version
    cache = trained[1].training_data.cache
    sha256s = [item.sha256 for item in trained[1].training_data.dataset.items][::-1]
    shuffled = settings.model_copy(update={"data_dir": tmp_path / "shuffled"})
    shutil.copytree(settings.data_dir, shuffled.data_dir, ignore=lambda *_: [cache.folder.name])
    for part in (sha256s[::2], sha256s[1::2]):
        folder = shuffled.data_dir / "features" / cache.folder.name
        FeatureCache(folder, views=cache.views, n_features=cache.n_features).append(part, cache.load(part))
    again = run(shuffled, day=2).version
    assert content(again) == content(version)
    here, there = (json.loads((each.folder / METRICS).read_bytes()) for each in (trained[1].version, version))
    assert there["report"]["confusion"] == here["report"]["confusion"]
    assert there["novelty"] == here["novelty"]
    assert there["verdict"]["n_photos"] == here["report"]["n_photos"]  # the comparison read them from disk, too


@pytest.mark.parametrize("step", ["features", "head", "version"])
def test_an_interrupted_training_resumes_to_the_same_version(
    trained: tuple[Settings, Outcome], photos: Path, tmp_path: Path, step: str
) -> None:
    settings = settings_for(photos, tmp_path / "other")
    gather(settings)
    with pytest.raises(KeyboardInterrupt):
        run(settings, Silent(fail_at=step))
    assert Registry(settings.data_dir).champion() is None
    version = run(settings).version
    assert content(version) == content(trained[1].version)
    assert (version.folder / METRICS).read_bytes() == (trained[1].version.folder / METRICS).read_bytes()


def test_the_same_training_again_is_saved_but_not_promoted(settings: Settings) -> None:
    outcome = run(settings, day=1)
    assert not outcome.verdict.promoted
    assert outcome.verdict.gain == 0
    assert "not clearly better" in outcome.verdict.reasons[0]
    assert outcome.training_data.n_new == 0
    assert Registry(settings.data_dir).champion_name() == "2026-11-23-1"
    assert outcome.version.metrics["compared_with"] == "2026-11-23-1"


def test_a_champion_with_other_labels_is_compared_by_their_names(settings: Settings) -> None:
    with_champion(settings, labels=("china", "brazil", "japan"))
    verdict = run(settings, day=1).verdict
    assert verdict.class_gains is not None
    assert verdict.class_gains["brazil"] > 0.5
    assert verdict.class_gains["japan"] == 0
    assert verdict.promoted


def test_photos_of_a_label_unknown_to_the_champion_are_its_errors(settings: Settings) -> None:
    with_champion(settings, labels=("brazil", "china", "korea"))
    verdict = run(settings, day=1).verdict
    assert verdict.class_gains is not None
    assert verdict.class_gains["japan"] > 0.5
    assert list(verdict.class_gains) == list(LABELS)


def _copy_version(version: Version, folder: Path) -> None:
    for name in (HEAD, PHOTOS, REPORT):
        shutil.copy(version.folder / name, folder / name)


def with_champion(settings: Settings, change: Callable[[Path], object] = lambda _: None, **facts: Any) -> Version:
    """Replace the champion by a changed copy."""
    registry = Registry(settings.data_dir)
    champion = registry.champion()
    assert champion is not None

    def write(folder: Path) -> None:
        _copy_version(champion, folder)
        change(folder)

    changed = registry.add(replace(champion.facts, **facts), champion.metrics, write)
    return registry.promote(changed.name, reason="test")


def test_refusing_photos_of_its_own_labels_counts_against_a_version(
    settings: Settings, trained: tuple[Settings, Outcome]
) -> None:
    novelty = trained[1].trained.novelty
    with_champion(settings, lambda folder: replace(novelty, limit=-1.0).save(folder))  # refuses everything
    champions = run(settings, day=1).verdict
    assert champions.promoted
    assert champions.gain is not None
    assert champions.gain > 0.5


def test_if_the_champion_cannot_refuse_the_challengers_refusals_do_not_count(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_champion(settings)  # a copy without novelty.npz
    monkeypatch.setattr(Novelty, "is_known", lambda _, features: np.zeros(len(features), dtype=np.bool_))
    assert run(settings, day=1).verdict.gain == 0


def test_training_photos_of_the_champion_are_not_used_for_the_comparison(
    settings: Settings, trained: tuple[Settings, Outcome]
) -> None:
    holdout = [item.sha256 for item in trained[1].training_data.dataset.split("holdout")]

    def know_two(folder: Path) -> None:
        with (folder / PHOTOS).open("a") as file:
            file.write("".join(f"{sha256}\n" for sha256 in holdout[:2]))

    champion = with_champion(settings, know_two)
    assert run(settings, day=1).verdict.n_photos == len(holdout) - 2
    assert evaluate_version(champion.name, settings, Silent())[1].n_photos == len(holdout) - 2


def test_a_champion_whose_weights_are_gone_does_not_stop_a_training(settings: Settings) -> None:
    with_champion(settings, weights=str(settings.data_dir / "gone.h5"))
    outcome = run(settings, day=1)
    assert not outcome.verdict.promoted
    assert "the champion cannot be evaluated" in outcome.verdict.reasons[0]


def test_if_all_champions_are_damaged_the_new_version_is_promoted(settings: Settings) -> None:
    (settings.data_dir / "versions" / "2026-11-23-1" / HEAD).unlink()
    outcome = run(settings, day=1)
    assert outcome.verdict.promoted
    assert "all champions are missing or damaged" in outcome.verdict.reasons[0]


def test_a_version_is_evaluated_on_the_holdout_as_in_its_training(
    settings: Settings, trained: tuple[Settings, Outcome]
) -> None:
    version, report = evaluate_version(None, settings, Silent())
    assert version.name == "2026-11-23-1"
    assert report.confusion == trained[1].trained.report.confusion
    with pytest.raises(ModelError, match="no such version"):
        evaluate_version("2020-01-01-1", settings, Silent())


def test_photos_that_can_no_longer_be_read_are_excluded_and_listed(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    settings = settings_for(folder, tmp_path / "data")
    gather(settings)
    (folder / "japan" / "0-0.png").unlink()
    (folder / "japan" / "0-1.png").write_bytes(b"GIF89a, but no more")
    training_data = TrainingData.gather(settings, Silent())
    reasons = [reason for _, reason in training_data.dataset.excluded]
    assert len(training_data.dataset.items) == 3 * 24 - 2
    assert any("cannot be read" in reason for reason in reasons)
    assert any("SHA-256 differs" in reason for reason in reasons)


def test_too_few_readable_photos_are_an_error_that_says_how_many_are_missing(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    settings = settings_for(folder, tmp_path / "data")
    gather(settings)
    for number in range(20):
        (folder / "japan" / f"0-{number}.png").unlink()
    with pytest.raises(DatasetError, match="japan has 4, 6 are missing"):
        TrainingData.gather(settings, Silent())


def test_a_label_whose_photos_are_all_refused_or_deleted_is_an_error(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "korea").mkdir()
    (folder / "korea" / "1.jpg").write_bytes(b"<html>")
    settings = settings_for(folder, tmp_path / "data")
    gather(settings)
    with pytest.raises(DatasetError, match="korea has 0, 10 are missing"):
        TrainingData.gather(settings, Silent())
    shutil.rmtree(folder / "korea")
    gather(settings)
    shutil.rmtree(folder / "japan")
    with pytest.raises(DatasetError, match="japan has 0, 10 are missing"):
        TrainingData.gather(settings, Silent())


def test_when_all_photos_were_refused_the_error_says_so(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        (tmp_path / "photos" / label / "1.jpg").write_bytes(label.encode())
    settings = settings_for(tmp_path / "photos", tmp_path / "data")
    gather(settings)
    with pytest.raises(DatasetError, match="all 2 photos were refused"):
        TrainingData.gather(settings, Silent())


def test_a_country_that_is_no_longer_configured_is_not_used(photos: Path, tmp_path: Path) -> None:
    settings = settings_for(photos, tmp_path / "data")
    gather(settings)
    with Manifest(settings.data_dir / FILE_NAME) as manifest:
        for found in list(manifest.photos()):
            manifest.replace(found, replace(found, source="worldcosplay", member_id=found.photo_id))
    countries = {label: {"region": 1, "country": n} for n, label in enumerate(("brazil", "japan"))}
    source = {"kind": "worldcosplay", "worldcosplay": {"countries": countries}}
    training_data = TrainingData.gather(settings_for(photos, tmp_path / "data", source=source), Silent())
    assert training_data.dataset.labels == ("brazil", "japan")
    assert {item.label for item in training_data.dataset.items} == {"brazil", "japan"}


def test_without_photos_the_error_says_what_to_run(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(DatasetError, match="python -m trainer scrape"):
        run(settings_for(photos, tmp_path))


def test_a_full_disk_does_not_change_versions_and_champion(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(train_module, "write_file", full)
    with pytest.raises(StorageError):
        run(settings, day=1)
    registry = Registry(settings.data_dir)
    assert registry.names() == ["2026-11-23-1"]
    assert registry.champion_name() == "2026-11-23-1"


def test_repeated_trainings_of_a_linear_head_are_equal_and_save_no_version(
    settings: Settings, trained: tuple[Settings, Outcome]
) -> None:
    training_data = TrainingData.gather(settings, Silent())
    found = repeat(training_data, settings, Silent(), n=3, first=trained[1].trained)
    assert list(found) == [0, 1, 2]
    assert all(np.array_equal(one.holdout_scores, found[0].holdout_scores) for one in found.values())
    assert Registry(settings.data_dir).names() == ["2026-11-23-1"]


def test_repeated_trainings_of_a_hidden_layer_differ_by_their_seed_alone(
    settings: Settings, trained: tuple[Settings, Outcome]
) -> None:
    head = settings.head.model_copy(update={"hidden_units": 4, "batch_size": 8, "max_epochs": 3})
    small = settings.model_copy(update={"head": head})
    training_data = TrainingData.gather(small, Silent())
    found, again = (repeat(training_data, small, Silent(), n=3, first=trained[1].trained) for _ in range(2))
    assert found[1].fitted.history == again[1].fitted.history
    assert found[1].fitted.history != found[2].fitted.history


def test_a_report_of_very_many_photos_has_advice_but_no_learning_curve(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = []
    for many in (advice.MANY_PHOTOS, 1):
        monkeypatch.setattr(advice, "MANY_PHOTOS", many)
        pages.append((run(settings).version.folder / REPORT).read_text())
    assert ["Have I enough photos?" in page for page in pages] == [True, False]
    assert all("What would help most" in page for page in pages)


def test_the_steps_are_in_order(settings: Settings) -> None:
    watcher = Silent()
    run(settings, watcher, day=1)
    assert watcher.steps == [
        "photos",
        "network",
        "features",
        "baselines",
        "head",
        "evaluation",
        "curve",
        "comparison",
        "features",
        "version",
    ]
