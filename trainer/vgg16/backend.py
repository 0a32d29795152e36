"""Imports Keras, with any of its backends (KERAS_BACKEND=tensorflow, torch or jax).

That takes seconds, so what can be known without it, is: a training on int8 features needs no Keras.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Lines that TensorFlow's libraries print to standard error before their log level can be set.
STARTUP_LINES = (b"All log messages before absl::InitializeLog()", b"oneDNN custom operations are on")
STDERR = 2


def load_keras(*, small_batches: bool = False) -> Any:
    """Import Keras, which takes seconds the first time, and set the options that must be set before the import.

    TensorFlow uses oneDNN kernels by default only on CPUs with AVX512-VNNI or better. On older CPUs they are a sixth
    faster for two or more images, but a third slower for one (AVX2, 2 cores). So training turns them on, and serving
    leaves the default. Environment variables that are already set are not changed.

    Args:
        small_batches: this process mostly predicts one image at a time.

    Returns:
        the module `keras`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # warnings and errors only
    if not small_batches:
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    with nullcontext() if "keras" in sys.modules else _without_startup_lines():
        keras = importlib.import_module("keras")
    if keras.config.backend() == "tensorflow":
        _enable_memory_growth()
    return keras


def keras_folder() -> Path:
    """The folder of Keras' settings and downloads. Source: keras/src/backend/config.py."""
    home = Path("~").expanduser()
    return Path(os.environ.get("KERAS_HOME") or (home if os.access(home, os.W_OK) else Path("/tmp")) / ".keras")  # noqa: S108


def backend_name() -> str:
    """The backend that Keras uses, or will use when it is imported."""
    if "keras" in sys.modules:
        return str(load_keras().config.backend())
    if named := os.environ.get("KERAS_BACKEND"):
        return named
    try:
        return str(json.loads((keras_folder() / "keras.json").read_text(encoding="utf-8"))["backend"])
    except (OSError, ValueError, KeyError, TypeError):
        return "tensorflow"


@contextmanager
def _without_startup_lines() -> Iterator[None]:
    """Filter TensorFlow's start-up lines out of standard error.

    It works on the file descriptor, because the C++ libraries write to it directly.
    """
    try:
        before = os.dup(STDERR)
    except OSError:  # no standard error, e.g. under some service managers
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), STDERR)
        try:
            yield
        finally:
            os.dup2(before, STDERR)
            os.close(before)
            held.seek(0)
            for line in held:
                if not any(greeting in line for greeting in STARTUP_LINES):
                    os.write(STDERR, line)


def on_gpu() -> bool:
    """Whether Keras computes on a device other than the CPU; not where it is not installed."""
    return find_spec("keras") is not None and "cpu" not in str(load_keras().ops.convert_to_tensor(0.0).device).lower()


def _enable_memory_growth() -> None:
    """Let TensorFlow allocate GPU memory as needed; by default it takes all, and other programs have none."""
    config = importlib.import_module("tensorflow").config
    for gpu in config.list_physical_devices("GPU"):
        if not config.experimental.get_memory_growth(gpu):
            config.experimental.set_memory_growth(gpu, True)
