"""Removes photos that were taken down from what earlier runs left: versions, journal, logs, unfinished work.

A version goes on serving: its head, its figures and its number of photos stay, and so do, in novelty.npz, the rounded
features of its training photos, which nothing names. Deleting the version's folder removes those too.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from pathlib import Path

from trainer.files import UNFINISHED_FILE, rewrite_lines, storage_error
from trainer.lock import only_one
from trainer.photos.manifest import Photo
from trainer.registry.registry import HELD_OUT, LOCK, PHOTOS, REPORT, UNFINISHED, Registry
from trainer.registry.rewrite import rewrite
from trainer.training.journal import Journal
from trainer.training.report import without

LOGS = "log/*.log"  # in data_dir: of the bot's child processes


def take_down(data_dir: Path, photos: Collection[Photo], *, id_: str) -> None:
    """Remove photos from everything but the manifest, the photo files and the features.

    No scrape and no training may run at the same time. After a crash, the same call finishes the work.

    Args:
        id_: the id of the photo or member that was taken down; lines that name it go too.

    Raises:
        StorageError: a file cannot be read or written; all versions can be loaded.
    """
    with only_one(data_dir / LOCK, "change of the registry", wait=True):
        _take_from_versions(Registry(data_dir), {photo.sha256 for photo in photos})
    words = _naming(photos, id_)
    Journal(data_dir).strike(words)
    for path in sorted(data_dir.glob(LOGS)):
        rewrite_lines(path, lambda line: "" if words.search(line) else line)


def _take_from_versions(registry: Registry, sha256s: Collection[str]) -> None:
    try:
        for leftover in registry.folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(leftover)
        for leftover in registry.folder.glob(f"*/{UNFINISHED_FILE}"):
            leftover.unlink()
    except OSError as error:
        raise storage_error(registry.folder, error) from error

    def unlisted(listed: bytes) -> bytes:
        return b"".join(line for line in listed.splitlines(keepends=True) if line.decode().strip() not in sha256s)

    def redrawn(page: bytes) -> bytes:
        return without(sha256s, page.decode(errors="surrogateescape")).encode(errors="surrogateescape")

    for name in registry.names() if sha256s else ():
        rewrite(registry.folder / name, {PHOTOS: unlisted, HELD_OUT: unlisted, REPORT: redrawn})


def _naming(photos: Collection[Photo], id_: str) -> re.Pattern[str]:
    """Matches a text that names one of the photos."""
    names = {id_}
    for photo in photos:
        names |= {photo.sha256, photo.photo_id, photo.page_url, photo.image_url, str(photo.path)}
    return re.compile(rf"(?<!\w)(?:{'|'.join(re.escape(name) for name in sorted(names) if name)})(?!\w)")
