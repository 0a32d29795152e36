"""The reference recipe for transfer learning with VGG16, as in many tutorials.

    python -m benchmarks.reference FOLDER --epochs N [--weights PATH] [--without-xla | --from-maps]

FOLDER holds `train`, `validation` and `holdout` folders with a sub-folder for each label. VGG16 without its top takes
224 px; average pooling, Dense 1024 relu and a softmax come on top; `layers[:15]` are frozen, so block5 is trained from
the first step; SGD with rate 1e-4 and momentum 0.9, batches of 32; images are divided by 255, and randomly sheared,
zoomed and mirrored; validation runs after each epoch; the last weights are kept. Everything else uses the defaults of
Keras and TensorFlow. VGG16's weights are those of dokocos' trainer.

Keras 3 compiles a fit with XLA by default. The original recipe did not have this, and it is slower on many CPUs;
`--without-xla` turns it off.

`--from-maps` trains the same network to convergence in less time: the frozen part runs once for each picture and its
mirror image, then block5 and the head are trained on these maps, until the validation loss has not fallen for a tenth
of the epochs. The weights of the best epoch are kept, which the original does not do.

The last line printed is JSON: {"epoch_s": [seconds of each epoch], "balanced_accuracy": of the holdout, 0..1}.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import FeatureSettings
from trainer.evaluation.evaluate import balanced_accuracy
from trainer.photos.dataset import Item
from trainer.vgg16.backend import load_keras
from trainer.vgg16.weights import load_weights

SIDE_PX = 224
BATCH_SIZE = 32
EPOCHS = 200
N_FROZEN = 15
HIDDEN_UNITS = 1024
LEARNING_RATE = 1e-4
MOMENTUM = 0.9
AUGMENTATION: Mapping[str, Any] = {"shear_range": 0.2, "zoom_range": 0.2, "horizontal_flip": True}


def link_photos(items: Iterable[Item], folder: Path) -> None:
    """Link photos into folders by split and label, as the recipe needs them."""
    for item in items:
        place = folder / item.split / item.label
        place.mkdir(parents=True, exist_ok=True)
        (place / item.path.name).symlink_to(item.path.absolute())


def build(keras: Any, n_labels: int, *, xla: bool = True, weights: str = "random") -> Any:
    """Build and compile the recipe's network.

    Args:
        xla: as by default in Keras 3.
        weights: as `features.weights`.
    """
    base = keras.applications.VGG16(weights=None, include_top=False, input_shape=(SIDE_PX, SIDE_PX, 3))
    for name, arrays in load_weights(FeatureSettings(weights=weights)).items():
        base.get_layer(name).set_weights(arrays)
    for layer in base.layers[:N_FROZEN]:
        layer.trainable = False
    pooled = keras.layers.GlobalAveragePooling2D()(base.output)
    hidden = keras.layers.Dense(HIDDEN_UNITS, activation="relu")(pooled)
    return _compiled(keras, keras.Model(base.input, keras.layers.Dense(n_labels, activation="softmax")(hidden)), xla)


def image_data_generator() -> Any:
    """The class by which tutorials read pictures: TensorFlow's, which is Keras' own under another name."""
    if importlib.util.find_spec("tensorflow"):
        return importlib.import_module("tensorflow").keras.preprocessing.image.ImageDataGenerator
    return importlib.import_module("keras.src.legacy.preprocessing.image").ImageDataGenerator


def halves(keras: Any, model: Any) -> tuple[Any, Any]:
    """The frozen layers of the recipe's network, and the trained ones, compiled; they share their weights with it."""
    frozen = keras.Model(model.input, model.layers[N_FROZEN - 1].output)
    maps = outputs = keras.Input(frozen.output.shape[1:])
    for layer in model.layers[N_FROZEN:]:
        outputs = layer(outputs)
    return frozen, _compiled(keras, keras.Model(maps, outputs), xla=True)


def _compiled(keras: Any, model: Any, xla: bool) -> Any:
    model.compile(
        optimizer=keras.optimizers.SGD(learning_rate=LEARNING_RATE, momentum=MOMENTUM),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile="auto" if xla else False,
    )
    return model


