"""Reads, decodes, and keeps or refuses one photo of a source.

`examine` does what takes time and may run on many threads; `Collection` writes, on one. A photo's file is complete on
disk before its row is written, so that a sudden end leaves at most a file that nobody knows.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

from trainer.errors import FetchError, ImageError
from trainer.files import write_file
from trainer.photos.duplicates import perceptual_hash
from trainer.photos.filetype import family
from trainer.photos.images import Measured
from trainer.photos.manifest import Manifest, Photo, Refusal
from trainer.scrape.sites.site import Site, SiteRefusalError, SourceImage

logger = logging.getLogger(__name__)

IMAGE_FOLDER = "images"
OUR_FILE = re.compile(r"[0-9a-f]{64}\.\w+")
GONE = frozenset({404, 410, 451})
MAX_ATTEMPTS = 3  # a site in trouble sends strange things, so a file that cannot be decoded is looked at again

NOT_FETCHED = "not fetched"
NO_IMAGE = "not an image"  # a web page or the like: that tells of the server's state, not of the photo
TROUBLE = frozenset({NOT_FETCHED, NO_IMAGE})  # never the last word on a photo
DUPLICATE = "duplicate"
TWO_LABELS = "same file under two labels"


class Decoder(Protocol):
    """Bytes -> what is noted about a photo: `trainer.photos.decode.Decoder`."""

    def measure(self, data: bytes) -> Measured: ...


@dataclass(frozen=True, slots=True)
class Examined:
    """A photo's bytes that could be decoded, and what is known of them.

    Attributes:
        extension: of its file name, by its format, e.g. "jpeg".
        read_at: just before its bytes were read.
    """

    url: str
    data: bytes
    sha256: str
    width: int
    height: int
    phash: str
    extension: str
    read_at: datetime


def examine(site: Site, image: SourceImage, decoder: Decoder, *, now: datetime) -> Examined | Refusal:
    """Read and decode a photo; what is wrong with it is returned as a refusal. May run on any thread."""

    def refuse(reason: str, error: Exception, *, final: bool = False, sha256: str | None = None) -> Refusal:
        return Refusal(site.name, image.photo_id, image.label, reason, str(error), sha256, final, now)

    try:
        url, data = site.read(image)
    except SiteRefusalError as error:
        return refuse("the site asks machines not to", error)
    except FetchError as error:
        gone = error.status in GONE
        return refuse("gone" if gone else NOT_FETCHED, error, final=gone)
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        measured = decoder.measure(data)
    except ImageError as error:
        return refuse(error.reason.replace("_", " "), error, sha256=sha256)
    return Examined(
        url=url,
        data=data,
        sha256=sha256,
        width=measured.width,
        height=measured.height,
        phash=perceptual_hash(measured.brightness),
        extension=(family(data) or "image").lower(),
        read_at=now,
    )


class Collection:
    """The photos of one source: their rows in the manifest and, where they are copies of ours, their files.

    Attributes:
        held: how many photos there are, by label.
    """

    def __init__(self, manifest: Manifest, data_dir: Path, source: str) -> None:
        self._manifest = manifest
        self._data_dir = data_dir
        self._source = source
        self.held = manifest.count_by_label(source)

    def clean_up(self) -> None:
        """Delete what a crash left behind: incomplete files, and files without a row.

        Files of other names are not ours. Nothing whole is deleted while there is no row at all: the manifest may have
        been moved away for a moment.
        """
        for path in self._data_dir.glob(f"{IMAGE_FOLDER}/*/.*.tmp"):
            path.unlink(missing_ok=True)
        filed = {self._data_dir / photo.path for photo in self._manifest.photos()}
        for path in self._data_dir.glob(f"{IMAGE_FOLDER}/*/*") if filed else ():
            if OUR_FILE.fullmatch(path.name) and path not in filed:
                path.unlink(missing_ok=True)
                logger.info("deleted a file without a row path=%s", path)

    def admit(self, image: SourceImage, found: Examined | Refusal, *, known: Photo | None = None) -> Photo | Refusal:
        """Keep a photo or record its refusal; returns which of the two.

        Args:
            found: what `examine` said about it.
            known: the row under the same id, when the photo was held before and has changed.

        Raises:
            StorageError: the disk is full, or cannot be written.
        """
        if isinstance(found, Refusal):
            return self._refuse(found, known)
        if refusal := self._as_duplicate(image, found, known):
            return self._refuse(refusal, known)
        path = image.path
        if path is None:
            path = Path(IMAGE_FOLDER) / image.label / f"{found.sha256}.{found.extension}"
            write_file(self._data_dir / path, lambda file: file.write(found.data))
        photo = Photo(
            sha256=found.sha256,
            label=image.label,
            source=self._source,
            photo_id=image.photo_id,
            member_id=image.member_id,
            page_url=image.page_url,
            image_url=found.url,
            path=path,
            n_bytes=len(found.data),
            width=found.width,
            height=found.height,
            phash=found.phash,
            split=image.split,
            fetched_at=found.read_at,
            flag=image.flag,
        )
        self.held[photo.label] += 1
        if known is None:
            self._manifest.add(photo)
        else:
            self.held[known.label] -= 1
            self._manifest.replace(known, photo)
            if known.path != photo.path:
                self.delete_file(known)
        return photo

    def rename(self, photo: Photo, label: str) -> None:
        """Change a photo's label; its file stays where it is."""
        self.held[photo.label] -= 1
        self.held[label] += 1
        self._manifest.replace(photo, replace(photo, label=label))

    def remove(self, photo: Photo) -> None:
        """Remove a photo's row and delete our copy of its file."""
        self.held[photo.label] -= 1
        self._manifest.remove(photo)
        self.delete_file(photo)

    def delete_file(self, photo: Photo) -> None:
        """Delete our copy of a photo; one that is used in place stays."""
        if not photo.path.is_absolute():
            (self._data_dir / photo.path).unlink(missing_ok=True)

    def _as_duplicate(self, image: SourceImage, found: Examined, known: Photo | None) -> Refusal | None:
        """A refusal when the same bytes are held already, or were refused for having two labels."""
        same = self._manifest.photo_by_sha256(self._source, found.sha256)
        if same and known and same.photo_id == known.photo_id:
            return None
        refused = self._manifest.refusals_by_sha256(self._source, found.sha256)
        if not same and not any(other.reason == TWO_LABELS for other in refused):
            return None
        first = same or refused[0]
        two_labels = not same or same.label != image.label
        refusal = Refusal(
            source=self._source,
            photo_id=image.photo_id,
            label=image.label,
            reason=TWO_LABELS if two_labels else DUPLICATE,
            detail=f"the same file as photo {first.photo_id} of {first.label}",
            sha256=found.sha256,
            final=True,
            refused_at=found.read_at,
        )
        if same and two_labels:
            detail = f"the same file as photo {image.photo_id} of {image.label}"
            self._withdraw(same, replace(refusal, photo_id=same.photo_id, label=same.label, detail=detail))
        return refusal

    def _refuse(self, refusal: Refusal, known: Photo | None) -> Refusal:
        before = self._manifest.refusal(self._source, refusal.photo_id)
        attempts = before.attempts + 1 if before else 1
        final = refusal.final or (refusal.reason not in TROUBLE and attempts >= MAX_ATTEMPTS)
        refusal = replace(refusal, attempts=attempts, final=final)
        if known:
            self._withdraw(known, refusal)
        else:
            self._manifest.refuse(refusal)
        logger.debug("refused photo_id=%s reason=%s detail=%s", refusal.photo_id, refusal.reason, refusal.detail)
        return refusal

    def _withdraw(self, photo: Photo, refusal: Refusal) -> None:
        self.held[photo.label] -= 1
        self._manifest.withdraw(photo, refusal)
        self.delete_file(photo)
