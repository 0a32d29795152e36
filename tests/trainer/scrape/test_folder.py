"""A folder as a source of photos, in all supported layouts."""

import os
from pathlib import Path

import pytest

from trainer.config import FolderSettings, ImageSettings
from trainer.errors import ConfigError, DatasetError, FetchError
from trainer.scrape.sites.folder import PAGE_FILES, FolderSite
from trainer.scrape.sites.site import SourceImage


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def site_at(root: Path, **limits: int) -> FolderSite:
    return FolderSite(FolderSettings(path=root), ImageSettings.model_validate(limits))


def listed(site: FolderSite) -> list[SourceImage]:
    return [image for label in site.labels for page in site.pages(label) for image in page.images]


def test_each_sub_folder_is_a_label(tmp_path: Path) -> None:
    touch(tmp_path, "shiba/2.jpg", "shiba/1.jpg", "akita/old/deep/3.PNG", "akita/1.jpg")
    site = site_at(tmp_path)
    assert site.labels == ("akita", "shiba")
    assert [(image.label, image.photo_id, image.split, image.member_id) for image in listed(site)] == [
        ("akita", "akita/1.jpg", None, None),
        ("akita", "akita/old/deep/3.PNG", None, None),
        ("shiba", "shiba/1.jpg", None, None),
        ("shiba", "shiba/2.jpg", None, None),
    ]


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train", "validation", "holdout"), ["holdout", "validation", "train"]),
        (("Training", "valid", "test"), ["holdout", "validation", "train"]),
        (("train", "val"), ["validation", "train"]),
        (("train", "test"), ["holdout", "train"]),
        (("TRAIN", "dev", "hold-out"), ["holdout", "validation", "train"]),
        (("train", "test", "__MACOSX", "@eaDir"), ["holdout", "train"]),
    ],
)
def test_split_folders_are_recognised_and_evaluation_splits_come_first(
    tmp_path: Path, names: tuple[str, ...], splits: list[str]
) -> None:
    touch(tmp_path, *(f"{name}/{label}/1.jpg" for name in names for label in ("a", "b")))
    site = site_at(tmp_path)
    assert site.labels == ("a", "b")
    assert [image.split for page in site.pages("a") for image in page.images] == splits


def test_a_label_can_be_called_test_among_other_labels(tmp_path: Path) -> None:
    touch(tmp_path, "test/1.jpg", "other/1.jpg")
    assert site_at(tmp_path).labels == ("other", "test")


