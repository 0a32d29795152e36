"""Photos whose authors let the bot learn from them: a folder of data_dir that bot and trainer share.

The bot puts a photo there, with a record of who said so where, and takes it back; nothing else writes records. The
trainer adds the perceptual hash, and removes what was taken back from everything that it has made of the photo. What a
person decides about a photo is in the manifest, under the source `SOURCE`; without a decision, nothing is learned.

    <id>.jpg          the photo, drawn anew from its pixels: small, and without what a camera writes into a file
    <id>.json         the record, written after the photo and removed before it
    <id>.phash        the perceptual hash
    <id>.taken_back   the record of a photo that is gone, until the trainer has removed its traces
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from trainer.files import UNFINISHED_FILE, read_file, storage_error, write_file
from trainer.photos.manifest import Photo

logger = logging.getLogger(__name__)

SOURCE = "contributions"
MAX_WIDTH, MAX_HEIGHT = 350, 600  # of a photo, in pixels: what a gallery's thumbnails have
MAX_OF_ACCOUNT = 5
MAX_SHARE = 0.02  # of a label's training photos, at most
MAX_HELD = 1000  # in all: some 60 MB
ID = re.compile(r"contribution-[0-9a-f]{16}")
MAX_RECORD_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class Contribution:
    """A photo, and who let the bot learn from it; all ids but the first are the bot's instance's.

    Attributes:
        id: means nothing.
        sha256: of the file.
        label: the bot's answer about the photo; a person decides about its label.
        account_id: the account that posted the photo.
        photo_id: the status with the photo.
        media_id: the photo in it.
        answer_id: the bot's answer.
        word_id: the status that says that the bot may learn from the photo.
        offered_at: aware, UTC.
    """

    id: str
    sha256: str
    label: str
    account_id: str
    photo_id: str
    media_id: str
    answer_id: str
    word_id: str
    width: int
    height: int
    n_bytes: int
    offered_at: datetime

    @property
    def path(self) -> Path:
        """Of the photo's file; relative to data_dir."""
        return Path(SOURCE) / f"{self.id}.jpg"

    def photo(self, phash: str) -> Photo:
        """The contribution as a photo of the source `SOURCE`."""
        return Photo(
            sha256=self.sha256,
            label=self.label,
            source=SOURCE,
            photo_id=self.id,
            member_id=self.account_id,
            page_url="",
            image_url="",
            path=self.path,
            n_bytes=self.n_bytes,
            width=self.width,
            height=self.height,
            phash=phash,
            split=None,
            fetched_at=self.offered_at,
        )


def new_id() -> str:
    """An id for a contribution."""
    return f"contribution-{secrets.token_hex(8)}"


def draw(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A JPEG of a photo's pixels, (h, w, 3) uint8."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=92)
    return out.getvalue()


class Contributions:
    """The folder. Each method may be called from any thread; no two may put at once."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir / SOURCE

    def all(self) -> list[Contribution]:
        """What is there, the oldest first."""
        found = [each for each in self._records("json") if self._file(each.id, "jpg").exists()]
        return sorted(found, key=lambda each: (each.offered_at, each.id))

    def is_empty(self) -> bool:
        """Whether nothing is there, not even traces of what was."""
        return next(self.folder.glob("*"), None) is None

    def photos(self) -> list[Photo]:
        """Those whose perceptual hash is known, as photos with the bot's answer as their label, the oldest first."""
        return [each.photo(phash) for each in self.all() if (phash := self.phash(each.id))]

    def put(self, contribution: Contribution, data: bytes) -> None:
        """Store a photo and its record. Raises StorageError."""
        if hashlib.sha256(data).hexdigest() != contribution.sha256:
            raise ValueError("another photo")
        values = {**asdict(contribution), "offered_at": contribution.offered_at.isoformat()}
        write_file(self._file(contribution.id, "jpg"), lambda file: file.write(data))
        write_file(self._file(contribution.id, "json"), lambda file: file.write(json.dumps(values).encode()))

    def take_back(self, id_: str) -> bool:
        """Delete a photo now, and have the trainer remove its traces; whether it was there. Raises StorageError."""
        try:
            self._file(id_, "json").replace(self._file(id_, "taken_back"))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise storage_error(self._file(id_, "taken_back"), error) from error
        self._delete(id_, "jpg", "phash")
        return True

    def taken_back(self) -> list[Contribution]:
        """What was taken back, and has left traces."""
        return list(self._records("taken_back"))

    def forget(self, id_: str) -> None:
        """Delete all files of a contribution, as no trace of it is left. Raises StorageError."""
        self._delete(id_, "json", "jpg", "phash", "taken_back")

    def phash(self, id_: str) -> str | None:
        """The perceptual hash; None if it is not known yet."""
        try:
            return read_file(self._file(id_, "phash"), max_bytes=64).decode()
        except (OSError, UnicodeDecodeError):
            return None

    def set_phash(self, id_: str, phash: str) -> None:
        """Store the perceptual hash, 64 hex digits. Raises StorageError."""
        write_file(self._file(id_, "phash"), lambda file: file.write(phash.encode()))

    def delete_leftovers(self, *, before: float) -> None:
        """Delete files without a record, which a crash can leave; of before this time, in seconds since the epoch."""
        for path in [*self.folder.glob("*.jpg"), *self.folder.glob("*.phash"), *self.folder.glob(UNFINISHED_FILE)]:
            try:
                if not path.with_suffix(".json").exists() and path.stat().st_mtime < before:
                    path.unlink()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise storage_error(path, error) from error

    def _records(self, ending: str) -> Iterator[Contribution]:
        for path in sorted(self.folder.glob(f"*.{ending}")):
            try:
                values = json.loads(read_file(path, max_bytes=MAX_RECORD_BYTES))
                found = Contribution(**{**values, "offered_at": datetime.fromisoformat(values["offered_at"])})
                if path.stem != found.id or not ID.fullmatch(found.id):
                    raise ValueError("another id")
                yield found
            except FileNotFoundError:
                continue  # taken back meanwhile
            except (OSError, ValueError, KeyError, TypeError) as error:
                logger.warning("contribution damaged file=%s error=%s; nothing is learned from it", path.name, error)

    def _file(self, id_: str, ending: str) -> Path:
        if not ID.fullmatch(id_):
            raise ValueError(f"{id_!r} is no contribution")
        return self.folder / f"{id_}.{ending}"

    def _delete(self, id_: str, *endings: str) -> None:
        for ending in endings:
            path = self._file(id_, ending)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise storage_error(path, error) from error
