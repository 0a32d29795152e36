"""The manifest keeps the order, changes atomically, and reports problems with its file."""

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from trainer.errors import StorageError
from trainer.photos.database import MIGRATIONS
from trainer.photos.manifest import FILE_NAME, Manifest, Photo, Refusal

NOW = datetime(2026, 3, 2, 12, 0, 0, 123456, tzinfo=UTC)
PHOTO = Photo(
    sha256="a" * 64,
    label="japan",
    source="worldcosplay",
    photo_id="17",
    member_id="23345",
    page_url="https://worldcosplay.net/photo/17",
    image_url="https://images.example/23345/a-350x600.jpg",
    path=Path("images/japan/a.jpeg"),
    n_bytes=58_811,
    width=350,
    height=525,
    phash="0" * 64,
    split=None,
    fetched_at=NOW,
    flag="jp",
)
REFUSAL = Refusal("worldcosplay", "18", "japan", "truncated", "the JPEG ends early", "b" * 64, False, NOW)


@pytest.fixture
def manifest(tmp_path: Path) -> Iterator[Manifest]:
    with Manifest(tmp_path / FILE_NAME) as manifest:
        yield manifest


def number(n: int, **more: object) -> Photo:
    return replace(PHOTO, sha256=f"{n:064x}", photo_id=str(n), image_url=f"https://images.example/{n}", **more)  # type: ignore[arg-type]


def test_a_stored_photo_is_read_unchanged(manifest: Manifest) -> None:
    in_place = number(2, path=Path("/pictures/é 写真.png"), split="holdout", member_id=None, flag=None)
    manifest.add(PHOTO)
    manifest.add(in_place)
    assert list(manifest.photos()) == [PHOTO, in_place]
    assert manifest.photo("worldcosplay", "17") == PHOTO
    assert manifest.photo_by_sha256("worldcosplay", "a" * 64) == PHOTO
    assert manifest.photos_of_member("worldcosplay", "23345") == [PHOTO]


def test_photos_are_in_the_order_of_admission_after_deletions(tmp_path: Path) -> None:
    with Manifest(tmp_path / FILE_NAME) as manifest:
        for n in (5, 3, 9):
            manifest.add(number(n))
        manifest.remove(number(9))
        manifest.add(number(1))
    with Manifest(tmp_path / FILE_NAME) as manifest:
        assert [photo.photo_id for photo in manifest.photos()] == ["5", "3", "1"]


def test_sources_are_kept_apart(manifest: Manifest) -> None:
    manifest.add(PHOTO)
    manifest.add(replace(PHOTO, source="folder", image_url="file:///a"))
    assert [photo.source for photo in manifest.photos("folder")] == ["folder"]
    assert manifest.count_by_label("folder") == {"japan": 1}


def test_stored_finally_refused_and_forgotten_photos_are_known(manifest: Manifest) -> None:
    manifest.add(PHOTO)
    manifest.refuse(REFUSAL)
    manifest.refuse(replace(REFUSAL, photo_id="19", final=True))
    manifest.forget("worldcosplay", "photo", "20", now=NOW)
    manifest.forget("worldcosplay", "member", "666", now=NOW)

    def known(photo_id: str, **more: str) -> str | None:
        return manifest.knows("worldcosplay", photo_id, **more)

    assert known("17") == "held"
    assert known("99", image_url=PHOTO.image_url) == "held"
    assert known("18") is None
    assert known("19") == "refused"
    assert known("20") == "forgotten"
    assert known("99", member_id="666") == "forgotten"
    assert known("666") is None
    assert known("99") is None
    assert manifest.knows("folder", "17") is None


def test_the_last_refusal_of_a_photo_counts(manifest: Manifest) -> None:
    manifest.refuse(REFUSAL)
    later = replace(REFUSAL, reason="gone", attempts=2, final=True)
    manifest.refuse(later)
    assert list(manifest.refusals()) == [later]
    assert manifest.refusal("worldcosplay", "18") == later
    assert manifest.refusals_by_sha256("worldcosplay", "b" * 64) == [later]


def test_storing_a_photo_deletes_its_refusal(manifest: Manifest) -> None:
    manifest.refuse(replace(REFUSAL, photo_id="17"))
    manifest.add(PHOTO)
    assert not list(manifest.refusals())