def test_split_folders_mixed_with_others_are_an_error(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/{label}/1.jpg" for name in ("train", "test", "unsorted") for label in ("a", "b")))
    with pytest.raises(DatasetError, match=r"folders for splits and other folders \(unsorted\); move the others away"):
        site_at(tmp_path)


def test_a_folder_without_files_is_skipped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg", "c/.DS_Store")
    (tmp_path / "d/e").mkdir(parents=True)
    assert site_at(tmp_path).labels == ("a", "b")
    assert "skipped=c, d" in caplog.text


def test_an_unreadable_folder_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a/1.jpg", "a/locked/2.jpg", "b/1.jpg")
    site = site_at(tmp_path)
    scandir = os.scandir

    def refuse(path: str) -> object:  # root may read everything, so permissions alone would not do
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert [image.photo_id for image in listed(site)] == ["a/1.jpg", "b/1.jpg"]
    assert f"folder={tmp_path}/a/locked reason=Permission denied" in caplog.text


def test_hidden_files_and_system_files_are_ignored(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "a/.DS_Store", "a/Thumbs.db", "a/.thumbs/1.jpg", ".git/1.jpg", "b/1.jpg", "@eaDir/1.jpg")
    assert [image.photo_id for image in listed(site_at(tmp_path))] == ["a/1.jpg", "b/1.jpg"]


def test_names_can_be_in_any_script(tmp_path: Path) -> None:
    names = (
        "日本/写真 1.jpg",
        "日本/全角\u3000空白.jpg",
        "日本/👩\u200d🎤.jpg",
        "São Paulo/#50%?.jpg",
        "São Paulo/9\u202fPM.jpg",
    )
    touch(tmp_path, *names)
    images = listed(site_at(tmp_path))
    assert {image.photo_id for image in images} == set(names)
    assert all(site_at(tmp_path).read(image)[1] == image.photo_id.encode() for image in images)


def test_two_unicode_forms_of_a_name_are_one_label(tmp_path: Path) -> None:
    touch(tmp_path, "train/caf\u00e9/1.jpg", "test/cafe\u0301/1.jpg", "train/b/1.jpg")
    assert site_at(tmp_path).labels == ("b", "caf\u00e9")


def test_a_file_name_that_is_not_text_is_skipped_with_a_reason(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg")
    for name in (os.fsdecode(b"\xff\xfe.jpg"), "two\nlines.jpg"):
        (tmp_path / "a" / name).write_bytes(b"x")
    page = next(site_at(tmp_path).pages("a"))
    assert len(page.images) == 1
    assert [unusable.reason for unusable in page.unusable] == ["file name that is not valid text"] * 2


def test_circular_links_do_not_loop(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "a/deep/2.jpg", "b/1.jpg")
    (tmp_path / "a/deep/up").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "a/itself").symlink_to(tmp_path / "a/itself")
    assert {image.photo_id for image in listed(site_at(tmp_path))} >= {"a/1.jpg", "a/deep/2.jpg"}
    assert len(listed(site_at(tmp_path))) < 6


def test_a_link_to_a_parent_folder_does_not_include_other_labels(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "a/up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a/top").symlink_to("/", target_is_directory=True)
    assert [image.photo_id for image in listed(site_at(tmp_path))] == ["a/1.jpg", "b/1.jpg"]


def test_many_files_are_listed_in_pages_and_reading_can_be_resumed(tmp_path: Path) -> None:
    touch(tmp_path, *(f"a/{n:04}.jpg" for n in range(2 * PAGE_FILES + 1)), "b/1.jpg")
    pages = list(site_at(tmp_path).pages("a"))
    assert [(page.number, len(page.images)) for page in pages] == [(1, PAGE_FILES), (2, PAGE_FILES), (3, 1)]
    assert list(site_at(tmp_path).pages("a", start=3)) == pages[2:]


def test_a_file_is_read_up_to_the_limit_so_that_decoding_reports_its_size(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "a/1.jpg").write_bytes(bytes(1000))
    site = site_at(tmp_path, max_bytes=100)
    url, data = site.read(listed(site)[0])
    assert (url, len(data)) == ((tmp_path / "a/1.jpg").as_uri(), 101)


def test_a_file_that_vanished_is_an_error_that_names_it(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg")
    site = site_at(tmp_path)
    image = listed(site)[0]
    (tmp_path / "a/1.jpg").unlink()
    with pytest.raises(FetchError, match=r"a/1\.jpg: cannot be read: No such file"):
        site.read(image)


def test_a_missing_folder_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such folder; set source\.folder\.path"):
        site_at(tmp_path / "nowhere")
    touch(tmp_path, "file")
    with pytest.raises(ConfigError, match=r"check source\.folder\.path"):
        site_at(tmp_path / "file")


def test_files_without_a_label_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg", "c.jpg", ".hidden")
    assert len(listed(site_at(tmp_path))) == 2
    assert "files=1" in caplog.text


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "but has none"),
        (("1.jpg", "2.jpg"), "has none; files directly in this folder have no label"),
        (("a/1.jpg", "2.jpg"), "but has only one: a"),
        (("train/a/1.jpg", "test/a/1.jpg"), "but has only one: a"),
        (("train/1.jpg", "test/1.jpg"), "but has none"),
    ],
)
def test_a_folder_without_two_labels_says_what_it_needs(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    touch(tmp_path, *names)
    with pytest.raises(DatasetError, match=message):
        site_at(tmp_path)
