"""The SQLite database of stored and refused photos, with their sources and the reasons.

A row is written after its file is complete on disk. Each change is one transaction. Rows are in the order of admission,
which determines the splits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from trainer.photos.database import Database

FILE_NAME = "manifest.sqlite3"
Known = Literal["held", "refused", "forgotten"]
Kind = Literal["photo", "member"]


@dataclass(frozen=True, slots=True)
class Photo:
    """A stored photo.

    Attributes:
        sha256: of the file, 64 hex digits; unique within the source.
        photo_id: unique within the source.
        member_id: the member who posted it; None if the source has no members.
        path: of the file; relative to data_dir, or absolute if the photo is used in place.
        width: in pixels, after the EXIF rotation; same for `height`.
        phash: perceptual hash, 64 hex digits (256 bits).
        split: "train", "validation" or "holdout" if the source defines splits.
        fetched_at: when its bytes were read; aware datetime, UTC.
        flag: the country code that the source shows for the member.
    """

    sha256: str
    label: str
    source: str
    photo_id: str
    member_id: str | None
    page_url: str
    image_url: str
    path: Path
    n_bytes: int
    width: int
    height: int
    phash: str
    split: str | None
    fetched_at: datetime
    flag: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A photo that was refused, and why.

    Attributes:
        reason: a few words, used for counting.
        detail: the full error message.
        sha256: of the bytes; None if there were none.
        final: the photo is not fetched again.
        attempts: how often it was refused so far.
    """

    source: str
    photo_id: str
    label: str
    reason: str
    detail: str
    sha256: str | None
    final: bool
    refused_at: datetime
    attempts: int = 1


