"""Computes an evaluation report from labels and scores: metrics on the holdout, with confidence intervals.

Pooled accuracy hides a class that is never predicted. So the report also has recall and precision of each class,
balanced accuracy and macro F1, each with an interval. Photos of one member are similar, so the bootstrap resamples
members: resampling photos would make the intervals too narrow.

Source of the intervals: Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), percentile method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.config import EvaluateSettings
from trainer.head.calibration import Floats, Indexes, expected_calibration_error

Doubles = npt.NDArray[np.float64]

BOOTSTRAP_SEED = 0  # fixed: the same photos and scores give the same intervals, for any seed of the head
CHUNK = 500  # bootstrap samples computed at a time, to limit memory;
CHUNK_DRAWS = 20_000_000  # or fewer: samples times members, 0.3 GB


@dataclass(frozen=True, slots=True)
class Figure:
    """A metric, 0..1, with its bootstrap interval; None where no photo counts."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class ClassReport:
    """Metrics of one label on the holdout.

    Attributes:
        n_answers: photos that are answered with the label.
        n_sure: those whose score reaches the label's threshold; `sure_precision` is the share of right ones.
    """

    label: str
    n_photos: int
    n_members: int
    recall: Figure
    precision: Figure
    n_answers: int
    n_sure: int
    sure_precision: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """Metrics of a head on the holdout.

    Attributes:
        n_photos, n_members: of the holdout.
        accuracy: pooled.
        confusion: (k, k) numbers of photos; true labels in rows, predicted labels in columns.
        expected_calibration_error: 0..1, of the highest scores.
        coverage: share of the photos whose best score reaches the threshold; `answered_accuracy` is their accuracy.
        train_accuracy: balanced accuracy on the training photos; much higher than on the holdout means overfitting.
        baselines: balanced accuracy of simpler classifiers.
    """

    classes: tuple[ClassReport, ...]
    n_photos: int
    n_members: int
    balanced_accuracy: Figure
    macro_f1: Figure
    accuracy: Figure
    confusion: tuple[tuple[int, ...], ...]
    expected_calibration_error: float
    coverage: float
    answered_accuracy: float | None
    train_accuracy: float | None
    baselines: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """The report as nested dicts and lists of JSON values."""
        return asdict(self)


def evaluate(
    scores: Floats,
    class_indexes: Indexes,
    groups: Sequence[str],
    *,
    labels: Sequence[str],
    threshold: float | Sequence[float],
    settings: EvaluateSettings,
    train_accuracy: float | None = None,
    baselines: dict[str, float] | None = None,
) -> Report:
    """Compute the metrics of scores.

    Args:
        scores: (n, k) of the holdout's photos.
        class_indexes: (n,) true classes.
        groups: (n,) the member, or the near-duplicate group, of each photo.
        labels: k names.
        threshold: a lower best score means "not sure"; one for all labels, or one for each.
    """
    answers = scores.argmax(axis=1)
    table = member_tables(class_indexes, answers, groups, n_classes=len(labels))
    point = _figures(table.sum(axis=0)[None])
    samples = _figures(resample(table, n=settings.resamples))
    tail = (1 - settings.confidence) / 2

    def figure(name: str, index: int | None = None) -> Figure:
        at = (slice(None),) if index is None else (slice(None), index)
        value, drawn = float(point[name][at][0]), samples[name][at]
        drawn = drawn[~np.isnan(drawn)]
        if np.isnan(value) or not len(drawn):
            return Figure(None, None, None)
        low, high = np.quantile(drawn, [tail, 1 - tail])
        return Figure(value, float(low), float(high))

    members = np.asarray(groups)
    sure = scores.max(axis=1) >= np.broadcast_to(np.asarray(threshold, dtype=np.float32), len(labels))[answers]
    right = answers == class_indexes
    return Report(
        classes=tuple(
            ClassReport(
                label=label,
                n_photos=int((class_indexes == index).sum()),
                n_members=len(np.unique(members[class_indexes == index])),
                recall=figure("recall", index),
                precision=figure("precision", index),
                n_answers=int((answers == index).sum()),
                n_sure=int(sure[answers == index].sum()),
                sure_precision=_share(right[sure & (answers == index)]),
            )
            for index, label in enumerate(labels)
        ),
        n_photos=len(scores),
        n_members=len(np.unique(members)),
        balanced_accuracy=figure("balanced_accuracy"),
        macro_f1=figure("macro_f1"),
        accuracy=figure("accuracy"),
        confusion=tuple(tuple(int(n) for n in row) for row in table.sum(axis=0)),
        expected_calibration_error=expected_calibration_error(scores, class_indexes),
        coverage=float(sure.mean()),
        answered_accuracy=_share(right[sure]),
        train_accuracy=train_accuracy,
        baselines=dict(baselines or {}),
    )


