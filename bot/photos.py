"""A status' attachments -> findings: fetched, decoded elsewhere, judged; every file ends in a finding or a retry."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from bot.entities import Attachment, Finding, Prediction, Unseen
from bot.errors import Transient
from bot.predict import Photo, Predictor, ViewChangedError
from trainer.errors import FetchError, ImageError
from trainer.fetch import Fetcher

logger = logging.getLogger(__name__)

# The prediction itself takes well under a second for each photo; beyond this the machine is in trouble.
PREDICT_TIMEOUT_S = 300.0


class Decoder(Protocol):
    """Bytes -> one view of the photo: `bot.decode.Decoder`."""

    def prepare(self, data: bytes, view: str) -> Photo:
        """(224, 224, 3) uint8. Raises ImageError."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Looks at photos; safe to use from several threads."""

    fetcher: Fetcher
    decoder: Decoder
    predictor: Predictor
    max_bytes: int

    def look(self, attachments: Sequence[Attachment]) -> list[Finding]:
        """One finding for each attachment, in order.

        Raises:
            Transient: a file cannot be had just now, or the server is still processing it.
        """
        files = [self._fetch(attachment) for attachment in attachments]
        while True:
            try:
                return self._judge(files)
            except ViewChangedError:
                logger.info("another version came in between; the photos are prepared anew")

    def _fetch(self, attachment: Attachment) -> bytes | Unseen:
        if not attachment.urls:
            if attachment.kind == "image":
                raise Transient("an attachment is still being processed by its server", outage=False)
            return Unseen("no_preview")
        passing: FetchError | None = None
        for url in attachment.urls:
            try:
                return self.fetcher.get(url, max_bytes=self.max_bytes).body
            except FetchError as error:
                logger.info("not fetched kind=%s error=%s", attachment.kind, error)
                if error.retry_after_s is not None:
                    passing = error
        if passing is not None:
            raise Transient(str(passing), outage=False) from passing
        return Unseen("gone")

    def _judge(self, files: Sequence[bytes | Unseen]) -> list[Finding]:
        view = self.predictor.wait_until_ready().view
        started: list[Unseen | Future[Prediction]] = []
        for file in files:
            if isinstance(file, Unseen):
                started.append(file)
                continue
            try:
                started.append(self.predictor.submit(self.decoder.prepare(file, view), view=view))
            except ImageError as error:
                logger.info("not decoded reason=%s error=%s", error.reason, error)
                started.append(Unseen(error.reason))
        return [each if isinstance(each, Unseen) else each.result(PREDICT_TIMEOUT_S) for each in started]
