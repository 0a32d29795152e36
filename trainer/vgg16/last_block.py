"""Runs VGG16's block5 alone: takes maps of block4, and returns pooled features of block5's layers.

Block5 is a tenth of the network. With stored maps it can be fine-tuned, or run with other weights, without running the
other blocks again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.config import VGG16_LAYERS
from trainer.vgg16.backbone import POLICIES, Features, Precision, feature_columns, predict_padded
from trainer.vgg16.backend import load_keras
from trainer.vgg16.weights import Convolution, copied

BATCH = 32  # maps in one pass; the speed hardly depends on it
LAYERS = VGG16_LAYERS[-4:]


class Block5:
    """The convolutions of block5, up to the deepest one whose output is needed; not thread-safe."""

    def __init__(
        self,
        weights: Mapping[str, Convolution],
        *,
        layers: Sequence[str],
        map_shape: tuple[int, int, int],
        precision: Precision,
    ) -> None:
        """Build the Keras model.

        Args:
            weights: of the three convolutions.
            layers: layers of the feature vector, in order; at least one of block5.
            map_shape: (h, w, 512) of block4's maps.
            precision: of the convolutions; weights and features are always float32.
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
        return self._weights | {name: copied(layer) for name, layer in self._convolutions.items()}

    def features(self, frozen: Features, maps: Features) -> Features:
        """Compute block5's columns of feature vectors; the other columns are copied from `frozen`.

        Args:
            frozen: (n, d), n <= BATCH, of the same images; not modified.
            maps: (n, h, w, 512), or flattened.
        """
        features = frozen.copy()
        pooled = predict_padded(self._model, maps.reshape(len(maps), *self.map_shape), BATCH)
        for name, values in pooled.items():
            features[:, self._columns[name]] = values
        return features


def _layer(keras: Any, name: str, policy: str) -> Any:
    """Create a layer of VGG16 as in keras.applications."""
    if name.endswith("pool"):
        return keras.layers.MaxPooling2D((2, 2), strides=(2, 2), name=name, dtype=policy)
    return keras.layers.Conv2D(512, (3, 3), activation="relu", padding="same", name=name, dtype=policy)
