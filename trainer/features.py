"""Photos -> cached bottleneck features: what is missing is computed, and nothing twice.

Decoding runs in threads beside the convolutions, a bounded number of photos ahead. What is computed is on the disk
after each batch (at most every two seconds), so kill -9 costs no more than that. A photo that cannot be read is
reported and stops nothing.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from trainer.backbone import Backbone, Extracted, Features, Pixels, Precision, choose_batch_size
from trainer.cache import FeatureCache
from trainer.config import ImageSettings
from trainer.errors import ImageError
from trainer.images import prepare
from trainer.precision import choose_precision

__all__ = [
    "Backbone",
    "Computed",
    "Extracted",
    "Precision",
    "Refused",
    "choose_batch_size",
    "choose_precision",
    "compute_features",
]

logger = logging.getLogger(__name__)

STORE_EVERY_S = 2.0

Progress = Callable[[int, int, float], None]  # photos done, photos to do, photos per second


class Stored(Protocol):
    """A photo on disk: a `Photo` of the manifest or an `Item` of the data set."""

    @property
    def sha256(self) -> str: ...

    @property
    def path(self) -> Path: ...


@dataclass(frozen=True, slots=True)
class Refused:
    """A photo that has no features, and why."""

    sha256: str
    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Computed:
    """What one call of `compute_features` did.

    Attributes:
        n_photos: photos computed now; those that were held before do not count.
        refused: photos that could not be read, in the order given.
        took_s: seconds of wall time.
    """

    n_photos: int
    refused: tuple[Refused, ...]
    took_s: float


@dataclass(frozen=True, slots=True)
class _Row:
    """One view of one photo, on its way to the network."""

    sha256: str
    view: str
    pixels: Pixels


def compute_features(
    photos: Iterable[Stored],
    *,
    backbone: Backbone,
    cache: FeatureCache,
    limits: ImageSettings,
    batch_size: int,
    data_dir: Path = Path(),
    progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Computed:
    """Compute the features that the cache does not hold yet.

    Args:
        photos: in any order; one that comes twice is computed once.
        backbone: what to compute them with.
        cache: opened for this backbone's key; its views are computed.
        limits: what counts as a photo.
        batch_size: images in one pass; see `trainer.backbone.choose_batch_size`.
        data_dir: paths that are not absolute start here.
        progress: called after each batch; may take its time, to pace the work.
        clock: seconds, for rates and for when to store.

    Raises:
        StorageError: the disk is full; what was stored before is whole.
    """
    missing = {photo.sha256: photo for photo in photos}
    missing = {sha256: missing[sha256] for sha256 in cache.missing(missing)}
    refused: list[Refused] = []
    unstored: list[tuple[list[tuple[str, str]], Features]] = []
    started = stored = clock()
    n_rows = 0
    rows = _decode(list(missing.values()), cache, limits, data_dir, backbone.side_px, 2 * batch_size, refused)
    while batch := list(islice(rows, batch_size)):
        features = backbone.extract(np.stack([row.pixels for row in batch]), batch_size=batch_size).features
        unstored.append(([(row.sha256, row.view) for row in batch], features))
        n_rows += len(batch)
        now = clock()
        if now - stored >= STORE_EVERY_S:
            _store(cache, unstored)
            stored = now
        if progress is not None:
            done = min(len(refused) + n_rows // len(cache.views), len(missing))
            progress(done, len(missing), done / max(now - started, 1e-9))
    _store(cache, unstored)
    cache.compact()
    took_s = clock() - started
    for photo in refused:
        logger.warning("photo skipped path=%s reason=%s", photo.path, photo.reason)
    n_photos = len(missing) - len(refused)
    logger.info(
        "features computed photos=%d refused=%d took_s=%.1f key=%s", n_photos, len(refused), took_s, backbone.key
    )
    return Computed(n_photos=n_photos, refused=tuple(refused), took_s=took_s)


def _store(cache: FeatureCache, unstored: list[tuple[list[tuple[str, str]], Features]]) -> None:
    """Store finished batches as one shard, and forget them."""
    if unstored:
        cache.append_rows([row for rows, _ in unstored for row in rows], np.concatenate([part for _, part in unstored]))
        unstored.clear()


def _decode(
    photos: Sequence[Stored],
    cache: FeatureCache,
    limits: ImageSettings,
    data_dir: Path,
    side_px: int,
    ahead: int,
    refused: list[Refused],
) -> Iterator[_Row]:
    """The missing views of all photos in order, decoded by threads that keep up to `ahead` photos ready.

    Photos that cannot be read are added to `refused` instead.
    """

    def rows_of(photo: Stored) -> list[_Row]:
        views = cache.missing_views(photo.sha256)
        pixels = prepare(_read(photo, data_dir), limits, views, side_px=side_px)
        return [_Row(photo.sha256, view, image) for view, image in zip(views, pixels, strict=True)]

    waiting: deque[tuple[Stored, Future[list[_Row]]]] = deque()
    upcoming = iter(photos)
    with ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="decode") as pool:
        try:
            while True:
                waiting.extend((photo, pool.submit(rows_of, photo)) for photo in islice(upcoming, ahead - len(waiting)))
                if not waiting:
                    return
                photo, future = waiting.popleft()
                try:
                    yield from future.result()
                except ImageError as error:
                    refused.append(Refused(photo.sha256, photo.path, str(error)))
        finally:
            for _, future in waiting:
                future.cancel()


def _read(photo: Stored, data_dir: Path) -> bytes:
    """A photo's bytes, if they are still those that its SHA-256 was taken of."""
    try:
        data = (data_dir / photo.path).read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}", reason="missing") from error
    if hashlib.sha256(data).hexdigest() != photo.sha256:
        raise ImageError("the file is not the one that was admitted; its SHA-256 differs", reason="changed")
    return data
