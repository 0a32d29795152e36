"""Measures once which precision is fastest for VGG16 on this machine, and remembers the result.

bfloat16 doubles the speed of a CPU with instructions for it, and makes others several times slower. The CPU's feature
flags are not reliable for this (masked instructions, different backends). The stored choice keeps later runs
bit-identical, whatever the load of the machine.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import FeatureSettings
from trainer.files import write_file
from trainer.vgg16.backbone import POLICIES, Backbone, Precision, build_network
from trainer.vgg16.backend import load_keras, on_gpu

logger = logging.getLogger(__name__)

FILE_NAME = "precision.json"
MIN_GAIN = 1.1  # minimum speed-up that justifies the rounding of bfloat16 (0.7% of a feature)


def choose_precision(settings: FeatureSettings, data_dir: Path) -> Precision:
    """Choose the precision for computing features.

    Args:
        settings: with `precision: auto`, a small batch is timed in both precisions, unless precision.json has a result
            for this machine; any other value is returned unchanged.
        data_dir: folder of precision.json, which stores choices by CPU, backend and versions.

    Raises:
        StorageError: the choice cannot be written.
    """
    if settings.precision != "auto":
        return settings.precision
    file = data_dir / FILE_NAME
    known = _read(file)
    machine = machine_key()
    for precision in POLICIES:
        if known.get(machine, {}).get("precision") == precision:
            return precision
    rates = measure(settings)
    fastest: Precision = "bfloat16" if rates["bfloat16"] >= MIN_GAIN * rates["float32"] else "float32"
    known[machine] = {"precision": fastest, "images_per_s": {name: round(rate, 2) for name, rate in rates.items()}}
    write_file(file, lambda out: out.write(json.dumps(known, indent=2).encode()))
    logger.info(
        "precision measured choice=%s float32=%.1f/s bfloat16=%.1f/s", fastest, rates["float32"], rates["bfloat16"]
    )
    return fastest


def machine_key() -> str:
    """Everything that the choice depends on: CPU, backend, versions, and environment variables that change kernels."""
    keras = load_keras()
    switches = [
        f"{name}={os.environ[name]}" for name in ("TF_ENABLE_ONEDNN_OPTS", "ONEDNN_MAX_CPU_ISA") if name in os.environ
    ]
    device = str(keras.ops.convert_to_tensor(0.0).device)
    parts = [processor(), f"keras {keras.__version__}", keras.config.backend(), device, *switches]
    return ", ".join(parts)


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
    images = np.random.default_rng(0).integers(0, 256, (batch_size, 224, 224, 3), dtype=np.uint8)
    backbones = {
        precision: Backbone(
            build_network({}, precision=precision), settings=settings, precision=precision, fingerprint=""
        )
        for precision in POLICIES
    }
    best = dict.fromkeys(POLICIES, 0.0)
    for turn in range(4):
        for precision, backbone in backbones.items():
            started = clock()
            backbone.extract(images, batch_size=batch_size)
            if turn:  # the first run compiles
                best[precision] = max(best[precision], batch_size / (clock() - started))
    return best


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
