"""A folder of pictures: one sub-folder for each label, or train, validation and holdout folders of such.

The pictures stay where they are. Any file that can be decoded is a photo, whatever its name, at any depth in its
label's folder; hidden files and folders are left alone.
"""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from trainer.config import FolderSettings, ImageSettings
from trainer.errors import ConfigError, DatasetError, FetchError
from trainer.sites import Page, SourceImage, Unusable

logger = logging.getLogger(__name__)

# As others name them -> as we do. Holdout first: of two copies of a photo, the one that is listed first is kept.
SPLIT_FOLDERS = {
    "holdout": "holdout",
    "test": "holdout",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "train": "train",
    "training": "train",
}
PAGE_FILES = 64


class FolderSite:
    """The source "folder"; see `trainer.sites.Site`."""

    name = "folder"
    on_disk = True

    def __init__(self, settings: FolderSettings, limits: ImageSettings) -> None:
        """Look at the folder's layout.

        Raises:
            ConfigError: it is not there or cannot be read.
            DatasetError: its sub-folders are no labels to learn from.
        """
        self._root = settings.path.expanduser().absolute()
        self._limits = limits
        self._folders = _label_folders(self._root)
        self.labels = tuple(sorted(self._folders))
        if astray := [path for path in self._root.iterdir() if path.is_file() and not path.name.startswith(".")]:
            logger.warning("files without a label are left out folder=%s files=%d", self._root, len(astray))

    def page_pause_s(self) -> float:
        return 0.0

    def image_pause_s(self, image: SourceImage) -> float:  # noqa: ARG002 - a disk needs no rest
        return 0.0

    def pages(self, label: str, *, start: int = 1) -> Iterator[Page]:
        images: list[SourceImage] = []
        unusable: list[Unusable] = []
        number = 1
        for split, folder in self._folders[label]:
            for path in _files_in(folder):
                name = path.relative_to(self._root).as_posix()
                if name.isprintable():
                    images.append(_source_image(path, name, label=label, split=split))
                else:
                    unusable.append(Unusable(None, "file name that is no readable text"))
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
    """Label -> (split or None, folder) of each folder that holds its photos."""
    folders = _folders_in(root)
    by_split = bool(folders) and all(folder.name.lower() in SPLIT_FOLDERS for folder in folders)
    found: dict[str, list[tuple[str | None, Path]]] = {}
    if by_split:
        order = list(SPLIT_FOLDERS)
        for folder in sorted(folders, key=lambda folder: order.index(folder.name.lower())):
            for inner in _folders_in(folder):
                found.setdefault(_label(inner), []).append((SPLIT_FOLDERS[folder.name.lower()], inner))
    else:
        for folder in folders:
            found.setdefault(_label(folder), []).append((None, folder))
    if len(found) < 2:
        seen = f"only one: {next(iter(found))}" if found else "none"
        raise DatasetError(
            f"{root}: needs a sub-folder with photos for each of two labels or more, there is {seen}; "
            "files that lie directly in it have no label"
        )
    return found


def _folders_in(folder: Path) -> list[Path]:
    try:
        entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and path.is_dir()]
    except FileNotFoundError:
        raise ConfigError(f"{folder}: no such folder; set source.folder.path to a folder of pictures") from None
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read: {error.strerror}; check source.folder.path") from error
    return entries


def _label(folder: Path) -> str:
    """A folder's name as a label; file systems differ in how they compose letters like é."""
    return unicodedata.normalize("NFC", os.fsencode(folder.name).decode("utf-8", errors="replace"))


def _files_in(folder: Path) -> Iterator[Path]:
    """All files under a folder, in the order of their names; a folder that is linked twice is entered once."""
    entered = set()
    for name, folders, files in os.walk(folder, followlinks=True):
        here = Path(name).stat()
        if (here.st_dev, here.st_ino) in entered:
            folders.clear()
            continue
        entered.add((here.st_dev, here.st_ino))
        folders[:] = sorted(inner for inner in folders if not inner.startswith("."))
        yield from (Path(name) / file for file in sorted(files) if not file.startswith("."))
