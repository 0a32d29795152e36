"""Photos with features -> a head that was fitted, calibrated and judged; nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.calibration import Threshold, choose_threshold, fit_calibration
from trainer.config import Settings
from trainer.dataset import Item
from trainer.evaluate import Report, balanced_accuracy, evaluate
from trainer.head import FittedHead, Head, fit_head
from trainer.material import Material, Watcher, class_indexes, groups

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Trained:
    """A head that was fitted, calibrated and judged, before it is a version.

    Attributes:
        holdout_scores: (n, k) of the holdout's photos, in the order of the data set.
    """

    fitted: FittedHead
    head: Head
    threshold: Threshold
    report: Report
    holdout_scores: Floats


def fit_and_judge(
    material: Material, settings: Settings, watcher: Watcher, *, baselines: dict[str, float] | None = None
) -> Trained:
    """Fit on the training split, calibrate on validation, judge on the holdout.

    Photos are taken in the order of their hashes, so that the order in which they came does not matter.
    """
    view = settings.features.views[0]
    train_items, validation_items = (_by_hash(material.dataset.split(name)) for name in ("train", "validation"))
    holdout_items = material.dataset.split("holdout")
    train_features = material.features(train_items)
    validation_features = material.features(validation_items, views=[view])[:, 0]
    watcher.step("head")
    fitted = fit_head(
        train_features,
        class_indexes(train_items),
        validation_features=validation_features,
        validation_class_indexes=class_indexes(validation_items),
        labels=material.dataset.labels,
        settings=settings.head,
        progress=watcher.update,
    )
    watcher.step("evaluation")
    calibration = fit_calibration(fitted.head.logits(validation_features), class_indexes(validation_items))
    head = fitted.head.calibrated(calibration)
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
        labels=material.dataset.labels,
        threshold=threshold.value,
        settings=settings.evaluate,
        train_accuracy=balanced_accuracy(class_indexes(train_items), train_answers),
        baselines=baselines,
    )
    return Trained(fitted, head, threshold, report, scores)


def repeat(material: Material, settings: Settings, watcher: Watcher, *, n: int, first: Trained) -> dict[int, Trained]:
    """The same training under `n` seeds: how far apart its figures lie by chance alone.

    Args:
        first: what was trained under the configured seed; it is not trained again.

    Returns:
        seed -> what it came to; nothing of it becomes a version.
    """
    found = {settings.head.seed: first}
    for seed in range(settings.head.seed + 1, settings.head.seed + n):
        head = settings.head.model_copy(update={"seed": seed})
        found[seed] = fit_and_judge(material, settings.model_copy(update={"head": head}), watcher)
    return found


def _by_hash(items: Sequence[Item]) -> list[Item]:
    return sorted(items, key=lambda item: item.sha256)
