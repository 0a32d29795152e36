"""Decodes a file of the corpus and compares the result with the expected one; measures memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.hostile import ARRAY, HostileFile
from trainer.errors import ImageError
from trainer.photos.views import Pixels

ALIKE = 4.0  # mean difference of samples, 0..255: more than JPEG's error, far less than a wrong rotation


def judge(file: HostileFile, prepare: Callable[[bytes], Pixels]) -> tuple[str, str | None]:
    """Decodes a file of the corpus.

    Returns:
        The outcome, and what is wrong with it: None, or a few words.
    """
    try:
        seen = prepare(file.data)
    except ImageError as error:
        return error.reason, None if error.reason in file.outcomes else f"{error.reason}: {error}"
    if seen.shape != (224, 224, 3) or seen.dtype != np.uint8:
        return ARRAY, f"{seen.shape} {seen.dtype}"
    if ARRAY not in file.outcomes:
        return ARRAY, f"decoded, should have been {' or '.join(sorted(file.outcomes))}"
    if file.expected is not None and (off := difference(seen, file.expected)) > ALIKE:
        return ARRAY, f"another picture: {off:.1f} off"
    return ARRAY, None


def difference(seen: Pixels, expected: Image.Image) -> float:
    """Mean absolute difference of the samples, 0..255."""
    wanted = np.asarray(expected.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR), np.float32)
    return float(np.abs(seen - wanted).mean())


def peak_mib(pids: Iterable[int]) -> float:
    """The peak resident memory of any of these processes, in MiB; Linux only."""
    states = [Path(f"/proc/{pid}/status").read_text(encoding="ascii") for pid in pids]
    peaks = [line.split()[1] for state in states for line in state.splitlines() if line.startswith("VmHWM:")]
    return max(map(int, peaks)) / 1024
