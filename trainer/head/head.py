"""The head: the small classifier on top of bottleneck features. Built and fitted with Keras, served by NumPy.

A head is standardisation, at most one hidden layer, and a softmax that is calibrated. That is two matrix
products, so serving needs no Keras for it, and the file is plain arrays: it outlives any version of Keras.

A linear head is always fitted, one with a hidden layer besides where the settings ask for it, and that one is kept only
if it is clearly better on validation: of a few hundred photos the linear one makes more (balanced accuracy 0.75 against
0.67 on 115 photos), of many thousands the other may. The output layer starts at zero: with more features than photos,
the data never reaches most of a random start, which stays in the scores as noise (0.75 against 0.71 on those photos).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.config import HeadSettings
from trainer.errors import ModelError
from trainer.files import write_file
from trainer.head.calibration import Calibration
from trainer.vgg16.backend import load_keras

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
Indexes = npt.NDArray[np.int64]
Layer = tuple[Floats, Floats]  # kernel (n_in, n_out) and bias (n_out,)

FILE_NAME = "head.npz"
SMALLEST_SCALE = 1e-6  # a feature that never varies is not blown up
CHUNK = 4096  # rows looked at at a time; bounds the memory


@dataclass(frozen=True, eq=False)
class Head:
    """Bottleneck features -> calibrated scores.

    Attributes:
        labels: in the order of the scores.
        mean: (d,), of the training features; so is `scale`, their standard deviation.
        layers: one, or two with a relu in between.
        temperature: logits are divided by it; above 0.
        doubt: 0..1, the share of the photos that may be anything; see `trainer.head.calibration`.
    """

    labels: tuple[str, ...]
    mean: Floats
    scale: Floats
    layers: tuple[Layer, ...]
    temperature: float = 1.0
    doubt: float = 0.0

    @property
    def n_features(self) -> int:
        """Length of the features it takes."""
        return int(self.mean.shape[0])

    @property
    def hidden_units(self) -> int:
        """0 for a linear head."""
        return int(self.layers[0][0].shape[1]) if len(self.layers) == 2 else 0

    def logits(self, features: Floats) -> Floats:
        """(n, d) -> (n, k), before the temperature.

        Raises:
            ModelError: features of another length.
        """
        parts = [features[start : start + CHUNK] for start in range(0, len(features), CHUNK)] or [features]
        return np.concatenate([self._forward(part)[1] for part in parts])

    def scores(self, features: Floats) -> Floats:
        """(n, d) -> (n, k) in 0..1, rows that add up to one: calibrated probabilities."""
        shares = softmax(self.logits(features) / np.float32(self.temperature))
        scores: Floats = np.float32(1 - self.doubt) * shares + np.float32(self.doubt / shares.shape[1])
        return scores

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

    def calibrated(self, calibration: Calibration) -> Head:
        """The same head with other scores."""
        return replace(self, temperature=calibration.temperature, doubt=calibration.doubt)

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
            "doubt": np.float64(self.doubt),
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
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                n_layers = sum(name.startswith("kernel_") for name in arrays.files)
                return cls(
                    labels=tuple(str(label) for label in arrays["labels"]),
                    mean=arrays["mean"],
                    scale=arrays["scale"],
                    layers=tuple((arrays[f"kernel_{n}"], arrays[f"bias_{n}"]) for n in range(n_layers)),
                    temperature=float(arrays["temperature"]),
                    doubt=float(arrays["doubt"]) if "doubt" in arrays else 0.0,  # heads were written without, once
                )
        except Exception as error:  # zipfile and NumPy raise whatever they like about a damaged file
            raise ModelError(f"{file}: cannot be read as a head ({error}); roll back, or train anew") from error

    def standardise(self, features: Floats) -> Floats:
        """(n, d) -> (n, d): each feature with mean 0 and deviation 1 on the training photos."""
        rows: Floats = (features - self.mean) / self.scale
        return rows

    def _forward(self, features: Floats) -> tuple[Floats | None, Floats]:
        """The hidden layer's activations, None where there is none, and the logits."""
        if features.ndim != 2 or features.shape[1] != self.n_features:
            raise ModelError(
                f"features are {features.shape}, this head takes (n, {self.n_features}); it was trained on other layers"
            )
        rows = self.standardise(features)
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

    @property
    def validation_loss(self) -> float:
        """The lowest, in nats."""
        return self.history[self.best_epoch].validation_loss


