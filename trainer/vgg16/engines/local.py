"""Computes features in this process; other processes decode a bounded number of photos ahead of the network."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np

from trainer.config import Settings
from trainer.errors import ImageError
from trainer.photos.decode import Decoder as ConfinedDecoder
from trainer.photos.photo_files import LocalFiles, PhotoFiles, open_files, read_photo
from trainer.vgg16.backbone import Backbone, Extractor, Pixels, choose_batch_size
from trainer.vgg16.engines.engine import Batch, Engine, Refused, Todo

READERS_PER_CPU = 4  # of a bucket, whose answers take a while


class Decoder(Protocol):
    """Bytes -> views of the photo: `trainer.photos.decode.Decoder`."""

    def views(self, data: bytes, views: Sequence[str], *, side_px: int) -> Pixels: ...


@dataclass(frozen=True, slots=True)
class _Row:
    """One view of a photo to be computed, and whether it is the photo's last view."""

    sha256: str
    view: str
    pixels: Pixels
    ends_photo: bool


@contextmanager
def open_local(backbone: Extractor, settings: Settings) -> Iterator[Engine]:
    """An engine with a decoding process for each CPU, which end with the context."""
    with closing(ConfinedDecoder.in_bulk(settings.images)) as decoder:
        n_readers = None if settings.bucket.url is None else READERS_PER_CPU * (os.cpu_count() or 1)
        yield LocalEngine(
            backbone,
            decoder,
            batch_size=choose_batch_size(settings.features, backbone.precision),
            n_readers=n_readers,
            files=open_files(settings),
        )


class LocalEngine:
    """An `Engine` in this process.

    Args:
        batch_size: images in one pass; see `trainer.vgg16.backbone.choose_batch_size`.
        n_readers: photos that are read and decoded at a time; None: one for each CPU.
        files: where the photos are; None: on disk.
    """

    def __init__(
        self,
        backbone: Extractor,
        decoder: Decoder,
        *,
        batch_size: int,
        n_readers: int | None = None,
        files: PhotoFiles | None = None,
    ) -> None:
        self._backbone = backbone
        self._decoder = decoder
        self._batch_size = batch_size
        self._n_readers = n_readers or os.cpu_count()
        self._files: PhotoFiles = LocalFiles() if files is None else files

    def run(self, todo: Sequence[Todo], *, with_maps: bool = False) -> Iterator[Batch]:
        """Compute photos in order; see `Engine.run`."""
        refused: list[Refused] = []
        rows = self._decode(todo, refused)
        while batch := list(islice(rows, self._batch_size)):
            yield self._compute(batch, with_maps, refused)
            refused.clear()
        if refused:
            yield Batch(refused=tuple(refused))

    def _compute(self, rows: Sequence[_Row], with_maps: bool, refused: Sequence[Refused]) -> Batch:
        pixels = np.stack([row.pixels for row in rows])
        if with_maps:
            assert isinstance(self._backbone, Backbone)  # noqa: S101 - maps are of Keras' VGG16
            extracted = self._backbone.extract(pixels, batch_size=self._batch_size, with_block4=True)
        else:
            extracted = self._backbone.extract(pixels, batch_size=self._batch_size)
        return Batch(
            rows=tuple((row.sha256, row.view) for row in rows),
            features=extracted.features,
            maps=extracted.block4_map,
            n_finished=sum(row.ends_photo for row in rows),
            refused=tuple(refused),
        )

    def _decode(self, todo: Sequence[Todo], refused: list[Refused]) -> Iterator[_Row]:
        """Decode all photos in order; threads keep up to two batches ready.

        Photos that cannot be read are added to `refused` instead.
        """

        def rows_of(photo: Todo) -> list[_Row]:
            pixels = self._decoder.views(read_photo(photo, self._files), photo.views, side_px=self._backbone.side_px)
            return [
                _Row(photo.sha256, view, image, ends_photo=view == photo.views[-1])
                for view, image in zip(photo.views, pixels, strict=True)
            ]

        waiting: deque[tuple[Todo, Future[list[_Row]]]] = deque()
        upcoming = iter(todo)
        ahead = 2 * self._batch_size
        with ThreadPoolExecutor(max_workers=self._n_readers, thread_name_prefix="decode") as pool:
            try:
                while True:
                    waiting.extend(
                        (photo, pool.submit(rows_of, photo)) for photo in islice(upcoming, ahead - len(waiting))
                    )
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
