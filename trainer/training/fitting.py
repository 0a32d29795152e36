"""Fits, calibrates and evaluates a head; writes nothing."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from trainer.config import Settings
from trainer.evaluation.evaluate import Report, balanced_accuracy, evaluate
from trainer.evaluation.rarest import Rarest, rarest
from trainer.head.calibration import Threshold, choose_label_thresholds, choose_threshold, fit_calibration
from trainer.head.fine_tuning import Rows, Tuning, fine_tune
from trainer.head.fit import FittedHead, fit_head
from trainer.head.head import Floats, Head
from trainer.head.novelty import Novelty
from trainer.photos.dataset import Item
from trainer.training.training_data import TrainingData, Watcher, class_indexes, groups
from trainer.vgg16.backbone import Backbone
from trainer.vgg16.stored_rows import Table, every

logger = logging.getLogger(__name__)

CHECKPOINT = "fine-tuning.npz"  # of fine-tuning, which can be interrupted


@dataclass(frozen=True, eq=False)
class Trained:
    """A fitted, calibrated and evaluated head, not yet saved as a version.

    Attributes:
        rarest: the label with the fewest training photos; None if no label is rarer than the others.
        threshold: the shared one, and how it was chosen.
        thresholds: those of the labels, in their order; see `choose_label_thresholds`.
        novelty: detects photos that are unlike all training photos.
        holdout_known: whether each of the holdout's photos, (n,), is similar to training photos.
        holdout_scores: (n, k) of the holdout's photos, in the order of the data set.
        tuning: result of fine-tuning; None if not requested. If it is kept, `head` belongs to its block5, and `fitted`
            is the head before fine-tuning.
    """

    fitted: FittedHead
    head: Head
    threshold: Threshold
    thresholds: tuple[float, ...]
    report: Report
    rarest: Rarest | None
    novelty: Novelty
    holdout_known: npt.NDArray[np.bool_]
    holdout_scores: Floats
    tuning: Tuning | None = None

    @property
    def holdout_refused(self) -> float:
        """Share of the holdout's photos that `novelty` refuses."""
        return 1 - float(self.holdout_known.mean())


def fit_and_evaluate(
    training_data: TrainingData, settings: Settings, watcher: Watcher, *, baselines: dict[str, float] | None = None
) -> Trained:
    """Fit on the training split, fine-tune if requested, calibrate on validation, evaluate on the holdout.

    Photos are sorted by hash, so the result does not depend on the order of admission; BLAS uses one thread, so it does
    not depend on their number.
    """
    with threadpool_limits(1, user_api="blas"):
        return _fit_and_evaluate(training_data, settings, watcher, baselines)


def _fit_and_evaluate(
    training_data: TrainingData, settings: Settings, watcher: Watcher, baselines: dict[str, float] | None
) -> Trained:
    view = settings.views[0]
    train_items, validation_items = (_by_hash(training_data.dataset.split(name)) for name in ("train", "validation"))
    holdout_items = training_data.dataset.split("holdout")
    views = training_data.cache.views
    watcher.step("head")
    train_features = training_data.rows(train_items, views)
    validation_features = training_data.rows(validation_items, [view])
    fitted = fit_head(
        train_features,
        class_indexes(train_items),
        validation_features=validation_features,
        validation_class_indexes=class_indexes(validation_items),
        labels=training_data.dataset.labels,
        settings=settings.head,
        groups=groups(train_items),
        progress=watcher.update,
    )
    head, train_seen, holdout_seen = fitted.head, every(train_features, len(views)), training_data
    tuning = None
    if settings.head.fine_tune != "none":
        train = _rows(train_items, views, train_features)
        validation = _rows(validation_items, [view], validation_features)
        tuning = _fine_tune(fitted.head, training_data, train, validation, settings, watcher)
    if tuning is not None and tuning.is_kept:
        head, holdout_seen = tuning.head, training_data.tuned(tuning.block5, settings, watcher)
        validation_features, train_seen = (
            holdout_seen.rows(items, [view]) for items in (validation_items, train_items)
        )
    watcher.step("evaluation")
    logits, truth = head.logits(validation_features), class_indexes(validation_items)
    head = head.calibrated(fit_calibration(logits, truth))
    if fitted.linear.out_of_fold is not None and head.layers is fitted.linear.head.layers:
        out_of_fold, their_truth = fitted.linear.out_of_fold
        logits, truth = np.concatenate([logits, out_of_fold]), np.concatenate([truth, their_truth])
    unseen, precision = head.calibrated_scores(logits), settings.evaluate.target_precision
    threshold = choose_threshold(unseen, truth, target_precision=precision)
    thresholds = choose_label_thresholds(
        unseen,
        truth,
        shared=threshold.value,
        target_precision=precision,
        min_answers=settings.evaluate.min_answers_per_label,
    )
    novelty = Novelty.fit(train_seen, validation_features, layers=training_data.backbone.layers)
    holdout_features = holdout_seen.rows(holdout_items, [view])
    known = novelty.is_known(holdout_features)
    scores = head.scores(holdout_features)
    report = evaluate(
        scores,
        class_indexes(holdout_items),
        groups(holdout_items),
        labels=training_data.dataset.labels,
        threshold=thresholds,
        settings=settings.evaluate,
        train_accuracy=balanced_accuracy(class_indexes(train_items), head.scores(train_seen).argmax(axis=1)),
        baselines=baselines,
    )
    n_photos = Counter(item.label for item in train_items)
    rare = rarest(report, n_photos)
    return Trained(fitted, head, threshold, thresholds, report, rare, novelty, known, scores, tuning)


def _fine_tune(
    head: Head, training_data: TrainingData, train: Rows, validation: Rows, settings: Settings, watcher: Watcher
) -> Tuning:
    """Fine-tune block5 and the head, from block4's maps."""
    assert training_data.maps is not None  # noqa: S101 - loaded with the features if the settings ask for fine-tuning
    assert isinstance(training_data.backbone, Backbone)  # noqa: S101 - as before
    watcher.step("fine-tuning")
    tuning = fine_tune(
        head,
        training_data.backbone,
        train,
        validation,
        maps=training_data.maps,
        settings=settings.head,
        checkpoint=settings.data_dir / CHECKPOINT,
        progress=watcher.update,
    )
    logger.info("%s", tuning.describe())
    return tuning


def _rows(items: Sequence[Item], views: Sequence[str], features: Table) -> Rows:
    """The rows of photos with (n * n_views, d) features, photo by photo."""
    return Rows(
        keys=[(item.sha256, view) for item in items for view in views],
        features=features,
        class_indexes=np.repeat(class_indexes(items), len(views)),
    )


def repeat(
    training_data: TrainingData, settings: Settings, watcher: Watcher, *, n: int, first: Trained
) -> dict[int, Trained]:
    """Repeat a training with `n` seeds, to show how much its figures vary by chance.

    Args:
        first: result with the configured seed; it is not trained again.

    Returns:
        seed -> result; no version is saved. With fine-tuning in the settings, each seed is fine-tuned, which takes as
            long as the first time.
    """
    found = {settings.head.seed: first}
    for seed in range(settings.head.seed + 1, settings.head.seed + n):
        head = settings.head.model_copy(update={"seed": seed})
        found[seed] = fit_and_evaluate(training_data, settings.model_copy(update={"head": head}), watcher)
    return found


def _by_hash(items: Sequence[Item]) -> list[Item]:
    return sorted(items, key=lambda item: item.sha256)
