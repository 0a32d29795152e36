"""Verifies the files of the photos that are held, and removes photos after a take-down."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from trainer.config import Settings
from trainer.photos.manifest import Kind, Manifest, Photo, Refusal
from trainer.scrape.ingest import Collection, Decoder, examine
from trainer.scrape.sites.site import Site, SourceImage
from trainer.vgg16.cache import remove_everywhere

logger = logging.getLogger(__name__)

GIVE_UP_AFTER = 10  # fetches in a row that failed


@dataclass(slots=True)
class VerifyReport:
    """The outcome of a verification.

    Attributes:
        n_checked: photos whose files were read.
        restored: photo ids whose files were damaged or missing and are whole again.
        dropped: photo ids that are gone at the source as well.
        problems: one line for each file that is still damaged or missing.
    """

    n_checked: int = 0
    restored: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def verify(
    site: Site,
    manifest: Manifest,
    settings: Settings,
    decoder: Decoder,
    *,
    sleep: Callable[[float], object] = time.sleep,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> VerifyReport:
    """Compare every file of a source with its hash, and fetch damaged and missing ones again."""
    report = VerifyReport()
    collection = Collection(manifest, settings.data_dir, site.name)
    n_failed = 0
    for photo in list(manifest.photos(site.name)):
        report.n_checked += 1
        fault = _fault(settings.data_dir / photo.path, photo)
        if fault is None:
            continue
        if n_failed >= GIVE_UP_AFTER:
            report.problems.append(f"{fault}; not tried, as the source does not answer")
            continue
        found = examine(site, _listed_again(photo), decoder, now=now())
        n_failed = n_failed + 1 if isinstance(found, Refusal) else 0
        if isinstance(found, Refusal) and not found.final:
            report.problems.append(f"{fault}; and it cannot be had again: {found.detail}")
        elif isinstance(collection.admit(_listed_again(photo), found, known=photo), Photo):
            report.restored.append(photo.photo_id)
        else:
            report.dropped.append(photo.photo_id)
        if not site.on_disk:
            sleep(settings.scrape.image_pause_s)
    logger.info(
        "verified photos=%d restored=%d dropped=%d damaged=%d",
        report.n_checked,
        len(report.restored),
        len(report.dropped),
        len(report.problems),
    )
    return report


def forget(manifest: Manifest, data_dir: Path, source: str, kind: Kind, id_: str, *, now: datetime) -> int:
    """Delete a photo, or all photos of a member, with their features, and never fetch them again.

    The rows go last: after a sudden end they are still there, and the same command finishes the work. No training may
    be at work meanwhile.

    Returns:
        How many photos were held.

    Raises:
        StorageError: the disk is full, or something cannot be written; run it again.
    """
    collection = Collection(manifest, data_dir, source)
    if kind == "member":
        photos = manifest.photos_of_member(source, id_)
    else:
        photo = manifest.photo(source, id_)
        photos = [photo] if photo else []
    for photo in photos:
        collection.delete_file(photo)
    remove_everywhere(data_dir / "features", [photo.sha256 for photo in photos])
    manifest.forget(source, kind, id_, now=now)
    logger.info("forgot source=%s %s=%s photos=%d", source, kind, id_, len(photos))
    return len(photos)


def _fault(path: Path, photo: Photo) -> str | None:
    """What is wrong with a photo's file, in words; None when nothing is."""
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            n_bytes = file.tell()
    except FileNotFoundError:
        return f"{path}: is missing"
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror}"
    if sha256 == photo.sha256:
        return None
    return f"{path}: {n_bytes:,} bytes, the manifest says {photo.n_bytes:,} of other content"


def _listed_again(photo: Photo) -> SourceImage:
    """The photo as its source listed it."""
    return SourceImage(
        label=photo.label,
        photo_id=photo.photo_id,
        member_id=photo.member_id,
        page_url=photo.page_url,
        image_urls=(photo.image_url,),
        path=photo.path if photo.path.is_absolute() else None,
        split=photo.split,
        flag=photo.flag,
    )
