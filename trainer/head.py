"""The head: the small classifier on top of bottleneck features. Built and fitted with Keras, served by NumPy.

A head is standardisation, at most one hidden layer, and a softmax whose temperature is calibrated. That is two matrix
products, so serving needs no Keras for it, and the file is plain arrays: it outlives any version of Keras.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.backend import load_keras
from trainer.config import HeadSettings
from trainer.errors import ModelError
from trainer.files import write_file

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
Indexes = npt.NDArray[np.int64]
Layer = tuple[Floats, Floats]  # kernel (n_in, n_out) and bias (n_out,)

FILE_NAME = "head.npz"
SMALLEST_SCALE = 1e-6  # a feature that never varies is not blown up


@dataclass(frozen=True, eq=False)
class Head:
    """Bottleneck features -> calibrated scores.

    Attributes:
        labels: in the order of the scores.
        mean: (d,), of the training features; so is `scale`, their standard deviation.
        layers: one, or two with a relu in between.
        temperature: logits are divided by it; above 0.
    """

    labels: tuple[str, ...]
    mean: Floats
    scale: Floats
    layers: tuple[Layer, ...]
    temperature: float = 1.0

    @property
    def n_features(self) -> int:
        """Length of the features it takes."""
        return int(self.mean.shape[0])

    def logits(self, features: Floats) -> Floats:
        """(n, d) -> (n, k), before the temperature.

        Raises:
            ModelError: features of another length.
        """
        return self._forward(features)[1]

    def scores(self, features: Floats) -> Floats:
        """(n, d) -> (n, k) in 0..1, rows that add up to one: calibrated probabilities."""
        return softmax(self.logits(features) / np.float32(self.temperature))

    def gradient(self, features: Floats, class_index: Indexes) -> Floats:
        """How each feature moves one label's logit.

        Args:
            features: (n, d).
            class_index: (n,), the label looked at in each row.

        Returns:
            (n, d): d logit[class_index] / d features.
        """
        hidden, _ = self._forward(features)
        slope = self.layers[-1][0].T[class_index]
        if hidden is not None:
            slope = (slope * (hidden > 0)) @ self.layers[0][0].T
        gradient: Floats = slope / self.scale
        return gradient

    def with_temperature(self, temperature: float) -> Head:
        """The same head, calibrated."""
        return replace(self, temperature=temperature)

    def save(self, folder: Path) -> None:
        """Write head.npz in one step.

        Raises:
            StorageError: the disk is full; what was there before is untouched.
        """
        arrays: dict[str, Any] = {
            "labels": np.array(self.labels),
            "mean": self.mean,
            "scale": self.scale,
            "temperature": np.float64(self.temperature),
        }
        for number, (kernel, bias) in enumerate(self.layers):
            arrays[f"kernel_{number}"], arrays[f"bias_{number}"] = kernel, bias
        write_file(folder / FILE_NAME, lambda file: np.savez(file, **arrays))

    @classmethod
    def load(cls, folder: Path) -> Head:
        """Read head.npz.

        Raises:
            ModelError: it is missing, damaged, or no head.
        """
        file = folder / FILE_NAME
        try:
            with np.load(file, allow_pickle=False) as arrays:
                n_layers = sum(name.startswith("kernel_") for name in arrays.files)
                return cls(
                    labels=tuple(str(label) for label in arrays["labels"]),
                    mean=arrays["mean"],
                    scale=arrays["scale"],
                    layers=tuple((arrays[f"kernel_{n}"], arrays[f"bias_{n}"]) for n in range(n_layers)),
                    temperature=float(arrays["temperature"]),
                )
        except Exception as error:  # zipfile and NumPy raise whatever they like about a damaged file
            raise ModelError(f"{file}: cannot be read as a head ({error}); roll back, or train anew") from error

    def _forward(self, features: Floats) -> tuple[Floats | None, Floats]:
        """The hidden layer's activations, None where there is none, and the logits."""
        if features.ndim != 2 or features.shape[1] != self.n_features:
            raise ModelError(
                f"features are {features.shape}, this head takes (n, {self.n_features}); it was trained on other layers"
            )
        rows: Floats = (features - self.mean) / self.scale
        hidden = None
        if len(self.layers) == 2:
            kernel, bias = self.layers[0]
            rows = hidden = np.maximum(rows @ kernel + bias, 0)
        kernel, bias = self.layers[-1]
        return hidden, rows @ kernel + bias


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the training features came to; losses in nats, accuracies in 0..1."""

    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True, eq=False)
class FittedHead:
    """The head with the best validation loss, and the way there.

    Attributes:
        history: one entry an epoch.
        best_epoch: the place in `history` that the head is from.
    """

    head: Head
    history: tuple[Epoch, ...]
    best_epoch: int


def softmax(logits: Floats) -> Floats:
    """(n, k) -> (n, k), rows that add up to one."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores: Floats = powers / powers.sum(axis=1, keepdims=True)
    return scores


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
    """Fit a head; it stops when validation loss has not improved for `settings.patience` epochs.

    The same arrays and settings give the same head, bit for bit, on the same machine. Keras' global seed is set.

    Args:
        features: (n, n_views, d); each view of a photo is a training row of its own.
        class_indexes: (n,) in 0..k-1, each label at least once.
        validation_features: (m, d), the view that photos are judged by.
        validation_class_indexes: (m,).
        labels: k names in the order of the class indexes.
        progress: called after each epoch with (epochs done, epochs at most).

    Raises:
        ModelError: shapes do not fit, or values are not finite.
    """
    n_photos, n_views, n_features = features.shape
    rows = features.reshape(n_photos * n_views, n_features)
    targets = np.repeat(class_indexes, n_views)
    if not (np.isfinite(rows).all() and np.isfinite(validation_features).all()):
        raise ModelError("features hold values that are not finite; delete data_dir/features and compute them again")
    mean = rows.mean(axis=0)
    scale = np.maximum(rows.std(axis=0), SMALLEST_SCALE)
    rows = (rows - mean) / scale
    weights = class_weights(class_indexes, n_classes=len(labels), settings=settings)[targets]
    n_steps = -(-len(rows) // settings.batch_size)
    keras = load_keras()
    keras.utils.set_random_seed(settings.seed)
    model = _build(keras, n_features, len(labels), n_steps, settings)
    order = np.random.default_rng(settings.seed)

    def head_now() -> Head:
        arrays = [np.array(array) for array in model.get_weights()]
        return Head(tuple(labels), mean, scale, tuple(zip(arrays[::2], arrays[1::2], strict=True)))

    best, best_loss, best_epoch = head_now(), np.inf, 0
    history: list[Epoch] = []
    for epoch in range(settings.max_epochs):
        shuffled = order.permutation(len(rows))
        for step in range(n_steps):
            batch = shuffled[step * settings.batch_size : (step + 1) * settings.batch_size]
            model.train_on_batch(rows[batch], targets[batch], sample_weight=weights[batch])
        head = head_now()
        train = _judge(head, features[:, 0], class_indexes)
        validation = _judge(head, validation_features, validation_class_indexes)
        history.append(Epoch(*train, *validation))
        if progress is not None:
            progress(epoch + 1, settings.max_epochs)
        if validation[0] < best_loss:
            best, best_loss, best_epoch = head, validation[0], epoch
        elif epoch - best_epoch >= settings.patience:
            break
    if not np.isfinite(best_loss):
        raise ModelError("the head's loss is not finite; lower head.learning_rate")
    logger.info("head fitted epochs=%d best_epoch=%d validation_loss=%.4f", len(history), best_epoch + 1, best_loss)
    return FittedHead(head=best, history=tuple(history), best_epoch=best_epoch)


def class_weights(class_indexes: Indexes, *, n_classes: int, settings: HeadSettings) -> Floats:
    """(k,) what a row of each class counts; with balance "weights" all classes count the same in total.

    Raises:
        ModelError: a class has no row.
    """
    counts = np.bincount(class_indexes, minlength=n_classes)
    if counts.min() == 0:
        raise ModelError(f"class {int(counts.argmin())} has no training photo")
    if settings.balance == "none":
        return np.ones(n_classes, dtype=np.float32)
    weights: Floats = (counts.sum() / (n_classes * counts)).astype(np.float32)
    return weights


def _build(keras: Any, n_features: int, n_classes: int, n_steps: int, settings: HeadSettings) -> Any:
    layers = [keras.Input((n_features,))]
    if settings.hidden_units:
        layers += [
            keras.layers.Dense(settings.hidden_units, activation="relu", dtype="float32"),
            keras.layers.Dropout(settings.dropout),
        ]
    layers.append(keras.layers.Dense(n_classes, dtype="float32"))
    model = keras.Sequential(layers)
    decay = keras.optimizers.schedules.CosineDecay(settings.learning_rate, settings.max_epochs * n_steps)
    model.compile(
        optimizer=keras.optimizers.AdamW(learning_rate=decay, weight_decay=settings.weight_decay),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    return model


def _judge(head: Head, features: Floats, class_indexes: Indexes) -> tuple[float, float]:
    """Balanced cross-entropy in nats, so that a rare class counts in early stopping too, and pooled accuracy."""
    scores = head.scores(features)
    losses = -np.log(np.maximum(scores[np.arange(len(scores)), class_indexes], 1e-12))
    by_class = [losses[class_indexes == index].mean() for index in np.unique(class_indexes)]
    return float(np.mean(by_class)), float((scores.argmax(axis=1) == class_indexes).mean())
