"""Runs a training: photos -> features -> head -> verdict. An interrupted training is continued by the next run.

Photos stay in the manifest, and features in the cache. Fitting a head takes seconds and starts from the beginning. The
same photos, settings and seed give bit-identical heads and figures, interrupted or not.
"""

from __future__ import annotations

import importlib.metadata
import logging
import platform
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainer.config import Settings
from trainer.errors import ModelError
from trainer.evaluation.evaluate import Report, evaluate
from trainer.evaluation.promotion import Verdict
from trainer.files import write_file
from trainer.photos.dataset import Dataset
from trainer.photos.decode import Decoder
from trainer.photos.photo_files import open_files
from trainer.registry.registry import BLOCK5, HELD_OUT, PHOTOS, REPORT, UNFINISHED, Registry, Version, VersionFacts
from trainer.training.advice import advise_training
from trainer.training.baselines import baselines
from trainer.training.comparison import compare_with_champion, learned_photos
from trainer.training.figures import Cropped, load_counts
from trainer.training.fitting import CHECKPOINT, Trained, fit_and_evaluate
from trainer.training.report import render
from trainer.training.training_data import (
    TrainingData,
    Watcher,
    class_indexes,
    compute_scores,
    drop_tuned_features,
    groups,
    read_photos,
    sort_photos,
    training_data_for,
)
from trainer.vgg16.int8 import Int8Backbone
from trainer.vgg16.precision import describe_machine
from trainer.vgg16.weights import fingerprint, save_weights

logger = logging.getLogger(__name__)

