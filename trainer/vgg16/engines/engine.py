"""The seam between the one writer of the feature cache and whatever computes features: `local`, or `ray`.

What travels to an engine are rows (SHA-256, path, views), and never photos: whoever computes reads the file itself.
Features come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from trainer.config import Settings
from trainer.vgg16.backbone import Extractor, Features, Maps


@dataclass(frozen=True, slots=True)
class Todo:
    """A photo to compute, in the views that are missing."""

    sha256: str
    path: Path
    views: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """A photo that could not be computed, and why."""

    sha256: str
    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Computed views, and photos that were refused since the last batch.

    Attributes:
        rows: n pairs (SHA-256 of a photo, view); all views of a photo are in this batch or earlier ones of its run.
        features: (n, n_features) float32; None if n is 0.
        maps: block4's, (n, side / 16, side / 16, 512) float16; None if n is 0 or they were not asked for.
        n_finished: number of photos whose last view is in this batch.
    """

    rows: tuple[tuple[str, str], ...] = ()
    features: Features | None = None
    maps: Maps | None = None
    n_finished: int = 0
    refused: tuple[Refused, ...] = ()


class Engine(Protocol):
    """Computes features. The features of a photo are the same bits by any engine, in any order and any batch."""

    def run(self, todo: Sequence[Todo], *, with_maps: bool = False) -> Iterator[Batch]:
        """Compute photos, each once, in any order; a photo that cannot be read is refused.

        Args:
            todo: each photo at most once.
            with_maps: also compute block4's maps.
        """


# Makes an engine for a network that is loaded here; its processes end with the context.
OpenEngine = Callable[[Extractor, Settings], AbstractContextManager[Engine]]


def joined(batches: Iterable[Batch]) -> Batch:
    """One batch with the content of several."""
    found = tuple(batches)
    features = [batch.features for batch in found if batch.features is not None]
    maps = [batch.maps for batch in found if batch.maps is not None]
    return Batch(
        rows=tuple(row for batch in found for row in batch.rows),
        features=np.concatenate(features) if features else None,
        maps=np.concatenate(maps) if maps else None,
        n_finished=sum(batch.n_finished for batch in found),
        refused=tuple(photo for batch in found for photo in batch.refused),
    )
