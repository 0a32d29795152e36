"""Fetches, decodes and classifies a status' attachments; every file ends in a finding or a retry."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Protocol

from bot.entities import Attachment, Finding, Unseen
from bot.errors import Transient
from bot.photos.predict import Photo, Predictor, ViewChangedError
from bot.reply.picture import PHOTO_BOX
from bot.shares import Shares, waiting
from trainer.errors import FetchError, ImageError, ProjectError
from trainer.photos.decode import N_CHILDREN
from trainer.photos.figure import Figures
from trainer.photos.images import is_image
from trainer.photos.views import Box, is_of_figure
from trainer.web.fetch import SMALL_BYTES, Fetched, Fetcher

logger = logging.getLogger(__name__)

# A prediction takes well under a second; if it takes this long, the machine has a problem.
PREDICT_TIMEOUT_S = 300.0
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # of malloc.h
STILL = ("image", "unknown")  # kinds whose own file is classified


class Decoder(Protocol):
    """Bytes -> one view of the photo: `trainer.photos.decode.Decoder`."""

    def prepare(self, data: bytes, view: str) -> Photo:
        """One view of the photo, (224, 224, 3) uint8. Raises ImageError."""

    def thumbnail(self, data: bytes, *, max_width: int, max_height: int) -> Photo:
        """The whole photo, (h, w, 3) uint8, with its aspect ratio. Raises ImageError."""

    def figures(self, data: bytes) -> Figures:
        """Where the figure is that a view of it is cropped to. Raises ImageError."""


@dataclass(eq=False)
class PhotoReader:
    """Fetches, decodes and classifies photos one after another; safe to use from several threads.

    Several threads share the bytes in memory, the decoders and the batches of the classifier (`bot.shares`).
    """

    fetcher: Fetcher
    decoder: Decoder
    predictor: Predictor
    max_bytes: int
    refuse_unknown: bool = True

    def __post_init__(self) -> None:
        _share_memory()
        largest, batch = self.max_bytes, self.predictor.batch_size
        self._bytes = Shares(4 * largest, per_account=largest, per_host=2 * largest)
        self._decoders = Shares(N_CHILDREN, per_account=1, per_host=N_CHILDREN)
        self._places = Shares(4 * batch, per_account=max(1, batch // 2), per_host=2 * batch)

    def classify(
        self, attachments: Sequence[Attachment], *, thumbnails: bool = False, last_try: bool = False
    ) -> list[Finding]:
        """Classifies attachments, one at a time; returns one finding for each, in order.

        Args:
            thumbnails: add a thumbnail to each prediction.
            last_try: a file that cannot be fetched now counts as gone.

        Raises:
            Transient: a file cannot be fetched now, or the server is still processing it.
        """
        with waiting():
            return [self._look_at(each, thumbnails=thumbnails, last_try=last_try) for each in attachments]

    def small_copy(
        self, attachment: Attachment, *, max_width: int, max_height: int, last_try: bool = False
    ) -> Photo | None:
        """The whole photo scaled down, (h, w, 3) uint8; None if it is gone, or cannot be read.

        Args:
            last_try: a file that cannot be fetched now counts as gone.

        Raises:
            Transient: the file cannot be fetched now.
        """
        with waiting(), ExitStack() as room:
            file = self._fetch(attachment, room, last_try=last_try)
            return None if isinstance(file, Unseen) else self._scaled(file, max_width, max_height)

    def _look_at(self, attachment: Attachment, *, thumbnails: bool, last_try: bool) -> Finding:
        with ExitStack() as room:  # for the file's bytes, until it is decoded
            file = self._fetch(attachment, room, last_try=last_try)
            if isinstance(file, Unseen):
                return file
            try:
                while True:
                    try:
                        return self._classify(attachment.kind, file, thumbnails=thumbnails)
                    except ViewChangedError:
                        logger.info("the champion changed meanwhile; preparing the photo again")
            finally:
                del file  # before its room is given to others

    def _fetch(self, attachment: Attachment, room: ExitStack, *, last_try: bool) -> bytes | Unseen:
        if not attachment.urls:
            if attachment.kind == "image" and not last_try:
                raise Transient("an attachment is still being processed by its server", outage=False)
            return Unseen("no_preview")

        def make_room(n_bytes: int) -> None:
            room.close()  # of an earlier try
            room.enter_context(self._bytes.held(n_bytes))

        passing: FetchError | None = None
        too_large = False
        for url in attachment.urls:
            try:
                found = self.fetcher.get(url, max_bytes=self.max_bytes, make_room=make_room)
                if not _is_page(found):
                    return found.body
                # A web page in the photo's place is a proxy's or a login's; the photo may be there another time.
                passing = FetchError("there is a web page, or nothing, in the photo's place", retry_after_s=0.0)
            except FetchError as error:
                logger.info("not fetched kind=%s error=%s", attachment.kind, error)
                too_large |= error.too_large
                if error.retry_after_s is not None:
                    passing = error
        if passing is not None and not last_try:
            raise Transient(str(passing), outage=False) from passing
        return Unseen("too_large" if too_large else "gone")

    def _classify(self, kind: str, file: bytes, *, thumbnails: bool) -> Finding:
        """Decodes and classifies a file. Raises ViewChangedError if the champion changed meanwhile."""
        view = self.predictor.wait_until_ready().view
        try:
            with self._decoders.held():
                photo = self.decoder.prepare(file, view)
        except ImageError as error:
            logger.info("not decoded reason=%s error=%s", error.reason, error)
            # The preview of audio or video may be any file; its owner did not choose it.
            return Unseen(error.reason if kind in STILL else "no_preview")
        with self._places.held():
            predicted = self.predictor.submit(photo, view=view)
            thumbnail, crop = self._picture(file, view) if thumbnails else (None, None)  # while the predictor works
            prediction = predicted.result(PREDICT_TIMEOUT_S)
        is_known = prediction.is_known or not self.refuse_unknown
        return replace(prediction, thumbnail=thumbnail, crop=crop, is_known=is_known)

    def _picture(self, file: bytes, view: str) -> tuple[Photo | None, Box | None]:
        """A thumbnail, and the part of it that the view is cropped to; (None, None): the answer then has no picture."""
        crop = None
        if is_of_figure(view):
            try:
                with self._decoders.held():
                    crop = self.decoder.figures(file).box
            except ProjectError as error:
                logger.info("no figures error=%s", error)
                return None, None
        return self._scaled(file, *PHOTO_BOX), crop

    def _scaled(self, file: bytes, max_width: int, max_height: int) -> Photo | None:
        try:
            with self._decoders.held():
                return self.decoder.thumbnail(file, max_width=max_width, max_height=max_height)
        except ProjectError as error:
            logger.info("no thumbnail error=%s", error)
            return None


def _share_memory() -> None:
    """Makes glibc ask the system for each large file's memory, and return it, and all threads share what is smaller.

    Otherwise each thread keeps freed memory for itself: twice as much of large files, and 10 MB for a further thread.

    Source: https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, SMALL_BYTES)
        libc.mallopt(M_ARENA_MAX, 2)


def _is_page(found: Fetched) -> bool:
    """Whether a response is nothing, a web page or an API's error; bytes count more than what their header says."""
    says = found.headers.get("content-type", "")
    begins = found.body[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    is_text = "html" in says or "json" in says or begins.startswith((b"<", b"{"))
    return not found.body or (is_text and not is_image(found.body))
