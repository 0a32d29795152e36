"""Computes a report from labels and scores: figures on held-out members, with intervals.

Pooled accuracy hides a dead class, so it never stands alone: recall and precision of each class, balanced accuracy and
macro F1 stand beside it, each with an interval. The photos of one member are alike, so the bootstrap draws members, not
photos; photos drawn one by one would make the intervals too narrow.

Source of the intervals: Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), percentile method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.config import EvaluateSettings
from trainer.head.calibration import expected_calibration_error

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Indexes = npt.NDArray[np.int64]

BOOTSTRAP_SEED = 0  # the same photos and scores have the same intervals, whatever seed the head had
CHUNK = 500  # bootstrap samples at a time; bounds the memory


@dataclass(frozen=True, slots=True)
class Figure:
    """A share, 0..1, with the interval that the bootstrap gives it; None where nothing was there to count."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class ClassReport:
    """One label's figures on the holdout."""

    label: str
    n_photos: int
    n_members: int
    recall: Figure
    precision: Figure


@dataclass(frozen=True, slots=True)
class Report:
    """How good a head is.

    Attributes:
        n_photos, n_members: of the holdout.
        accuracy: pooled.
        confusion: (k, k) photos; a row for each true label, a column for each answer.
        expected_calibration_error: 0..1, of the best scores.
        coverage: share of the photos with an answer at or above the threshold; `answered_accuracy` is theirs.
        train_accuracy: balanced, of the photos it learned from; far above the holdout's, the head overfits.
        baselines: balanced accuracy of simpler ways to answer.
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
        """Nested dicts and lists of plain values."""
        return asdict(self)


def evaluate(
    scores: Floats,
    class_indexes: Indexes,
    groups: Sequence[str],
    *,
    labels: Sequence[str],
    threshold: float,
    settings: EvaluateSettings,
    train_accuracy: float | None = None,
    baselines: dict[str, float] | None = None,
) -> Report:
    """Judge scores.

    Args:
        scores: (n, k) of the holdout's photos.
        class_indexes: (n,) what they are.
        groups: (n,) the member, or the near-duplicate family, of each.
        labels: k names.
        threshold: below it an answer is "not sure".
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
    sure = scores.max(axis=1) >= threshold
    return Report(
        classes=tuple(
            ClassReport(
                label=label,
                n_photos=int((class_indexes == index).sum()),
                n_members=len(np.unique(members[class_indexes == index])),
                recall=figure("recall", index),
                precision=figure("precision", index),
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
        answered_accuracy=float((answers == class_indexes)[sure].mean()) if sure.any() else None,
        train_accuracy=train_accuracy,
        baselines=dict(baselines or {}),
    )


def balanced_accuracy(class_indexes: Indexes, answers: Indexes) -> float:
    """Mean recall over the classes that are there, 0..1."""
    return float(np.mean([(answers[class_indexes == index] == index).mean() for index in np.unique(class_indexes)]))


def member_tables(
    class_indexes: Indexes, answers: Indexes, groups: Sequence[str], *, n_classes: int, n_answers: int | None = None
) -> Indexes:
    """(members, n_classes, n_answers): each member's own confusion matrix, true labels in rows.

    Args:
        n_answers: where more answers are possible than there are classes; None: as many.
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    tables = np.zeros((len(names), n_classes, n_answers or n_classes), dtype=np.int64)
    np.add.at(tables, (member, class_indexes, answers), 1)
    return tables


def resample(tables: Indexes, *, n: int, seed: int = BOOTSTRAP_SEED) -> Doubles:
    """Confusion matrices of `n` bootstrap samples, each of as many members as there are, drawn with replacement.

    Members are drawn within their label, so that no sample lacks a class that the holdout has; a member counts for the
    label that most of their photos have.

    Args:
        tables: (members, ...) counts; whatever stands behind the first axis is summed over the members drawn.

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
        for start in range(0, n, CHUNK):
            times = rng.multinomial(len(inside), shares, size=min(CHUNK, n - start))
            sums[start : start + len(times)] += times @ inside
    return sums.reshape(n, *tables.shape[1:])


def recalls(confusion: Doubles) -> Doubles:
    """(..., k, k or more) confusion matrices -> (..., k) recall of each class; nan where it has no photo."""
    diagonal = np.diagonal(confusion, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall: Doubles = diagonal / confusion.sum(axis=-1)
    return recall


def _figures(confusion: Doubles | Indexes) -> dict[str, Doubles]:
    """(n, k, k) confusion matrices -> every figure, (n,) or (n, k); nan where there is nothing to count."""
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
    """(n, k) -> (n,): over the classes that are there; nan where none is."""
    there = ~np.isnan(shares)
    counted = there.sum(axis=1)
    total = np.where(there, shares, 0).sum(axis=1)
    mean: Doubles = np.divide(total, counted, out=np.full(len(total), np.nan), where=counted > 0)
    return mean
