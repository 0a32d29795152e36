"""Which camera a photo's file names, read within the decoder's walls and kept beside the features.

Thumbnails of a site rarely name one; pictures of a folder often do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from trainer.bucket import open_bucket
from trainer.config import Settings
from trainer.head.head import Floats
from trainer.photos.decode import Decoder
from trainer.photos.images import MAX_CAMERA
from trainer.photos.photo_files import Stored, open_files
from trainer.training.measuring import measured
from trainer.training.training_data import features_dir
from trainer.vgg16.cache import FeatureCache

FOLDER = "cameras-1"
VIEW = "whole"


def load_cameras(
    photos: Sequence[Stored], settings: Settings, decoder: Decoder, *, progress: Callable[[int, int], None]
) -> dict[str, str]:
    """SHA-256 -> camera of the photos whose file names one; new photos are looked at, and that is kept.

    Raises:
        StorageError: the disk is full; what was seen so far is kept.
    """
    cache = FeatureCache(
        features_dir(settings) / FOLDER, views=[VIEW], n_features=MAX_CAMERA, bucket=open_bucket(settings)
    )
    known, letters = measured(
        photos, cache, lambda data: _letters(decoder.camera(data)), files=open_files(settings), progress=progress
    )
    return {sha256: name for sha256, each in zip(known, letters, strict=True) if (name := _name(each))}


def _letters(name: str) -> Floats:
    """A name's characters as numbers, (MAX_CAMERA,), 0 after the last: a row of the cache."""
    letters = np.zeros(MAX_CAMERA, dtype=np.float32)
    letters[: len(name)] = [ord(letter) for letter in name]
    return letters


def _name(letters: Floats) -> str:
    return "".join(chr(int(letter)) for letter in letters if letter)
