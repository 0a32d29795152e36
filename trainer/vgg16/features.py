"""Computes the bottleneck features that are missing in the cache.

Processes decode a bounded number of photos ahead while the network runs. Results are written to disk at most every two
seconds, so a crash or kill -9 loses no more than that. A photo that cannot be read is reported and skipped.
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
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trainer.errors import ImageError
from trainer.vgg16.backbone import Backbone, Extractor, Pixels
from trainer.vgg16.cache import FeatureCache
from trainer.vgg16.maps import STORE_EVERY_S, WantedMaps

logger = logging.getLogger(__name__)

STORE_BYTES = 64 * 1024 * 1024  # or earlier, if this much waits to be stored

Progress = Callable[[int, int], None]  # photos done, photos to do


class Decoder(Protocol):
    """Bytes -> views of the photo: `trainer.photos.decode.Decoder`."""

    def views(self, data: bytes, views: Sequence[str], *, side_px: int) -> Pixels: ...


class Stored(Protocol):
    """A photo on disk: a `Photo` of the manifest or an `Item` of the data set."""

    @property
    def sha256(self) -> str: ...

    @property
    def path(self) -> Path: ...


@dataclass(frozen=True, slots=True)
class Refused:
    """A photo that could not be read, and why."""

    sha256: str
    path: Path
    reason: str


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


@dataclass(frozen=True, slots=True)
class _Row:
    """One view of a photo to be computed, and whether it is the photo's last view."""

    sha256: str
    view: str
    pixels: Pixels
    ends_photo: bool


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

    def add(self, batch: Sequence[_Row], values: npt.NDArray[Any]) -> None:
        """Add those rows of the batch that the cache lacks."""
        lacking = [at for at, row in enumerate(batch) if row.view in self._missing_views(row.sha256)]
        self._rows += [(batch[at].sha256, batch[at].view) for at in lacking]
        self._values.append(values.reshape(len(batch), -1)[lacking])

    def store(self) -> None:
        """Write the rows as one shard and clear them."""
        if self._rows:
            self._cache.append_rows(self._rows, np.concatenate(self._values))
        self._rows.clear()
        self._values.clear()


def compute_features(
    photos: Iterable[Stored],
    *,
    backbone: Extractor,
    cache: FeatureCache,
    decoder: Decoder,
    batch_size: int,
    maps: WantedMaps | None = None,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Computed:
    """Compute missing features, and missing maps if requested, in one pass.

    Args:
        photos: in any order; duplicates are computed once.
        backbone: used to compute the features.
        cache: opened for this backbone's key; its views are computed.
        decoder: decodes the photos.
        batch_size: images in one pass; see `trainer.vgg16.backbone.choose_batch_size`.
        maps: block4's maps to compute as well, with the same views as the cache.
        progress: called after each batch; may sleep, to limit the load.
        clock: returns seconds; used for the time between writes.

    Raises:
        StorageError: the disk is full; rows stored before are kept.
    """
    views = missing_views(cache, maps)
    missing = {photo.sha256: photo for photo in photos if views(photo.sha256)}
    refused: list[Refused] = []
    unstored = [_Unstored(cache, cache.missing_views)]
    if maps is not None:
        unstored.append(_Unstored(maps.cache, maps.missing_views))
    started = stored = clock()
    n_finished = 0
    rows = _decode(list(missing.values()), views, decoder, backbone.side_px, 2 * batch_size, refused)
    while batch := list(islice(rows, batch_size)):
        pixels = np.stack([row.pixels for row in batch])
        computed: list[npt.NDArray[Any]] = []
        if maps is None:
            computed.append(backbone.extract(pixels, batch_size=batch_size).features)
        else:
            assert isinstance(backbone, Backbone)  # noqa: S101 - maps are of Keras' VGG16
            extracted = backbone.extract(pixels, batch_size=batch_size, with_block4=True)
            assert extracted.block4_map is not None  # noqa: S101 - asked for
            computed += [extracted.features, extracted.block4_map]
        for one, values in zip(unstored, computed, strict=True):
            one.add(batch, values)
        n_finished += sum(row.ends_photo for row in batch)
        now = clock()
        if now - stored >= STORE_EVERY_S or sum(one.n_bytes for one in unstored) >= STORE_BYTES:
            for one in unstored:
                one.store()
            stored = now
        if progress is not None:
            progress(len(refused) + n_finished, len(missing))
    for one in unstored:
        one.store()
    for filled in (cache, *([maps.cache] if maps is not None else [])):
        filled.compact()
    took_s = clock() - started
    for photo in refused:
        logger.warning("photo skipped path=%s reason=%s", photo.path, photo.reason)
    n_photos = len(missing) - len(refused)
    logger.info(
        "features computed photos=%d refused=%d took_s=%.1f key=%s", n_photos, len(refused), took_s, backbone.key
    )
    return Computed(n_photos=n_photos, refused=tuple(refused), took_s=took_s)


def missing_views(cache: FeatureCache, maps: WantedMaps | None = None) -> Callable[[str], tuple[str, ...]]:
    """A function that returns the views of a photo without features or a requested map."""

    def views(sha256: str) -> tuple[str, ...]:
        lacking = {*cache.missing_views(sha256), *(maps.missing_views(sha256) if maps is not None else ())}
        return tuple(view for view in cache.views if view in lacking)

    return views


def _decode(
    photos: Sequence[Stored],
    missing_views: Callable[[str], tuple[str, ...]],
    decoder: Decoder,
    side_px: int,
    ahead: int,
    refused: list[Refused],
) -> Iterator[_Row]:
    """Decode the missing views of all photos in order; threads keep up to `ahead` photos ready.

    Photos that cannot be read are added to `refused` instead.
    """

    def rows_of(photo: Stored) -> list[_Row]:
        views = missing_views(photo.sha256)
        pixels = decoder.views(read_photo(photo), views, side_px=side_px)
        return [
            _Row(photo.sha256, view, image, ends_photo=view == views[-1])
            for view, image in zip(views, pixels, strict=True)
        ]

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


def read_photo(photo: Stored) -> bytes:
    """Read a photo's bytes and check their SHA-256. Raises ImageError."""
    try:
        data = photo.path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}", reason="missing") from error
    if hashlib.sha256(data).hexdigest() != photo.sha256:
        raise ImageError("the file has changed since it was added: its SHA-256 differs", reason="changed")
    return data
