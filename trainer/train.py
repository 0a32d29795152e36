"""One training: photos -> features -> head -> verdict. Every step can be interrupted, and the next run goes on.

What was computed stays: photos in the manifest, features in the cache. Fitting a head takes seconds and starts anew.
The same photos, settings and seed end in the same head and figures, bit for bit, interrupted or not.
"""

from __future__ import annotations

import importlib.metadata
import logging
import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.baselines import baselines
from trainer.calibration import Threshold, choose_threshold, fit_temperature
from trainer.config import Settings
from trainer.dataset import Dataset
from trainer.errors import ModelError
from trainer.evaluate import Report, balanced_accuracy, evaluate
from trainer.files import write_file
from trainer.head import FittedHead, Head, fit_head
from trainer.material import Material, Watcher, class_indexes, groups, material_for, read_dataset, scores_of
from trainer.promotion import Verdict, compare
from trainer.registry import Registry, Version, VersionFacts

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

LIBRARIES = ("keras", "numpy", "pillow", "scikit-learn", "tensorflow", "tensorflow-cpu", "torch")
PHOTOS = "photos.txt"


@dataclass(frozen=True, eq=False)
class Trained:
    """A head that was fitted, calibrated and judged, before it is a version."""

    fitted: FittedHead
    head: Head
    threshold: Threshold
    report: Report
    holdout_scores: Floats


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a training came to."""

    material: Material
    trained: Trained
    version: Version
    verdict: Verdict


def train(
    settings: Settings,
    watcher: Watcher,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Outcome:
    """Train a challenger on the photos at hand, and promote it if it is better than the champion.

    Raises:
        DatasetError: too few photos, or a split lacks a label.
        ModelError: the weights cannot be had, or no champion is whole.
        StorageError: the disk is full; versions and champion are as they were.
    """
    material = Material.gather(settings, watcher)
    trained = fit_and_judge(material, settings, watcher)
    watcher.step("version")
    registry = Registry(settings.data_dir, now=now)
    champion = registry.champion()
    verdict = judge_challenger(champion, trained, material, settings, watcher)
    metrics = {
        "report": trained.report.as_json(),
        "verdict": verdict.as_json(),
        "compared_with": champion.name if champion else None,
        "threshold": {name: getattr(trained.threshold, name) for name in Threshold.__slots__},
        "history": [[getattr(epoch, name) for name in epoch.__slots__] for epoch in trained.fitted.history],
        "best_epoch": trained.fitted.best_epoch,
    }
    version = registry.add(
        _facts(material, trained, settings, now()), metrics, lambda folder: _write_version(folder, trained, material)
    )
    if verdict.promoted:
        registry.promote(version.name, reason=verdict.reasons[0])
    logger.info(
        "trained version=%s photos=%d balanced_accuracy=%.3f promoted=%s",
        version.name,
        len(material.dataset.items),
        trained.report.balanced_accuracy.value,
        verdict.promoted,
    )
    return Outcome(material, trained, version, verdict)


def fit_and_judge(material: Material, settings: Settings, watcher: Watcher) -> Trained:
    """Fit on the training split, calibrate on validation, judge on the holdout."""
    dataset = material.dataset
    view = settings.features.views[0]
    train_items, validation_items, holdout_items = (dataset.split(name) for name in ("train", "validation", "holdout"))
    train_features = material.features(train_items)
    validation_features = material.features(validation_items, views=[view])[:, 0]
    watcher.step("head", settings.head.max_epochs)
    fitted = fit_head(
        train_features,
        class_indexes(train_items),
        validation_features=validation_features,
        validation_class_indexes=class_indexes(validation_items),
        labels=dataset.labels,
        settings=settings.head,
        progress=watcher.update,
    )
    watcher.step("evaluation")
    temperature = fit_temperature(fitted.head.logits(validation_features), class_indexes(validation_items))
    head = fitted.head.with_temperature(temperature)
    threshold = choose_threshold(
        head.scores(validation_features),
        class_indexes(validation_items),
        target_precision=settings.evaluate.target_precision,
    )
    scores = head.scores(material.features(holdout_items, views=[view])[:, 0])
    train_answers = head.scores(train_features[:, 0]).argmax(axis=1)
    report = evaluate(
        scores,
        class_indexes(holdout_items),
        groups(holdout_items),
        labels=dataset.labels,
        threshold=threshold.value,
        settings=settings.evaluate,
        train_accuracy=balanced_accuracy(class_indexes(train_items), train_answers),
        baselines=baselines(train_items, holdout_items, limits=settings.images),
    )
    return Trained(fitted, head, threshold, report, scores)


def judge_challenger(
    champion: Version | None, trained: Trained, material: Material, settings: Settings, watcher: Watcher
) -> Verdict:
    """Compare with the champion on today's holdout, less the photos that the champion learned from."""
    if champion is None:
        return Verdict(True, ("it is the first version",))
    dataset = material.dataset
    if champion.facts.labels != dataset.labels:
        return Verdict(True, (f"the champion tells other labels ({', '.join(champion.facts.labels)}): not comparable",))
    learned = set((champion.folder / PHOTOS).read_text(encoding="utf-8").split())
    items = dataset.split("holdout")
    fresh = np.array([item.sha256 not in learned for item in items])
    held = tuple(item for item in items if item.sha256 not in learned)
    if len(np.unique(class_indexes(held))) < len(dataset.labels):
        return Verdict(False, ("the champion learned from too many photos of today's holdout; promote by hand",))
    seen = material_for(champion, Dataset(dataset.labels, held, ()), settings, watcher)
    return compare(
        scores_of(champion, seen, held),
        trained.holdout_scores[fresh],
        class_indexes(held),
        groups(held),
        labels=dataset.labels,
        settings=settings.evaluate,
    )


