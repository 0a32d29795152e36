"""What a photo's pixels say without a network: darkness, contrast, sharpness, and whether it is a page of text.

The figures are kept beside the features, so that only new photos are decoded. CleanVision computes similar ones, but it
opens files of strangers itself, outside the decoder's walls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from trainer.bucket import open_bucket
from trainer.config import Settings
from trainer.head.head import Floats
from trainer.photos.decode import Decoder
from trainer.photos.photo_files import Stored, open_files
from trainer.review.copies import SMALL_PX, small_brightness
from trainer.training.measuring import measured
from trainer.training.training_data import features_dir
from trainer.vgg16.cache import FeatureCache

FOLDER = "statistics-3"  # another number when the figures change
NAMES = ("brightness", "contrast", "saturation", "sharpness", "detail", "flat", "paper", "strokes", "edge")
N_FIGURES = len(NAMES) + SMALL_PX**2
VIEW = "whole"
SIDE_PX = 224
LIGHT = 0.75  # of the brightest pixels' brightness: paper
BORDER_PX = 8

Pixels = npt.NDArray[np.uint8]


def measure(pixels: Pixels) -> Floats:
    """The figures of one photo, in the order of `NAMES`, and then its `small_brightness`.

    Args:
        pixels: (224, 224, 3) uint8.
    """
    values = pixels.astype(np.float32) / 255
    grey = values.mean(axis=2)
    across, down = np.abs(np.diff(grey, axis=1)), np.abs(np.diff(grey, axis=0))
    steps = np.maximum(across[:-1], down[:, :-1])
    paper = grey >= LIGHT * max(float(np.quantile(grey, 0.99)), 1e-6)
    turns = (paper[:, 1:] != paper[:, :-1]).sum(axis=1)
    border = np.concatenate([grey[:BORDER_PX].ravel(), grey[-BORDER_PX:].ravel()])
    figures = np.array(
        [
            grey.mean(),
            grey.std(),
            (values.max(axis=2) - values.min(axis=2)).mean(),
            steps.mean(),
            (steps > 0.1).mean(),
            (steps < 2 / 255).mean(),
            paper.mean(),
            np.quantile(turns, 0.8),
            border.std(),
        ],
        dtype=np.float32,
    )
    return np.concatenate([figures, small_brightness(pixels)])


def is_blank(figures: Floats) -> bool:
    """Whether a photo shows next to nothing: hardly any contrast, or hardly any place where it changes."""
    of = dict(zip(NAMES, figures.tolist(), strict=False))
    return bool(of["contrast"] < 0.02 or (of["flat"] > 0.985 and of["detail"] < 0.004))


def is_text(figures: Floats) -> bool:
    """Whether a photo is a page of text: strokes all over plain paper, without colour."""
    of = dict(zip(NAMES, figures.tolist(), strict=False))
    return bool(of["paper"] > 0.6 and of["strokes"] >= 30 and of["saturation"] < 0.06)


def load_statistics(
    photos: Sequence[Stored], settings: Settings, decoder: Decoder, *, progress: Callable[[int, int], None]
) -> tuple[list[str], Floats]:
    """The figures of all photos that can be read; missing ones are computed and kept.

    Returns:
        SHA-256 of n photos, in the order given, and their figures (n, N_FIGURES).

    Raises:
        StorageError: the disk is full; figures computed so far are kept.
    """
    cache = FeatureCache(
        features_dir(settings) / FOLDER, views=[VIEW], n_features=N_FIGURES, bucket=open_bucket(settings)
    )
    return measured(
        photos,
        cache,
        lambda data: measure(decoder.prepare(data, VIEW, side_px=SIDE_PX)),
        files=open_files(settings),
        progress=progress,
    )


def small_pictures(statistics: Mapping[str, Floats], photos: Sequence[Stored]) -> Floats:
    """The `small_brightness` of each photo, (n, SMALL_PX ** 2), from its figures; zeros where there are none.

    Args:
        statistics: SHA-256 -> figures.
    """
    unknown = np.zeros(N_FIGURES, dtype=np.float32)
    return np.stack([statistics.get(photo.sha256, unknown)[len(NAMES) :] for photo in photos])
