"""VGG16 with int8 weights and activations, run by OpenVINO: twice the speed of bfloat16, without TensorFlow in memory.

The network is one file of 15 MB, which `trainer.vgg16.quantise` makes once from Keras' VGG16 and photos of the
collection. Training and serving use the same file, so that they compute the same features. Convolutions sum integers,
so the features of an image are bit-identical in any batch.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from trainer.arrays import read_arrays
from trainer.errors import ModelError
from trainer.files import write_file
from trainer.vgg16.backbone import Extracted, Pixels, Precision, check_images, feature_columns

FILE_NAME = "vgg16-int8.npz"  # in a version's folder
# What is not quantised (means, the last sums) is computed in float32; pinned threads would disturb other processes.
CONFIGURATION = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}
MAX_BYTES = 64 * 1024 * 1024  # four times what a network takes
SMALL_BATCH = 1  # images in one pass if no batch size is given: more take memory, and are 2% faster


class Int8Backbone:
    """A quantised VGG16 in memory, with the interface of `trainer.vgg16.backbone.Backbone`; not thread-safe."""

    precision: Precision = "int8"
    tuned = None  # a fine-tuned block5 is not quantised

    def __init__(self, path: Path, data: bytes | None = None) -> None:
        """Read a network's file.

        Args:
            data: the file's content, if it has been read already.

        Raises:
            ModelError: the file is missing or damaged, or OpenVINO is not installed or cannot run it.
        """
        self._core = _load_openvino().Core()
        try:
            data = path.read_bytes() if data is None else data
            arrays = read_arrays(data, max_bytes=MAX_BYTES)
            facts = json.loads(arrays["facts"].tobytes())
            self._model = self._core.read_model(arrays["graph"].tobytes(), arrays["constants"].tobytes())
            self.path = path
            self.sha256 = hashlib.sha256(data).hexdigest()
            self.fingerprint: str = facts["fingerprint"]
            self.layers: tuple[str, ...] = tuple(facts["layers"])
            self.side_px: int = facts["side_px"]
        except (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile) as error:
            raise ModelError(f"{path}: cannot be run as an int8 network ({error}); train again") from error
        self.n_features = feature_columns(self.layers)[-1].stop
        self._requests: dict[bool, Any] = {}  # with the layers' maps, or without

    @property
    def key(self) -> str:
        """The cache key of the features: it names everything that determines them."""
        return f"{network_key(self.fingerprint, self.layers, self.side_px)}-{self.sha256[:16]}"

    def extract(self, images: Pixels, *, batch_size: int | None = None, with_maps: bool = False) -> Extracted:
        """Compute features, and the layers' maps if asked for, as `Backbone.extract`."""
        check_images(images, self.side_px)
        size = batch_size or SMALL_BATCH
        starts = range(0, len(images), size)
        parts = [self._pass(images[start : start + size], with_maps) for start in starts]
        if not parts:  # one pass, for the shapes
            parts = [[array[:0] for array in self._pass(np.zeros((1, *images.shape[1:]), np.uint8), with_maps)]]
        joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        return Extracted(features=joined[0], layer_maps=tuple(joined[1:]) if with_maps else None)

    def save(self, folder: Path) -> None:
        """Copy the network's file into a version's folder.

        Raises:
            ModelError: the file has changed since it was loaded.
            StorageError: the disk is full.
        """
        data = self.path.read_bytes()
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise ModelError(f"{self.path}: changed during the training; train again")
        write_file(folder / FILE_NAME, lambda file: file.write(data))

    def _pass(self, images: Pixels, with_maps: bool) -> list[Any]:
        if with_maps not in self._requests:
            self._requests[with_maps] = self._compile(with_maps)
        request = self._requests[with_maps]
        request.infer([images])
        names = ["features", *(self.layers if with_maps else [])]
        return [request.get_tensor(name).data.copy() for name in names]

    def _compile(self, with_maps: bool) -> Any:
        """Compile the network; without the maps, which a training needs not, it is a fifth faster."""
        model = self._model.clone()
        for result in model.get_results():
            if not with_maps and "features" not in result.input_value(0).get_names():
                model.remove_result(result)
        configuration = CONFIGURATION | {"INFERENCE_NUM_THREADS": int(os.environ.get("OMP_NUM_THREADS", "0"))}
        try:
            return self._core.compile_model(model, "CPU", configuration).create_infer_request()
        except RuntimeError as error:
            raise ModelError(f"{self.path}: cannot be run as an int8 network ({error}); train again") from error


def save_network(
    path: Path, graph: bytes, constants: bytes, *, fingerprint: str, layers: tuple[str, ...], side_px: int
) -> None:
    """Write a network's file atomically.

    Args:
        graph, constants: OpenVINO's two files, .xml and .bin.
        fingerprint: SHA-256 over the weights that were quantised.
        layers: their maps are outputs, beside "features", the averages of all of them.
        side_px: sides of the images.

    Raises:
        StorageError: the disk is full; an existing file is unchanged.
    """
    facts = {"fingerprint": fingerprint, "layers": layers, "side_px": side_px}
    parts = {"facts": json.dumps(facts).encode(), "graph": graph, "constants": constants}
    arrays: dict[str, Any] = {name: np.frombuffer(part, dtype=np.uint8) for name, part in parts.items()}
    write_file(path, lambda file: np.savez(file, **arrays))


def network_key(fingerprint: str, layers: tuple[str, ...], side_px: int) -> str:
    """Name of a quantised network: of its file beside the features, and the first part of their key."""
    return f"vgg16-{fingerprint[:16]}-caffe{side_px}-{'+'.join(layers)}-int8"


def is_installed(*, to_quantise: bool = False) -> bool:
    """Whether OpenVINO is installed and, if asked for, NNCF, which only quantising needs."""
    return all(find_spec(name) for name in ("openvino", *(["nncf"] if to_quantise else [])))


def _load_openvino() -> Any:
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise ModelError(
            "this version is int8, and OpenVINO, which runs it, is not installed; see docs/INSTALL.md, or promote a "
            "version of another precision"
        ) from error