def evaluate_version(name: str | None, settings: Settings, watcher: Watcher) -> tuple[Version, Report]:
    """Judge a version, the champion by default, on today's holdout.

    Raises:
        DatasetError: too few photos.
        ModelError: there is no such version, or none at all, or its labels are not those of today's photos.
    """
    registry = Registry(settings.data_dir)
    version = registry.load(name) if name else registry.champion()
    if version is None:
        raise ModelError("there is no champion yet; run `python -m trainer train`")
    watcher.step("photos")
    dataset = read_dataset(settings)
    material = material_for(
        version, Dataset(dataset.labels, dataset.split("holdout"), dataset.excluded), settings, watcher
    )
    items = material.dataset.items
    watcher.step("evaluation")
    report = evaluate(
        scores_of(version, material, items),
        class_indexes(items),
        groups(items),
        labels=dataset.labels,
        threshold=version.facts.threshold,
        settings=settings.evaluate,
    )
    return version, report


def _facts(material: Material, trained: Trained, settings: Settings, now: datetime) -> VersionFacts:
    backbone = material.backbone
    return VersionFacts(
        labels=material.dataset.labels,
        weights=settings.features.weights,
        weights_seed=settings.features.weights_seed,
        fingerprint=backbone.fingerprint,
        layers=backbone.layers,
        view=settings.features.views[0],
        precision=backbone.precision,
        threshold=trained.threshold.value,
        temperature=trained.head.temperature,
        seed=settings.head.seed,
        n_photos=len(material.dataset.items),
        created_at=now.isoformat(timespec="seconds"),
        libraries=_libraries(),
        settings=settings.model_dump(mode="json", exclude={"data_dir", "log"}),
    )


def _libraries() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _write_version(folder: Path, trained: Trained, material: Material) -> None:
    trained.head.save(folder)
    learned = sorted(item.sha256 for item in material.dataset.items if item.split != "holdout")
    write_file(folder / PHOTOS, lambda file: file.write("".join(f"{sha256}\n" for sha256 in learned).encode()))
