"""Computes the bottleneck features that are missing in the cache, and writes them; it is the cache's one writer.

An engine (`trainer.vgg16.engines`) computes. Results are written to disk at most every two seconds, so a crash or
kill -9 loses no more than that. A photo that cannot be read is reported and skipped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.photos.photo_files import Stored
from trainer.vgg16.cache import FeatureCache
from trainer.vgg16.engines.engine import Engine, Refused, Todo
from trainer.vgg16.maps import STORE_EVERY_S, WantedMaps

logger = logging.getLogger(__name__)

STORE_BYTES = 64 * 1024 * 1024  # or earlier, if this much waits to be stored

Progress = Callable[[int, int], None]  # photos done, photos to do


@dataclass(frozen=True, slots=True)
class Computed:
    """The outcome of `compute_features`.

    Attributes:
        n_photos: photos computed in this call, without those already cached.
        refused: photos that could not be read, in the order given.
        took_s: seconds of wall time.
    """

    n_photos: int
    refused: tuple[Refused, ...]
    took_s: float


class _Unstored:
    """Computed rows that are not on the disk yet."""

    def __init__(self, cache: FeatureCache, missing_views: Callable[[str], tuple[str, ...]]) -> None:
        self._cache = cache
        self._missing_views = missing_views
        self._rows: list[tuple[str, str]] = []
        self._values: list[npt.NDArray[Any]] = []

    @property
    def n_bytes(self) -> int:
        """Memory used by the rows."""
        return sum(values.nbytes for values in self._values)

    def add(self, rows: Sequence[tuple[str, str]], values: npt.NDArray[Any] | None) -> None:
        """Add those rows of a batch that the cache lacks."""
        if values is None:
            return
        lacking = [at for at, (sha256, view) in enumerate(rows) if view in self._missing_views(sha256)]
        self._rows += [rows[at] for at in lacking]
        self._values.append(values.reshape(len(rows), -1)[lacking])

    def store(self) -> None:
        """Write the rows as one shard and clear them."""
        if self._rows:
            self._cache.append_rows(self._rows, np.concatenate(self._values))
        self._rows.clear()
        self._values.clear()


def compute_features(
    photos: Iterable[Stored],
    *,
    engine: Engine,
    cache: FeatureCache,
    maps: WantedMaps | None = None,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Computed:
    """Compute missing features, and missing maps if requested, in one pass.

    Args:
        photos: in any order; duplicates are computed once.
        engine: computes them; its backbone has the cache's key.
        cache: its views are computed.
        maps: block4's maps to compute as well, with the same views as the cache.
        progress: called after each batch; may sleep, to limit the load.
        clock: returns seconds; used for the time between writes.

    Raises:
        StorageError: the disk is full; rows stored before are kept.
        ClusterError: no worker of a cluster is left; the same.
    """
    views = missing_views(cache, maps)
    missing = {photo.sha256: photo for photo in photos if views(photo.sha256)}
    todo = [Todo(photo.sha256, photo.path, views(photo.sha256)) for photo in missing.values()]
    refused: list[Refused] = []
    features = _Unstored(cache, cache.missing_views)
    unstored = [features]
    if maps is not None:
        unstored.append(_Unstored(maps.cache, maps.missing_views))
    started = stored = clock()
    n_finished = 0
    for batch in engine.run(todo, with_maps=maps is not None):
        features.add(batch.rows, batch.features)
        if maps is not None:
            unstored[-1].add(batch.rows, batch.maps)
        refused += batch.refused
        n_finished += batch.n_finished
        now = clock()
        if now - stored >= STORE_EVERY_S or sum(one.n_bytes for one in unstored) >= STORE_BYTES:
            for one in unstored:
                one.store()
            stored = now
        if progress is not None and batch.rows:
            progress(len(refused) + n_finished, len(missing))
    for one in unstored:
        one.store()
    for filled in (cache, *([maps.cache] if maps is not None else [])):
        filled.compact()
    took_s = clock() - started
    places = {sha256: place for place, sha256 in enumerate(missing)}
    refused.sort(key=lambda photo: places[photo.sha256])
    for photo in refused:
        logger.warning("photo skipped path=%s reason=%s", photo.path, photo.reason)
    n_photos = len(missing) - len(refused)
    logger.info(
        "features computed photos=%d refused=%d took_s=%.1f cache=%s", n_photos, len(refused), took_s, cache.folder.name
    )
    return Computed(n_photos=n_photos, refused=tuple(refused), took_s=took_s)


def missing_views(cache: FeatureCache, maps: WantedMaps | None = None) -> Callable[[str], tuple[str, ...]]:
    """A function that returns the views of a photo without features or a requested map."""

    def views(sha256: str) -> tuple[str, ...]:
        lacking = {*cache.missing_views(sha256), *(maps.missing_views(sha256) if maps is not None else ())}
        return tuple(view for view in cache.views if view in lacking)

    return views
