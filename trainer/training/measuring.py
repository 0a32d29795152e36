"""Measures stored photos once, and keeps the figures beside the features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np

from trainer.errors import ImageError
from trainer.head.head import Floats
from trainer.photos.photo_files import PhotoFiles, Stored, read_photo
from trainer.vgg16.cache import FeatureCache

STORE_EVERY = 256  # photos


def measured(
    photos: Sequence[Stored],
    cache: FeatureCache,
    measure: Callable[[bytes], Floats],
    *,
    files: PhotoFiles,
    progress: Callable[[int, int], None],
) -> tuple[list[str], Floats]:
    """The figures of all photos that can be read; missing ones are computed and kept.

    Args:
        cache: of one view.
        measure: a photo's bytes -> its figures; called from several threads; raises ImageError.
        files: where the photos are.
        progress: called with (photos done, photos to do).

    Returns:
        SHA-256 of n photos, in the order given, and their figures (n, d).

    Raises:
        StorageError: the disk is full; figures computed so far are kept.
    """
    (view,) = cache.views
    missing = [photo for photo in photos if not cache.holds(photo.sha256, view)]

    def look(photo: Stored) -> Floats | None:
        try:
            return measure(read_photo(photo, files))
        except ImageError:
            return None

    waiting, n_done = iter(missing), 0
    with ThreadPoolExecutor(thread_name_prefix="measure") as pool:
        while part := list(islice(waiting, STORE_EVERY)):
            seen = [(photo.sha256, found) for photo, found in zip(part, pool.map(look, part), strict=True)]
            rows = [(sha256, found) for sha256, found in seen if found is not None]
            if rows:
                cache.append([sha256 for sha256, _ in rows], np.stack([found for _, found in rows])[:, None])
            n_done += len(part)
            progress(n_done, len(missing))
    if missing:
        cache.compact()
    known = [photo.sha256 for photo in photos if cache.holds(photo.sha256, view)]
    return known, cache.load(known)[:, 0]
