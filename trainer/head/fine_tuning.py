"""Fine-tunes VGG16's block5 together with the head, at a low learning rate.

It starts from VGG16's own block5 and the converged head, reads block4's maps from the disk as it needs them, and is
kept only if validation is clearly better than with the head alone. An epoch is a row of batches that are learned from,
then one of batches of validation; after any of them the work can be cut off and goes on from the last checkpoint, to
the same bits.

How low a rate has to be depends on the weights and on the photos: 0.00001 suits some, and ruins others in one epoch.
So an epoch after which validation is no better is taken back, and from there it goes on at a quarter of the rate.
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
from trainer.vgg16.weights import Convolution

logger = logging.getLogger(__name__)

PATIENCE = 3  # epochs in a row that are taken back before it stops
SLOWER = 0.25


@dataclass(frozen=True, eq=False)
class Rows:
    """Views of photos.

    Attributes:
        keys: n pairs of a photo's SHA-256 and the view's name.
        features: (n, d) as the backbone gives them with VGG16's own block5.
        class_indexes: (n,).
    """

    keys: Sequence[tuple[str, str]]
    features: Floats
    class_indexes: Indexes


@dataclass(frozen=True, slots=True)
class TunedEpoch:
    """The losses of one epoch in nats; the training loss is the mean over its batches."""

    train_loss: float
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True, eq=False)
class Tuning:
    """The result of fine-tuning.

    Attributes:
        block5, head: of the best epoch; those that it began with where no epoch was better.
        before: validation loss and accuracy that it began with.
        history: one entry an epoch.
        best_epoch: the place in `history` with the lowest validation loss; None where that is not lower than before.
        gain: of the best epoch, on validation.
    """

    block5: dict[str, Convolution]
    head: Head
    before: tuple[float, float]
    history: tuple[TunedEpoch, ...]
    best_epoch: int | None
    gain: Gain

    @property
    def is_kept(self) -> bool:
        """Whether validation is clearly better."""
        return self.best_epoch is not None and self.gain.is_clear

    def in_words(self) -> str:
        """The outcome, and the figures that decided it."""
        lowest = min((epoch.validation_loss for epoch in self.history), default=float("nan"))
        came_to = (
            f"validation loss {self.before[0]:.4f} before, {lowest:.4f} at best in {len(self.history)} epochs; "
            f"gain {self.gain.mean:.4f} nats a photo, standard error {self.gain.error:.4f}"
        )
        return f"block5 fine-tuned and kept: {came_to}" if self.is_kept else f"block5 left as it was: {came_to}"

    def as_json(self) -> Json:
        """For metrics.json."""
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

    The same photos, settings and start give the same bits on the same machine, interrupted or not; no global seed is
    touched.

    Args:
        backbone: with VGG16's own weights; not changed.
        train: each view of a photo is a row of its own.
        validation: each photo once, in the view that photos are judged by.
        maps: block4's, of all rows.
        checkpoint: the file that work goes on from, if it is of this same work. It is left in place at the end, and
            gives the same answer at once when asked again.
        progress: called with (batches done, batches at most), when it starts and after each batch.

    Raises:
        StorageError: the disk is full, or a map cannot be read.
    """
    kept = Checkpoint(checkpoint, _key(head, backbone, train, validation, settings))
    fit = _Fit(head, backbone, train, validation, maps, settings)
    found = kept.load()
    if found is not None:
        fit.restore(*found)
        logger.info("fine-tuning goes on batch=%d of=%d", fit.done, fit.total)
    progress(fit.done, fit.total)
    while not fit.is_over:
        fit.work()
        if kept.is_due() or fit.is_over:
            kept.write(*fit.snapshot())
        progress(fit.done, fit.total)
    return fit.result()


