"""Computes pooled features of some layers of a frozen VGG16 from uint8 images.

One pass gives the average-pooled outputs of the listed layers, concatenated. It can also give the output maps of these
layers (for heat maps), or the map of block4 (to compute block5 with other weights, see `last_block`). The network ends
at the deepest layer needed. A fine-tuned block5 replaces weights of the same network, so it also needs one
pass.

The features of an image are bit-identical at any place in a run: all batches have one shape, and a smaller last batch
is padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import psutil

from trainer.config import FeatureSettings
from trainer.errors import ImageError
from trainer.vgg16.backend import load_keras, on_gpu
from trainer.vgg16.weights import BLOCK5, CHANNELS, Convolution, copied, fingerprint, load_weights

Precision = Literal["float32", "bfloat16", "int8"]
Pixels = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]
Maps = npt.NDArray[np.float16]

POLICIES: dict[Precision, str] = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
BGR_MEANS = (103.939, 116.779, 123.68)  # ImageNet's, as in keras.applications.vgg16.preprocess_input
SMALL_BATCHES = (4, 2, 1)  # the only compiled shapes besides `batch_size`; 8 costs a CPU memory and is not faster
SIDE_PX = 224  # the size VGG16 was trained on
BLOCK4 = "block4_pool"  # the input of block5
TUNED = "-block5-"  # in the key of a backbone with a fine-tuned block5, before its fingerprint
LARGEST_HALF = float(np.finfo(np.float16).max)  # VGG16's values reach some thousands
BYTES_PER_IMAGE = 3 * 224 * 224 * 64 * 4  # two maps of block1, and the same again for temporary data


@dataclass(frozen=True, slots=True)
class Extracted:
    """The outputs of one pass over n images.

    Attributes:
        features: (n, n_features) float32, each >= 0, not normalised.
        layer_maps: (n, h, w, c) float32 of each listed layer; its average over the places is in `features`. None unless
            requested.
        block4_map: (n, side / 16, side / 16, 512) float16, the input of block5; None unless requested.
    """

    features: Features
    layer_maps: tuple[Features, ...] | None = None
    block4_map: Maps | None = None


class Extractor(Protocol):
    """A frozen VGG16 without its top layers: `Backbone`, or `trainer.vgg16.int8.Int8Backbone`."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Their pooled outputs are the features, in this order."""

    @property
    def precision(self) -> Precision:
        """Of the convolutions."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the weights of VGG16, without a fine-tuned block5."""

    @property
    def side_px(self) -> int:
        """Sides of the images."""

    @property
    def n_features(self) -> int:
        """Length of a feature vector."""

    @property
    def key(self) -> str:
        """The cache key of the features: it names everything that determines them."""

    def extract(self, images: Pixels, *, batch_size: int | None = None, with_maps: bool = False) -> Extracted:
        """Compute features, one row per image, in the order given; see `Backbone.extract`."""