LIBRARIES = (
    *("jax", "keras", "nncf", "numpy", "opencv-python-headless", "openvino", "pillow"),
    *("scikit-learn", "scipy", "tensorflow", "tensorflow-cpu", "torch"),
)


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of a training."""

    training_data: TrainingData
    trained: Trained
    version: Version
    verdict: Verdict


def train(
    settings: Settings,
    watcher: Watcher,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Outcome:
    """Train a version on the stored photos, and promote it if it is better than the champion.

    Raises:
        DatasetError: too few photos, or a split lacks a label.
        ModelError: the weights are not available, or the registry cannot be read.
        StorageError: the disk is full; versions and champion are unchanged.
    """
    registry = Registry(settings.data_dir, now=now)
    registry.history()  # fail now, not after hours, if the registry cannot be read
    training_data = TrainingData.gather(settings, watcher)
    watcher.step("baselines")
    with closing(Decoder.in_bulk(settings.images, n_children=1)) as decoder:
        simpler = baselines(training_data.dataset, settings, decoder, progress=watcher.update)
    cropped = _count_figures(training_data.dataset, settings, watcher)
    trained = fit_and_evaluate(training_data, settings, watcher, baselines=simpler)
    watcher.step("curve")
    advice = advise_training(training_data, trained, settings, watcher.update)
    watcher.step("comparison")
    champion, verdict = _decide_promotion(registry, trained, training_data, settings, watcher)
    watcher.step("version")
    facts = facts_of(training_data, trained, settings, now())

    files = open_files(settings)

    def write(folder: Path) -> None:
        write_arrays(folder, training_data, trained)
        with closing(Decoder.in_bulk(settings.images, n_children=1)) as decoder:
            name = folder.name.removeprefix(UNFINISHED)
            page = render(
                name,
                facts,
                training_data,
                trained,
                verdict,
                champion,
                decoder=decoder,
                advice=advice,
                cropped=cropped,
                read=files.read,
            )
        write_file(folder / REPORT, lambda file: file.write(page.encode()))

    metrics = _metrics(trained, training_data.dataset, verdict, champion, cropped)
    version = registry.add(facts, metrics, write)
    if verdict.promoted:
        registry.promote(version.name, reason=verdict.reasons[0])
    clear_up(settings)
    logger.info(
        "trained version=%s photos=%d balanced_accuracy=%.3f promoted=%s",
        version.name,
        len(training_data.dataset.items),
        trained.report.balanced_accuracy.value,
        verdict.promoted,
    )
    return Outcome(training_data, trained, version, verdict)


def clear_up(settings: Settings) -> None:
    """Delete checkpoints, and features of fine-tuned versions that are no longer used.

    Raises:
        StorageError: a file cannot be deleted.
    """
    (settings.data_dir / CHECKPOINT).unlink(missing_ok=True)
    try:
        drop_tuned_features(settings)
    except ModelError as error:
        logger.warning("features of old versions not deleted reason=%s", error)


def evaluate_version(name: str | None, settings: Settings, watcher: Watcher) -> tuple[Version, Report]:
    """Evaluate a version (default: the champion) on the current holdout, without its training photos.

    Raises:
        DatasetError: too few photos.
        ModelError: there is no such version, or no champion, or its labels are not those of the current photos, or its
            list of training photos did not come with it.
    """
    registry = Registry(settings.data_dir)
    version = registry.load(name) if name else registry.champion()
    if version is None:
        raise ModelError("there is no champion yet; run `python -m trainer train`")
    watcher.step("photos")
    dataset = sort_photos(read_photos(settings), settings)
    if dataset.labels != version.facts.labels:
        raise ModelError(
            f"{version.name} has the labels {', '.join(version.facts.labels)}, but the stored photos have "
            f"{', '.join(dataset.labels)}; it cannot be evaluated"
        )
    learned = learned_photos(version)
    unseen = tuple(item for item in dataset.split("holdout") if item.sha256 not in learned)
    if not unseen:
        raise ModelError(f"{version.name} was trained on all photos of the current holdout; it cannot be evaluated")
    training_data = training_data_for(version, replace(dataset, items=unseen), settings, watcher)
    items = training_data.dataset.items
    watcher.step("evaluation")
    report = evaluate(
        compute_scores(version, training_data)[0],
        class_indexes(items),
        groups(items),
        labels=dataset.labels,
        threshold=version.facts.label_thresholds,
        settings=settings.evaluate,
    )
    return version, report


def _decide_promotion(
    registry: Registry, trained: Trained, training_data: TrainingData, settings: Settings, watcher: Watcher
) -> tuple[Version | None, Verdict]:
    """The champion (or None) and the verdict; a champion that cannot be run does not stop a training."""
    try:
        champion = registry.champion()
    except ModelError as error:
        return None, Verdict(True, (f"there is no champion to compare with: {error}",))
    if champion is None:
        return None, Verdict(True, ("it is the first version",))
    try:
        return champion, compare_with_champion(champion, trained, training_data, settings, watcher)
    except ModelError as error:
        logger.warning("champion not evaluated name=%s reason=%s", champion.name, error)
        return champion, Verdict(False, (f"the champion cannot be evaluated: {error}; promote by hand",))


def write_arrays(folder: Path, training_data: TrainingData, trained: Trained) -> None:
    """Write the files of a version that it needs to serve, and the list of its photos."""
    trained.head.save(folder)
    trained.novelty.save(folder)
    if trained.tuning is not None and trained.tuning.is_kept:
        save_weights(folder / BLOCK5, trained.tuning.block5)
    if isinstance(training_data.backbone, Int8Backbone):
        training_data.backbone.save(folder)
    _write_photos(folder, training_data)


def _count_figures(dataset: Dataset, settings: Settings, watcher: Watcher) -> Cropped | None:
    """How many photos were cropped to the figure; None if none was to be."""
    if settings.images.crop == "none":
        return None
    watcher.step("figures")
    with closing(Decoder.in_bulk(settings.images)) as decoder:
        counts = load_counts(dataset.items, settings, decoder, progress=watcher.update)
    return Cropped.count([item for item in dataset.items if item.sha256 in counts], counts)


def _metrics(
    trained: Trained, dataset: Dataset, verdict: Verdict, champion: Version | None, cropped: Cropped | None
) -> dict[str, Any]:
    """The content of metrics.json."""
    return {
        **({"cropped": {**asdict(cropped), "share_whole": cropped.share_whole}} if cropped else {}),
        **figures_of(trained),
        "excluded": Counter(reason for _, reason in dataset.excluded),
        "relabelled": Counter(split for _, split in dataset.relabelled),
        "contributed": Counter(item.label for item in dataset.items if item.sha256 in dataset.contributed),
        "verdict": verdict.as_json(),
        "compared_with": champion.name if champion else None,
    }


def figures_of(trained: Trained) -> dict[str, Any]:
    """The figures of a training, as JSON values, without the comparison with a champion."""
    return {
        "report": trained.report.as_json(),
        "threshold": asdict(trained.threshold),
        "thresholds": list(trained.thresholds),
        "doubt": trained.head.doubt,
        "novelty": {"limit": trained.novelty.limit, "holdout_refused": trained.holdout_refused},
        "rarest": trained.rarest.describe() if trained.rarest else None,
        "l2_path": [asdict(point) for point in trained.fitted.linear.path],
        "l2_chosen": trained.fitted.linear.chosen,
        "l2_cross_validated": trained.fitted.linear.cross_validated,
        "history": [asdict(epoch) for epoch in trained.fitted.history],
        "best_epoch": trained.fitted.best_epoch,
        "hidden_units": trained.head.hidden_units,
        "fine_tuning": trained.tuning.as_json() if trained.tuning else None,
    }


def facts_of(training_data: TrainingData, trained: Trained, settings: Settings, now: datetime) -> VersionFacts:
    """The content of version.json."""
    backbone = training_data.backbone
    return VersionFacts(
        labels=training_data.dataset.labels,
        weights=settings.features.weights,
        weights_seed=settings.features.weights_seed,
        fingerprint=backbone.fingerprint,
        layers=backbone.layers,
        view=settings.views[0],
        precision=backbone.precision,
        threshold=trained.threshold.value,
        thresholds=trained.thresholds,
        temperature=trained.head.temperature,
        seed=settings.head.seed,
        n_photos=len(training_data.dataset.items),
        created_at=now.isoformat(timespec="seconds"),
        libraries=describe_libraries(),
        machine=describe_machine(with_keras=backbone.precision != "int8" or settings.head.hidden_units > 0),
        settings=settings.model_dump(mode="json", exclude={"data_dir", "log", "exchange", "bucket"}),
        tuned=fingerprint(trained.tuning.block5) if trained.tuning and trained.tuning.is_kept else None,
        quantised=backbone.sha256 if isinstance(backbone, Int8Backbone) else None,
        decided_at=decided_at.isoformat() if (decided_at := training_data.dataset.decided_at) else None,
    )


def describe_libraries() -> dict[str, str]:
    """Name -> version of Python and of the libraries that compute."""
    return {"python": platform.python_version()} | library_versions(LIBRARIES)


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """Name -> version of those libraries that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _write_photos(folder: Path, training_data: TrainingData) -> None:
    """Write the SHA-256 of the version's training and validation photos, and of those held out."""
    for name, splits in ((PHOTOS, ("train", "validation")), (HELD_OUT, ("holdout",))):
        lines = sorted(f"{item.sha256}\n" for item in training_data.dataset.items if item.split in splits)
        write_file(folder / name, lambda file, lines=lines: file.write("".join(lines).encode()))  # type: ignore[misc]
