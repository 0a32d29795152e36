"""Fine-tunes VGG16's block5 together with the head, at a low learning rate.

It starts from VGG16's own block5 and the converged head, and reads block4's maps from disk. The result is kept only if
the validation loss is clearly lower than with the head alone. An epoch runs all training batches, then all validation
batches. After an interruption at any batch, the fit resumes from the last checkpoint and gives bit-identical results.

The best learning rate depends on the weights and the photos: 0.00001 works for some and ruins others in one epoch. So
an epoch that does not improve validation is rolled back, and the next one uses a quarter of the rate.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import HeadSettings
from trainer.head.checkpoint import Arrays, Checkpoint, Json
from trainer.head.fit import Gain, class_weights, gain, judge
from trainer.head.head import Floats, Head, Indexes
from trainer.vgg16.backbone import Backbone, feature_columns
from trainer.vgg16.backend import load_keras
from trainer.vgg16.cache import FeatureCache
from trainer.vgg16.last_block import BATCH, Block5
from trainer.vgg16.stored_rows import Table
from trainer.vgg16.weights import Convolution

logger = logging.getLogger(__name__)

PATIENCE = 3  # rolled-back epochs in a row before it stops
SLOWER = 0.25


@dataclass(frozen=True, eq=False)
class Rows:
    """Views of photos, with features and classes.

    Attributes:
        keys: n pairs (SHA-256 of a photo, name of a view).
        features: (n, d), computed with VGG16's own block5.
        class_indexes: (n,).
    """

    keys: Sequence[tuple[str, str]]
    features: Table
    class_indexes: Indexes


@dataclass(frozen=True, slots=True)
class TunedEpoch:
    """Losses of one epoch, in nats; the training loss is the mean over its batches."""

    train_loss: float
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True, eq=False)
class Tuning:
    """The result of fine-tuning.

    Attributes:
        block5, head: of the best epoch; the initial ones if no epoch was better.
        before: initial validation loss and accuracy.
        history: one entry per epoch.
        best_epoch: index in `history` of the lowest validation loss; None if it is not lower than before.
        gain: of the best epoch, on the validation split.
    """

    block5: dict[str, Convolution]
    head: Head
    before: tuple[float, float]
    history: tuple[TunedEpoch, ...]
    best_epoch: int | None
    gain: Gain

    @property
    def is_kept(self) -> bool:
        """Whether the validation loss is clearly lower."""
        return self.best_epoch is not None and self.gain.is_clear

    def describe(self) -> str:
        """The result in words, with the figures that decided it."""
        lowest = min((epoch.validation_loss for epoch in self.history), default=float("nan"))
        figures = (
            f"validation loss {self.before[0]:.4f} before, lowest {lowest:.4f} in {len(self.history)} epochs; "
            f"gain {self.gain.mean:.4f} nats per photo, standard error {self.gain.error:.4f}"
        )
        return f"block5 fine-tuned and kept: {figures}" if self.is_kept else f"fine-tuned block5 discarded: {figures}"

    def as_json(self) -> Json:
        """The values for metrics.json."""
        return {
            "kept": self.is_kept,
            "validation_loss_before": self.before[0],
            "validation_accuracy_before": self.before[1],
            "history": [asdict(epoch) for epoch in self.history],
            "best_epoch": self.best_epoch,
            "gain": asdict(self.gain),
        }


def fine_tune(
    head: Head,
    backbone: Backbone,
    train: Rows,
    validation: Rows,
    *,
    maps: FeatureCache,
    settings: HeadSettings,
    checkpoint: Path,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Tuning:
    """Fine-tune block5 and a head that was fitted on the backbone's features.

    The same photos, settings and initial weights give bit-identical results on the same machine, interrupted or not; no
    global seed is changed.

    Args:
        backbone: with VGG16's own weights; not changed.
        train: one row per view of a photo.
        validation: one row per photo, in the view used for prediction.
        maps: block4's, of all rows.
        checkpoint: resumed from, if it belongs to the same fit. It is kept at the end, so a second call returns the
            same result at once.
        progress: called with (batches done, maximum), at the start and after each batch.

    Raises:
        StorageError: the disk is full, or a map cannot be read.
    """
    kept = Checkpoint(checkpoint, _key(head, backbone, train, validation, settings))
    fit = _Fit(head, backbone, train, validation, maps, settings)
    found = kept.load()
    if found is not None:
        fit.restore(*found)
        logger.info("fine-tuning resumed batch=%d of=%d", fit.done, fit.total)
    progress(fit.done, fit.total)
    while not fit.is_finished:
        fit.run_batch()
        if kept.is_due() or fit.is_finished:
            kept.write(*fit.snapshot())
        progress(fit.done, fit.total)
    return fit.result()


def _key(head: Head, backbone: Backbone, train: Rows, validation: Rows, settings: HeadSettings) -> str:
    """Hash of everything that determines the result."""
    keras = load_keras()
    facts = [
        [backbone.key, keras.__version__, keras.config.backend(), head.labels, settings.model_dump(mode="json")],
        [list(rows.keys) for rows in (train, validation)],
    ]
    digest = hashlib.sha256(json.dumps(facts).encode())
    layers = [array for layer in head.layers for array in layer]
    for array in (train.class_indexes, validation.class_indexes, head.mean, head.scale, *layers):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


class _Network:
    """Block5 and the head as one Keras model, with its optimizer."""

    def __init__(self, head: Head, backbone: Backbone, settings: HeadSettings) -> None:
        keras = load_keras()
        self._start = head
        self.block5 = Block5(
            backbone.block5(), layers=backbone.layers, map_shape=backbone.map_shape, precision=backbone.precision
        )
        self._earlier = np.concatenate(
            [
                np.arange(columns.start, columns.stop, dtype=np.int64)
                for name, columns in zip(backbone.layers, feature_columns(backbone.layers), strict=True)
                if name not in self.block5.pooled
            ]
            or [np.empty(0, dtype=np.int64)]
        )
        earlier = keras.Input((len(self._earlier),), dtype="float32")
        output = (self._feature_vector(keras, earlier, backbone.layers) - head.mean) / head.scale
        self._dense: list[Any] = []
        self._draws: list[Any] = []
        for number, (kernel, bias) in enumerate(head.layers):
            if number and settings.dropout:
                dropout = keras.layers.Dropout(settings.dropout, seed=settings.seed + 1)
                output = dropout(output)
                self._draws.append(dropout.seed_generator.state)
            activation = None if number == len(head.layers) - 1 else "relu"
            dense = keras.layers.Dense(len(bias), activation=activation, dtype="float32")
            output = dense(output)
            dense.set_weights([kernel, bias])
            self._dense.append(dense)
        self._model = keras.Model([self.block5.maps, earlier] if len(self._earlier) else self.block5.maps, output)
        self._optimizer = keras.optimizers.AdamW(settings.fine_tune_learning_rate, weight_decay=settings.weight_decay)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self._model.compile(optimizer=self._optimizer, loss=loss, jit_compile=False)
        self._optimizer.build(self._model.trainable_variables)

    def _feature_vector(self, keras: Any, earlier: Any, layers: Sequence[str]) -> Any:
        """Build the feature vector: block5's columns from its maps, the other columns from the input."""
        parts, start = [], 0
        for name, columns in zip(layers, feature_columns(layers), strict=True):
            width = columns.stop - columns.start
            if name in self.block5.pooled:
                parts.append(self.block5.pooled[name])
            else:
                parts.append(earlier[:, start : start + width])
                start += width
        return keras.layers.Concatenate(dtype="float32")(parts) if len(parts) > 1 else parts[0]

    @property
    def weights(self) -> list[Any]:
        """The Keras variables of block5 and of the head."""
        weights: list[Any] = self._model.weights
        return weights

    @property
    def variables(self) -> list[Any]:
        """All state that the next step depends on: weights, optimizer and dropout seed."""
        return [*self.weights, *self._optimizer.variables, *self._draws]

    @property
    def head(self) -> Head:
        """The current head."""
        arrays = [[np.array(array) for array in dense.get_weights()] for dense in self._dense]
        return replace(self._start, layers=tuple((kernel, bias) for kernel, bias in arrays))

    def train_batch(self, maps: Floats, features: Floats, class_indexes: Indexes, weights: Floats) -> float:
        """Train on one batch; returns its weighted loss before the step."""
        self._model.reset_metrics()
        maps = maps.reshape(-1, *self.block5.map_shape)
        inputs = [maps, features[:, self._earlier]] if len(self._earlier) else maps
        result = self._model.train_on_batch(inputs, class_indexes, sample_weight=weights, return_dict=True)
        return float(result["loss"])

    def reduce_learning_rate(self) -> None:
        """Reset the optimizer and lower its learning rate."""
        rate = SLOWER * float(self._optimizer.learning_rate)
        for variable in self._optimizer.variables:
            variable.assign(0 * variable)
        self._optimizer.learning_rate = rate

    def logits(self, maps: Floats, features: Floats) -> Floats:
        """Logits (n, k) of n <= BATCH rows."""
        return self.head.logits(self.block5.features(features, maps))


