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
STILL = ("image", "unknown")  # kinds whose own file is looked at


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

    def look(self, attachments: Sequence[Attachment], *, last_try: bool = False) -> list[Finding]:
        """One finding for each attachment, in order.

        Args:
            last_try: what cannot be had just now counts as gone.

        Raises:
            Transient: a file cannot be had just now, or the server is still processing it.
        """
        files = [(attachment.kind, self._fetch(attachment, last_try=last_try)) for attachment in attachments]
        while True:
            try:
                return self._judge(files)
            except ViewChangedError:
                logger.info("another version came in between; the photos are prepared anew")

    def _fetch(self, attachment: Attachment, *, last_try: bool) -> bytes | Unseen:
        if not attachment.urls:
            if attachment.kind == "image" and not last_try:
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
        if passing is not None and not last_try:
            raise Transient(str(passing), outage=False) from passing
        return Unseen("gone")

    def _judge(self, files: Sequence[tuple[str, bytes | Unseen]]) -> list[Finding]:
        view = self.predictor.wait_until_ready().view
        started: list[Unseen | Future[Prediction]] = []
        for kind, file in files:
            if isinstance(file, Unseen):
                started.append(file)
                continue
            try:
                started.append(self.predictor.submit(self.decoder.prepare(file, view), view=view))
            except ImageError as error:
                logger.info("not decoded reason=%s error=%s", error.reason, error)
                # The preview of a sound or a video may be anything; its owner did not choose it.
                started.append(Unseen(error.reason if kind in STILL else "no_preview"))
        return [each if isinstance(each, Unseen) else each.result(PREDICT_TIMEOUT_S) for each in started]
