"""Imports Keras, with any of its backends (KERAS_BACKEND=tensorflow, torch or jax)."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

# What TensorFlow's libraries say on standard error before their log level can be set.
GREETINGS = (b"All log messages before absl::InitializeLog()", b"oneDNN custom operations are on")
STDERR = 2


def load_keras(*, small_batches: bool = False) -> Any:
    """Import Keras, which takes seconds the first time; only what is decided before that import is decided here.

    TensorFlow uses oneDNN's kernels by itself only on CPUs with AVX512-VNNI or better. On lesser ones they are a sixth
    faster from two images on, but a third slower for a single one (AVX2, 2 cores): so training asks for them, and
    serving leaves the choice to TensorFlow. Whatever the environment says already stays as it is.

    Args:
        small_batches: this process mostly looks at one image at a time.

    Returns:
        the module `keras`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # warnings and errors only
    if not small_batches:
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    with nullcontext() if "keras" in sys.modules else _without_greetings():
        keras = importlib.import_module("keras")
    if keras.config.backend() == "tensorflow":
        _let_gpu_memory_grow()
    return keras


@contextmanager
def _without_greetings() -> Iterator[None]:
    """Filters TensorFlow's start-up lines out of standard error.

    Below Python, as the libraries are. Only a first import takes long enough for that to be noticed.
    """
    try:
        before = os.dup(STDERR)
    except OSError:  # there is none, as under some service managers
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
                if not any(greeting in line for greeting in GREETINGS):
                    os.write(STDERR, line)


def on_gpu() -> bool:
    """Whether Keras computes on anything but the CPU."""
    return "cpu" not in str(load_keras().ops.convert_to_tensor(0.0).device).lower()


def _let_gpu_memory_grow() -> None:
    """Take GPU memory as needed; TensorFlow's habit is to take all of it, and then nothing else runs beside it."""
    config = importlib.import_module("tensorflow").config
    for gpu in config.list_physical_devices("GPU"):
        if not config.experimental.get_memory_growth(gpu):
            config.experimental.set_memory_growth(gpu, True)
