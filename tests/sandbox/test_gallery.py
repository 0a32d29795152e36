"""The gallery's members and photos, and the images that are drawn."""

import io
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from sandbox.gallery.cloth import PATTERNS
from sandbox.gallery.collection import FLAWS, Gallery, Photo
from sandbox.gallery.design import BACKDROPS, HEADGEAR, MANNERS, PROPS, Tendency
from sandbox.gallery.figure import _HEADGEAR
from sandbox.gallery.files import render, render_square
from sandbox.gallery.props import _PROPS


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    return Gallery(seed=3, members_per_label=4, photos_per_member=6)


def decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def sound(photos: tuple[Photo, ...]) -> list[Photo]:
    return [photo for photo in photos if photo.flaw is None]


def test_the_same_seed_gives_the_same_gallery_byte_for_byte(gallery: Gallery) -> None:
    again = Gallery(seed=3, members_per_label=4, photos_per_member=6)
    assert again.photos() == gallery.photos()
    photo, twin = sound(gallery.photos())[0], sound(again.photos())[0]
    assert render(photo, width=175) == render(twin, width=175)


def test_another_seed_gives_another_gallery(gallery: Gallery) -> None:
    other = Gallery(seed=4, members_per_label=4, photos_per_member=6)
    assert {photo.letters for photo in other.photos()}.isdisjoint(photo.letters for photo in gallery.photos())


def test_photos_come_newest_first_and_newer_ones_have_higher_ids(gallery: Gallery) -> None:
    photos = gallery.photos()
    assert [photo.photo_id for photo in photos] == sorted((photo.photo_id for photo in photos), reverse=True)
    assert [photo.created_at for photo in photos] == sorted((photo.created_at for photo in photos), reverse=True)


def test_labels_can_have_different_numbers_of_members() -> None:
    gallery = Gallery(labels=("a", "b", "c"), members_per_label={"a": 4, "b": 4, "c": 2})
    assert [len(gallery.members(label)) for label in gallery.labels] == [4, 4, 2]


def test_an_upload_is_the_newest_photo_and_has_the_members_style() -> None:
    growing = Gallery(seed=3, members_per_label=2, photos_per_member=2)
    member = growing.join("japan")
    photo = growing.upload(member)
    assert growing.photos("japan")[0] == photo
    assert photo.scene.style is member.style


def test_a_gallery_grows_by_members_and_photos() -> None:
    gallery = Gallery(members_per_label=2, photos_per_member=2)
    old_members, old_photos = gallery.members("china"), gallery.photos("china")
    new_photos = gallery.grow("china", members=2, photos=5)
    newcomers = set(gallery.members("china")) - set(old_members)
    assert len(newcomers) == 2
    assert {photo.member for photo in new_photos} <= newcomers
    assert gallery.photos("china") == (*reversed(new_photos), *old_photos)


def test_a_near_duplicate_has_the_same_member_and_looks_almost_the_same() -> None:
    gallery = Gallery(members_per_label=3, photos_per_member=8, twin_share=0.4)
    twin = next(photo for photo in gallery.photos() if photo.twin_of is not None)
    original = gallery.photo(twin.twin_of or 0)
    assert original is not None
    assert original.member == twin.member
    files = [render(photo, width=175) for photo in (twin, original)]
    assert files[0] != files[1]
    a, b = (np.asarray(decoded(data).convert("L").resize((16, 16)), dtype=float) for data in files)
    assert np.abs(a - b).mean() < 12


def test_the_costume_of_a_wrong_label_follows_another_label() -> None:
    gallery = Gallery(members_per_label=3, photos_per_member=8, wrong_share=1.0)
    assert all(photo.looks_like != photo.member.label for photo in gallery.photos())


def test_few_labels_are_wrong_by_default() -> None:
    photos = Gallery(members_per_label=30).photos()
    share = sum(photo.looks_like != photo.member.label for photo in photos) / len(photos)
    assert 0.005 < share < 0.1


def test_each_kind_of_broken_file_is_under_each_label(gallery: Gallery) -> None:
    for label in gallery.labels:
        assert {photo.flaw for photo in gallery.photos(label)} == {None, *FLAWS}


def test_broken_files_have_the_named_flaw(gallery: Gallery) -> None:
    files = {photo.flaw: render(photo, width=350, height=600) for photo in gallery.photos()}
    with pytest.raises(OSError, match="truncated"):
        decoded(files["truncated"])
    assert files["html"].startswith(b"<!doctype html>")
    assert max(decoded(files["tiny"]).size) < 32


@settings(max_examples=25, deadline=None)
@given(width=st.integers(10, 400), height=st.none() | st.integers(10, 600), index=st.integers(0, 30))
@example(width=35, height=None, index=15)
def test_a_photo_fits_the_requested_size(gallery: Gallery, width: int, height: int | None, index: int) -> None:
    photo = sound(gallery.photos())[index]
    image = decoded(render(photo, width=width, height=height))
    assert image.format == "JPEG"
    assert image.width <= width
    assert height is None or image.height <= height + 1
    assert image.width == width or image.height >= (height or 0) - photo_slack(photo)


def photo_slack(photo: Photo) -> float:
    """The height of one pixel of width, plus one for rounding."""
    return 1 / photo.aspect + 2


def test_an_original_of_few_pixels_is_not_enlarged(gallery: Gallery) -> None:
    photo = sound(gallery.photos())[0]
    assert decoded(render(photo, width=740, max_px=300)).width == 300


def test_an_icon_is_square(gallery: Gallery) -> None:
    assert decoded(render_square(sound(gallery.photos())[0], 100)).size == (100, 100)


def test_a_fresh_photo_is_not_in_the_gallery(gallery: Gallery) -> None:
    fresh = gallery.draw_fresh("japan", 1)
    assert decoded(fresh).size[0] == 720
    assert fresh == gallery.draw_fresh("japan", 1)
    assert fresh != gallery.draw_fresh("japan", 2)
    assert fresh != gallery.draw_fresh("china", 1)


def test_fresh_photos_do_not_change_the_gallery() -> None:
    gallery, other = Gallery(seed=1, members_per_label=2), Gallery(seed=1, members_per_label=2)
    gallery.draw_fresh("japan", 1)
    assert gallery.grow("japan") == other.grow("japan")


def test_costumes_follow_the_tendency_of_their_label() -> None:
    gallery = Gallery(members_per_label=15, wrong_share=0)
    for index, label in enumerate(gallery.labels):
        worn = Counter(photo.scene.costume.dress.pattern for photo in gallery.photos(label))
        assert worn.most_common(1)[0][0] == Tendency.of(index).pattern
        assert len(worn) > 1  # it is no certain sign


@given(st.integers(0, 35))
def test_no_two_of_many_labels_have_the_same_tendency(index: int) -> None:
    assert all(Tendency.of(other) != Tendency.of(index) for other in range(36) if other != index)


def test_every_possible_choice_can_be_drawn() -> None:
    assert set(_HEADGEAR) == set(HEADGEAR)
    assert set(_PROPS) == set(PROPS)
    assert set(MANNERS) == set(PATTERNS)
    seen = {photo.scene.style.backdrop: photo for photo in Gallery(members_per_label=12, flaws_per_label=0).photos()}
    assert set(seen) == set(BACKDROPS)
    for photo in seen.values():
        assert np.asarray(decoded(render(photo, width=60))).std() > 10