def _share(flags: npt.NDArray[np.bool_]) -> float | None:
    return float(flags.mean()) if len(flags) else None


def balanced_accuracy(class_indexes: Indexes, answers: Indexes) -> float:
    """Mean recall over the classes that have photos, 0..1."""
    return float(np.mean([(answers[class_indexes == index] == index).mean() for index in np.unique(class_indexes)]))


def member_tables(
    class_indexes: Indexes, answers: Indexes, groups: Sequence[str], *, n_classes: int, n_answers: int | None = None
) -> Indexes:
    """The confusion matrix of each member, (members, n_classes, n_answers), true labels in rows.

    Args:
        n_answers: number of possible answers, if more than classes; None means `n_classes`.
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    tables = np.zeros((len(names), n_classes, n_answers or n_classes), dtype=np.int64)
    np.add.at(tables, (member, class_indexes, answers), 1)
    return tables


def resample(tables: Indexes, *, n: int, seed: int = BOOTSTRAP_SEED) -> Doubles:
    """Confusion matrices of `n` bootstrap samples of the members, drawn with replacement.

    The samples are stratified by label, so that each has all classes of the holdout. The label of a member is the one
    that most of their photos have.

    Args:
        tables: (members, ...) counts; summed over the first axis for the members drawn.

    Returns:
        (n, ...) float64.
    """
    rng = np.random.default_rng(seed)
    flat = tables.reshape(len(tables), -1).astype(np.float64)
    k = tables.shape[1]
    stratum = tables.reshape(len(tables), k, -1).sum(axis=2).argmax(axis=1)
    sums = np.zeros((n, flat.shape[1]))
    for index in np.unique(stratum):
        inside = flat[stratum == index]
        shares = np.full(len(inside), 1 / len(inside))
        at_once = min(CHUNK, max(CHUNK_DRAWS // len(inside), 1))
        for start in range(0, n, at_once):
            times = rng.multinomial(len(inside), shares, size=min(at_once, n - start))
            sums[start : start + len(times)] += times @ inside
    return sums.reshape(n, *tables.shape[1:])


def recalls(confusion: Doubles) -> Doubles:
    """Recall of each class: (..., k, k or more) confusion matrices -> (..., k); nan for a class without photos."""
    diagonal = np.diagonal(confusion, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall: Doubles = diagonal / confusion.sum(axis=-1)
    return recall


def _figures(confusion: Doubles | Indexes) -> dict[str, Doubles]:
    """All metrics of (n, k, k) confusion matrices, each (n,) or (n, k); nan where no photo counts."""
    diagonal = np.diagonal(confusion, axis1=1, axis2=2)
    true, answered = confusion.sum(axis=2), confusion.sum(axis=1)
    recall = recalls(np.asarray(confusion, dtype=np.float64))
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = diagonal / answered
        f1 = 2 * diagonal / (true + answered)
        accuracy = diagonal.sum(axis=1) / true.sum(axis=1)
    return {
        "recall": recall,
        "precision": precision,
        "balanced_accuracy": _mean(recall),
        "macro_f1": _mean(f1),
        "accuracy": accuracy,
    }


def _mean(shares: Doubles) -> Doubles:
    """Mean over the classes without nan, (n, k) -> (n,); nan where all are nan."""
    there = ~np.isnan(shares)
    counted = there.sum(axis=1)
    total = np.where(there, shares, 0).sum(axis=1)
    mean: Doubles = np.divide(total, counted, out=np.full(len(total), np.nan), where=counted > 0)
    return mean