class Backbone:
    """VGG16 as Keras computes it; not thread-safe."""

    def __init__(
        self,
        network: Any,
        *,
        settings: FeatureSettings,
        precision: Precision,
        fingerprint: str,
        tuned: str | None = None,
    ) -> None:
        """Private; use `load`."""
        keras = load_keras()
        self.layers = tuple(settings.layers)
        self.precision = precision
        self.fingerprint = fingerprint
        self.tuned = tuned
        self.side_px = int(network.inputs[0].shape[1])
        self.n_features = feature_columns(self.layers)[-1].stop
        self._network = network
        maps = [network.get_layer(name).output for name in self.layers]
        pooled = [keras.layers.GlobalAveragePooling2D(dtype="float32")(layer_map) for layer_map in maps]
        joined = keras.layers.Concatenate(dtype="float32")(pooled) if len(pooled) > 1 else pooled[0]
        more = {
            "": {},
            "layers": {f"map_{n}": keras.ops.cast(layer_map, "float32") for n, layer_map in enumerate(maps)},
            "block4": {"block4_map": keras.ops.cast(network.get_layer(BLOCK4).output, "float32")},
        }
        self._models = {
            wanted: keras.Model(network.inputs[0], {"features": joined, **outputs}) for wanted, outputs in more.items()
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
        """Build the network and load its weights.

        Args:
            settings: `layers`, `weights` and `weights_seed` are used; `precision` and `batch_size` are not.
            precision: of the convolutions; features are always float32.
            side_px: sides of the images, 32 or more; None: 224.
            block5: fine-tuned weights that replace VGG16's own; `tuned` is their fingerprint, `fingerprint` is still
                that of VGG16's own.

        Raises:
            ModelError: the weights are not available; see `trainer.vgg16.weights.load_weights`.
        """
        weights = load_weights(settings)
        network = build_network(weights | dict(block5 or {}), precision=precision, side_px=side_px or SIDE_PX)
        tuned = fingerprint(block5) if block5 else None
        return cls(network, settings=settings, precision=precision, fingerprint=fingerprint(weights), tuned=tuned)

    @property
    def key(self) -> str:
        """The cache key of the features: it names everything that determines them."""
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
        """Shape (h, w, c) of block4's map."""
        height, width, channels = self._network.get_layer(BLOCK4).output.shape[1:]
        return int(height), int(width), int(channels)

    @property
    def _network_key(self) -> str:
        return f"vgg16-{self.fingerprint[:16]}-caffe{self.side_px}-{self.precision}"

    def block5(self) -> dict[str, Convolution]:
        """A copy of the weights of block5's convolutions."""
        return {name: copied(self._network.get_layer(name)) for name in BLOCK5}

    def extract(
        self, images: Pixels, *, batch_size: int | None = None, with_maps: bool = False, with_block4: bool = False
    ) -> Extracted:
        """Compute bottleneck features, one row per image, in the order given.

        Args:
            images: (n, side_px, side_px, 3) uint8, RGB; not modified.
            batch_size: fixed batch size for a long run, with padding of the last batch; None: batches of 4, 2 and 1
                without padding, for a few images.
            with_maps: also return the maps of the listed layers.
            with_block4: also return block4's map; not together with `with_maps`.

        Raises:
            ImageError: another shape or dtype; the message names both.
        """
        check_images(images, self.side_px)
        model = self._models["layers" if with_maps else "block4" if with_block4 else ""]
        outputs = [predict_padded(model, images[part], size) for part, size in _parts(len(images), batch_size)]
        if not outputs:
            outputs = [{name: np.empty((0, *output.shape[1:]), output.dtype) for name, output in model.output.items()}]
        joined = {name: np.concatenate([part[name] for part in outputs]) for name in outputs[0]}
        block4 = joined.get("block4_map")
        return Extracted(
            features=joined["features"],
            layer_maps=tuple(joined[f"map_{n}"] for n in range(len(self.layers))) if with_maps else None,
            block4_map=None if block4 is None else np.minimum(block4, LARGEST_HALF).astype(np.float16),
        )


def check_images(images: Pixels, side_px: int) -> None:
    """Raise ImageError unless the images are (n, side_px, side_px, 3) uint8."""
    expected = (side_px, side_px, 3)
    if images.ndim != 4 or images.shape[1:] != expected or images.dtype != np.uint8:
        raise ImageError(f"images are {images.shape} {images.dtype}, expected (n, {expected}) uint8", reason="shape")


def predict_padded(model: Any, rows: npt.NDArray[Any], size: int) -> Any:
    """Predict n rows as one batch padded to the fixed size `size`; the padding is removed from the output.

    Args:
        model: Keras model with a dict of outputs.
    """
    n = len(rows)
    if n < size:
        rows = np.concatenate([rows, np.zeros((size - n, *rows.shape[1:]), dtype=rows.dtype)])
    return {name: output[:n] for name, output in model.predict_on_batch(rows).items()}


def feature_columns(layers: Sequence[str]) -> list[slice]:
    """The columns of each layer in a feature vector."""
    ends = list(accumulate(CHANNELS[layer.split("_")[0]] for layer in layers))
    return [slice(start, end) for start, end in pairwise([0, *ends])]


def choose_batch_size(settings: FeatureSettings, precision: Precision) -> int:
    """The batch size for a long run: the setting, or chosen by device and free memory.

    On a CPU, more than 16 costs memory and is not faster; a GPU, which int8 does not use, is fast with 64. The minimum
    is 2: for a single image, oneDNN sums in another order, so features would differ.
    """
    if settings.batch_size:
        return max(settings.batch_size, 2)
    share = psutil.virtual_memory().available // 4
    return 64 if precision != "int8" and on_gpu() else next((n for n in (16, 8, 4) if n * BYTES_PER_IMAGE <= share), 2)


def _parts(n: int, batch_size: int | None) -> Iterator[tuple[slice, int]]:
    """Slices that cover n images, each with the batch size it runs at."""
    start = 0
    while start < n:
        size = batch_size or next(size for size in SMALL_BATCHES if size <= n - start)
        yield slice(start, start + size), size
        start += size


def build_network(weights: dict[str, Convolution], *, precision: Precision, side_px: int = 224) -> Any:
    """Build VGG16 with uint8 RGB input and its own preprocessing (caffe style: BGR, ImageNet means subtracted).

    Args:
        weights: by layer; a missing layer keeps its random Keras weights.
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
    """Set the dtype policy for layers created inside the context, and restore it afterwards."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
