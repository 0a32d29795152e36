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

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax

from trainer.head.axes import Doubles, Turned, axes_of, turned
from trainer.head.head import Floats, Head, Indexes
from trainer.vgg16.stored_rows import Table

STRENGTHS = (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001)
TAUS = tuple(float(tau) for tau in np.arange(0.0, 2.01, 0.25))
TEMPERATURES = 2.0 ** np.arange(-4.0, 5.1, 0.5)
PATIENCE = 1  # weaker penalties in a row without improvement before the search stops
BETTER = 0.99  # required ratio to the loss before; otherwise the stronger penalty is kept
N_FOLDS = 5
ENOUGH_TO_CHOOSE_BY = 30  # validation photos of the rarest label; with fewer, cross-validation is used
ROUNDING = 1e-9  # of two losses that are equal; the weaker adjustment is chosen
SOLVER = {"maxiter": 500, "maxcor": 10, "ftol": 1e-8, "gtol": 1e-6}


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

    features: Table
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
        out_of_fold: (n, k) logits and (n,) class indexes of the judged rows, each from a head that was fitted without
            the row's member, with the chosen penalty and adjustment; None if the choice was by validation.
        n_steps: total number of steps passed to `progress`.
    """

    head: Head
    path: tuple[Strength, ...]
    chosen: int
    out_of_fold: tuple[Floats, Indexes] | None
    n_steps: int

    @property
    def cross_validated(self) -> bool:
        """Whether the choice was by cross-validation over members, not by validation."""
        return self.out_of_fold is not None


@dataclass(frozen=True, eq=False)
class _Solution:
    """The kernels (r, f, k) on the axes, the biases (f, k), and the training losses (f,), of f fits."""

    kernel: Doubles
    bias: Doubles
    loss: Doubles

    def logits(self, rows: Turned, fit: int, among: npt.NDArray[np.bool_] | None = None) -> Doubles:
        return rows.logits(self.kernel[:, fit], self.bias[fit], among)


def fit_linear(
    empty: Head,
    rows: Rows,
    validation: tuple[Table, Indexes],
    *,
    strengths: Sequence[float] = STRENGTHS,
    progress: Callable[[int, int], None] | None = None,
) -> LinearFit:
    """Fit a linear head; the same rows give a bit-identical head on the same machine, if BLAS uses one thread.

    Args:
        empty: a head with labels and standardisation, but no layers.
        validation: (m, d) features and (m,) class indexes.
        strengths: strengths of the penalty to try, strongest first.
        progress: called after each strength with (done, total).
    """
    n_classes = len(empty.labels)
    axes, variances = axes_of(empty, rows.features)
    rotated = turned(empty, rows.features, axes)
    log_shares = np.log(np.bincount(rows.class_indexes, minlength=n_classes) / len(rows.class_indexes))
    folds = _folds(rows, validation[1], n_classes=n_classes)
    deciding = rows.class_indexes[rows.is_judged] if folds else validation[1]
    seen = np.array([np.ones(len(rotated), dtype=np.bool_), *folds])
    unseen = rotated if folds else turned(empty, validation[0], axes)
    path: list[Strength] = []
    tried: list[tuple[_Solution, Doubles]] = []
    chosen = 0
    solutions = _solve_path(rotated, rows.class_indexes, rows.weights * seen, variances, n_classes, strengths)
    for strength, solution in zip(strengths, solutions, strict=True):
        logits = solution.logits(unseen, 0)
        for fit, inside in enumerate(folds, start=1):
            logits[~inside] = solution.logits(rotated, fit, ~inside)
        logits = logits[rows.is_judged] if folds else logits
        loss, tau = _loss_and_tau(logits, deciding, log_shares)
        tried.append((solution, logits))
        path.append(Strength(strength, float(solution.loss[0]), loss, tau))
        if loss < BETTER * path[chosen].loss:
            chosen = len(path) - 1
        if progress is not None:
            progress(len(path), len(strengths))
        if len(path) - 1 - chosen >= PATIENCE:
            break
    solution, logits = tried[chosen]
    adjustment = path[chosen].tau * log_shares
    layer = ((axes @ solution.kernel[:, 0]).astype(np.float32), (solution.bias[0] - adjustment).astype(np.float32))
    out_of_fold = ((logits - adjustment).astype(np.float32), deciding) if folds else None
    head = Head(empty.labels, empty.mean, empty.scale, (layer,))
    return LinearFit(head, tuple(path), chosen, out_of_fold, n_steps=len(strengths))


def _solve_path(
    rotated: Turned,
    class_indexes: Indexes,
    weights: Floats,
    variances: Doubles,
    n_classes: int,
    strengths: Sequence[float],
) -> Iterator[_Solution]:
    """Solve for each strength, starting from the previous solution.

    Several fits on the same rows are solved as one problem: most of the time goes into reading the rows.

    Args:
        rotated: (n, r), with the variance (r,) along each axis.
        weights: (f, n) of each fit; rows with a weight of 0 do not count.
    """
    n_fits, n_axes = len(weights), len(variances)
    shares = (weights / weights.sum(axis=1, keepdims=True, dtype=np.float64)).T
    n_biases = n_fits * n_classes
    kernel, bias = np.zeros((n_axes, n_biases)), np.zeros(n_biases)
    losses = np.zeros(n_fits)
    for strength in strengths:
        # Scaled so that the curvature of the loss is similar along every axis.
        unit = 1.0 / np.sqrt(variances[:, None] / 4 + strength)

        def loss(flat: Doubles, unit: Doubles = unit, strength: float = strength) -> tuple[float, Doubles]:
            kernel, bias = flat[:-n_biases].reshape(n_axes, n_biases) * unit, flat[-n_biases:] * 2
            its_kernel = rotated.kernel(kernel)
            losses[:], slopes, bias_slopes = 0, np.zeros(its_kernel.shape), np.zeros(n_biases)
            for part, block in rotated.blocks():
                logits = (block @ its_kernel + bias).reshape(len(block), n_fits, n_classes)
                logits -= logits.max(axis=2, keepdims=True)
                at = (np.arange(len(block)), slice(None), class_indexes[part])
                right = logits[at]
                errors = np.exp(logits, out=logits)
                sums = errors.sum(axis=2)
                losses[:] += np.sum(shares[part] * (np.log(sums) - right), axis=0)
                errors /= sums[:, :, None]
                errors[at] -= 1
                errors *= shares[part][:, :, None]
                errors = errors.reshape(len(block), n_biases)
                slopes += block.T @ errors.astype(block.dtype)
                bias_slopes += errors.sum(axis=0)
            slope = (rotated.slope(slopes) + strength * kernel) * unit
            value = float(losses.sum() + strength / 2 * np.sum(kernel**2))
            return value, np.concatenate([slope.ravel(), bias_slopes * 2])

        start = np.concatenate([(kernel / unit).ravel(), bias / 2])
        found = minimize(loss, start, jac=True, method="L-BFGS-B", options=SOLVER)
        loss(found.x)  # leaves the losses of the solution
        kernel, bias = found.x[:-n_biases].reshape(n_axes, n_biases) * unit, found.x[-n_biases:] * 2
        yield _Solution(kernel.reshape(n_axes, n_fits, n_classes), bias.reshape(n_fits, n_classes), losses.copy())


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
    best = next(number for number, each in enumerate(losses) if each <= min(losses) * (1 + ROUNDING))
    return losses[best], TAUS[best]


def _folds(rows: Rows, validation_indexes: Indexes, *, n_classes: int) -> list[npt.NDArray[np.bool_]]:
    """Whether each row (n,) is among the training rows of each fold; empty if validation suffices for every label."""
    if np.bincount(validation_indexes, minlength=n_classes).min() >= ENOUGH_TO_CHOOSE_BY:
        return []
    groups = np.unique(np.asarray(rows.groups), return_inverse=True)[1]
    n_groups = min(len(np.unique(groups[rows.class_indexes == index])) for index in range(n_classes))
    if n_groups < 2:
        return []
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(min(N_FOLDS, n_groups), shuffle=True, random_state=0)
    folds = []
    for _, outside in splitter.split(groups, rows.class_indexes, groups):
        inside = np.ones(len(groups), dtype=np.bool_)
        inside[outside] = False
        folds.append(inside)
    complete = all(len(np.unique(rows.class_indexes[inside])) == n_classes for inside in folds)
    return folds if complete else []