@dataclass(frozen=True, slots=True)
class Gain:
    """By how much a loss became lower, in nats a photo, and the standard error of that."""

    mean: float
    error: float

    @property
    def is_clear(self) -> bool:
        """More than two standard errors: chance alone often makes a loss a little lower."""
        return self.mean > 2 * self.error


def gain(logits: Floats, before: Floats, class_indexes: Indexes) -> Gain:
    """How much better (n, k) logits answer than those before, for the same photos."""
    gains = _cross_entropy(before, class_indexes) - _cross_entropy(logits, class_indexes)
    return Gain(float(gains.mean()), float(gains.std() / np.sqrt(len(gains))))


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

    The same arrays and settings give the same head, bit for bit, on the same machine; no global seed is touched.

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
    if not (_is_finite(features) and _is_finite(validation_features)):
        raise ModelError("features hold values that are not finite; delete data_dir/features and compute them again")
    n_photos, n_views, n_features = features.shape
    learned = _Learned(
        rows=features.reshape(n_photos * n_views, n_features),
        targets=np.repeat(class_indexes, n_views),
        weights=class_weights(class_indexes, n_classes=len(labels), settings=settings)[
            np.repeat(class_indexes, n_views)
        ],
        judged=(features[:, 0], class_indexes),
        validation=(validation_features, validation_class_indexes),
    )
    mean, scale = _mean_and_scale(learned.rows)
    empty = Head(tuple(labels), mean, scale, ())
    sizes = sorted({0, settings.hidden_units})

    def fit(number: int, hidden_units: int) -> FittedHead:
        def count(epochs: int) -> None:
            if progress is not None:
                progress(number * settings.max_epochs + epochs, len(sizes) * settings.max_epochs)

        return _fit(empty, learned, settings, hidden_units=hidden_units, count=count)

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
class _Learned:
    """What a fit looks at.

    Attributes:
        rows: (n * n_views, d), not standardised; `targets` and `weights` are theirs.
        judged: (n, d) and (n,): the training photos in the view that photos are judged by.
        validation: (m, d) and (m,).
    """

    rows: Floats
    targets: Indexes
    weights: Floats
    judged: tuple[Floats, Indexes]
    validation: tuple[Floats, Indexes]


def _fit(
    empty: Head, learned: _Learned, settings: HeadSettings, *, hidden_units: int, count: Callable[[int], None]
) -> FittedHead:
    """Fit one architecture; `empty` has labels and standardisation, and gets its layers here."""
    keras = load_keras()
    n_rows = len(learned.rows)
    batch_size = min(settings.batch_size, n_rows)
    n_steps = -(-n_rows // batch_size)
    model = _build(keras, empty.n_features, len(empty.labels), n_steps, settings, hidden_units=hidden_units)
    rng = np.random.default_rng(settings.seed)
    best, best_loss, best_epoch = empty, np.inf, 0
    history: list[Epoch] = []
    for epoch in range(settings.max_epochs):
        order = np.resize(rng.permutation(n_rows), n_steps * batch_size)  # filled up, as each new shape is compiled
        for batch in np.split(order, n_steps):
            rows = empty.standardise(learned.rows[batch])
            model.train_on_batch(rows, learned.targets[batch], sample_weight=learned.weights[batch])
        arrays = [np.array(array) for array in model.get_weights()]
        head = replace(empty, layers=tuple(zip(arrays[::2], arrays[1::2], strict=True)))
        judged = (judge(head.logits(rows), indexes) for rows, indexes in (learned.judged, learned.validation))
        (train_loss, train_accuracy), (validation_loss, validation_accuracy) = judged
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
    """(d,) mean and standard deviation, without a second copy of the rows."""
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


def _build(
    keras: Any, n_features: int, n_classes: int, n_steps: int, settings: HeadSettings, *, hidden_units: int
) -> Any:
    """The network that is fitted; it sees standardised features. Its layers are seeded one by one."""
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
    """Balanced cross-entropy in nats, so that a rare class counts in early stopping too, and pooled accuracy."""
    losses = _cross_entropy(logits, class_indexes)
    by_class = [losses[class_indexes == index].mean() for index in np.unique(class_indexes)]
    return float(np.mean(by_class)), float((logits.argmax(axis=1) == class_indexes).mean())


def _cross_entropy(logits: Floats, class_indexes: Indexes) -> Floats:
    """(n,) in nats."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    losses: Floats = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(logits)), class_indexes]
    return losses
