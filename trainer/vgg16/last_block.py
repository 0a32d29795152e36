"""VGG16's last block by itself: maps of block4 in, pooled features of block5's layers out.

It is a tenth of the network, so with the maps at hand it can be trained, and photos be seen through other weights of
it, without another pass of the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer.config import VGG16_LAYERS
from trainer.vgg16.backbone import POLICIES, Features, Precision, feature_columns, predict_filled_up
from trainer.vgg16.backend import load_keras
from trainer.vgg16.weights import Convolution

BATCH = 32  # maps in one pass; a few more or less change nothing in speed
LAYERS = VGG16_LAYERS[-4:]


class Block5:
    """The convolutions of block5, up to the deepest whose output is wanted. Not for use by two threads at once."""

    def __init__(
        self,
        weights: Mapping[str, Convolution],
        *,
        layers: Sequence[str],
        map_shape: tuple[int, int, int],
        precision: Precision,
    ) -> None:
        """Build it.

        Args:
            weights: of the three convolutions.
            layers: whose pooled outputs make up a feature vector; at least one of block5.
            map_shape: (h, w, 512) of block4's maps.
            precision: of the convolutions; weights and features are float32 either way.
        """
        keras = load_keras()
        self.map_shape = map_shape
        self.maps = keras.Input(map_shape, dtype="float32")
        self.pooled: dict[str, Any] = {}
        self._weights = dict(weights)
        self._convolutions: dict[str, Any] = {}
        self._columns = dict(zip(layers, feature_columns(layers), strict=True))
        output = self.maps
        for name in LAYERS[: 1 + max(LAYERS.index(layer) for layer in layers if layer in LAYERS)]:
            layer = _layer(keras, name, POLICIES[precision])
            output = layer(output)
            if name in weights:
                layer.set_weights(weights[name])
                self._convolutions[name] = layer
            if name in layers:
                self.pooled[name] = keras.layers.GlobalAveragePooling2D(dtype="float32")(output)
        self._model = keras.Model(self.maps, self.pooled)
        self._model.compile(jit_compile=False)

    @property
    def weights(self) -> dict[str, Convolution]:
        """A copy of the weights of all three convolutions."""
        return self._weights | {name: _copied(layer.get_weights()) for name, layer in self._convolutions.items()}

    def features(self, frozen: Features, maps: Features) -> Features:
        """Feature vectors in which block5's columns are computed again.

        Args:
            frozen: (n, d), n at most BATCH, of the same images; not changed.
            maps: (n, h, w, 512), or anything that has as many values.
        """
        features = frozen.copy()
        pooled = predict_filled_up(self._model, maps.reshape(len(maps), *self.map_shape), BATCH)
        for name, values in pooled.items():
            features[:, self._columns[name]] = values
        return features


def _layer(keras: Any, name: str, policy: str) -> Any:
    """One of VGG16's layers, as keras.applications has it."""
    if name.endswith("pool"):
        return keras.layers.MaxPooling2D((2, 2), strides=(2, 2), name=name, dtype=policy)
    return keras.layers.Conv2D(512, (3, 3), activation="relu", padding="same", name=name, dtype=policy)


def _copied(arrays: Sequence[Any]) -> Convolution:
    kernel, bias = (np.array(array, dtype=np.float32) for array in arrays)
    return kernel, bias
