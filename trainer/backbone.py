"""Frozen VGG16: uint8 images in, pooled features of some of its layers out.

One pass gives everything that is wanted: each listed layer's output averaged over its positions, side by side, and, for
a heat map, the last listed layer's output itself. The network is cut above the deepest layer that is needed.

The same image has the same features, bit by bit, wherever in a run it is computed: batches have one fixed shape, and a
last, smaller one is filled up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import psutil

from trainer.backend import load_keras, on_gpu
from trainer.config import FeatureSettings
from trainer.errors import ImageError
from trainer.weights import Convolution, fingerprint, load_weights

Precision = Literal["float32", "bfloat16"]
Pixels = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]

POLICIES: dict[Precision, str] = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
BGR_MEANS = (103.939, 116.779, 123.68)  # ImageNet's, as in keras.applications.vgg16.preprocess_input
SMALL_BATCHES = (
    4,
    2,
    1,
)  # the only shapes beside `batch_size` that are ever compiled; 8 brings a CPU nothing but memory
BYTES_PER_IMAGE = 3 * 224 * 224 * 64 * 4  # two maps of block1 at work, and as much again for scratch


@dataclass(frozen=True, slots=True)
class Extracted:
    """What one pass read off n images.

    Attributes:
        features: (n, n_features) float32, each >= 0, not normalised.
        last_map: (n, h, w, c) float32, the output of the last listed layer; None unless asked for.
    """

    features: Features
    last_map: Features | None


class Backbone:
    """VGG16 without its top, with fixed weights. Not for use by two threads at once."""

    def __init__(self, network: Any, *, settings: FeatureSettings, precision: Precision, fingerprint: str) -> None:
        """Use `load`."""
        keras = load_keras()
        self.layers = tuple(settings.layers)
        self.precision = precision
        self.fingerprint = fingerprint
        self.side_px = int(network.inputs[0].shape[1])
        maps = [network.get_layer(name).output for name in self.layers]
        pooled = [keras.layers.GlobalAveragePooling2D(dtype="float32")(layer_map) for layer_map in maps]
        joined = keras.layers.Concatenate(dtype="float32")(pooled) if len(pooled) > 1 else pooled[0]
        self.n_features = int(joined.shape[-1])
        self.last_columns = slice(self.n_features - int(maps[-1].shape[-1]), self.n_features)
        self._pooled = keras.Model(network.inputs[0], joined)
        self._pooled_and_map = keras.Model(network.inputs[0], [joined, keras.ops.cast(maps[-1], "float32")])
        for model in (self._pooled, self._pooled_and_map):
            model.trainable = False
            model.compile(jit_compile=False)  # XLA is slower than oneDNN and cuDNN here

    @classmethod
    def load(cls, settings: FeatureSettings, *, precision: Precision, side_px: int = 224) -> Backbone:
        """Build the network and give it its weights.

        Args:
            settings: `layers`, `weights` and `weights_seed` count; `precision` and `batch_size` do not.
            precision: of the convolutions; features are float32 either way.
            side_px: sides of the images, 32 or more.

        Raises:
            ModelError: the weights cannot be had; see `trainer.weights.load_weights`.
        """
        keras = load_keras()
        weights = load_weights(settings, keras=keras)
        network = build_network(weights, precision=precision, side_px=side_px)
        return cls(network, settings=settings, precision=precision, fingerprint=fingerprint(weights))

    @property
    def key(self) -> str:
        """Names all that decides an image's features: network, weights, preprocessing, precision and layers."""
        return f"vgg16-{self.fingerprint[:16]}-caffe{self.side_px}-{self.precision}-{'+'.join(self.layers)}"

    def extract(self, images: Pixels, *, batch_size: int | None = None, with_map: bool = False) -> Extracted:
        """Bottleneck features, one row per image, in the order given.

        Args:
            images: (n, side_px, side_px, 3) uint8, RGB; not changed.
            batch_size: the fixed shape for a long run, the last batch filled up; None: batches of 4, 2 and 1 with
                nothing filled up, for the few images of a moment.
            with_map: the last layer's map too.

        Raises:
            ImageError: another shape or dtype; the message names both.
        """
        expected = (self.side_px, self.side_px, 3)
        if images.ndim != 4 or images.shape[1:] != expected or images.dtype != np.uint8:
            raise ImageError(
                f"images are {images.shape} {images.dtype}, expected (n, {expected}) uint8", reason="shape"
            )
        model = self._pooled_and_map if with_map else self._pooled
        outputs = [self._run(model, images[part], size) for part, size in _parts(len(images), batch_size)]
        if not outputs:
            outputs = [tuple(np.empty((0, *output.shape[1:]), dtype=np.float32) for output in model.outputs)]
        features, *maps = (
            np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in zip(*outputs, strict=True)
        )
        return Extracted(features=features, last_map=maps[0] if maps else None)

    def _run(self, model: Any, images: Pixels, size: int) -> tuple[Features, ...]:
        n = len(images)
        if n < size:
            images = np.concatenate([images, np.zeros((size - n, *images.shape[1:]), dtype=np.uint8)])
        outputs = model.predict_on_batch(images)
        return tuple(output[:n] for output in (outputs if isinstance(outputs, list) else [outputs]))


def choose_batch_size(settings: FeatureSettings) -> int:
    """Images in one pass of a long run: as set, or by the memory at hand.

    More than 16 bring a CPU nothing and cost memory; a GPU likes 64. Two at least: for a single image oneDNN adds up
    in another order, and features would depend on it.
    """
    if settings.batch_size:
        return max(settings.batch_size, 2)
    share = psutil.virtual_memory().available // 4
    return 64 if on_gpu() else next((n for n in (16, 8, 4) if n * BYTES_PER_IMAGE <= share), 2)


def _parts(n: int, batch_size: int | None) -> Iterator[tuple[slice, int]]:
    """Slices that cover n images, each with the batch size it runs at."""
    start = 0
    while start < n:
        size = batch_size or next(size for size in SMALL_BATCHES if size <= n - start)
        yield slice(start, start + size), size
        start += size


def build_network(weights: dict[str, Convolution], *, precision: Precision, side_px: int = 224) -> Any:
    """VGG16 that takes uint8 RGB and does its own preprocessing (caffe style: BGR, ImageNet's means taken off).

    Args:
        weights: by layer; a layer that is not named keeps the random ones that Keras gives it.
        precision: of the convolutions.
        side_px: sides of the images.

    Source: arXiv:1409.1556, configuration D.
    """
    keras = load_keras()
    with _dtype_policy(keras, POLICIES[precision]):
        inputs = keras.Input((side_px, side_px, 3), dtype="uint8")
        pixels = keras.ops.flip(keras.ops.cast(inputs, "float32"), axis=-1) - np.array(BGR_MEANS, dtype=np.float32)
        network = keras.applications.VGG16(
            include_top=False, weights=None, input_tensor=pixels, input_shape=(side_px, side_px, 3)
        )
    for name, arrays in weights.items():
        network.get_layer(name).set_weights(arrays)
    return network


@contextmanager
def _dtype_policy(keras: Any, name: str) -> Iterator[None]:
    """Layers made inside get this policy; those made elsewhere later do not."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
