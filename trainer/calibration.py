"""How far scores can be believed: the temperature, the "not sure" threshold, and the curves that show both.

Source: Guo et al., "On Calibration of Modern Neural Networks", arXiv:1706.04599.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

Floats = npt.NDArray[np.float32]
Indexes = npt.NDArray[np.int64]

TEMPERATURES = (0.05, 20.0)
N_BINS = 10
MIN_ANSWERS = 10  # a precision of fewer answers says nothing


@dataclass(frozen=True, slots=True)
class Threshold:
    """The score below which the answer is "not sure".

    Attributes:
        value: 0..1.
        precision: of the answers at or above it, on the photos it was chosen on.
        coverage: their share of all photos.
        reached: whether the precision asked for was reached; where not, this is the most precise threshold there is.
    """

    value: float
    precision: float
    coverage: float
    reached: bool


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Photos whose best score lies in one interval: what was said, and what was true of it."""

    mean_score: float
    accuracy: float
    n_photos: int


def fit_temperature(logits: Floats, class_indexes: Indexes) -> float:
    """The temperature with the smallest negative log-likelihood.

    Args:
        logits: (n, k), of photos that the head was not fitted on.
        class_indexes: (n,) what they are.
    """
    rows = np.arange(len(logits))

    def loss(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) / np.exp(log_temperature)
        scaled -= scaled.max(axis=1, keepdims=True)
        return float((np.log(np.exp(scaled).sum(axis=1)) - scaled[rows, class_indexes]).mean())

    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def choose_threshold(scores: Floats, class_indexes: Indexes, *, target_precision: float) -> Threshold:
    """The smallest threshold above which answers are right as often as asked for.

    It is never below the lowest score of these photos: of answers less sure than any of them nothing is known.

    Args:
        scores: (n, k), of validation photos.
        class_indexes: (n,) what they are.
        target_precision: 0..1.
    """
    values, precisions, coverages = coverage_curve(scores, class_indexes)
    enough = coverages * len(scores) >= min(MIN_ANSWERS, len(scores))
    reaching = np.flatnonzero(enough & (precisions >= target_precision))
    at = int(reaching[-1]) if len(reaching) else int(np.flatnonzero(enough)[precisions[enough].argmax()])
    return Threshold(
        value=float(values[at]),
        precision=float(precisions[at]),
        coverage=float(coverages[at]),
        reached=bool(len(reaching)),
    )


def coverage_curve(scores: Floats, class_indexes: Indexes) -> tuple[Floats, Floats, Floats]:
    """What each possible threshold would give, from the highest to the lowest.

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
    """Ten intervals of the best score, those without photos left out."""
    best = scores.max(axis=1)
    right = scores.argmax(axis=1) == class_indexes
    bins = np.minimum((best * N_BINS).astype(int), N_BINS - 1)
    return tuple(
        ReliabilityBin(float(best[inside].mean()), float(right[inside].mean()), int(inside.sum()))
        for inside in (bins == number for number in np.unique(bins))
    )


def expected_calibration_error(scores: Floats, class_indexes: Indexes) -> float:
    """Mean distance between score and accuracy over the intervals, weighted by their photos; 0 is perfect."""
    bins = reliability(scores, class_indexes)
    return float(sum(part.n_photos * abs(part.mean_score - part.accuracy) for part in bins) / len(scores))