def test_withdrawing_a_photo_replaces_it_by_a_refusal(manifest: Manifest) -> None:
    manifest.add(PHOTO)
    manifest.withdraw(PHOTO, replace(REFUSAL, photo_id="17"))
    assert not list(manifest.photos())
    assert [refusal.photo_id for refusal in manifest.refusals()] == ["17"]


def test_a_change_of_two_rows_is_atomic(manifest: Manifest) -> None:
    manifest.add(PHOTO)
    manifest.add(number(2))
    with pytest.raises(sqlite3.IntegrityError):
        manifest.replace(PHOTO, replace(number(2), photo_id="3"))
    assert list(manifest.photos()) == [PHOTO, number(2)]


def test_only_the_ids_of_forgotten_photos_are_kept(tmp_path: Path, manifest: Manifest) -> None:
    manifest.add(PHOTO)
    manifest.refuse(replace(REFUSAL, photo_id="20", detail="https://images.example/secret"))
    manifest.forget("worldcosplay", "member", "23345", now=NOW)
    manifest.forget("worldcosplay", "photo", "20", now=NOW)
    assert not list(manifest.photos())
    assert not list(manifest.refusals())
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        rows = db.execute("SELECT kind, id FROM forgotten").fetchall()
    db.close()
    assert rows == [("member", "23345"), ("photo", "20")]


def test_the_next_page_of_a_listing_is_stored(manifest: Manifest) -> None:
    assert manifest.next_page("worldcosplay", "japan") == 1
    manifest.set_next_page("worldcosplay", "japan", 7)
    assert manifest.next_page("worldcosplay", "japan") == 7
    manifest.set_next_page("worldcosplay", "japan", None)
    assert manifest.next_page("worldcosplay", "japan") is None
    assert manifest.next_page("worldcosplay", "china") == 1


def test_a_training_can_read_while_a_scrape_writes(tmp_path: Path, manifest: Manifest) -> None:
    for n in range(10):
        manifest.add(number(n))
    with Manifest(tmp_path / FILE_NAME) as reader:
        photos = reader.photos()
        first = next(photos)
        manifest.add(number(10))
        assert [first, *photos] == [number(n) for n in range(10)]
        assert len(list(reader.photos())) == 11


# Its file


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_damaged_file_is_an_error_with_advice_and_is_not_changed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(content)
    with pytest.raises(StorageError, match=f"{re.escape(str(path))}: is damaged .*python -m trainer scrape"):
        Manifest(path)
    assert path.read_bytes() == content


def test_a_damaged_page_is_an_error_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    with Manifest(path) as manifest:
        for n in range(500):
            manifest.add(number(n))
    content = bytearray(path.read_bytes())
    content[8192:-4096] = b"\xff" * (len(content) - 12288)
    path.write_bytes(content)
    with pytest.raises(StorageError, match="is damaged"), Manifest(path) as manifest:
        list(manifest.photos())


def test_a_file_of_a_newer_program_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    Manifest(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    with pytest.raises(StorageError, match="update this program"):
        Manifest(path)


@pytest.mark.parametrize("version", range(len(MIGRATIONS)))
def test_a_file_of_any_earlier_format_is_migrated(tmp_path: Path, version: int) -> None:
    path = tmp_path / FILE_NAME
    with sqlite3.connect(path) as db:
        for script in MIGRATIONS[:version]:
            db.executescript(script)
        db.execute(f"PRAGMA user_version = {version}")
    db.close()
    with Manifest(path) as manifest:
        manifest.add(PHOTO)
        assert list(manifest.photos()) == [PHOTO]


def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path: Path, manifest: Manifest) -> None:
    manifest.add(PHOTO)
    pages = manifest.value("PRAGMA page_count")
    manifest.db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own way to run out of space

    def fill() -> None:
        for n in range(1000):
            manifest.add(number(n))

    with pytest.raises(StorageError, match="the disk is full"):
        fill()
    with Manifest(tmp_path / FILE_NAME) as reader:
        assert next(reader.photos()) == PHOTO


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="data"):
        Manifest(tmp_path / "data" / FILE_NAME)
