"""Quantises Keras' VGG16 to int8, with NNCF, on photos of the collection.

Post-training quantisation: the ranges of all activations are measured on the photos, then weights and activations are
rounded to 8 bits, and the biases corrected for the mean error. The same photos give the same file on one machine.
"""

from __future__ import annotations

import importlib
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rich.console

from trainer.config import FeatureSettings
from trainer.vgg16.backbone import Pixels, build_network
from trainer.vgg16.backend import load_keras
from trainer.vgg16.int8 import save_network
from trainer.vgg16.weights import Convolution, fingerprint

logger = logging.getLogger(__name__)


def quantise(
    path: Path,
    weights: dict[str, Convolution],
    images: Pixels,
    *,
    settings: FeatureSettings,
    progress: Callable[[int, int], None],
) -> None:
    """Quantise VGG16 and write its file.

    Args:
        path: of the file.
        weights: of all 13 convolutions.
        images: (n, side_px, side_px, 3) uint8, RGB; 100 to 300 are enough.
        settings: `layers` is used.
        progress: called for each image, with (images done, images).

    Raises:
        StorageError: the disk is full; an existing file is unchanged.

    Source: https://docs.openvino.ai/nncf, "Basic Quantization Flow".
    """
    openvino, nncf = importlib.import_module("openvino"), importlib.import_module("nncf")
    nncf.set_log_level(logging.WARNING)
    side_px = int(images.shape[1])
    _tell_openvino_which_tensorflow()
    model = openvino.convert_model(_with_outputs(weights, settings.layers, side_px))

    def counted(place: int) -> Pixels:
        progress(place + 1, len(images))
        return images[place : place + 1]

    with _quiet(rich.get_console()):  # NNCF has a progress bar of its own
        quantised = nncf.quantize(model, nncf.Dataset(range(len(images)), counted), subset_size=len(images))
    _name_by_order(quantised, {"features", *settings.layers})
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder, "network.xml")
        openvino.save_model(quantised, graph, compress_to_fp16=False)
        save_network(
            path,
            graph.read_bytes(),
            graph.with_suffix(".bin").read_bytes(),
            fingerprint=fingerprint(weights),
            layers=tuple(settings.layers),
            side_px=side_px,
        )
    logger.info("network quantised file=%s photos=%d", path, len(images))


def _tell_openvino_which_tensorflow() -> None:
    """Replace a function of OpenVINO 2026.4 that fails since Python 3.13: it looks up TensorFlow's version by `exec`.

    Source: https://github.com/openvinotoolkit/openvino/pull/32482.
    """
    if sys.version_info >= (3, 13):
        version = importlib.import_module("tensorflow").__version__
        utils = importlib.import_module("openvino.frontend.tensorflow.utils")
        utils.get_environment_setup = lambda _framework: {"tensorflow": version}


@contextmanager
def _quiet(console: rich.console.Console) -> Iterator[None]:
    """Print nothing on a console inside the context."""
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


def _name_by_order(model: Any, outputs: set[str]) -> None:
    """Replace all names except those of the outputs: they count what this process has done before."""
    for number, node in enumerate(model.get_ordered_ops()):
        node.set_friendly_name(f"node_{number}")
        for output in node.outputs():
            output.get_tensor().set_names(output.get_names() & outputs)


def _with_outputs(weights: dict[str, Convolution], layers: tuple[str, ...], side_px: int) -> Any:
    """Keras' VGG16 in float32, with the maps of the layers and all of their averages ("features") as outputs."""
    keras = load_keras()
    network = build_network(weights, precision="float32", side_px=side_px)
    maps = {name: network.get_layer(name).output for name in layers}
    pooled = [keras.layers.GlobalAveragePooling2D()(layer_map) for layer_map in maps.values()]
    joined = keras.layers.Concatenate()(pooled) if len(pooled) > 1 else pooled[0]
    return keras.Model([network.inputs[0]], {"features": joined, **maps})  # a list, as OpenVINO calls it
