"""Calibrates scores by temperature and doubt, chooses the "not sure" threshold, and computes the curves that show both.

A temperature alone has one answer to two questions. Some photos bear a label that nothing in them shows, however many
photos a head learns from; a few of these among the surest answers cost so much likelihood that the temperature makes
all other scores too low. So a share of the photos is doubted: they may be anything, and the temperature fits the rest.

Source of the temperature: Guo et al., "On Calibration of Modern Neural Networks", arXiv:1706.04599.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

Floats = npt.NDArray[np.float32]
Indexes = npt.NDArray[np.int64]

TEMPERATURES = (0.05, 20.0)
MAX_DOUBT = 0.5
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
class Calibration:
    """What makes scores of logits: (1 - doubt) * softmax(logits / temperature) + doubt / k.

    Attributes:
        temperature: above 0.
        doubt: 0..1, the share of the photos of which logits tell nothing.
    """

    temperature: float
    doubt: float


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Photos whose best score lies in one interval: what was said, and what was true of it."""

    mean_score: float
    accuracy: float
    n_photos: int


def fit_calibration(logits: Floats, class_indexes: Indexes) -> Calibration:
    """The calibration with the smallest negative log-likelihood: the best doubt, each with its best temperature.

    Args:
        logits: (n, k), of photos that the head was not fitted on.
        class_indexes: (n,) what they are.
    """
    rows = np.arange(len(logits))
    n_classes = logits.shape[1]
    bounds = tuple(np.log(TEMPERATURES))

    def loss(log_temperature: float, doubt: float) -> float:
        scaled = logits.astype(np.float64) / np.exp(log_temperature)
        scaled -= scaled.max(axis=1, keepdims=True)
        log_shares = scaled[rows, class_indexes] - np.log(np.exp(scaled).sum(axis=1))
        with np.errstate(divide="ignore"):  # the logarithm of no doubt is -inf, as it should be
            return float(-np.logaddexp(np.log1p(-doubt) + log_shares, np.log(doubt / n_classes)).mean())

    def best(doubt: float) -> Any:
        return minimize_scalar(loss, bounds=bounds, args=(doubt,), method="bounded", options={"xatol": 1e-6})

    found = minimize_scalar(
        lambda doubt: best(doubt).fun, bounds=(0, MAX_DOUBT), method="bounded", options={"xatol": 1e-4}
    )
    doubt = float(found.x) if found.fun < best(0.0).fun else 0.0
    return Calibration(temperature=float(np.exp(best(doubt).x)), doubt=doubt)


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
