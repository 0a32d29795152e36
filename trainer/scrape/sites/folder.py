"""Reads photos from a folder: one sub-folder for each label, or train, validation and holdout folders that hold them.

The files are used in place. Any file that can be decoded is a photo, with any name, at any depth in its label's folder.
Hidden files and folders, and files created by operating systems, are ignored.
"""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from trainer.config import FolderSettings, ImageSettings
from trainer.errors import ConfigError, DatasetError, FetchError
from trainer.scrape.sites.site import Page, SourceImage, Unusable

logger = logging.getLogger(__name__)

# Usual folder names -> our splits. Holdout first: of two copies of a photo, the first one listed is kept.
SPLIT_FOLDERS = {
    "holdout": "holdout",
    "heldout": "holdout",
    "test": "holdout",
    "testing": "holdout",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "train": "train",
    "training": "train",
}
# Names that macOS, Windows, Linux and network storage create, besides names that begin with a dot.
LEFT_BEHIND = frozenset(
    {"__MACOSX", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN", "System Volume Information", "lost+found", "@eaDir"}
)
PAGE_FILES = 64


class FolderSite:
    """The source "folder"; see `Site`."""

    name = "folder"
    on_disk = True

    def __init__(self, settings: FolderSettings, limits: ImageSettings) -> None:
        """Read the folder's layout.

        Raises:
            ConfigError: the folder is missing or cannot be read.
            DatasetError: its sub-folders cannot be used as labels.
        """
        self._root = settings.path.expanduser().absolute()
        self._limits = limits
        self._folders = _label_folders(self._root)
        self.labels = tuple(sorted(self._folders))
        if unlabelled := [path for path in self._root.iterdir() if path.is_file() and not _is_hidden(path.name)]:
            logger.warning("files without a label skipped folder=%s files=%d", self._root, len(unlabelled))

    def page_pause_s(self) -> float:
        return 0.0

    def image_pause_s(self, image: SourceImage) -> float:  # noqa: ARG002 - no pause for a disk
        return 0.0

    def pages(self, label: str, *, start: int = 1) -> Iterator[Page]:
        images: list[SourceImage] = []
        unusable: list[Unusable] = []
        number = 1
        for split, folder in self._folders[label]:
            for path in _files_in(folder):
                name = path.relative_to(self._root).as_posix()
                if not _is_text(name):
                    unusable.append(Unusable(None, "file name that is not valid text"))
                elif not path.is_file():  # reading from a pipe may block
                    unusable.append(Unusable(name, "neither a file nor a link to one"))
                else:
                    images.append(_source_image(path, name, label=label, split=split))
                if len(images) + len(unusable) == PAGE_FILES:
                    if number >= start:
                        yield Page(number, tuple(images), tuple(unusable))
                    images, unusable, number = [], [], number + 1
        if images or unusable:
            yield Page(number, tuple(images), tuple(unusable))

    def read(self, image: SourceImage) -> tuple[str, bytes]:
        path = image.path
        if path is None:
            raise ValueError("a folder's image has a path")
        try:
            with path.open("rb") as file:
                data = file.read(self._limits.max_bytes + 1)
        except OSError as error:
            raise FetchError(f"{path}: cannot be read: {error.strerror}", retry_after_s=0) from error
        return image.image_urls[0], data


def _source_image(path: Path, name: str, *, label: str, split: str | None) -> SourceImage:
    uri = path.as_uri()
    return SourceImage(
        label=label,
        photo_id=name,
        member_id=None,
        page_url=uri,
        image_urls=(uri,),
        path=path,
        split=split,
    )


def _label_folders(root: Path) -> dict[str, list[tuple[str | None, Path]]]:
    """The folders of each label: label -> (split or None, folder)."""
    folders = _folders_in(root)
    found: dict[str, list[tuple[str | None, Path]]] = {}
    for split, folder in _with_splits(root, folders):
        found.setdefault(_label(folder), []).append((split, folder))
    empty = {label for label, places in found.items() if not any(_has_files(folder) for _, folder in places)}
    if empty:
        logger.warning("folders without files skipped folder=%s skipped=%s", root, ", ".join(sorted(empty)))
        found = {label: places for label, places in found.items() if label not in empty}
    if len(found) < 2:
        seen = f"only one: {next(iter(found))}" if found else "none"
        raise DatasetError(
            f"{root}: needs at least two sub-folders with photos, one for each label, but has {seen}; "
            "files directly in this folder have no label"
        )
    return found


def _with_splits(root: Path, folders: list[Path]) -> Iterator[tuple[str | None, Path]]:
    """Each label's folder, with its split if the root has folders for splits.

    Raises:
        DatasetError: the root has folders for splits and others, so the labels are ambiguous.
    """
    splits = {folder: SPLIT_FOLDERS.get(re.sub(r"[-_ ]", "", folder.name.lower())) for folder in folders}
    named = [split for split in splits.values() if split is not None]
    if len(named) == len(folders):
        order = list(dict.fromkeys(SPLIT_FOLDERS.values()))
        for folder in sorted(folders, key=lambda folder: order.index(splits[folder] or "")):
            for inner in _folders_in(folder):
                yield splits[folder], inner
        return
    if "train" in named and len(set(named)) > 1:
        others = ", ".join(folder.name for folder, split in splits.items() if split is None)
        raise DatasetError(
            f"{root}: has folders for splits and other folders ({others}); move the others away, or, if all are "
            "labels, rename those with names of splits"
        )
    yield from ((None, folder) for folder in folders)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in LEFT_BEHIND


def _is_text(name: str) -> bool:
    """Whether a name is valid text without control characters."""
    return not any(unicodedata.category(char) in ("Cs", "Cc") for char in name)


def _folders_in(folder: Path) -> list[Path]:
    try:
        entries = [path for path in sorted(folder.iterdir()) if not _is_hidden(path.name) and path.is_dir()]
    except FileNotFoundError:
        raise ConfigError(f"{folder}: no such folder; set source.folder.path to a folder of photos") from None
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read: {error.strerror}; check source.folder.path") from error
    return entries


def _label(folder: Path) -> str:
    """The name of a folder as a label, normalised: file systems encode letters like é differently."""
    return unicodedata.normalize("NFC", os.fsencode(folder.name).decode("utf-8", errors="replace"))


def _files_in(folder: Path) -> Iterator[Path]:
    """All files under a folder, sorted by name.

    A folder that is linked twice is entered once. A link to a parent folder is not followed: it contains all other
    labels.
    """
    entered = {_identity(parent) for parent in folder.parents}
    for name, folders, files in os.walk(folder, followlinks=True, onerror=_warn_unreadable):
        here = _identity(Path(name))
        if here in entered:
            folders.clear()
            continue
        entered.add(here)
        folders[:] = sorted(inner for inner in folders if not _is_hidden(inner))
        yield from (Path(name) / file for file in sorted(files) if not _is_hidden(file))


def _has_files(folder: Path) -> bool:
    return any(path.is_file() for path in _files_in(folder))


def _identity(folder: Path) -> tuple[int, int]:
    """A folder's device and inode, the same for each path to it."""
    found = folder.stat()
    return found.st_dev, found.st_ino


def _warn_unreadable(error: OSError) -> None:
    logger.warning("folder not readable, its photos are skipped folder=%s reason=%s", error.filename, error.strerror)