class Manifest(Database):
    """An open manifest, for one thread; other processes may use the file at the same time."""

    def add(self, photo: Photo) -> None:
        """Add a photo whose file is complete; an earlier refusal of it is deleted.

        Raises:
            StorageError: the row could not be written.
            sqlite3.IntegrityError: the source already has a photo with this sha256 or id.
        """
        with self.transaction():
            self._add(photo)

    def replace(self, old: Photo, new: Photo) -> None:
        """Replace one photo's row by another, in one transaction."""
        with self.transaction():
            self._remove(old)
            self._add(new)

    def remove(self, photo: Photo) -> None:
        """Delete a photo's row; the caller deletes its file."""
        with self.transaction():
            self._remove(photo)

    def withdraw(self, photo: Photo, refusal: Refusal) -> None:
        """Replace a photo by a refusal, in one transaction; the caller deletes its file."""
        with self.transaction():
            self._remove(photo)
            self._refuse(refusal)

    def refuse(self, refusal: Refusal) -> None:
        """Record why a photo was refused; replaces an earlier refusal of it."""
        with self.transaction():
            self._refuse(refusal)

    def forget(self, source: str, kind: Kind, id_: str, *, now: datetime) -> None:
        """Delete a photo, or all photos of a member, and block them; the caller deletes their files.

        Refusals of the same bytes under other ids stay, without hash and without the photo's id. What the rows held is
        overwritten in the file.

        Raises:
            StorageError: nothing was changed; or the rows are deleted, but another process still reads what they held.
        """
        column = "photo_id" if kind == "photo" else "member_id"
        with self.transaction():
            self.db.execute(
                "UPDATE refusals SET sha256 = NULL, detail = 'the same file as a photo that was taken down'"  # noqa: S608
                f" WHERE source = :source AND sha256 IN"
                f" (SELECT sha256 FROM photos WHERE source = :source AND {column} = :id"
                " UNION SELECT sha256 FROM refusals WHERE source = :source AND photo_id = :id AND :kind = 'photo')",
                {"source": source, "id": id_, "kind": kind},
            )
            self.db.execute(
                "DELETE FROM decisions WHERE source = :source AND (:kind = 'photo' AND photo_id = :id"  # noqa: S608
                f" OR sha256 IN (SELECT sha256 FROM photos WHERE source = :source AND {column} = :id)"
                f" OR photo_id IN (SELECT photo_id FROM photos WHERE source = :source AND {column} = :id))",
                {"source": source, "id": id_, "kind": kind},
            )
            self.db.execute(
                "INSERT OR REPLACE INTO forgotten VALUES (?, ?, ?, ?)", (source, kind, id_, now.isoformat())
            )
            if kind == "photo":
                self.db.execute("DELETE FROM refusals WHERE source = ? AND photo_id = ?", (source, id_))
            self.db.execute(f"DELETE FROM photos WHERE source = ? AND {column} = ?", (source, id_))  # noqa: S608
        self.clear_out()

    def photos(self, source: str | None = None) -> Iterator[Photo]:
        """All photos in the order of admission, or those of one source."""
        return self._select_photos("? IS NULL OR source = ?", source, source)

    def photos_of_member(self, source: str, member_id: str) -> list[Photo]:
        return list(self._select_photos("source = ? AND member_id = ?", source, member_id))

    def photo(self, source: str, photo_id: str) -> Photo | None:
        return next(self._select_photos("source = ? AND photo_id = ?", source, photo_id), None)

    def photo_by_sha256(self, source: str, sha256: str) -> Photo | None:
        return next(self._select_photos("source = ? AND sha256 = ?", source, sha256), None)

    def count_by_label(self, source: str) -> Counter[str]:
        """The number of photos of a source, by label."""
        return Counter(dict(self.rows("SELECT label, count(*) FROM photos WHERE source = ? GROUP BY label", (source,))))

    def labels(self, source: str) -> set[str]:
        """All labels of a source's photos, including refused ones."""
        query = "SELECT label FROM photos WHERE source = ? UNION SELECT label FROM refusals WHERE source = ?"
        return {label for (label,) in self.rows(query, (source, source))}

    def refusals(self, source: str | None = None) -> Iterator[Refusal]:
        """All refusals, or those of one source, oldest first."""
        return self._select_refusals("? IS NULL OR source = ?", source, source)

    def refusal(self, source: str, photo_id: str) -> Refusal | None:
        return next(self._select_refusals("source = ? AND photo_id = ?", source, photo_id), None)

    def refusals_by_sha256(self, source: str, sha256: str) -> list[Refusal]:
        """The refusals of the same bytes."""
        return list(self._select_refusals("source = ? AND sha256 = ?", source, sha256))

    def clear_refusals(self, source: str) -> None:
        """Delete all refusals of a source, so that each photo is examined again."""
        with self.transaction():
            self.db.execute("DELETE FROM refusals WHERE source = ?", (source,))

    def knows(self, source: str, photo_id: str, *, member_id: str | None = None, image_url: str = "") -> Known | None:
        """Why a listed photo is not fetched: held under this id or URL, finally refused, or forgotten; else None."""
        found: Known | None = self.value(
            """
            SELECT CASE
                WHEN EXISTS (SELECT 1 FROM forgotten WHERE source = :source
                    AND (kind = 'photo' AND id = :photo_id OR kind = 'member' AND id = :member_id)) THEN 'forgotten'
                WHEN EXISTS (SELECT 1 FROM photos WHERE source = :source AND photo_id = :photo_id) THEN 'held'
                WHEN EXISTS (SELECT 1 FROM photos WHERE image_url = :image_url) THEN 'held'
                WHEN EXISTS (SELECT 1 FROM refusals WHERE source = :source AND photo_id = :photo_id AND final)
                    THEN 'refused'
            END
            """,
            {"source": source, "photo_id": photo_id, "member_id": member_id, "image_url": image_url},
        )
        return found

    def next_page(self, source: str, label: str) -> int | None:
        """The first page of a listing that was never read; 1 for a new listing, None if no more pages are expected."""
        rows = list(self.rows("SELECT next_page FROM listings WHERE source = ? AND label = ?", (source, label)))
        return rows[0][0] if rows else 1

    def set_next_page(self, source: str, label: str, number: int | None) -> None:
        """Store the first page of a listing that was never read; None if no more pages are expected."""
        with self.transaction():
            self.db.execute("INSERT OR REPLACE INTO listings VALUES (?, ?, ?)", (source, label, number))

    def _add(self, photo: Photo) -> None:
        self._insert("photos", photo)
        self.db.execute("DELETE FROM refusals WHERE source = ? AND photo_id = ?", (photo.source, photo.photo_id))

    def _remove(self, photo: Photo) -> None:
        self.db.execute("DELETE FROM photos WHERE source = ? AND photo_id = ?", (photo.source, photo.photo_id))

    def _refuse(self, refusal: Refusal) -> None:
        self.db.execute("DELETE FROM refusals WHERE source = ? AND photo_id = ?", (refusal.source, refusal.photo_id))
        self._insert("refusals", refusal)

    def _insert(self, table: str, row: Photo | Refusal) -> None:
        names = [field.name for field in fields(row)]
        values = [_as_text(getattr(row, name)) for name in names]
        marks = ", ".join("?" * len(names))
        self.db.execute(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", values)  # noqa: S608

    def _select_photos(self, where: str, *values: str | None) -> Iterator[Photo]:
        for named in self._select("photos", Photo, f"{where} ORDER BY number", values):
            named["path"] = Path(named["path"])
            named["fetched_at"] = datetime.fromisoformat(named["fetched_at"])
            yield Photo(**named)

    def _select_refusals(self, where: str, *values: str | None) -> Iterator[Refusal]:
        for named in self._select("refusals", Refusal, f"{where} ORDER BY refused_at, rowid", values):
            named["final"] = bool(named["final"])
            named["refused_at"] = datetime.fromisoformat(named["refused_at"])
            yield Refusal(**named)

    def _select(
        self, table: str, row_type: type[Photo | Refusal], where: str, values: Sequence[str | None]
    ) -> Iterator[dict[str, Any]]:
        """Rows as column -> value, for the columns that the type has as fields."""
        columns = [field.name for field in fields(row_type)]
        for row in self.rows(f"SELECT {', '.join(columns)} FROM {table} WHERE {where}", values):  # noqa: S608
            yield dict(zip(columns, row, strict=True))


def _as_text(value: object) -> object:
    """A value as stored in SQLite."""
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Path) else value
