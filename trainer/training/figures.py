"""Counts figures in photos, for the report and the review; the counts are kept beside the features.

Only trainings with `images.crop: figure` do this: it costs a second look at each new photo.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.bucket import open_bucket
from trainer.config import FIGURE, Settings
from trainer.head.head import Floats
from trainer.photos.dataset import Item
from trainer.photos.decode import Decoder
from trainer.photos.figure import TINY, Figures
from trainer.photos.photo_files import Stored, open_files
from trainer.training.measuring import measured
from trainer.training.training_data import features_dir
from trainer.vgg16.cache import FeatureCache

FOLDER = f"{FIGURE}-counts"
VIEW = "whole"


@dataclass(frozen=True, slots=True)
class Counts:
    """What the detector found in a photo.

    Attributes:
        n_faces: tiny ones included.
        largest: the longer side of the largest face, as a share of the photo's longer side; 0 without one.
        is_cropped: whether there is a figure to crop to.
    """

    n_faces: int
    largest: float
    is_cropped: bool

    @property
    def is_tiny(self) -> bool:
        """Whether all faces are too small to crop to."""
        return 0 < self.largest < TINY


@dataclass(frozen=True, slots=True)
class Cropped:
    """How many photos of a training were cropped.

    Attributes:
        crop: its name.
        n_photos, n_whole: label -> photos, and those that stayed whole, as no figure was found.
    """

    crop: str
    n_photos: dict[str, int]
    n_whole: dict[str, int]

    @property
    def share_whole(self) -> float:
        """Share of all photos that stayed whole."""
        return sum(self.n_whole.values()) / max(sum(self.n_photos.values()), 1)

    @classmethod
    def count(cls, items: Sequence[Item], counts: dict[str, Counts]) -> Cropped:
        """Count the photos of a data set."""
        whole = Counter(item.label for item in items if not counts[item.sha256].is_cropped)
        n_photos = dict(sorted(Counter(item.label for item in items).items()))
        return cls(FIGURE, n_photos, {label: whole[label] for label in n_photos})


def load_counts(
    photos: Sequence[Stored], settings: Settings, decoder: Decoder, *, progress: Callable[[int, int], None]
) -> dict[str, Counts]:
    """What was found in each photo that can be read, by SHA-256; missing counts are computed and kept.

    Raises:
        ModelError: the detector is not installed.
        StorageError: the disk is full; counts computed so far are kept.
    """
    folder = features_dir(settings) / FOLDER
    cache = FeatureCache(folder, views=[VIEW], n_features=3, bucket=open_bucket(settings))
    files = open_files(settings)
    known, rows = measured(photos, cache, lambda data: _row(decoder.figures(data)), files=files, progress=progress)
    return {
        sha256: Counts(round(n_faces), largest, bool(is_cropped))
        for sha256, (n_faces, largest, is_cropped) in zip(known, rows.tolist(), strict=True)
    }


def _row(found: Figures) -> Floats:
    return np.array([found.n_faces, found.largest, found.box is not None], dtype=np.float32)