def _key(head: Head, backbone: Backbone, train: Rows, validation: Rows, settings: HeadSettings) -> str:
    """A name for everything that decides the result."""
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
    """Block5 and the layers of a head as one network, with its optimizer."""

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
        output = (self._joined(keras, earlier, backbone.layers) - head.mean) / head.scale
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

    def _joined(self, keras: Any, earlier: Any, layers: Sequence[str]) -> Any:
        """The feature vector: block5's columns from its maps, the others as they come in."""
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
        """Keras' variables of block5 and of the head's layers."""
        weights: list[Any] = self._model.weights
        return weights

    @property
    def variables(self) -> list[Any]:
        """The weights, and all else that the next step depends on: the optimizer's state, and dropout's draws."""
        return [*self.weights, *self._optimizer.variables, *self._draws]

    @property
    def head(self) -> Head:
        """The head as it is now."""
        arrays = [[np.array(array) for array in dense.get_weights()] for dense in self._dense]
        return replace(self._start, layers=tuple((kernel, bias) for kernel, bias in arrays))

    def learn(self, maps: Floats, features: Floats, class_indexes: Indexes, weights: Floats) -> float:
        """One step; the batch's weighted loss before it."""
        self._model.reset_metrics()
        maps = maps.reshape(-1, *self.block5.map_shape)
        inputs = [maps, features[:, self._earlier]] if len(self._earlier) else maps
        result = self._model.train_on_batch(inputs, class_indexes, sample_weight=weights, return_dict=True)
        return float(result["loss"])

    def slow_down(self) -> None:
        """Reset the optimizer and lower its learning rate."""
        rate = SLOWER * float(self._optimizer.learning_rate)
        for variable in self._optimizer.variables:
            variable.assign(0 * variable)
        self._optimizer.learning_rate = rate

    def logits(self, maps: Floats, features: Floats) -> Floats:
        """(n, k) for n rows, n at most BATCH."""
        return self.head.logits(self.block5.features(features, maps))


@dataclass(slots=True)
class _State:
    """The progress of a stage, without the network's variables.

    Attributes:
        batch: of the epoch, the next one; those of validation are counted on from those that are learned from.
        train_loss: of the epoch's batches so far, in total.
        logits: (m, k) of validation, filled in while an epoch ends.
        best_logits: those of the best epoch; of the start, before there is one.
        best: the network's weights after the best epoch; empty before there is one.
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
    """A network on its way."""

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
        """Batches that are done, of both kinds."""
        return self._state.epoch * self._n_batches + self._state.batch

    @property
    def total(self) -> int:
        """Batches at most."""
        return self._settings.fine_tune_max_epochs * self._n_batches

    @property
    def is_over(self) -> bool:
        """Whether the last epoch is done, or several in a row were taken back."""
        state = self._state
        best = -1 if state.best_epoch is None else state.best_epoch
        return state.epoch == self._settings.fine_tune_max_epochs or state.epoch - 1 - best >= PATIENCE

    def work(self) -> None:
        """Do one batch, and end the epoch with its last one."""
        state = self._state
        if state.batch < self._n_steps:
            self._learn(self._order[state.batch])
        else:
            start = (state.batch - self._n_steps) * BATCH
            self._judge(slice(start, start + BATCH))
        state.batch += 1
        if state.batch == self._n_batches:
            self._end_epoch()

    def snapshot(self) -> tuple[Arrays, Json]:
        """All that `restore` needs."""
        state = self._state
        arrays: Arrays = {"logits": state.logits, "best_logits": state.best_logits}
        arrays |= {f"best_{number}": array for number, array in enumerate(state.best)}
        arrays |= {f"variable_{number}": array for number, array in enumerate(_values(self._network.variables))}
        history = [asdict(epoch) for epoch in state.history]
        names = ("best_epoch", "epoch", "batch", "train_loss")
        return arrays, {**{name: getattr(state, name) for name in names}, "history": history}

    def restore(self, arrays: Arrays, figures: Json) -> None:
        """Go on from a snapshot."""
        history = [TunedEpoch(**epoch) for epoch in figures["history"]]
        best = [arrays[f"best_{number}"] for number in range(sum(name.startswith("best_") for name in arrays) - 1)]
        self._state = _State(
            **{**figures, "history": history}, logits=arrays["logits"], best_logits=arrays["best_logits"], best=best
        )
        _assign(self._network.variables, [arrays[f"variable_{n}"] for n in range(len(self._network.variables))])
        self._order = self._draw_order()

    def result(self) -> Tuning:
        """What it came to."""
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
        """The epoch's batches of rows, by its number alone; filled up, as each new shape is compiled."""
        rng = np.random.default_rng([self._settings.seed, self._state.epoch])
        order = np.resize(rng.permutation(len(self._train.keys)), self._n_steps * BATCH)
        return np.split(order, self._n_steps)

    def _learn(self, places: Indexes) -> None:
        train = self._train
        maps = self._maps.load_rows([train.keys[place] for place in places])
        self._state.train_loss += self._network.learn(
            maps, train.features[places], train.class_indexes[places], self._row_weights[places]
        )

    def _judge(self, places: slice) -> None:
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
            self._network.slow_down()
        state.epoch, state.batch, state.train_loss = state.epoch + 1, 0, 0.0
        self._order = self._draw_order()


def _values(variables: Sequence[Any]) -> list[Any]:
    """Copies, as arrays."""
    return [np.array(variable.numpy()) for variable in variables]


def _assign(variables: Sequence[Any], values: Sequence[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
