"""Verifies the files of stored photos, and deletes photos after a take-down."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from trainer.bucket import open_bucket
from trainer.config import Settings
from trainer.photos.manifest import Kind, Manifest, Photo, Refusal
from trainer.photos.photo_files import PhotoFiles, open_files
from trainer.scrape.ingest import Collection, Decoder, examine
from trainer.scrape.sites.site import Site, SourceImage
from trainer.vgg16.cache import remove_everywhere

logger = logging.getLogger(__name__)

GIVE_UP_AFTER = 10  # failed fetches in a row


@dataclass(slots=True)
class VerifyReport:
    """The result of a verification.

    Attributes:
        n_checked: number of files read.
        restored: ids of photos whose damaged or missing files were fetched again.
        dropped: ids of photos that are gone at the source as well.
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
    """Compare every file of a source with its hash, and fetch damaged and missing files again."""
    report = VerifyReport()
    files = open_files(settings)
    collection = Collection(manifest, files, settings.data_dir, site.name)
    files.clear_up()
    n_failed = 0
    for photo in list(manifest.photos(site.name)):
        report.n_checked += 1
        fault = _find_damage(files, settings.data_dir / photo.path, photo)
        if fault is None:
            continue
        if n_failed >= GIVE_UP_AFTER:
            report.problems.append(f"{fault}; not fetched again, because the source does not answer")
            continue
        found = examine(site, _as_source_image(photo), decoder, now=now())
        n_failed = n_failed + 1 if isinstance(found, Refusal) else 0
        if isinstance(found, Refusal) and not found.final:
            report.problems.append(f"{fault}; and it cannot be fetched again: {found.detail}")
        elif isinstance(collection.admit(_as_source_image(photo), found, known=photo), Photo):
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


def named(manifest: Manifest, source: str, kind: Kind, id_: str) -> list[Photo]:
    """The stored photo with this id, or all photos of the member with this id."""
    if kind == "member":
        return manifest.photos_of_member(source, id_)
    photo = manifest.photo(source, id_)
    return [photo] if photo else []


def forget(
    manifest: Manifest, settings: Settings, source: str, kind: Kind, id_: str, photos: Sequence[Photo], *, now: datetime
) -> None:
    """Delete photos with their features, and block them from being fetched again.

    The rows are deleted last: after a crash, the same command finishes the work. No scrape and no training may run at
    the same time.

    Args:
        photos: from `named`.

    Raises:
        StorageError: the disk is full, a file cannot be written, or a bucket does not answer; run it again.
    """
    collection = Collection(manifest, open_files(settings), settings.data_dir, source)
    for photo in photos:
        collection.delete_file(photo)
    sha256s = [photo.sha256 for photo in photos]
    remove_everywhere(settings.data_dir / "features", sha256s, bucket=open_bucket(settings))
    manifest.forget(source, kind, id_, now=now)
    collection.clean_up()
    logger.info("forgot source=%s kind=%s photos=%d", source, kind, len(photos))


def _find_damage(files: PhotoFiles, path: Path, photo: Photo) -> str | None:
    """Describe what is wrong with a photo's file; None if it is intact."""
    try:
        data = files.read(path)
    except FileNotFoundError:
        return f"{path}: is missing"
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror}"
    if hashlib.sha256(data).hexdigest() == photo.sha256:
        return None
    return f"{path}: {len(data):,} bytes, but the manifest has {photo.n_bytes:,} with another SHA-256"


def _as_source_image(photo: Photo) -> SourceImage:
    """The `SourceImage` of a stored photo."""
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
