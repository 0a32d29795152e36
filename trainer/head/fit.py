"""Fits a head with Keras.

A linear head is always fitted. If the settings ask for a hidden layer, a second head is fitted with it, and kept only
if it is clearly better on validation: with few photos the linear head is better (balanced accuracy 0.75 against 0.67 on
115 photos), with many thousands the other may be. The output layer starts at zero: with more features than photos,
training does not change most of a random start, which stays in the scores as noise (0.75 against 0.71 on those photos).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trainer.config import HeadSettings
from trainer.errors import ModelError
from trainer.head.head import CHUNK, Floats, Head, Indexes
from trainer.vgg16.backend import load_keras

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
    """The head with the lowest validation loss, and the history of the fit.

    Attributes:
        history: one entry per epoch.
        best_epoch: index in `history` of the head.
    """

    head: Head
    history: tuple[Epoch, ...]
    best_epoch: int

    @property
    def validation_loss(self) -> float:
        """The lowest validation loss, in nats."""
        return self.history[self.best_epoch].validation_loss


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
    features: Floats,
    class_indexes: Indexes,
    *,
    validation_features: Floats,
    validation_class_indexes: Indexes,
    labels: Sequence[str],
    settings: HeadSettings,
    progress: Callable[[int, int], None] | None = None,
) -> FittedHead:
    """Fit a head, with early stopping after `settings.patience` epochs without a lower validation loss.

    The same arrays and settings give a bit-identical head on the same machine; no global seed is changed.

    Args:
        features: (n, n_views, d); each view of a photo is one training row.
        class_indexes: (n,) in 0..k-1, each label at least once.
        validation_features: (m, d), of the view used for prediction.
        validation_class_indexes: (m,).
        labels: k names in the order of the class indexes.
        progress: called after each epoch with (epochs done, maximum).

    Raises:
        ModelError: a value is not finite, or a class has no photo.
    """
    if not (_is_finite(features) and _is_finite(validation_features)):
        raise ModelError("features contain values that are not finite; delete data_dir/features and compute them again")
    n_photos, n_views, n_features = features.shape
    data = _FitData(
        rows=features.reshape(n_photos * n_views, n_features),
        targets=np.repeat(class_indexes, n_views),
        weights=class_weights(class_indexes, n_classes=len(labels), settings=settings)[
            np.repeat(class_indexes, n_views)
        ],
        as_predicted=(features[:, 0], class_indexes),
        validation=(validation_features, validation_class_indexes),
    )
    mean, scale = _mean_and_scale(data.rows)
    empty = Head(tuple(labels), mean, scale, ())
    sizes = sorted({0, settings.hidden_units})

    def fit(number: int, hidden_units: int) -> FittedHead:
        def count(epochs: int) -> None:
            if progress is not None:
                progress(number * settings.max_epochs + epochs, len(sizes) * settings.max_epochs)

        return _fit(empty, data, settings, hidden_units=hidden_units, count=count)

    fits = [fit(number, hidden_units) for number, hidden_units in enumerate(sizes)]
    best = fits[0]
    for challenger in fits[1:]:
        logits, before = (one.head.logits(validation_features) for one in (challenger, best))
        if gain(logits, before, validation_class_indexes).is_clear:
            best = challenger
    logger.info(
        "head fitted hidden_units=%d epochs=%d best_epoch=%d validation_loss=%.4f",
        best.head.hidden_units,
        len(best.history),
        best.best_epoch + 1,
        best.validation_loss,
    )
    return best


@dataclass(frozen=True, eq=False)
class _FitData:
    """The data of a fit.

    Attributes:
        rows: (n * n_views, d), not standardised, with their `targets` and `weights`.
        as_predicted: (n, d) and (n,): the training photos in the view used for prediction.
        validation: (m, d) and (m,).
    """

    rows: Floats
    targets: Indexes
    weights: Floats
    as_predicted: tuple[Floats, Indexes]
    validation: tuple[Floats, Indexes]


def _fit(
    empty: Head, data: _FitData, settings: HeadSettings, *, hidden_units: int, count: Callable[[int], None]
) -> FittedHead:
    """Fit one architecture; `empty` has the labels and the standardisation, but no layers."""
    keras = load_keras()
    n_rows = len(data.rows)
    batch_size = min(settings.batch_size, n_rows)
    n_steps = -(-n_rows // batch_size)
    model = _build(keras, empty.n_features, len(empty.labels), n_steps, settings, hidden_units=hidden_units)
    rng = np.random.default_rng(settings.seed)
    best, best_loss, best_epoch = empty, np.inf, 0
    history: list[Epoch] = []
    for epoch in range(settings.max_epochs):
        order = np.resize(rng.permutation(n_rows), n_steps * batch_size)  # padded, because each new shape is compiled
        for batch in np.split(order, n_steps):
            rows = empty.standardise(data.rows[batch])
            model.train_on_batch(rows, data.targets[batch], sample_weight=data.weights[batch])
        arrays = [np.array(array) for array in model.get_weights()]
        head = replace(empty, layers=tuple(zip(arrays[::2], arrays[1::2], strict=True)))
        results = (judge(head.logits(rows), indexes) for rows, indexes in (data.as_predicted, data.validation))
        (train_loss, train_accuracy), (validation_loss, validation_accuracy) = results
        history.append(Epoch(train_loss, train_accuracy, validation_loss, validation_accuracy))
        count(epoch + 1)
        if history[-1].validation_loss < best_loss:
            best, best_loss, best_epoch = head, history[-1].validation_loss, epoch
        elif epoch - best_epoch >= settings.patience:
            break
    if not np.isfinite(best_loss):
        raise ModelError("the head's loss is not finite; lower head.learning_rate")
    return FittedHead(head=best, history=tuple(history), best_epoch=best_epoch)


def _is_finite(features: Floats) -> bool:
    return all(np.isfinite(features[start : start + CHUNK]).all() for start in range(0, len(features), CHUNK))


def _mean_and_scale(rows: Floats) -> tuple[Floats, Floats]:
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


def _build(
    keras: Any, n_features: int, n_classes: int, n_steps: int, settings: HeadSettings, *, hidden_units: int
) -> Any:
    """Build and compile the Keras model on standardised features; each layer has its own seed."""
    layers = [keras.Input((n_features,))]
    if hidden_units:
        layers += [
            keras.layers.Dense(
                hidden_units,
                activation="relu",
                kernel_initializer=keras.initializers.GlorotUniform(seed=settings.seed),
                dtype="float32",
            ),
            keras.layers.Dropout(settings.dropout, seed=settings.seed + 1),
        ]
    layers.append(keras.layers.Dense(n_classes, kernel_initializer="zeros", dtype="float32"))
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
