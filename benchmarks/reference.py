"""The reference recipe for transfer learning with VGG16, as in many tutorials.

    python -m benchmarks.reference FOLDER --epochs N [--without-xla]

FOLDER holds `train`, `validation` and `holdout` folders with a sub-folder for each label. VGG16 without its top takes
224 px; average pooling, Dense 1024 relu and a softmax come on top; `layers[:15]` are frozen, so block5 is trained from
the first step; SGD with rate 1e-4 and momentum 0.9, batches of 32; images are divided by 255, and randomly sheared,
zoomed and mirrored; validation runs after each epoch; the last weights are kept. Everything else uses the defaults of
Keras and TensorFlow. The only difference: VGG16 has seeded random weights, as in dokocos' trainer.

Keras 3 compiles a fit with XLA by default. The original recipe did not have this, and it is slower on many CPUs;
`--without-xla` turns it off.

The last line printed is JSON: {"epoch_s": [seconds of each epoch], "balanced_accuracy": of the holdout, 0..1}.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

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


def build(keras: Any, n_labels: int, *, xla: bool = True) -> Any:
    """Build and compile the recipe's network with seeded weights, with XLA (the default of Keras 3) or without."""
    base = keras.applications.VGG16(weights=None, include_top=False, input_shape=(SIDE_PX, SIDE_PX, 3))
    for name, arrays in load_weights(FeatureSettings(weights="random"), keras=keras).items():
        base.get_layer(name).set_weights(arrays)
    for layer in base.layers[:N_FROZEN]:
        layer.trainable = False
    pooled = keras.layers.GlobalAveragePooling2D()(base.output)
    hidden = keras.layers.Dense(HIDDEN_UNITS, activation="relu")(pooled)
    model = keras.Model(base.input, keras.layers.Dense(n_labels, activation="softmax")(hidden))
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
    parser.add_argument("--without-xla", action="store_true")
    arguments = parser.parse_args()
    print(json.dumps(fit(arguments.folder, epochs=arguments.epochs, xla=not arguments.without_xla)))


def fit(folder: Path, *, epochs: int, xla: bool) -> dict[str, Any]:
    """Train and evaluate; returns the values that `main` prints."""
    keras = load_keras(small_batches=True)  # keeps TensorFlow's default kernels
    generator = importlib.import_module("tensorflow").keras.preprocessing.image.ImageDataGenerator
    augmented, plain = generator(rescale=1 / 255, **AUGMENTATION), generator(rescale=1 / 255)
    size: Mapping[str, Any] = {"target_size": (SIDE_PX, SIDE_PX), "batch_size": BATCH_SIZE}
    photos = augmented.flow_from_directory(folder / "train", **size)
    validation = plain.flow_from_directory(folder / "validation", **size)
    holdout = plain.flow_from_directory(folder / "holdout", shuffle=False, **size)
    model = build(keras, photos.num_classes, xla=xla)
    clock = [time.perf_counter()]
    model.fit(
        photos,
        validation_data=validation,
        epochs=epochs,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: clock.append(time.perf_counter()))],
    )
    answers = model.predict(holdout, verbose=0).argmax(axis=1)
    return {
        "epoch_s": [after - before for before, after in pairwise(clock)],
        "balanced_accuracy": balanced_accuracy(holdout.classes.astype("int64"), answers),
    }


if __name__ == "__main__":
    main()
