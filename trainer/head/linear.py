"""Fits a linear head to convergence: logistic regression with an L2 penalty, by L-BFGS.

The strength of the penalty, and the adjustment of the logits by the labels' shares, are chosen by the loss on unseen
photos: those of validation, or, if validation has few photos of a label, by cross-validation over members. This is the
loss after calibration, with equal weight for every label.

The features are first rotated onto their principal axes. An L2 penalty does not change by that. With similar curvature
in all coordinates, a fit needs tens of steps instead of hundreds, and few photos need only few axes.

Source of the adjustment: Menon et al., "Long-tail learning via logit adjustment", arXiv:2007.07314. Features of VGG16
separate a few hundred photos perfectly, and for separable data class weights have no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax

from trainer.head.head import CHUNK, Floats, Head, Indexes

STRENGTHS = (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001)
TAUS = tuple(float(tau) for tau in np.arange(0.0, 2.01, 0.25))
TEMPERATURES = 2.0 ** np.arange(-4.0, 5.1, 0.5)
PATIENCE = 2  # weaker penalties in a row without improvement before the search stops
BETTER = 0.99  # required ratio to the loss before; otherwise the stronger penalty is kept
N_FOLDS = 5
ENOUGH_TO_CHOOSE_BY = 30  # validation photos of the rarest label; with fewer, cross-validation is used
IN_DOUBLE = 20_000_000  # maximum number of values for float64
SMALLEST_AXIS = 1e-9  # share of the largest variance

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Strength:
    """One tried strength of the penalty.

    Attributes:
        value: factor of the penalty, added to the mean loss.
        train_loss: in nats, with class weights.
        loss: on the photos used for the choice, in nats; after calibration, with equal weight for every label.
        tau: the adjustment for this strength.
    """

    value: float
    train_loss: float
    loss: float
    tau: float


@dataclass(frozen=True, eq=False)
class Rows:
    """The training data of a head.

    Attributes:
        features: (n, d), not standardised.
        class_indexes: (n,).
        weights: (n,) weight of each row.
        groups: (n,) the member of each row; rows of a group are never in two folds.
        is_judged: (n,) whether a row is the view used for prediction.
    """

    features: Floats
    class_indexes: Indexes
    weights: Floats
    groups: Sequence[str]
    is_judged: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LinearFit:
    """A fitted linear head, and how its penalty was chosen.

    Attributes:
        path: the tried penalties, from the strongest to the weakest.
        chosen: index in `path`.
        cross_validated: whether the choice was by cross-validation over members, not by validation.
        n_steps: total number of steps passed to `progress`.
    """

    head: Head
    path: tuple[Strength, ...]
    chosen: int
    cross_validated: bool
    n_steps: int


@dataclass(frozen=True, eq=False)
class _Solution:
    """The kernel (r, k) on the axes, the bias (k,), and the training loss."""

    kernel: Doubles
    bias: Doubles
    loss: float

    def logits(self, rotated: npt.NDArray[Any]) -> Doubles:
        found: Doubles = rotated @ self.kernel.astype(rotated.dtype) + self.bias
        return found


def fit_linear(
    empty: Head,
    rows: Rows,
    validation: tuple[Floats, Indexes],
    *,
    strengths: Sequence[float] = STRENGTHS,
    progress: Callable[[int, int], None] | None = None,
) -> LinearFit:
    """Fit a linear head; the same rows, machine and number of BLAS threads give a bit-identical head.

    Args:
        empty: a head with labels and standardisation, but no layers.
        validation: (m, d) features and (m,) class indexes.
        strengths: strengths of the penalty to try, strongest first.
        progress: called after each strength with (done, total), in each fold and in the final fit.
    """
    n_classes = len(empty.labels)
    axes, variances = _axes(empty, rows.features)
    rotated = _rotated(empty, rows.features, axes)
    log_shares = np.log(np.bincount(rows.class_indexes, minlength=n_classes) / len(rows.class_indexes))
    folds = _folds(rows, validation[1], n_classes=n_classes)
    n_steps = (len(folds) + 1) * len(strengths)

    def count(done: int) -> None:
        if progress is not None:
            progress(done, n_steps)

    if folds:
        judged = rows.class_indexes[rows.is_judged]
        logits = np.empty((len(strengths), len(rotated), n_classes))
        for fold, (inside, outside) in enumerate(folds):
            weights = rows.weights[inside]
            solutions = _solve_path(
                rotated[inside], rows.class_indexes[inside], weights, variances, n_classes, strengths
            )
            for number, solution in enumerate(solutions):
                logits[number, outside] = solution.logits(rotated[outside])
                count(fold * len(strengths) + number + 1)
        verdicts = [_loss_and_tau(each[rows.is_judged], judged, log_shares) for each in logits]
    path: list[Strength] = []
    fits: list[_Solution] = []
    chosen = 0
    deciding = _rotated(empty, validation[0], axes)
    solutions = _solve_path(rotated, rows.class_indexes, rows.weights, variances, n_classes, strengths)
    for number, (strength, solution) in enumerate(zip(strengths, solutions, strict=True)):
        loss, tau = verdicts[number] if folds else _loss_and_tau(solution.logits(deciding), validation[1], log_shares)
        path.append(Strength(strength, solution.loss, loss, tau))
        fits.append(solution)
        count(len(folds) * len(strengths) + number + 1)
        if loss < BETTER * path[chosen].loss:
            chosen = number
        if number - chosen >= PATIENCE:
            break
    best = fits[chosen]
    kernel = (axes @ best.kernel).astype(np.float32)
    bias = (best.bias - path[chosen].tau * log_shares).astype(np.float32)
    head = Head(empty.labels, empty.mean, empty.scale, ((kernel, bias),))
    return LinearFit(head, tuple(path), chosen, cross_validated=bool(folds), n_steps=n_steps)


def _axes(empty: Head, features: Floats) -> tuple[Doubles, Doubles]:
    """Principal axes (d, r) of the standardised rows, and the variance (r,) along each; r <= min(n, d)."""
    n_rows, n_features = features.shape
    if n_rows < n_features:
        _, sizes, axes = np.linalg.svd(empty.standardise(features).astype(np.float64), full_matrices=False)
        variances, axes = sizes**2 / n_rows, axes.T
    else:
        products = np.zeros((n_features, n_features))
        for part in _parts(n_rows):
            standardised: npt.NDArray[Any] = empty.standardise(features[part])
            products += standardised.T @ standardised
        variances, axes = np.linalg.eigh(products / n_rows)
    kept = variances > SMALLEST_AXIS * variances.max()
    return axes[:, kept], variances[kept]


def _rotated(empty: Head, features: Floats, axes: Doubles) -> npt.NDArray[Any]:
    """The standardised rows in the coordinates of the axes, (n, r)."""
    dtype = np.float64 if len(features) * axes.shape[1] <= IN_DOUBLE else np.float32
    rotated = np.empty((len(features), axes.shape[1]), dtype=dtype)
    turn: npt.NDArray[Any] = axes.astype(dtype)
    for part in _parts(len(features)):
        rotated[part] = empty.standardise(features[part]) @ turn
    return rotated


def _parts(n_rows: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, n_rows, CHUNK))


def _solve_path(
    rotated: npt.NDArray[Any],
    class_indexes: Indexes,
    weights: Floats,
    variances: Doubles,
    n_classes: int,
    strengths: Sequence[float],
) -> Iterator[_Solution]:
    """Solve for each strength, starting from the previous solution."""
    n_axes, dtype = rotated.shape[1], rotated.dtype
    shares = weights.astype(np.float64) / weights.sum(dtype=np.float64)
    targets = np.zeros((len(rotated), n_classes))
    targets[np.arange(len(rotated)), class_indexes] = 1.0
    kernel, bias = np.zeros((n_axes, n_classes)), np.zeros(n_classes)
    for strength in strengths:
        # Scaled so that the curvature of the loss is similar along every axis.
        unit = 1.0 / np.sqrt(variances[:, None] / 4 + strength)

        def loss(flat: Doubles, unit: Doubles = unit, strength: float = strength) -> tuple[float, Doubles]:
            kernel, bias = flat[:-n_classes].reshape(n_axes, n_classes) * unit, flat[-n_classes:] * 2
            shares_left = log_softmax(rotated @ kernel.astype(dtype) + bias, axis=1)
            value = -np.einsum("i,ij,ij->", shares, targets, shares_left) + strength / 2 * np.sum(kernel**2)
            errors = (np.exp(shares_left) - targets) * shares[:, None]
            slope = (rotated.T @ errors.astype(dtype) + strength * kernel) * unit
            return float(value), np.concatenate([slope.ravel(), errors.sum(axis=0) * 2])

        start = np.concatenate([(kernel / unit).ravel(), bias / 2])
        found = minimize(
            loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500, "maxcor": 20, "ftol": 1e-8, "gtol": 1e-6}
        )
        kernel, bias = found.x[:-n_classes].reshape(n_axes, n_classes) * unit, found.x[-n_classes:] * 2
        yield _Solution(kernel, bias, float(found.fun - strength / 2 * np.sum(kernel**2)))


def _loss_and_tau(logits: Doubles, class_indexes: Indexes, log_shares: Doubles) -> tuple[float, float]:
    """The lowest loss after calibration and adjustment, with equal weight for every label, and its tau."""
    counts = np.bincount(class_indexes, minlength=len(log_shares))
    weights = 1.0 / (counts[class_indexes] * np.count_nonzero(counts))
    rows = np.arange(len(logits))

    def loss(tau: float) -> float:
        adjusted = logits - tau * log_shares
        return min(
            float(-(weights * log_softmax(adjusted / temperature, axis=1)[rows, class_indexes]).sum())
            for temperature in TEMPERATURES
        )

    losses = [loss(tau) for tau in TAUS]
    best = int(np.argmin(losses))
    return losses[best], TAUS[best]


def _folds(rows: Rows, validation_indexes: Indexes, *, n_classes: int) -> list[tuple[Indexes, Indexes]]:
    """(training rows, evaluation rows) of each fold; empty if validation has enough photos of every label."""
    if np.bincount(validation_indexes, minlength=n_classes).min() >= ENOUGH_TO_CHOOSE_BY:
        return []
    groups = np.unique(np.asarray(rows.groups), return_inverse=True)[1]
    n_groups = min(len(np.unique(groups[rows.class_indexes == index])) for index in range(n_classes))
    if n_groups < 2:
        return []
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(min(N_FOLDS, n_groups), shuffle=True, random_state=0)
    folds = list(splitter.split(groups, rows.class_indexes, groups))
    complete = all(len(np.unique(rows.class_indexes[inside])) == n_classes for inside, _ in folds)
    return folds if complete else []
