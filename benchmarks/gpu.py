"""What a GPU makes of it: features, fine-tuning of block5, the head, and the reference as copied to its last epoch.

The ceiling is the card's own: large bfloat16 matrix products one after another, divided by the operations of VGG16's
convolutions for one image. The features beside it are those of the network alone, from pixels in memory; those from
files, with decoding, storage and block4's maps for fine-tuning, stand below. It runs under Keras' torch or JAX backend
where TensorFlow is not installed, and also without a GPU; then the goal does not apply.

For a machine that takes only small files, VGG16's weights may be float16 (29 MB); the figures say so.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks import reference
from benchmarks.features import gflop_per_image
from benchmarks.pictures import real_weights
from benchmarks.result import Figure, Goal, Result
from benchmarks.studio import Silent, describe_weights, scraped_studio
from benchmarks.training import run_reference
from trainer.config import Settings
from trainer.training.fitting import Trained, fit_and_evaluate
from trainer.training.training_data import TrainingData
from trainer.vgg16.backbone import Extractor, Precision, choose_batch_size
from trainer.vgg16.backend import load_keras, on_gpu
from trainer.vgg16.precision import describe_machine

BACKENDS = ("tensorflow", "torch", "jax")  # in order of preference
PRECISION: Precision = "bfloat16"
T = TypeVar("T")


def run(*, quick: bool, work_dir: Path, say: Callable[[str], None], weights: str | None = None) -> Result:
    """Run the benchmark.

    Args:
        quick: few photos, small products, and one epoch of each fit; the reference is not compiled.
        work_dir: an empty folder for the data folder and photos.
        say: prints a line of progress.
        weights: as `features.weights`; None: ImageNet's.
    """
    weights = weights or real_weights()
    choose_backend()
    photos_per_label, epochs, seconds = (20, 1, 0.2) if quick else (200, reference.EPOCHS, 5.0)
    side = 8192 if on_gpu() and not quick else 1024
    say(f"{describe_machine(with_keras=True)['engine']} on {device()}")
    options = {"FEATURES__PRECISION": PRECISION, "FEATURES__VIEWS": "[whole]" if quick else "[whole, mirror]"}
    with scraped_studio(
        work_dir / "data", photos_per_label=photos_per_label, say=say, options=options, weights=weights
    ) as place:
        settings = place.settings()
        tuning = _tuning(settings, epochs=1 if quick else None)
        say("features, and block4's maps")
        data, files_s = _timed(lambda: TrainingData.gather(tuning, Silent()))
        n_views = len(data.dataset.items) * len(settings.features.views)
        rate = images_per_s(data.backbone, choose_batch_size(settings.features, data.backbone.precision), seconds)
        ceiling = products_per_s(side, seconds) * 2 * side**3 / 1e9 / gflop_per_image()
        say(f"{rate:.1f} images/s; the ceiling is {ceiling:.1f}")
        steps = _Steps()
        head = fit_and_evaluate(data, settings, steps)
        say("fine-tuning of block5")
        tuned, tuned_s = _timed(lambda: fit_and_evaluate(data, tuning, Silent()))
        reference.link_photos(data.dataset.items, work_dir / "reference")
    say(f"{epochs} epochs of the reference")
    ways = ("--without-xla",) if quick else ()
    copied, copied_s = _timed(lambda: run_reference(work_dir / "reference", epochs, weights, ways))
    figures: dict[str, Figure] = {
        "device": device(),
        "engine": describe_machine(with_keras=True)["engine"],
        "weights": describe_weights(weights) + (" as float16" if _is_half(weights) else ""),
        "precision": data.backbone.precision,
        "photos": len(data.dataset.items),
        "images_per_s": rate,
        "ceiling_images_per_s": ceiling,
        "ceiling_tflops": ceiling * gflop_per_image() / 1000,
        "share_of_ceiling": rate / ceiling,
        "images_per_s_from_files_with_maps": n_views / files_s,
        "head_s": steps.seconds("head"),
        "balanced_accuracy": _accuracy(head),
        "fine_tuning_s": tuned_s,
        "fine_tuned_balanced_accuracy": _accuracy(tuned),
        "reference_epochs": len(copied["epoch_s"]),
        "reference_s": copied_s,
        "reference_balanced_accuracy": copied["balanced_accuracy"],
    }
    if not on_gpu():
        return Result({**figures, "note": "no GPU here: the goal does not apply"})
    return Result(figures, (Goal("share_of_ceiling", at_least=0.5),))


def choose_backend() -> str:
    """Set Keras' backend for this process and its children: the one that is set already, else the first installed."""
    installed = next((name for name in BACKENDS if importlib.util.find_spec(name)), BACKENDS[0])
    return os.environ.setdefault("KERAS_BACKEND", installed)


def device() -> str:
    """The card's name by the NVIDIA driver, else Keras' name of the device, else the processor's name."""
    machine = describe_machine(with_keras=True)
    if not on_gpu():
        return machine["processor"]
    try:
        found = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return machine["device"]
    return found.stdout.splitlines()[0]


def products_per_s(side: int, seconds: float) -> float:
    """Products per second of two (side, side) bfloat16 matrices, for so many seconds; the best of three runs."""
    ops = load_keras().ops
    matrix = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32) / np.float32(np.sqrt(side))
    fixed = ops.cast(ops.convert_to_tensor(matrix), PRECISION)

    def multiply(n: int) -> float:
        started, product = time.perf_counter(), fixed
        for _ in range(n):
            product = ops.matmul(product, fixed)
        float(ops.sum(ops.cast(product[:1], "float32")))  # waits for the device
        return n / (time.perf_counter() - started)

    multiply(1)  # compiles
    n = max(1, round(multiply(3) * seconds / 3))
    return max(multiply(n) for _ in range(3))


def images_per_s(network: Extractor, batch_size: int, seconds: float) -> float:
    """Images per second of the network alone, for so many seconds; the best of three runs."""
    images = np.random.default_rng(0).integers(0, 256, (batch_size, network.side_px, network.side_px, 3), np.uint8)

    def extract(n: int) -> float:
        started = time.perf_counter()
        for _ in range(n):
            network.extract(images, batch_size=batch_size)
        return n * batch_size / (time.perf_counter() - started)

    extract(1)  # compiles
    n = max(1, round(extract(1) / batch_size * seconds / 3))
    return max(extract(n) for _ in range(3))


class _Steps(Silent):
    """Records when each step began."""

    def __init__(self) -> None:
        self._began: list[tuple[str, float]] = []

    def step(self, name: str, total: int | None = None) -> None:  # noqa: ARG002
        self._began.append((name, time.perf_counter()))

    def seconds(self, name: str) -> float:
        """How long a step took that was not the last."""
        place = next(number for number, (each, _) in enumerate(self._began) if each == name)
        return self._began[place + 1][1] - self._began[place][1]


def _tuning(settings: Settings, *, epochs: int | None) -> Settings:
    """The same settings with fine-tuning of block5, for at most so many epochs; None: as many as by default."""
    changes: dict[str, object] = {"fine_tune": "block5"}
    if epochs is not None:
        changes["fine_tune_max_epochs"] = epochs
    return settings.model_copy(update={"head": settings.head.model_copy(update=changes)})


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def _accuracy(trained: Trained) -> Figure:
    return trained.report.balanced_accuracy.value


def _is_half(weights: str) -> bool:
    """Whether a file of weights has half precision."""
    if not weights.endswith(".npz"):
        return False
    with np.load(weights, allow_pickle=False) as arrays:
        return bool(arrays[arrays.files[0]].dtype == np.float16)