def whole_training_s(epoch_s: Sequence[float], *, epochs: int = EPOCHS) -> float:
    """Extrapolate the seconds of a whole training: the first epoch as measured, all others as the mean of the rest.

    The first epoch compiles; later epochs take equally long, so their mean is used for those that were not run.
    """
    if len(epoch_s) < 2:
        raise ValueError("at least two epochs are needed: the first one compiles")
    first, *rest = epoch_s
    return first + (epochs - 1) * sum(rest) / len(rest)


def main() -> None:
    """Run the recipe for a few epochs and evaluate it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reference", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--weights", default="random")
    parser.add_argument("--without-xla", action="store_true")
    parser.add_argument("--from-maps", action="store_true")
    arguments = parser.parse_args()
    if arguments.from_maps:
        printed = converge(arguments.folder, epochs=arguments.epochs, weights=arguments.weights)
    else:
        xla = not arguments.without_xla
        printed = fit(arguments.folder, epochs=arguments.epochs, xla=xla, weights=arguments.weights)
    print(json.dumps(printed))


def fit(folder: Path, *, epochs: int, xla: bool, weights: str) -> dict[str, Any]:
    """Train and evaluate; returns the values that `main` prints."""
    keras = load_keras(small_batches=True)  # keeps TensorFlow's default kernels
    generator = image_data_generator()
    augmented, plain = generator(rescale=1 / 255, **AUGMENTATION), generator(rescale=1 / 255)
    size: Mapping[str, Any] = {"target_size": (SIDE_PX, SIDE_PX), "batch_size": BATCH_SIZE}
    photos = augmented.flow_from_directory(folder / "train", **size)
    validation = plain.flow_from_directory(folder / "validation", **size)
    holdout = plain.flow_from_directory(folder / "holdout", shuffle=False, **size)
    model = build(keras, photos.num_classes, xla=xla, weights=weights)
    clock = _Clock(keras)
    model.fit(photos, validation_data=validation, epochs=epochs, verbose=0, callbacks=[clock.callback])
    answers = model.predict(holdout, verbose=0).argmax(axis=1)
    return {
        "epoch_s": clock.epoch_s,
        "balanced_accuracy": balanced_accuracy(holdout.classes.astype("int64"), answers),
    }


def converge(folder: Path, *, epochs: int, weights: str) -> dict[str, Any]:
    """Train block5 and the head on maps until they converge; returns the values that `main` prints."""
    keras = load_keras(small_batches=True)
    generator = image_data_generator()(rescale=1 / 255)
    parts = {
        split: generator.flow_from_directory(
            folder / split, target_size=(SIDE_PX, SIDE_PX), batch_size=BATCH_SIZE, shuffle=False
        )
        for split in ("train", "validation", "holdout")
    }
    model = build(keras, parts["train"].num_classes, weights=weights)
    frozen, trained = halves(keras, model)

    def maps(split: str, *, mirrored: bool = False) -> np.ndarray[Any, Any]:
        batches = [parts[split][number][0] for number in range(len(parts[split]))]
        return np.concatenate([frozen.predict_on_batch(rows[:, :, ::-1] if mirrored else rows) for rows in batches])

    labels = {split: np.eye(part.num_classes, dtype="float32")[part.classes] for split, part in parts.items()}
    clock = _Clock(keras)
    trained.fit(
        np.concatenate([maps("train"), maps("train", mirrored=True)]),
        np.concatenate([labels["train"]] * 2),
        validation_data=(maps("validation"), labels["validation"]),
        batch_size=BATCH_SIZE,
        epochs=epochs,
        verbose=0,
        callbacks=[
            clock.callback,
            keras.callbacks.EarlyStopping(patience=max(1, epochs // 10), restore_best_weights=True),
        ],
    )
    answers = trained.predict(maps("holdout"), verbose=0).argmax(axis=1)
    return {
        "epoch_s": clock.epoch_s,
        "balanced_accuracy": balanced_accuracy(parts["holdout"].classes.astype("int64"), answers),
    }


class _Clock:
    """Seconds of each epoch."""

    def __init__(self, keras: Any) -> None:
        self._ends = [time.perf_counter()]
        self.callback = keras.callbacks.LambdaCallback(
            on_train_begin=lambda *_: self._ends.__setitem__(0, time.perf_counter()),
            on_epoch_end=lambda *_: self._ends.append(time.perf_counter()),
        )

    @property
    def epoch_s(self) -> list[float]:
        return [after - before for before, after in pairwise(self._ends)]


if __name__ == "__main__":
    main()
