"""Loads the weights of VGG16's 13 convolutions: downloaded by Keras, from a file, or random from a seed."""

from __future__ import annotations

import hashlib
import logging
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.arrays import read_arrays
from trainer.config import VGG16_LAYERS, FeatureSettings
from trainer.errors import ModelError
from trainer.files import write_file
from trainer.vgg16.backend import keras_folder, load_keras

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.float32]
Convolution = tuple[Array, Array]  # kernel (3, 3, channels in, channels out) and bias (channels out,)

CONVOLUTIONS = tuple(name for name in VGG16_LAYERS if "conv" in name)
BLOCK5 = CONVOLUTIONS[-3:]
CHANNELS = {"block1": 64, "block2": 128, "block3": 256, "block4": 512, "block5": 512}
MAX_BLOCK5_BYTES = 64 * 1024 * 1024  # twice what they take
MAX_WEIGHTS_BYTES = 1024 * 1024 * 1024  # twice what VGG16 takes with its top
FILE_NAME = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
URL = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg16/{FILE_NAME}"
MD5 = "6d6bbae143d832006294945121d1f1fc"  # as in keras/src/applications/vgg16.py  # pragma: allowlist secret


def load_weights(settings: FeatureSettings) -> dict[str, Convolution]:
    """Load the weights that `features.weights` names; Keras is imported only to download them.

    Args:
        settings: `weights` is "imagenet", "random", or the path of a file. File formats: .h5 of Keras 1 and 2 (the
            official VGG16 files, with or without top), .weights.h5 of Keras 3, and .npz with arrays named like
            "block1_conv1/kernel" and "block1_conv1/bias". Keras' download lies in ~/.keras, or KERAS_HOME.

    Returns:
        layer name -> (kernel, bias), for all 13 convolutions, in the order of the network.

    Raises:
        ModelError: the download failed, or the file is missing or is not VGG16.
    """
    if settings.weights == "random":
        logger.warning(
            "random weights (features.weights: random, seed %d): good for demos and tests, not for real answers",
            settings.weights_seed,
        )
        return _random_weights(settings.weights_seed)
    path = _downloaded() if settings.weights == "imagenet" else Path(settings.weights).expanduser()
    return _checked(path, _read_file(path), CONVOLUTIONS)


def fingerprint(weights: Mapping[str, Convolution]) -> str:
    """SHA-256 over all kernels and biases, in the order of the network."""
    digest = hashlib.sha256()
    for name in sorted(weights, key=CONVOLUTIONS.index):
        for array in weights[name]:
            digest.update(np.ascontiguousarray(array, dtype="<f4").data)
    return digest.hexdigest()


def save_weights(path: Path, weights: Mapping[str, Convolution]) -> None:
    """Save convolutions atomically as .npz, with the array names that `load_weights` reads.

    Raises:
        StorageError: the disk is full; an existing file is unchanged.
    """
    arrays: dict[str, Any] = {}
    for name, (kernel, bias) in weights.items():
        arrays[f"{name}/kernel"], arrays[f"{name}/bias"] = kernel, bias
    write_file(path, lambda file: np.savez(file, **arrays))


def parse_block5(data: bytes, path: Path) -> dict[str, Convolution]:
    """The weights of block5's three convolutions, from the content of a file of `save_weights`.

    Args:
        path: the file, for messages.

    Raises:
        ModelError: it is damaged, or has other content.
    """
    try:
        return _checked(path, read_arrays(data, max_bytes=MAX_BLOCK5_BYTES), BLOCK5)
    except ValueError as error:
        raise ModelError(f"{path}: {error}; roll back, or train again") from error


def copied(layer: Any) -> Convolution:
    """A copy of the weights of a Keras convolution."""
    kernel, bias = (np.array(array, dtype=np.float32) for array in layer.get_weights())
    return kernel, bias


def kernel_shape(name: str) -> tuple[int, int, int, int]:
    """The shape of one convolution's kernel, e.g. (3, 3, 64, 128) for "block2_conv1"."""
    block = name.split("_")[0]
    position = CONVOLUTIONS.index(name)
    n_in = CHANNELS[CONVOLUTIONS[position - 1].split("_")[0]] if position else 3
    return (3, 3, n_in, CHANNELS[block])


def _random_weights(seed: int) -> dict[str, Convolution]:
    """He-normal kernels and zero biases, the same on every backend and machine. Source: arXiv:1502.01852."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name in CONVOLUTIONS:
        shape = kernel_shape(name)
        scale = np.float32(np.sqrt(2.0 / np.prod(shape[:3])))
        kernel = rng.standard_normal(shape, dtype=np.float32) * scale
        weights[name] = (kernel, np.zeros(shape[3], dtype=np.float32))
    return weights


def _downloaded() -> Path:
    path = keras_folder() / "models" / FILE_NAME
    if path.exists() and hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == MD5:
        return path
    keras = load_keras()
    try:
        return Path(keras.utils.get_file(FILE_NAME, URL, cache_subdir="models", file_hash=MD5))
    except Exception as error:  # Keras raises a bare Exception for a failed download
        raise ModelError(
            f"features.weights: imagenet: the VGG16 weights could not be downloaded ({error}). Fetch {URL} on a "
            "machine that can, and set features.weights to the file's path; or set it to random for a test"
        ) from error


def _read_file(path: Path) -> dict[str, Array]:
    """Read arrays by name; from .h5 files only those of 1 or 4 dimensions, without the large top layers."""
    try:
        if path.name.endswith(".npz"):
            return read_arrays(path.read_bytes(), max_bytes=MAX_WEIGHTS_BYTES)
        return _read_h5(path)
    except FileNotFoundError as error:
        raise ModelError(
            f"{path}: no such file; features.weights must be imagenet, random, or the path of a VGG16 weights file"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: cannot be read as .h5 or .npz: {error}; fetch it again") from error


def _read_h5(path: Path) -> dict[str, Array]:
    import h5py  # comes with Keras

    arrays = {}
    with h5py.File(path, "r") as file:

        def keep(name: str, node: Any) -> None:
            if isinstance(node, h5py.Dataset) and node.ndim in (1, 4):
                arrays[name] = node[()]

        file.visititems(keep)
    return arrays


def _checked(path: Path, arrays: dict[str, Array], names: Sequence[str]) -> dict[str, Convolution]:
    """Find the named convolutions in a file's arrays and check their shapes.

    Keras 1 and 2, and .npz, use layer names; .weights.h5 of Keras 3 numbers the layers: conv2d, conv2d_1, ...
    """
    weights = {}
    for name in names:
        position = CONVOLUTIONS.index(name)
        counted = "conv2d" if position == 0 else f"conv2d_{position}"
        found = [array for key, array in arrays.items() if re.search(rf"(^|/)({name}|{counted})/", key)]
        by_rank = {array.ndim: np.asarray(array, dtype=np.float32) for array in found}
        shape = kernel_shape(name)
        shapes = {rank: array.shape for rank, array in by_rank.items()}
        if len(found) != 2 or shapes != {4: shape, 1: shape[3:]}:
            raise ModelError(
                f"{path}: not the weights of VGG16: for {name} it has {sorted(array.shape for array in found)}, "
                f"expected {[shape[3:], shape]}; the file that Keras uses is {FILE_NAME}"
            )
        weights[name] = (by_rank[4], by_rank[1])
    return weights
