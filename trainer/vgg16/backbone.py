"""Frozen VGG16: uint8 images in, pooled features of some of its layers out.

One pass gives everything that is wanted: each listed layer's output averaged over its positions, side by side; for a
heat map, the last listed layer's output itself; and block4's, from which block5 can be computed again with other
weights (`last_block`). The network is cut above the deepest layer that is needed. A version whose block5 was fine-tuned
has the same network with these weights put in, and serves in one pass as well.

The same image has the same features, bit by bit, wherever in a run it is computed: batches have one fixed shape, and a
last, smaller one is filled up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import psutil

from trainer.config import FeatureSettings
from trainer.errors import ImageError
from trainer.vgg16.backend import load_keras, on_gpu
from trainer.vgg16.weights import BLOCK5, CHANNELS, Convolution, fingerprint, load_weights

Precision = Literal["float32", "bfloat16"]
Pixels = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]
Maps = npt.NDArray[np.float16]

POLICIES: dict[Precision, str] = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
BGR_MEANS = (103.939, 116.779, 123.68)  # ImageNet's, as in keras.applications.vgg16.preprocess_input
SMALL_BATCHES = (
    4,
    2,
    1,
)  # the only shapes beside `batch_size` that are ever compiled; 8 brings a CPU nothing but memory
SIDE_PX = 224  # as VGG16 was trained
BLOCK4 = "block4_pool"  # where block5 begins
TUNED = "-block5-"  # in the key of a backbone with another block5, before the start of its fingerprint
LARGEST_HALF = float(np.finfo(np.float16).max)  # VGG16's own values end at some thousands
BYTES_PER_IMAGE = 3 * 224 * 224 * 64 * 4  # two maps of block1 at work, and as much again for scratch


WANTED = (("features",), ("features", "last_map"), ("features", "block4_map"))  # what one pass can give


@dataclass(frozen=True, slots=True)
class Extracted:
    """The outputs of one pass over n images.

    Attributes:
        features: (n, n_features) float32, each >= 0, not normalised.
        last_map: (n, h, w, c) float32, the output of the last listed layer; None unless asked for.
        block4_map: (n, side / 16, side / 16, 512) float16, what block5 sees; None unless asked for.
    """

    features: Features
    last_map: Features | None
    block4_map: Maps | None = None


class Backbone:
    """VGG16 without its top, with frozen weights. Not thread-safe."""

    def __init__(
        self,
        network: Any,
        *,
        settings: FeatureSettings,
        precision: Precision,
        fingerprint: str,
        tuned: str | None = None,
    ) -> None:
        """Use `load`."""
        keras = load_keras()
        self.layers = tuple(settings.layers)
        self.precision = precision
        self.fingerprint = fingerprint
        self.tuned = tuned
        self.side_px = int(network.inputs[0].shape[1])
        self.last_columns = feature_columns(self.layers)[-1]
        self.n_features = self.last_columns.stop
        self._network = network
        maps = [network.get_layer(name).output for name in self.layers]
        pooled = [keras.layers.GlobalAveragePooling2D(dtype="float32")(layer_map) for layer_map in maps]
        joined = keras.layers.Concatenate(dtype="float32")(pooled) if len(pooled) > 1 else pooled[0]
        outputs = {
            "features": joined,
            "last_map": keras.ops.cast(maps[-1], "float32"),
            "block4_map": keras.ops.cast(network.get_layer(BLOCK4).output, "float32"),
        }
        self._models = {
            wanted: keras.Model(network.inputs[0], {name: outputs[name] for name in wanted}) for wanted in WANTED
        }
        for model in self._models.values():
            model.trainable = False
            model.compile(jit_compile=False)  # XLA is slower than oneDNN and cuDNN here

    @classmethod
    def load(
        cls,
        settings: FeatureSettings,
        *,
        precision: Precision,
        side_px: int | None = None,
        block5: Mapping[str, Convolution] | None = None,
    ) -> Backbone:
        """Build the network and give it its weights.

        Args:
            settings: `layers`, `weights` and `weights_seed` count; `precision` and `batch_size` do not.
            precision: of the convolutions; features are float32 either way.
            side_px: sides of the images, 32 or more; None: 224.
            block5: weights that take the place of VGG16's own; `tuned` is the fingerprint of these, `fingerprint` that
                of its own all the same.

        Raises:
            ModelError: the weights cannot be had; see `trainer.vgg16.weights.load_weights`.
        """
        keras = load_keras()
        weights = load_weights(settings, keras=keras)
        network = build_network(weights | dict(block5 or {}), precision=precision, side_px=side_px or SIDE_PX)
        tuned = fingerprint(block5) if block5 else None
        return cls(network, settings=settings, precision=precision, fingerprint=fingerprint(weights), tuned=tuned)

    @property
    def key(self) -> str:
        """The cache key: a name for everything that decides an image's features."""
        return self.frozen_key if self.tuned is None else f"{self.frozen_key}{TUNED}{self.tuned[:16]}"

    @property
    def frozen_key(self) -> str:
        """The key of the same backbone with VGG16's own block5."""
        return f"{self._network_key}-{'+'.join(self.layers)}"

    @property
    def map_key(self) -> str:
        """The cache key of block4's maps."""
        return f"{self._network_key}-map-{BLOCK4}"

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """Of block4's map: (h, w, c)."""
        height, width, channels = self._network.get_layer(BLOCK4).output.shape[1:]
        return int(height), int(width), int(channels)

    @property
    def _network_key(self) -> str:
        return f"vgg16-{self.fingerprint[:16]}-caffe{self.side_px}-{self.precision}"

    def block5(self) -> dict[str, Convolution]:
        """A copy of the weights of block5's convolutions."""
        weights = {}
        for name in BLOCK5:
            kernel, bias = self._network.get_layer(name).get_weights()
            weights[name] = (np.array(kernel), np.array(bias))
        return weights

    def extract(
        self, images: Pixels, *, batch_size: int | None = None, with_map: bool = False, with_block4: bool = False
    ) -> Extracted:
        """Bottleneck features, one row per image, in the order given.

        Args:
            images: (n, side_px, side_px, 3) uint8, RGB; not changed.
            batch_size: the fixed shape for a long run, the last batch filled up; None: batches of 4, 2 and 1 with
                nothing filled up, for the few images of a moment.
            with_map: the last layer's map too.
            with_block4: block4's map too; one of the two at a time.

        Raises:
            ImageError: another shape or dtype; the message names both.
        """
        expected = (self.side_px, self.side_px, 3)
        if images.ndim != 4 or images.shape[1:] != expected or images.dtype != np.uint8:
            raise ImageError(
                f"images are {images.shape} {images.dtype}, expected (n, {expected}) uint8", reason="shape"
            )
        wanted = WANTED[1 if with_map else 2 if with_block4 else 0]
        model = self._models[wanted]
        outputs = [predict_filled_up(model, images[part], size) for part, size in _parts(len(images), batch_size)]
        if not outputs:
            outputs = [
                {name: np.empty((0, *model.output[name].shape[1:]), model.output[name].dtype) for name in wanted}
            ]
        joined = {name: np.concatenate([part[name] for part in outputs]) for name in wanted}
        block4 = joined.get("block4_map")
        return Extracted(
            features=joined["features"],
            last_map=joined.get("last_map"),
            block4_map=None if block4 is None else np.minimum(block4, LARGEST_HALF).astype(np.float16),
        )


def predict_filled_up(model: Any, rows: npt.NDArray[Any], size: int) -> Any:
    """A model's outputs for n rows; the batch is padded to `size`, its fixed shape, and the padding is cut off.

    Args:
        model: that gives a dictionary of arrays.
    """
    n = len(rows)
    if n < size:
        rows = np.concatenate([rows, np.zeros((size - n, *rows.shape[1:]), dtype=rows.dtype)])
    return {name: output[:n] for name, output in model.predict_on_batch(rows).items()}


def feature_columns(layers: Sequence[str]) -> list[slice]:
    """Where in a feature vector each layer's channels stand."""
    ends = list(accumulate(CHANNELS[layer.split("_")[0]] for layer in layers))
    return [slice(start, end) for start, end in pairwise([0, *ends])]


def choose_batch_size(settings: FeatureSettings) -> int:
    """The batch size of a long run: the setting, or by the free memory.

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
