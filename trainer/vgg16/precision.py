"""Measures once in which precision Keras is fastest on this machine, and remembers the result.

bfloat16 doubles the speed of a CPU with instructions for it, and makes others several times slower. The CPU's feature
flags are not reliable for this (masked instructions, different backends). The stored choice keeps later runs
bit-identical, whatever the load of the machine.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import FeatureSettings
from trainer.files import write_file
from trainer.vgg16.backbone import POLICIES, SIDE_PX, Backbone, Extractor, Precision, build_network
from trainer.vgg16.backend import backend_name, load_keras, on_gpu

logger = logging.getLogger(__name__)

FILE_NAME = "precision.json"
SWITCHES = ("TF_ENABLE_ONEDNN_OPTS", "ONEDNN_MAX_CPU_ISA")  # environment variables that change kernels
ENGINES = ("openvino", "keras", "tensorflow", "tensorflow-cpu", "torch", "jax")  # distributions
MIN_GAIN = 1.1  # minimum speed-up that justifies the rounding of bfloat16 (0.7% of a feature)


def choose_precision(settings: FeatureSettings, data_dir: Path) -> Precision:
    """Choose the precision in which Keras computes features.

    Args:
        settings: `precision: float32` and `bfloat16` are returned unchanged. Otherwise a small batch is timed in both,
            unless precision.json has a result for this machine.
        data_dir: folder of precision.json, which stores choices by CPU, backend and versions.

    Raises:
        StorageError: the choice cannot be written.
    """
    if settings.precision in POLICIES:
        return settings.precision
    machine = machine_key()
    known = recall(data_dir, machine).get("precision")
    for precision in POLICIES:
        if known == precision:
            return precision
    rates = measure(settings)
    fastest: Precision = "bfloat16" if rates["bfloat16"] >= MIN_GAIN * rates["float32"] else "float32"
    remember(data_dir, machine, fastest, rates)
    logger.info(
        "precision measured choice=%s float32=%.1f/s bfloat16=%.1f/s", fastest, rates["float32"], rates["bfloat16"]
    )
    return fastest


def machine_key() -> str:
    """Everything that the choice depends on: CPU, backend, versions, and environment variables that change kernels."""
    keras = load_keras()
    switches = [f"{name}={os.environ[name]}" for name in SWITCHES if name in os.environ]
    device = str(keras.ops.convert_to_tensor(0.0).device)
    parts = [processor(), f"keras {keras.__version__}", keras.config.backend(), device, *switches]
    return ", ".join(parts)


def engines_key() -> str:
    """As `machine_key`, for all engines, of what can be known without importing one."""
    versions = []
    for name in ENGINES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    environment = {"TF_ENABLE_ONEDNN_OPTS": "1", **os.environ}  # as `load_keras` sets it for a training
    switches = [f"{name}={environment[name]}" for name in (*SWITCHES, "CUDA_VISIBLE_DEVICES") if name in environment]
    cards = [path.name for path in sorted(Path("/dev").glob("nvidia[0-9]*"))]
    return ", ".join([processor(), *versions, backend_name(), *cards, *switches])


def describe_machine(*, with_keras: bool) -> dict[str, str]:
    """What else than libraries may change the last bits of a result: processor, engine, device, threads, switches.

    Args:
        with_keras: Keras took part; without it, engine and device are left out.
    """
    used = {}
    if with_keras:
        keras = load_keras()
        used = {"engine": keras.config.backend(), "device": str(keras.ops.convert_to_tensor(0.0).device)}
    return {
        "processor": processor(),
        **used,
        "cores": str(os.cpu_count()),
        **{name: os.environ[name] for name in ("OMP_NUM_THREADS", *SWITCHES) if name in os.environ},
    }


def processor() -> str:
    """The CPU's name, from /proc/cpuinfo if it exists."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {key.strip(): value.strip() for key, value in facts.items()}
    return (
        f"{named.get('model name', platform.machine())} (family {named.get('cpu family')}, model {named.get('model')})"
    )


def measure(settings: FeatureSettings, *, clock: Callable[[], float] = time.perf_counter) -> dict[Precision, float]:
    """Measure images per second in each precision: the best of three runs, alternating.

    Speed does not depend on the weights, so random ones are used and nothing is downloaded.
    """
    batch_size = 64 if on_gpu() else 2
    backbones = {
        precision: Backbone(
            build_network({}, precision=precision), settings=settings, precision=precision, fingerprint=""
        )
        for precision in POLICIES
    }
    return compare_rates(backbones, batch_size=batch_size, clock=clock)


def compare_rates(
    backbones: Mapping[Precision, Extractor], *, batch_size: int, clock: Callable[[], float] = time.perf_counter
) -> dict[Precision, float]:
    """Images per second of each network on random images of 224 pixels: the best of three runs, alternating.

    0 for one that this machine cannot run, as TensorFlow's bfloat16 where ONEDNN_MAX_CPU_ISA hides AVX512.
    """
    images = np.random.default_rng(0).integers(0, 256, (batch_size, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    best = dict.fromkeys(backbones, 0.0)
    running = dict(backbones)
    for turn in range(4):
        for precision, backbone in tuple(running.items()):
            started = clock()
            try:
                backbone.extract(images, batch_size=batch_size)
            except Exception as error:  # the engines have no error class in common
                if precision == "float32":
                    raise
                logger.warning("precision not measured name=%s reason=%.200s", precision, " ".join(str(error).split()))
                del running[precision]
                continue
            if turn:  # the first run compiles
                best[precision] = max(best[precision], batch_size / (clock() - started))
    return best


def recall(data_dir: Path, machine: str) -> dict[str, Any]:
    """The stored choice for a machine; empty if there is none."""
    return _read(data_dir / FILE_NAME).get(machine, {})


def remember(
    data_dir: Path, machine: str, choice: Precision, images_per_s: Mapping[Precision, float], **more: float
) -> None:
    """Store a choice and the measurements behind it. Raises StorageError."""
    known = _read(data_dir / FILE_NAME)
    rates = {name: round(rate, 2) for name, rate in images_per_s.items()}
    known[machine] = {"precision": choice, "images_per_s": rates, **more}
    write_file(data_dir / FILE_NAME, lambda out: out.write(json.dumps(known, indent=2).encode()))


def _read(file: Path) -> dict[str, dict[str, Any]]:
    """Load the stored measurements; empty if the file is missing or damaged, which costs one new measurement."""
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("precision file not readable file=%s reason=%s; measuring again", file, error)
        return {}
    if not isinstance(known, dict):
        return {}
    return {machine: choice for machine, choice in known.items() if isinstance(choice, dict)}
