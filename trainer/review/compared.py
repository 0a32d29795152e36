"""Keeps how alike two photos were, so that a later review compares only new pairs.

One file, keyed by the photos' content. It is written whole or not at all; a damaged one is computed again.
"""

from __future__ import annotations

import logging
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Self

import numpy as np

from trainer.arrays import read_arrays
from trainer.files import write_file

logger = logging.getLogger(__name__)

FILE_NAME = "likeness-1.npz"  # beside the features; another number when `trainer.review.copies` changes
MAX_BYTES = 1024 * 1024 * 1024


class Compared:
    """Pairs of photos, by SHA-256, and their likeness, -1..1."""

    def __init__(self, path: Path, known: dict[tuple[str, str], float]) -> None:
        """Private; use `load`."""
        self._path = path
        self._known = known
        self._is_new = False

    @classmethod
    def load(cls, features_dir: Path) -> Self:
        """Read the file; a missing or damaged one means that nothing is known."""
        path = features_dir / FILE_NAME
        try:
            arrays = read_arrays(path.read_bytes(), max_bytes=MAX_BYTES)
            pairs = [(one.tobytes().hex(), other.tobytes().hex()) for one, other in arrays["pairs"].reshape(-1, 2, 32)]
            return cls(path, dict(zip(pairs, arrays["likeness"].tolist(), strict=True)))
        except FileNotFoundError:
            return cls(path, {})
        except (OSError, ValueError, KeyError) as error:
            logger.warning("compared photos not readable file=%s reason=%s; comparing again", path, error)
            return cls(path, {})

    def find(self, one: str, other: str) -> float | None:
        """The likeness of two photos, in any order; None if they were not compared."""
        return self._known.get((min(one, other), max(one, other)))

    def put(self, one: str, other: str, likeness: float) -> None:
        """Note the likeness of two photos; `save` writes it."""
        self._known[min(one, other), max(one, other)] = likeness
        self._is_new = True

    def save(self, held: AbstractSet[str]) -> None:
        """Write the pairs of photos that are still held, if there are new ones.

        Raises:
            StorageError: the disk is full; the file is unchanged.
        """
        if not self._is_new:
            return
        known = {pair: likeness for pair, likeness in sorted(self._known.items()) if held >= set(pair)}
        pairs = np.frombuffer(bytes.fromhex("".join(one + other for one, other in known)), dtype=np.uint8)
        values = np.array(list(known.values()), dtype=np.float32)
        write_file(self._path, lambda file: np.savez(file, pairs=pairs.reshape(-1, 2, 32), likeness=values))
        self._is_new = False