@dataclass(slots=True)
class _State:
    """The progress of a fit, without the variables of the network.

    Attributes:
        batch: the next batch of the epoch; validation batches come after training batches.
        train_loss: sum over the epoch's batches so far.
        logits: (m, k) of the validation split, filled in by its batches.
        best_logits: of the best epoch; initially those before fine-tuning.
        best: the weights after the best epoch; empty if there is none yet.
    """

    logits: Floats
    best_logits: Floats
    best: list[Floats] = field(default_factory=list)
    best_epoch: int | None = None
    epoch: int = 0
    batch: int = 0
    train_loss: float = 0.0
    history: list[TunedEpoch] = field(default_factory=list)


class _Fit:
    """A fit that runs batch by batch and can be saved and resumed."""

    def __init__(
        self, head: Head, backbone: Backbone, train: Rows, validation: Rows, maps: FeatureCache, settings: HeadSettings
    ) -> None:
        self._train = train
        self._validation = validation
        self._maps = maps
        self._settings = settings
        self._n_steps = -(-len(train.keys) // BATCH)
        self._n_batches = self._n_steps + -(-len(validation.keys) // BATCH)
        weights = class_weights(train.class_indexes, n_classes=len(head.labels), settings=settings)
        self._row_weights = weights[train.class_indexes]
        self._network = _Network(head, backbone, settings)
        self._start = _values(self._network.weights)
        self._before = head.logits(validation.features)
        self._state = _State(logits=np.zeros_like(self._before), best_logits=self._before)
        self._order = self._draw_order()

    @property
    def done(self) -> int:
        """Number of batches done, training and validation."""
        return self._state.epoch * self._n_batches + self._state.batch

    @property
    def total(self) -> int:
        """Maximum number of batches."""
        return self._settings.fine_tune_max_epochs * self._n_batches

    @property
    def is_finished(self) -> bool:
        """Whether the last epoch is done, or PATIENCE epochs in a row were rolled back."""
        state = self._state
        best = -1 if state.best_epoch is None else state.best_epoch
        return state.epoch == self._settings.fine_tune_max_epochs or state.epoch - 1 - best >= PATIENCE

    def run_batch(self) -> None:
        """Run one batch; the last one ends the epoch."""
        state = self._state
        if state.batch < self._n_steps:
            self._train_batch(self._order[state.batch])
        else:
            start = (state.batch - self._n_steps) * BATCH
            self._evaluate_batch(slice(start, start + BATCH))
        state.batch += 1
        if state.batch == self._n_batches:
            self._end_epoch()

    def snapshot(self) -> tuple[Arrays, Json]:
        """The arrays and figures that `restore` needs."""
        state = self._state
        arrays: Arrays = {"logits": state.logits, "best_logits": state.best_logits}
        arrays |= {f"best_{number}": array for number, array in enumerate(state.best)}
        arrays |= {f"variable_{number}": array for number, array in enumerate(_values(self._network.variables))}
        history = [asdict(epoch) for epoch in state.history]
        names = ("best_epoch", "epoch", "batch", "train_loss")
        return arrays, {**{name: getattr(state, name) for name in names}, "history": history}

    def restore(self, arrays: Arrays, figures: Json) -> None:
        """Continue from a snapshot."""
        history = [TunedEpoch(**epoch) for epoch in figures["history"]]
        best = [arrays[f"best_{number}"] for number in range(sum(name.startswith("best_") for name in arrays) - 1)]
        self._state = _State(
            **{**figures, "history": history}, logits=arrays["logits"], best_logits=arrays["best_logits"], best=best
        )
        _assign(self._network.variables, [arrays[f"variable_{n}"] for n in range(len(self._network.variables))])
        self._order = self._draw_order()

    def result(self) -> Tuning:
        """The result so far, with the weights of the best epoch."""
        state = self._state
        _assign(self._network.weights, state.best or self._start)
        return Tuning(
            block5=self._network.block5.weights,
            head=self._network.head,
            before=judge(self._before, self._validation.class_indexes),
            history=tuple(state.history),
            best_epoch=state.best_epoch,
            gain=gain(state.best_logits, self._before, self._validation.class_indexes),
        )

    def _draw_order(self) -> list[Indexes]:
        """Row indexes of the epoch's batches, seeded by its number; padded, because each new shape is compiled."""
        rng = np.random.default_rng([self._settings.seed, self._state.epoch])
        order = np.resize(rng.permutation(len(self._train.keys)), self._n_steps * BATCH)
        return np.split(order, self._n_steps)

    def _train_batch(self, places: Indexes) -> None:
        train = self._train
        maps = self._maps.load_rows([train.keys[place] for place in places])
        self._state.train_loss += self._network.train_batch(
            maps, train.features[places], train.class_indexes[places], self._row_weights[places]
        )

    def _evaluate_batch(self, places: slice) -> None:
        maps = self._maps.load_rows(self._validation.keys[places])
        self._state.logits[places] = self._network.logits(maps, self._validation.features[places])

    def _end_epoch(self) -> None:
        state = self._state
        loss, accuracy = judge(state.logits, self._validation.class_indexes)
        lowest, _ = judge(state.best_logits, self._validation.class_indexes)
        state.history.append(TunedEpoch(state.train_loss / self._n_steps, loss, accuracy))
        if loss < lowest:
            state.best_epoch, state.best_logits = state.epoch, state.logits.copy()
            state.best = _values(self._network.weights)
        else:
            _assign(self._network.weights, state.best or self._start)
            self._network.reduce_learning_rate()
        state.epoch, state.batch, state.train_loss = state.epoch + 1, 0, 0.0
        self._order = self._draw_order()


def _values(variables: Sequence[Any]) -> list[Any]:
    """Copies of variables as arrays."""
    return [np.array(variable.numpy()) for variable in variables]


def _assign(variables: Sequence[Any], values: Sequence[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
