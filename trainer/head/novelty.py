"""Tells photos that look like nothing the head learned from.

A softmax always names a label, and is often sure of it. What a photo of another kind lacks is neighbours: the cosine
distance to its fifth nearest training photo, in block5's pooled features, is larger than that of almost all photos of
members that were held out.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from trainer.errors import ModelError
from trainer.files import write_file
from trainer.head.head import Floats
from trainer.vgg16.backbone import feature_columns

FILE_NAME = "novelty.npz"
N_NEAREST = 5
REFUSED = 0.05  # of the photos of validation, at most
MAX_REFERENCES = 20_000  # 20 MB of 512 features each; more photos are thinned out evenly
CHUNK = 256  # rows compared at a time


@dataclass(frozen=True, eq=False)
class Novelty:
    """Training photos to compare with, and how far away a photo may be.

    Attributes:
        references: (m, d) float32, of length one each.
        columns: the first column of block5 in a feature vector, and the one after its last.
        limit: the largest cosine distance of a photo that is known, 0..2.
    """

    references: Floats
    columns: tuple[int, int]
    limit: float

    @classmethod
    def fit(cls, features: Floats, validation_features: Floats, *, layers: Sequence[str]) -> Self:
        """Choose the references and the limit.

        Args:
            features: (n, d) of the training photos.
            validation_features: (m, d); at most `REFUSED` of them lie beyond the limit.
            layers: whose pooled outputs the features are; without one of block5 all of them count.
        """
        parts = [part for layer, part in zip(layers, feature_columns(layers), strict=True) if layer[:6] == "block5"]
        columns = (parts[0].start, parts[-1].stop) if parts else (0, features.shape[1])
        step = -(-len(features) // MAX_REFERENCES)
        # As they are loaded again: half precision is enough to tell neighbours.
        references = _unit(features[::step, slice(*columns)]).astype(np.float16).astype(np.float32)
        distances = cls(references, columns, 0.0).distances(validation_features)
        return cls(references, columns, float(np.quantile(distances, 1 - REFUSED, method="higher")))

    def distances(self, features: Floats) -> Floats:
        """(n,) the cosine distance of each row to its fifth nearest reference, 0..2."""
        rows = _unit(features[:, slice(*self.columns)])
        rank = min(N_NEAREST, len(self.references)) - 1
        found = np.empty(len(rows), dtype=np.float32)
        for start in range(0, len(rows), CHUNK):
            part = slice(start, start + CHUNK)
            found[part] = np.partition(1 - rows[part] @ self.references.T, rank, axis=1)[:, rank]
        return found

    def is_known(self, features: Floats) -> npt.NDArray[np.bool_]:
        """(n,) whether each row lies within the limit."""
        return self.distances(features) <= self.limit

    def save(self, folder: Path) -> None:
        """Write novelty.npz atomically."""
        arrays: dict[str, Any] = {
            "references": self.references.astype(np.float16),
            "columns": np.array(self.columns),
            "limit": np.array(self.limit),
        }
        write_file(folder / FILE_NAME, lambda file: np.savez(file, **arrays))

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read novelty.npz; None for a version that has none.

        Raises:
            ModelError: it cannot be read.
        """
        file = folder / FILE_NAME
        if not file.exists():
            return None
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                first, last = (int(column) for column in arrays["columns"])
                return cls(arrays["references"].astype(np.float32), (first, last), float(arrays["limit"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ModelError(f"{file}: cannot be read ({error}); roll back, or train again") from error


def _unit(rows: Floats) -> Floats:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units: Floats = (rows / np.maximum(lengths, 1e-12)).astype(np.float32)
    return units
