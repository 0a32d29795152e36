"""Detects photos that are unlike all training photos.

A softmax always names a label, often with a high score. A photo of another kind has no near neighbours: the cosine
distance to its second nearest training photo, by the logarithms of block5's pooled features, is larger than for almost
all validation photos. The second nearest is used because one photo of another kind may be in the training set. Without
the logarithm a few large features dominate: on three sets of small images against six other kinds, the mean AUROC was
0.88 instead of 0.95 (fifth nearest, and nearest with the logarithm).

Source of the rank: Vovk et al., "Algorithmic Learning in a Random World" (2005), inductive conformal prediction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from trainer.arrays import read_arrays
from trainer.errors import ModelError
from trainer.files import read_file, write_file
from trainer.head.head import Floats
from trainer.vgg16.backbone import feature_columns
from trainer.vgg16.stored_rows import Table

FILE_NAME = "novelty.npz"
N_NEAREST = 2
REFUSED = 0.05  # expected share of unseen photos of the same kind; of the validation photos, at most this share
MAX_REFERENCES = 20_000  # 20 MB with 512 features each; more photos are sampled evenly
MAX_BYTES = 256 * 1024 * 1024  # of the arrays; more than `MAX_REFERENCES` rows of all layers take
CHUNK = 256  # rows compared at a time, to limit memory


@dataclass(frozen=True, eq=False)
class Novelty:
    """Reference photos, and the largest distance of a known photo.

    Attributes:
        references: (m, d) float32, each with length 1.
        columns: first column of block5 in a feature vector, and the one after the last.
        limit: largest cosine distance of a known photo, 0..2.
    """

    references: Floats
    columns: tuple[int, int]
    limit: float

    @classmethod
    def fit(cls, features: Table, validation_features: Table, *, layers: Sequence[str]) -> Self:
        """Choose the references and the limit.

        Args:
            features: (n, d) of the training photos.
            validation_features: (m, d); at most the share `REFUSED` is beyond the limit.
            layers: layers of the features; without a block5 layer, all columns are used.
        """
        parts = [part for layer, part in zip(layers, feature_columns(layers), strict=True) if layer[:6] == "block5"]
        columns = (parts[0].start, parts[-1].stop) if parts else (0, features.shape[1])
        step = -(-len(features) // MAX_REFERENCES)
        # As loaded from disk: half precision is enough to find neighbours.
        references = unit_rows(features[::step][:, slice(*columns)]).astype(np.float16).astype(np.float32)
        distances = cls(references, columns, 0.0).distances(validation_features)
        rank = min(math.ceil((1 - REFUSED) * (len(distances) + 1)), len(distances))
        return cls(references, columns, float(np.sort(distances)[rank - 1]))

    def distances(self, features: Table) -> Floats:
        """Cosine distance, (n,) in 0..2, of each row to its second nearest reference."""
        rank = min(N_NEAREST, len(self.references)) - 1
        found = np.empty(len(features), dtype=np.float32)
        for start in range(0, len(features), CHUNK):
            part = slice(start, start + CHUNK)
            rows = unit_rows(features[part][:, slice(*self.columns)])
            found[part] = np.partition(1 - rows @ self.references.T, rank, axis=1)[:, rank]
        return found

    def is_known(self, features: Table) -> npt.NDArray[np.bool_]:
        """Whether each row is within the limit, (n,)."""
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
        """Load novelty.npz; None for a version without it.

        Raises:
            ModelError: it cannot be read.
        """
        file = folder / FILE_NAME
        try:
            data = read_file(file, max_bytes=MAX_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ModelError(f"{file}: cannot be read ({error}); roll back, or train again") from error
        return cls.parse(data, file)

    @classmethod
    def parse(cls, data: bytes, file: Path) -> Self:
        """The content of novelty.npz.

        Args:
            file: where it was read, for messages.

        Raises:
            ModelError: it is damaged, or has other content.
        """
        try:
            arrays = read_arrays(data, max_bytes=MAX_BYTES)
            first, last = (int(column) for column in arrays["columns"])
            references = arrays["references"].astype(np.float32)
            if not len(references) or references.shape[1:] != (last - first,) or first < 0:
                raise ValueError(f"references {references.shape} for columns {first} to {last}")
            return cls(references, (first, last), float(arrays["limit"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{file}: cannot be read ({error}); roll back, or train again") from error


def unit_rows(rows: Floats) -> Floats:
    """The logarithms of pooled features, which are 0 or more, with length one."""
    rows = np.log1p(np.maximum(rows, 0))
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units: Floats = (rows / np.maximum(lengths, 1e-12)).astype(np.float32)
    return units
