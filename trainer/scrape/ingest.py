"""Reads and decodes one photo of a source, and stores or refuses it.

`examine` does the slow work and may run on many threads; `Collection` writes, on one thread. A photo's file, or object
in a bucket, is complete before its row is written, so a crash leaves at most a file without a row.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

from trainer.errors import FetchError, ImageError
from trainer.photos.duplicates import perceptual_hash
from trainer.photos.filetype import family
from trainer.photos.images import Measured
from trainer.photos.manifest import Manifest, Photo, Refusal
from trainer.photos.photo_files import FOLDER, OUR_FILE, PhotoFiles
from trainer.scrape.sites.site import Site, SiteRefusalError, SourceImage

logger = logging.getLogger(__name__)

GONE = frozenset({404, 410, 451})
MAX_ATTEMPTS = 3  # a site with problems may send damaged files, so these are fetched again

NOT_FETCHED = "not fetched"
NO_IMAGE = "not an image"  # e.g. a web page: a sign of a server problem, not of a bad photo
TROUBLE = frozenset({NOT_FETCHED, NO_IMAGE})  # never final
DUPLICATE = "duplicate"
TWO_LABELS = "same file under two labels"


class Decoder(Protocol):
    """Bytes -> what is noted about a photo: `trainer.photos.decode.Decoder`."""

    def measure(self, data: bytes) -> Measured: ...


@dataclass(frozen=True, slots=True)
class Examined:
    """The bytes of a decoded photo, and their properties.

    Attributes:
        extension: of the file name, from the image format, e.g. "jpeg".
        read_at: time just before the bytes were read.
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
    """Read and decode a photo; returns a refusal if that fails. May run on any thread."""

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
    """The photos of one source: their rows in the manifest, and their files if they are not used in place.

    Attributes:
        held: number of photos by label.
    """

    def __init__(self, manifest: Manifest, files: PhotoFiles, data_dir: Path, source: str) -> None:
        self._manifest = manifest
        self._files = files
        self._data_dir = data_dir
        self._source = source
        self.held = manifest.count_by_label(source)

    def clean_up(self) -> None:
        """Delete incomplete files and files without a row, which a crash can leave.

        Files with other names are kept. If the manifest has no rows at all, complete files are kept too: the manifest
        may have been moved away temporarily.
        """
        self._files.clear_up()
        filed = {self._data_dir / photo.path for photo in self._manifest.photos()}
        for path in self._files.paths() if filed else ():
            if OUR_FILE.fullmatch(path.name) and path not in filed:
                self._files.delete(path)
                logger.info("deleted a file without a row path=%s", path)

    def admit(self, image: SourceImage, found: Examined | Refusal, *, known: Photo | None = None) -> Photo | Refusal:
        """Store a photo or record its refusal; returns the new row.

        Args:
            found: the result of `examine`.
            known: the existing row with the same id, if the photo was stored before and has changed.

        Raises:
            StorageError: the disk is full, or cannot be written; or a bucket does not answer.
        """
        if isinstance(found, Refusal):
            return self._refuse(found, known)
        if refusal := self._find_duplicate(image, found, known):
            return self._refuse(refusal, known)
        path = image.path
        if path is None:
            path = Path(FOLDER) / image.label / f"{found.sha256}.{found.extension}"
            self._files.write(self._data_dir / path, found.data)
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
        """Change a photo's label; its file is not moved."""
        self.held[photo.label] -= 1
        self.held[label] += 1
        self._manifest.replace(photo, replace(photo, label=label))

    def remove(self, photo: Photo) -> None:
        """Delete a photo's row, and its file unless that is used in place."""
        self.held[photo.label] -= 1
        self._manifest.remove(photo)
        self.delete_file(photo)

    def delete_file(self, photo: Photo) -> None:
        """Delete a photo's file; one that is used in place is kept."""
        if not photo.path.is_absolute():
            self._files.delete(self._data_dir / photo.path)

    def _find_duplicate(self, image: SourceImage, found: Examined, known: Photo | None) -> Refusal | None:
        """A refusal if the same bytes are stored already, or were refused because they have two labels."""
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
