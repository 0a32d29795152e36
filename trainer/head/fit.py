"""Fits a linear head, and, if the settings ask for it, a head with a hidden layer, with Keras.

The head with a hidden layer is kept only if it is clearly better on validation: with a few hundred photos the linear
head is better (balanced accuracy 0.75 against 0.67 on 115 photos), with many thousands the other may be. Its output
layer starts at zero: with more features than photos, training does not change most of a random start, which stays in
the scores as noise (0.75 against 0.71 on those photos).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from trainer.config import HeadSettings
from trainer.errors import ModelError
from trainer.head.calibration import fit_calibration
from trainer.head.head import CHUNK, Floats, Head, Indexes
from trainer.head.linear import STRENGTHS, LinearFit, Rows, fit_linear
from trainer.vgg16.backend import load_keras
from trainer.vgg16.stored_rows import StoredRows, Table, rows_at

logger = logging.getLogger(__name__)

SMALLEST_SCALE = 1e-6  # avoids dividing by almost zero for a constant feature


@dataclass(frozen=True, slots=True)
class Epoch:
    """Losses (nats) and accuracies (0..1) of one epoch."""

    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True, eq=False)
class FittedHead:
    """The better of the fitted heads, and the history of the fits.

    Attributes:
        linear: the linear head's fit.
        history: epochs of the head with a hidden layer; empty if the settings do not ask for one.
        best_epoch: index in `history` of the lowest validation loss; this head was compared.
    """

    head: Head
    linear: LinearFit
    history: tuple[Epoch, ...] = ()
    best_epoch: int = 0


@dataclass(frozen=True, slots=True)
class Gain:
    """Decrease of a loss in nats per photo, and its standard error."""

    mean: float
    error: float

    @property
    def is_clear(self) -> bool:
        """Whether the gain is more than two standard errors; a smaller one may be chance."""
        return self.mean > 2 * self.error


def gain(logits: Floats, before: Floats, class_indexes: Indexes) -> Gain:
    """Decrease of the cross-entropy from (n, k) logits `before` to `logits`, for the same photos."""
    gains = _cross_entropy(before, class_indexes) - _cross_entropy(logits, class_indexes)
    return Gain(float(gains.mean()), float(gains.std() / np.sqrt(len(gains))))


def fit_head(
    features: Table,
    class_indexes: Indexes,
    *,
    validation_features: Table,
    validation_class_indexes: Indexes,
    labels: Sequence[str],
    settings: HeadSettings,
    groups: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FittedHead:
    """Fit a head.

    The same arrays and settings give a bit-identical head on the same machine, with any number of threads; no global
    seed is changed.

    Args:
        features: (n, n_views, d), or the same as rows, (n * n_views, d), photo by photo; each view of a photo is one
            training row.
        class_indexes: (n,) in 0..k-1, each label at least once.
        validation_features: (m, d), of the view used for prediction.
        validation_class_indexes: (m,).
        labels: k names in the order of the class indexes.
        groups: (n,) the member of each photo; None means that each photo is its own group.
        progress: called after each step with (steps done, maximum); steps are strengths of the penalty, then epochs.

    Raises:
        ModelError: a value is not finite, or a class has no photo.
    """
    if not (_is_finite(features) and _is_finite(validation_features)):
        raise ModelError("features contain values that are not finite; delete data_dir/features and compute them again")
    n_photos = len(class_indexes)
    table = features if isinstance(features, StoredRows) else features.reshape(-1, features.shape[-1])
    n_views = len(table) // n_photos
    rows = Rows(
        features=table,
        class_indexes=np.repeat(class_indexes, n_views),
        weights=class_weights(class_indexes, n_classes=len(labels), settings=settings)[
            np.repeat(class_indexes, n_views)
        ],
        groups=[group for group in groups or map(str, range(n_photos)) for _ in range(n_views)],
        is_judged=np.tile(np.arange(n_views) == 0, n_photos),
    )
    validation = (validation_features, validation_class_indexes)
    empty = Head(tuple(labels), *_mean_and_scale(rows.features), ())
    n_more = settings.max_epochs if settings.hidden_units else 0

    def count(done: int, total: int) -> None:
        if progress is not None:
            progress(done, total + n_more)

    strengths = STRENGTHS if settings.l2 == "auto" else (float(settings.l2),)
    with threadpool_limits(1, user_api="blas"):  # as the bits of a product depend on it; one is faster here, too
        linear = fit_linear(empty, rows, validation, strengths=strengths, progress=count)
    best = linear.path[linear.chosen]
    logger.info("linear head fitted l2=%g tau=%g loss=%.4f", best.value, best.tau, best.loss)
    if not settings.hidden_units:
        return FittedHead(linear.head, linear)
    deep, history, best_epoch = _fit_hidden(
        empty, rows, validation, settings, count=lambda done: count(linear.n_steps + done, linear.n_steps)
    )
    logits, before = (_calibrated_logits(head, validation) for head in (deep, linear.head))
    better = gain(logits, before, validation_class_indexes)
    logger.info(
        "hidden layer fitted units=%d epochs=%d gain=%.4f error=%.4f kept=%s",
        settings.hidden_units,
        len(history),
        better.mean,
        better.error,
        better.is_clear,
    )
    return FittedHead(deep if better.is_clear else linear.head, linear, history, best_epoch)


def _calibrated_logits(head: Head, validation: tuple[Table, Indexes]) -> Floats:
    """Logits (m, k) divided by their best temperature, to compare heads after calibration."""
    logits = head.logits(validation[0])
    return logits / np.float32(fit_calibration(logits, validation[1]).temperature)


def _fit_hidden(
    empty: Head,
    rows: Rows,
    validation: tuple[Table, Indexes],
    settings: HeadSettings,
    *,
    count: Callable[[int], None],
) -> tuple[Head, tuple[Epoch, ...], int]:
    """Fit a head with a hidden layer, with early stopping after `settings.patience` epochs without improvement."""
    keras = load_keras()
    n_rows = len(rows.features)
    batch_size = min(settings.batch_size, n_rows)
    n_steps = -(-n_rows // batch_size)
    model = _build(keras, empty.n_features, len(empty.labels), n_steps, settings)
    rng = np.random.default_rng(settings.seed)
    judged = (rows_at(rows.features, rows.is_judged), rows.class_indexes[rows.is_judged])
    best, best_loss, best_epoch = empty, np.inf, 0
    history: list[Epoch] = []
    for epoch in range(settings.max_epochs):
        order = np.resize(rng.permutation(n_rows), n_steps * batch_size)  # padded, because each new shape is compiled
        for batch in np.split(order, n_steps):
            standardised = empty.standardise(rows.features[batch])
            model.train_on_batch(standardised, rows.class_indexes[batch], sample_weight=rows.weights[batch])
        arrays = [np.array(array) for array in model.get_weights()]
        head = replace(empty, layers=tuple(zip(arrays[::2], arrays[1::2], strict=True)))
        figures = [judge(head.logits(features), indexes) for features, indexes in (judged, validation)]
        (train_loss, train_accuracy), (validation_loss, validation_accuracy) = figures
        history.append(Epoch(train_loss, train_accuracy, validation_loss, validation_accuracy))
        count(epoch + 1)
        if validation_loss < best_loss:
            best, best_loss, best_epoch = head, validation_loss, epoch
        elif epoch - best_epoch >= settings.patience:
            break
    if not np.isfinite(best_loss):
        raise ModelError("the head's loss is not finite; lower head.learning_rate")
    return best, tuple(history), best_epoch


def _is_finite(features: Table) -> bool:
    return all(np.isfinite(features[start : start + CHUNK]).all() for start in range(0, len(features), CHUNK))


def _mean_and_scale(rows: Table) -> tuple[Floats, Floats]:
    """Mean and standard deviation, each (d,), computed in chunks to save memory."""
    total = np.zeros(rows.shape[1])
    squares = np.zeros(rows.shape[1])
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK].astype(np.float64)
        total += part.sum(axis=0)
        squares += (part**2).sum(axis=0)
    mean = total / len(rows)
    variance = np.maximum(squares / len(rows) - mean**2, 0)
    scale = np.maximum(np.sqrt(variance), SMALLEST_SCALE)
    return mean.astype(np.float32), scale.astype(np.float32)


def class_weights(class_indexes: Indexes, *, n_classes: int, settings: HeadSettings) -> Floats:
    """Weight (k,) of a row of each class; with balance "weights" all classes have the same total weight.

    Raises:
        ModelError: a class has no row.
    """
    counts = np.bincount(class_indexes, minlength=n_classes)
    if counts.min() == 0:
        raise ModelError(f"class {int(counts.argmin())} has no training photo; add photos of it")
    if settings.balance == "none":
        return np.ones(n_classes, dtype=np.float32)
    weights: Floats = (counts.sum() / (n_classes * counts)).astype(np.float32)
    return weights


def _build(keras: Any, n_features: int, n_classes: int, n_steps: int, settings: HeadSettings) -> Any:
    """Build and compile the Keras model on standardised features; each layer has its own seed."""
    layers = [
        keras.Input((n_features,)),
        keras.layers.Dense(
            settings.hidden_units,
            activation="relu",
            kernel_initializer=keras.initializers.GlorotUniform(seed=settings.seed),
            dtype="float32",
        ),
        keras.layers.Dropout(settings.dropout, seed=settings.seed + 1),
        keras.layers.Dense(n_classes, kernel_initializer="zeros", dtype="float32"),
    ]
    model = keras.Sequential(layers)
    decay = keras.optimizers.schedules.CosineDecay(settings.learning_rate, settings.max_epochs * n_steps)
    model.compile(
        optimizer=keras.optimizers.AdamW(learning_rate=decay, weight_decay=settings.weight_decay),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,  # compiling takes longer than a fit
    )
    return model


def judge(logits: Floats, class_indexes: Indexes) -> tuple[float, float]:
    """Balanced cross-entropy in nats (so that rare classes count in early stopping), and pooled accuracy."""
    losses = _cross_entropy(logits, class_indexes)
    by_class = [losses[class_indexes == index].mean() for index in np.unique(class_indexes)]
    return float(np.mean(by_class)), float((logits.argmax(axis=1) == class_indexes).mean())


def _cross_entropy(logits: Floats, class_indexes: Indexes) -> Floats:
    """Cross-entropy of each row, (n,) in nats."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    losses: Floats = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(logits)), class_indexes]
    return losses
