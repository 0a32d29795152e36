"""Calibrates scores by temperature and doubt, chooses the "not sure" threshold, and computes the curves that show both.

A temperature alone is not enough. Some photos show nothing of their label, and no training helps. A few of these with
high scores cost so much likelihood that the fitted temperature makes all other scores too low. So a second parameter,
the doubt, is the share of photos that may have any label; the temperature fits the others.

Source of the temperature: Guo et al., "On Calibration of Modern Neural Networks", arXiv:1706.04599.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Indexes = npt.NDArray[np.int64]

TEMPERATURES = (0.05, 20.0)
MAX_DOUBT = 0.5
N_BINS = 10
Z = 1.2816  # of a one-sided interval of 90%


@dataclass(frozen=True, slots=True)
class Threshold:
    """The score below which the answer is "not sure".

    Attributes:
        value: 0..1.
        precision: of the answers at or above it, on the photos used to choose it.
        lower_bound: of that precision, with a confidence of 90%.
        coverage: their share of all photos.
        reached: whether the lower bound reaches the target; if not, this is the threshold with the highest one.
    """

    value: float
    precision: float
    lower_bound: float
    coverage: float
    reached: bool


@dataclass(frozen=True, slots=True)
class Calibration:
    """Turns logits into scores: (1 - doubt) * softmax(logits / temperature) + doubt / k.

    Attributes:
        temperature: above 0.
        doubt: 0..1, the share of photos whose logits say nothing about the label.
    """

    temperature: float
    doubt: float


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Mean score and accuracy of the photos whose best score is in one interval."""

    mean_score: float
    accuracy: float
    n_photos: int


def fit_calibration(logits: Floats, class_indexes: Indexes) -> Calibration:
    """Fit the calibration with the lowest negative log-likelihood: the best doubt, each with its best temperature.

    Args:
        logits: (n, k), of photos that the head was not trained on.
        class_indexes: (n,) true classes.
    """
    from scipy.optimize import minimize_scalar  # here, as serving needs none of it: 0.4 s and 30 MB

    rows = np.arange(len(logits))
    n_classes = logits.shape[1]
    bounds = tuple(np.log(TEMPERATURES))

    def loss(log_temperature: float, doubt: float) -> float:
        scaled = logits.astype(np.float64) / np.exp(log_temperature)
        scaled -= scaled.max(axis=1, keepdims=True)
        log_shares = scaled[rows, class_indexes] - np.log(np.exp(scaled).sum(axis=1))
        with np.errstate(divide="ignore"):  # log(0) = -inf is correct for a doubt of 0
            return float(-np.logaddexp(np.log1p(-doubt) + log_shares, np.log(doubt / n_classes)).mean())

    def best(doubt: float) -> Any:
        return minimize_scalar(loss, bounds=bounds, args=(doubt,), method="bounded", options={"xatol": 1e-6})

    found = minimize_scalar(
        lambda doubt: best(doubt).fun, bounds=(0, MAX_DOUBT), method="bounded", options={"xatol": 1e-4}
    )
    doubt = float(found.x) if found.fun < best(0.0).fun else 0.0
    return Calibration(temperature=float(np.exp(best(doubt).x)), doubt=doubt)


def choose_threshold(scores: Floats, class_indexes: Indexes, *, target_precision: float) -> Threshold:
    """The lowest threshold above which the precision reaches the target, by its lower bound.

    By the bound, as a precision that a few photos happen to reach is not kept on people that were never seen. The
    threshold is never below the lowest score of these photos: of answers less sure than any of them nothing is known.

    Args:
        scores: (n, k), of photos that the head was not trained on.
        class_indexes: (n,) the true classes.
        target_precision: 0..1.
    """
    values, precisions, coverages = coverage_curve(scores, class_indexes)
    bounds = lower_bounds(precisions, coverages * len(scores))
    reaching = np.flatnonzero(bounds >= target_precision)
    at = int(reaching[-1]) if len(reaching) else int(bounds.argmax())
    return Threshold(
        value=float(values[at]),
        precision=float(precisions[at]),
        lower_bound=float(bounds[at]),
        coverage=float(coverages[at]),
        reached=bool(len(reaching)),
    )


def choose_label_thresholds(
    scores: Floats, class_indexes: Indexes, *, shared: float, target_precision: float, min_answers: int
) -> tuple[float, ...]:
    """A threshold for each label, chosen as the shared one, on the photos that are answered with the label.

    Args:
        scores: (n, k), of photos that the head was not trained on.
        class_indexes: (n,) the true classes.
        shared: the threshold of a label with fewer answers; no label's own one is below it.
        min_answers: answers that a label needs for a threshold of its own.
    """
    answers = scores.argmax(axis=1)
    found = []
    for label in range(scores.shape[1]):
        inside = answers == label
        own = shared
        if inside.sum() >= min_answers:
            own = choose_threshold(scores[inside], class_indexes[inside], target_precision=target_precision).value
        found.append(max(own, shared))
    return tuple(found)


def lower_bounds(shares: Floats, counts: Floats) -> Floats:
    """The lower ends of the one-sided 90% intervals of shares, each of so many photos. Source: Wilson, 1927."""
    squared = Z**2
    centre = shares + squared / (2 * counts)
    spread = Z * np.sqrt(shares * (1 - shares) / counts + squared / (4 * counts**2))
    bounds: Floats = (centre - spread) / (1 + squared / counts)
    return bounds


def coverage_curve(scores: Floats, class_indexes: Indexes) -> tuple[Floats, Floats, Floats]:
    """Precision and coverage of each possible threshold, from the highest to the lowest.

    Returns:
        thresholds, precision of the answers at or above each, and their share of all photos; each (m,), m <= n.
    """
    best = scores.max(axis=1)
    order = np.argsort(-best, kind="stable")
    right = (scores.argmax(axis=1) == class_indexes)[order]
    answered = np.arange(1, len(order) + 1)
    last_of_value = np.append(np.diff(best[order]) != 0, True)
    precision = (np.cumsum(right) / answered)[last_of_value].astype(np.float32)
    coverage = (answered / len(order))[last_of_value].astype(np.float32)
    return best[order][last_of_value], precision, coverage


def reliability(scores: Floats, class_indexes: Indexes) -> tuple[ReliabilityBin, ...]:
    """Mean score and accuracy in ten intervals of the best score; intervals without photos are omitted."""
    best = scores.max(axis=1)
    right = scores.argmax(axis=1) == class_indexes
    bins = np.minimum((best * N_BINS).astype(int), N_BINS - 1)
    return tuple(
        ReliabilityBin(float(best[inside].mean()), float(right[inside].mean()), int(inside.sum()))
        for inside in (bins == number for number in np.unique(bins))
    )


def expected_calibration_error(scores: Floats, class_indexes: Indexes) -> float:
    """Mean difference of score and accuracy over the intervals, weighted by number of photos; 0 is perfect."""
    bins = reliability(scores, class_indexes)
    return float(sum(part.n_photos * abs(part.mean_score - part.accuracy) for part in bins) / len(scores))
