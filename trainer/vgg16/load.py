"""Loads VGG16 for a training, in the precision that the settings or a measurement on this machine choose.

With `precision: auto`, int8 is used if it is faster than Keras' fastest precision here, and if its features are close
to those of float32 on photos of the collection that it was not quantised on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from trainer.config import FeatureSettings
from trainer.errors import ModelError
from trainer.vgg16 import int8
from trainer.vgg16.backbone import POLICIES, SIDE_PX, Backbone, Extractor, Pixels
from trainer.vgg16.backend import backend_name
from trainer.vgg16.int8 import Int8Backbone
from trainer.vgg16.precision import MIN_GAIN, choose_precision, compare_rates, engines_key, recall, remember
from trainer.vgg16.quantise import quantise
from trainer.vgg16.weights import fingerprint, load_weights

logger = logging.getLogger(__name__)

N_SAMPLES = 160  # photos of the collection to quantise with; a fifth of them only checks the result
MAX_DISTANCE = 0.03  # mean of |int8 - float32| / |float32| over the features of photos; bfloat16 has 0.007


def load_network(
    settings: FeatureSettings,
    data_dir: Path,
    samples: Callable[[], Pixels],
    *,
    only_keras: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> Extractor:
    """Load VGG16 for a training.

    Args:
        settings: with `precision: int8` or `auto`, VGG16 is quantised if that was not done yet; where OpenVINO or NNCF
            is missing, Keras' fastest precision is used, and this is logged.
        data_dir: the network's file lies in its folder "features", the measurements in precision.json.
        samples: returns (n, side_px, side_px, 3) uint8, the same photos for the same collection, best `N_SAMPLES`.
        only_keras: never int8, as for fine-tuning.
        progress: called while VGG16 is quantised, with (photos done, photos).

    Raises:
        ModelError: the weights are not available.
        StorageError: the disk is full.
    """
    if settings.precision not in POLICIES and not only_keras:
        images = _Once(samples)
        quantised = _open_quantised(settings, data_dir, images, progress)
        if quantised and (settings.precision == "int8" or _is_better(quantised, settings, data_dir, images)):
            return quantised
    return Backbone.load(settings, precision=choose_precision(settings, data_dir))


class _Once:
    """Calls the function that decodes the samples when they are first needed."""

    def __init__(self, samples: Callable[[], Pixels]) -> None:
        self._samples = samples
        self._images: Pixels | None = None

    def __call__(self) -> Pixels:
        if self._images is None:
            self._images = self._samples()
        return self._images


def _open_quantised(
    settings: FeatureSettings, data_dir: Path, images: Callable[[], Pixels], progress: Callable[[int, int], None]
) -> Int8Backbone | None:
    """The collection's quantised network; it is made, or made again if its file is damaged.

    None: this machine cannot run or make it; if int8 is configured, this is logged.
    """
    can_quantise = int8.is_installed(to_quantise=True) and backend_name() == "tensorflow"
    if not can_quantise and settings.precision == "int8":
        logger.warning("int8 needs OpenVINO, NNCF and TensorFlow (docs/INSTALL.md); Keras computes the features")
    if not can_quantise:
        return None
    weights = load_weights(settings)
    name = int8.network_key(fingerprint(weights), tuple(settings.layers), SIDE_PX)
    path = data_dir / "features" / f"{name}.npz"
    if path.exists():
        try:
            return Int8Backbone(path)
        except ModelError as error:
            logger.warning("int8 network made again reason=%s", error)
    quantise(path, weights, images()[: -_n_checked(images())], settings=settings, progress=progress)
    return Int8Backbone(path)


def _is_better(
    quantised: Int8Backbone, settings: FeatureSettings, data_dir: Path, images: Callable[[], Pixels]
) -> bool:
    """Whether int8 is faster here than Keras, and close enough to float32; measured once for a machine and a file."""
    machine = f"{engines_key()}, {quantised.sha256[:16]}"
    known = recall(data_dir, machine).get("precision")
    if known is not None:
        return bool(known == "int8")
    exact = Backbone.load(settings, precision="float32")
    checked = images()[-_n_checked(images()) :]
    distance = relative_distance(quantised.extract(checked).features, exact.extract(checked).features)
    precision = choose_precision(settings, data_dir)
    other = exact if precision == "float32" else Backbone.load(settings, precision=precision)
    rates = compare_rates({precision: other, "int8": quantised}, batch_size=2)
    is_better = distance <= MAX_DISTANCE and rates["int8"] >= MIN_GAIN * rates[precision]
    remember(data_dir, machine, "int8" if is_better else precision, rates, distance=round(distance, 4))
    logger.info(
        "int8 measured better=%s int8=%.1f/s %s=%.1f/s distance=%.4f",
        is_better,
        rates["int8"],
        precision,
        rates[precision],
        distance,
    )
    return is_better


def _n_checked(images: Pixels) -> int:
    return max(len(images) // 5, 1)


def relative_distance(found: np.ndarray, exact: np.ndarray) -> float:
    """The mean over n photos of |found - exact| / |exact|, for features (n, d)."""
    return float(np.mean(np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1)))
