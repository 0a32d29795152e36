"""Fetches, decodes and classifies a status' attachments; every file ends in a finding or a retry."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Protocol

from bot.entities import Attachment, Finding, Prediction, Unseen
from bot.errors import Transient
from bot.photos.predict import Photo, Predictor, ViewChangedError
from bot.reply.picture import PHOTO_BOX
from trainer.errors import FetchError, ImageError, ProjectError
from trainer.photos.images import is_image
from trainer.web.fetch import Fetched, Fetcher

logger = logging.getLogger(__name__)

# A prediction takes well under a second; if it takes this long, the machine has a problem.
PREDICT_TIMEOUT_S = 300.0
STILL = ("image", "unknown")  # kinds whose own file is classified


class Decoder(Protocol):
    """Bytes -> one view of the photo: `trainer.photos.decode.Decoder`."""

    def prepare(self, data: bytes, view: str) -> Photo:
        """One view of the photo, (224, 224, 3) uint8. Raises ImageError."""

    def thumbnail(self, data: bytes, *, max_width: int, max_height: int) -> Photo:
        """The whole photo, (h, w, 3) uint8, with its aspect ratio. Raises ImageError."""


@dataclass(frozen=True, slots=True)
class PhotoReader:
    """Fetches, decodes and classifies photos; safe to use from several threads."""

    fetcher: Fetcher
    decoder: Decoder
    predictor: Predictor
    max_bytes: int
    refuse_unknown: bool = True

    def classify(
        self, attachments: Sequence[Attachment], *, thumbnails: bool = False, last_try: bool = False
    ) -> list[Finding]:
        """Classifies attachments; returns one finding for each, in order.

        Args:
            thumbnails: add a thumbnail to each prediction.
            last_try: a file that cannot be fetched now counts as gone.

        Raises:
            Transient: a file cannot be fetched now, or the server is still processing it.
        """
        files = [(attachment.kind, self._fetch(attachment, last_try=last_try)) for attachment in attachments]
        while True:
            try:
                return self._predict(files, thumbnails=thumbnails)
            except ViewChangedError:
                logger.info("the champion changed meanwhile; preparing the photos again")

    def _fetch(self, attachment: Attachment, *, last_try: bool) -> bytes | Unseen:
        if not attachment.urls:
            if attachment.kind == "image" and not last_try:
                raise Transient("an attachment is still being processed by its server", outage=False)
            return Unseen("no_preview")
        passing: FetchError | None = None
        too_large = False
        for url in attachment.urls:
            try:
                found = self.fetcher.get(url, max_bytes=self.max_bytes)
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

    def _predict(self, files: Sequence[tuple[str, bytes | Unseen]], *, thumbnails: bool) -> list[Finding]:
        view = self.predictor.wait_until_ready().view
        started = [self._start(kind, file, view) for kind, file in files]
        # Made while the predictor works.
        made = [
            self._thumbnail(file) if thumbnails and isinstance(file, bytes) and isinstance(start, Future) else None
            for (_, file), start in zip(files, started, strict=True)
        ]
        return [
            start if isinstance(start, Unseen) else self._finished(start.result(PREDICT_TIMEOUT_S), thumbnail)
            for start, thumbnail in zip(started, made, strict=True)
        ]

    def _finished(self, prediction: Prediction, thumbnail: Photo | None) -> Prediction:
        return replace(prediction, thumbnail=thumbnail, is_known=prediction.is_known or not self.refuse_unknown)

    def _start(self, kind: str, file: bytes | Unseen, view: str) -> Unseen | Future[Prediction]:
        """Decodes a file and submits it to the predictor."""
        if isinstance(file, Unseen):
            return file
        try:
            return self.predictor.submit(self.decoder.prepare(file, view), view=view)
        except ImageError as error:
            logger.info("not decoded reason=%s error=%s", error.reason, error)
            # The preview of audio or video may be any file; its owner did not choose it.
            return Unseen(error.reason if kind in STILL else "no_preview")

    def _thumbnail(self, file: bytes) -> Photo | None:
        try:
            return self.decoder.thumbnail(file, max_width=PHOTO_BOX[0], max_height=PHOTO_BOX[1])
        except ProjectError as error:  # the answer then has no picture
            logger.info("no thumbnail error=%s", error)
            return None


def _is_page(found: Fetched) -> bool:
    """Whether a response is nothing, a web page or an API's error; bytes count more than what their header says."""
    says = found.headers.get("content-type", "")
    begins = found.body[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    is_text = "html" in says or "json" in says or begins.startswith((b"<", b"{"))
    return not found.body or (is_text and not is_image(found.body))
