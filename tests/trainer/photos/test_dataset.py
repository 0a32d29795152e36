"""Splits do not leak, and new photos do not move old ones, in any order."""

import io
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from sandbox.gallery import Gallery
from trainer.config import SplitSettings
from trainer.errors import DatasetError
from trainer.photos.contributions import SOURCE
from trainer.photos.dataset import (
    CONTRIBUTED_BEYOND_SHARE,
    CONTRIBUTED_ELSEWHERE,
    CONTRIBUTED_TOO_MANY,
    CONTRIBUTED_TWICE,
    OTHER_LABEL,
    OTHER_SPLIT,
    SPLITS,
    TAKEN_OUT,
    Dataset,
    Split,
    build_dataset,
)
from trainer.photos.decisions import Decision, Judge, Standing, Verdict
from trainer.photos.duplicates import find_neighbours, perceptual_hash
from trainer.photos.manifest import Photo

DATA_DIR = Path("/data")
NOW = datetime(2026, 3, 2, tzinfo=UTC)
LAX = SplitSettings(min_photos_per_label=1)
LABELS = ("brazil", "china", "japan")


@cache
def phash(seed: int, *, flipped: int = 0) -> str:
    """A hash of 256 random bits, with the first few flipped."""
    bits = np.random.default_rng(seed).integers(0, 2, 256)
    bits[:flipped] ^= 1
    return np.packbits(bits).tobytes().hex()


def photo(number: int, *, label: str = "japan", member: str | None = None, **more: Any) -> Photo:
    plain = Photo(
        sha256=f"{number:064x}",
        label=label,
        source="site",
        photo_id=str(number),
        member_id=member,
        page_url="",
        image_url="",
        path=Path(f"images/{label}/{number}.jpeg"),
        n_bytes=1,
        width=350,
        height=600,
        phash=phash(number),
        split=None,
        fetched_at=datetime(2026, 3, 1, tzinfo=UTC),
    )
    return replace(plain, **more)


def plenty(n_members: int = 12, n_photos: int = 3) -> list[Photo]:
    """Photos of each label by several members, enough for every split."""
    return [
        photo(1000 * at + 10 * member + n, label=label, member=f"{label}{member}")
        for at, label in enumerate(LABELS, start=1)
        for member in range(n_members)
        for n in range(n_photos)
    ]


def build(photos: list[Photo], split: SplitSettings = LAX, **more: Any) -> Dataset:
    return build_dataset(photos, split=split, data_dir=DATA_DIR, **more)


def splits(dataset: Dataset) -> dict[str, str]:
    return {item.sha256: item.split for item in dataset.items}


# Shape


def test_items_are_in_the_order_of_admission_and_labels_are_sorted() -> None:
    photos = plenty()
    dataset = build(photos[::-1])
    assert dataset.labels == LABELS
    assert [item.sha256 for item in dataset.items] == [photo.sha256 for photo in photos[::-1]]
    assert all(item.class_index == LABELS.index(item.label) for item in dataset.items)
    assert dataset.items[-1].path == DATA_DIR / photos[0].path
    assert not dataset.excluded
    assert sum(len(dataset.split(name)) for name in SPLITS) == len(photos)


def test_a_photo_that_is_used_in_place_keeps_its_path() -> None:
    photos = [replace(photo, path=Path("/pictures") / photo.photo_id) for photo in plenty()]
    assert build(photos).items[0].path == photos[0].path


def test_the_split_shares_follow_the_settings() -> None:
    photos = [photo(n, label=LABELS[n % 2], member=str(n)) for n in range(4000)]
    dataset = build(photos, SplitSettings(validation=0.1, holdout=0.3))
    shares = {name: len(dataset.split(name)) / len(photos) for name in SPLITS}
    assert shares == pytest.approx({"train": 0.6, "validation": 0.1, "holdout": 0.3}, abs=0.03)


def test_the_split_of_a_member_is_the_same_on_every_machine() -> None:
    found = {item.group: item.split for item in build(plenty()).items}
    assert {group for group, split in found.items() if split == "holdout"} == {
        *("site:brazil1", "site:brazil2", "site:brazil7", "site:brazil8"),
        *("site:china0", "site:china2", "site:china5"),
        *("site:japan4", "site:japan8"),
    }


# No leaks


@st.composite
def albums(draw: st.DrawFn) -> list[Photo]:
    """Photos of few members, with near-duplicates, and some without a member."""
    n = draw(st.integers(1, 60))
    members = draw(st.lists(st.sampled_from([None, *"abcdefghij"]), min_size=n, max_size=n))
    hashes = draw(st.lists(st.integers(0, 15), min_size=n, max_size=n))
    flips = draw(st.lists(st.integers(0, 14), min_size=n, max_size=n))
    labels = draw(st.lists(st.sampled_from(LABELS), min_size=n, max_size=n))
    own = draw(st.lists(st.sampled_from([None, "train", "validation", "holdout"]), min_size=n, max_size=n))
    with_own = draw(st.booleans())
    return [
        photo(
            number,
            label=labels[number],
            member=None if with_own else members[number],
            phash=phash(hashes[number], flipped=flips[number]),
            split=own[number] if with_own else None,
        )
        for number in range(n)
    ]


def sorted_out(photos: list[Photo]) -> Dataset:
    """A dataset of any photos, with enough other photos of each label."""
    others = plenty()
    if any(photo.split for photo in photos):
        others = [replace(photo, split=SPLITS[at % 3]) for at, photo in enumerate(others)]
    return build(others + renamed(photos, "f"))


def renamed(photos: list[Photo], digit: str) -> list[Photo]:
    """The same photos with other sha256s."""
    return [replace(photo, sha256=digit + photo.sha256[1:]) for photo in photos]


def distance(left: str, right: str) -> int:
    return (int(left, 16) ^ int(right, 16)).bit_count()


@given(albums())
@settings(deadline=None, max_examples=40)
def test_no_member_and_no_near_duplicate_is_in_two_splits_or_under_two_labels(photos: list[Photo]) -> None:
    dataset = sorted_out(photos)
    hashes = {photo.sha256: photo.phash for photo in renamed(photos, "f")}
    items = [item for item in dataset.items if item.sha256 in hashes]
    for left in items:
        for right in items:
            if distance(hashes[left.sha256], hashes[right.sha256]) <= LAX.near_duplicate_bits:
                assert (left.split, left.label) == (right.split, right.label)
    by_group = defaultdict(set)
    for item in dataset.items:
        by_group[item.group].add(item.split)
    if not any(photo.split for photo in photos):
        assert all(len(found) == 1 for found in by_group.values())


@given(albums(), albums())
@settings(deadline=None, max_examples=40)
def test_later_photos_do_not_move_earlier_ones(before: list[Photo], after: list[Photo]) -> None:
    before = [replace(photo, split=None) for photo in before]
    after = [replace(photo, split=None) for photo in renamed(after, "e")]
    early, late = splits(build(plenty() + before)), splits(build(plenty() + before + after))
    assert all(late.get(sha256, split) == split for sha256, split in early.items())
    dropped = dict(build(plenty() + before + after).excluded)
    assert all(dropped[sha256] == OTHER_LABEL for sha256 in early.keys() - late.keys())


@given(albums())
@settings(deadline=None, max_examples=40)
def test_every_photo_is_an_item_or_excluded_with_a_reason(photos: list[Photo]) -> None:
    dataset = sorted_out(photos)
    listed = [item.sha256 for item in dataset.items] + [sha256 for sha256, _ in dataset.excluded]
    assert sorted(listed) == sorted(photo.sha256 for photo in plenty() + renamed(photos, "f"))
    assert {reason for _, reason in dataset.excluded} <= {OTHER_LABEL, OTHER_SPLIT}


def test_a_near_duplicate_by_a_member_of_another_split_is_excluded() -> None:
    photos = plenty()
    items = build(photos).items
    theirs = next(item for item in items if item.split == "holdout")
    ours = next(item for item in items if item.split == "train" and item.label == theirs.label)
    original = next(photo for photo in photos if photo.sha256 == theirs.sha256)
    copy = photo(1, label=theirs.label, member=ours.group.removeprefix("site:"), phash=original.phash)
    assert build([*photos, copy]).excluded == ((copy.sha256, OTHER_SPLIT),)


def test_near_duplicates_with_two_labels_are_both_excluded() -> None:
    photos = plenty()
    copy = photo(1, label="china", member=photos[0].member_id, phash=photos[0].phash)
    assert build([*photos, copy]).excluded == ((photos[0].sha256, OTHER_LABEL), (copy.sha256, OTHER_LABEL))


def test_without_members_near_duplicates_join_the_split_of_the_first() -> None:
    photos = [photo(n, label=LABELS[n % 2]) for n in range(100)]
    copies = [replace(photo(1000 + n, label=LABELS[n % 2]), phash=phash(n, flipped=5)) for n in range(100)]
    dataset = build(photos + copies)
    groups = [item.group for item in dataset.items]
    assert groups[:100] == groups[100:]
    assert len(set(groups)) == 100
    assert len({item.split for item in dataset.items}) == 3


# A source's own split


def with_own_split(*names: str) -> list[Photo]:
    """A hundred photos of two labels in each of these splits, without members."""
    return [
        photo(10_000 * at + 1000 * index + n, label=label, split=name)
        for at, name in enumerate(names, start=1)
        for index, label in enumerate(LABELS[:2])
        for n in range(100)
    ]


def test_a_sources_own_split_is_respected() -> None:
    photos = with_own_split("train", "validation", "holdout")
    assert splits(build(photos)) == {photo.sha256: photo.split for photo in photos}


@pytest.mark.parametrize(("own", "missing"), [("validation", "holdout"), ("holdout", "validation")])
def test_a_missing_split_is_taken_from_the_training_photos(own: str, missing: str) -> None:
    photos = with_own_split("train", own)
    found = splits(build(photos))
    assert {found[photo.sha256] for photo in photos if photo.split == own} == {own}
    n_missing = sum(found[photo.sha256] == missing for photo in photos if photo.split == "train")
    n_train = sum(photo.split == "train" for photo in photos)
    assert 0.1 < n_missing / n_train < 0.3


@pytest.mark.parametrize(
    ("first", "second"), [("train", "holdout"), ("train", "validation"), ("validation", "holdout")]
)
@pytest.mark.parametrize("late", [False, True])
def test_of_near_duplicates_in_two_given_splits_the_evaluation_split_keeps_its_photo(
    first: str, second: str, late: bool
) -> None:
    photos = with_own_split("train", "validation", "holdout")
    copies = [
        photo(1, label="china", split=first, phash=phash(0)),
        photo(2, label="china", split=second, phash=phash(0)),
    ]
    dataset = build(photos + copies[::-1] if late else copies + photos)
    assert dataset.excluded == ((copies[0].sha256, OTHER_SPLIT),)


# Too few


def test_no_photos_at_all_says_what_to_do() -> None:
    with pytest.raises(DatasetError, match=r"no photos.*python -m trainer scrape"):
        build([])
    with pytest.raises(DatasetError, match="of japan only"):
        build([photo(n, member=str(n)) for n in range(50)])


def test_too_few_photos_say_how_many_are_missing_of_each_label() -> None:
    photos = plenty() + [photo(n, label="chile", member=str(n)) for n in range(3)]
    with pytest.raises(DatasetError) as caught:
        build(photos, SplitSettings(min_photos_per_label=37))
    assert "brazil has 36, 1 are missing; chile has 3, 34 are missing; china has 36" in str(caught.value)


def test_a_required_label_without_photos_is_named() -> None:
    with pytest.raises(DatasetError, match="chile has 0, 1 are missing"):
        build(plenty(), labels=["chile", "japan"])


def test_excluded_photos_do_not_count() -> None:
    photos = plenty(n_photos=2)
    copy = photo(1, label="china", member="x", phash=photos[0].phash)
    with pytest.raises(DatasetError, match="brazil has 23, 1 are missing"):
        build([*photos, copy], SplitSettings(min_photos_per_label=24))


@pytest.mark.parametrize("order", range(20))
def test_six_members_are_enough_for_all_splits(order: int) -> None:
    photos = [
        photo(10 * member + n, label=label, member=f"{order}{label}{member}")
        for label in LABELS
        for member in range(6)
        for n in range(4)
    ]
    photos = [replace(photo, sha256=f"{at:064x}", phash=phash(at)) for at, photo in enumerate(photos)]
    assert {(item.label, item.split) for item in build(photos).items} == {
        (label, split) for label in LABELS for split in SPLITS
    }


def test_too_few_members_for_all_splits_say_so() -> None:
    photos = [photo(1000 * at + n, label=label, member=label) for at, label in enumerate(LABELS) for n in range(40)]
    with pytest.raises(DatasetError, match=r"china has none for .* more members"):
        build(photos)


# Near-duplicates


@given(st.integers(0, 40), st.integers(0, 30))
@settings(deadline=None, max_examples=40)
def test_neighbours_are_exactly_those_within_the_distance(max_bits: int, n: int) -> None:
    rng = np.random.default_rng(n)
    bases = rng.integers(0, 2, (5, 256))
    rows = bases[rng.integers(0, 5, 40)]
    for row in rows:
        row[rng.choice(256, rng.integers(0, max_bits + 3), replace=False)] ^= 1
    hashes = [np.packbits(row).tobytes().hex() for row in rows]
    found = find_neighbours(hashes, max_bits=max_bits)
    for left, left_id in zip(hashes, found.ids.tolist(), strict=True):
        near = set(found.near(left_id).tolist())
        for right, right_id in zip(hashes, found.ids.tolist(), strict=True):
            assert (right_id in near) == (distance(left, right) <= max_bits)


def test_resized_copies_have_near_hashes_and_other_photos_do_not() -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (2, 12, 8, 3)).astype(np.uint8)
    photos = [Image.fromarray(pixels).resize((350, 525), Image.Resampling.BICUBIC) for pixels in coarse]
    smaller = [image.resize((150, 225)) for image in photos]
    hashes = [perceptual_hash(np.array(image)) for image in (*photos, *smaller)]
    assert all(len(found) == 64 for found in hashes)
    assert distance(hashes[0], hashes[2]) <= SplitSettings().near_duplicate_bits
    assert distance(hashes[0], hashes[1]) > 80


def _jpeg(image: Image.Image) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=30)
    return Image.open(out)


def _cropped(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((width // 20, height // 20, width - width // 20, height - height // 20))


REPOSTS = {
    "half the size": (lambda image: image.resize((image.width // 2, image.height // 2)), True),
    "other proportions": (lambda image: image.resize((300, 300)), True),
    "JPEG of quality 30": (_jpeg, True),
    "grey": (lambda image: image.convert("L"), True),
    "cropped": (_cropped, False),
    "framed": (lambda image: ImageOps.expand(image, border=image.width // 20, fill="white"), False),
    "mirrored": (ImageOps.mirror, False),
}


@pytest.mark.parametrize(("repost", "is_found"), REPOSTS.values(), ids=REPOSTS)
def test_uncropped_reposts_are_found_but_not_cropped_or_mirrored_ones(
    drawings: list[Image.Image], repost: Callable[[Image.Image], Image.Image], is_found: bool
) -> None:
    """docs/RELIABILITY.md documents what is not found; update it if this changes."""
    hashes = [perceptual_hash(np.array(image)) for image in drawings]
    again = [perceptual_hash(np.array(repost(image).convert("RGB"))) for image in drawings]
    near = [distance(*pair) <= SplitSettings().near_duplicate_bits for pair in zip(hashes, again, strict=True)]
    assert near == [is_found] * len(drawings)


@pytest.fixture(scope="module")
def drawings() -> list[Image.Image]:
    gallery = Gallery(1, members_per_label=4)
    drawn = (gallery.draw_fresh(label, seed, width_px=360) for seed in range(4) for label in gallery.countries)
    return [Image.open(io.BytesIO(data)).convert("RGB") for data in drawn]


def test_thousands_of_equal_photos_are_fast() -> None:
    copies = [photo(10_000 + n, label="japan", member=str(n), phash=phash(0)) for n in range(3000)]
    dataset = build(plenty() + copies)
    assert len({item.split for item in dataset.items[-500:]}) == 1
    assert len(dataset.items) + len(dataset.excluded) == len(plenty()) + len(copies)


def decided(photo: Photo, verdict: Verdict, *, label: str | None = None, by: Judge = "person") -> Decision:
    return Decision("site", photo.photo_id, photo.sha256, verdict, label, by, "seen", NOW)


def standing(*decisions: Decision) -> Standing:
    by_id = {each.photo_id: each for each in decisions}
    return Standing(by_id, {each.sha256: each for each in decisions}, NOW)


def places_of(dataset: Dataset) -> dict[str, str]:
    return {item.sha256: item.split for item in dataset.items}


def test_a_decision_changes_a_label_or_takes_a_photo_out_and_moves_no_other() -> None:
    photos = plenty()
    before = build(photos)
    moved, gone = photos[0], photos[-1]
    after = build(photos, decisions=standing(decided(moved, "relabel", label="japan"), decided(gone, "drop")))
    assert places_of(after) == {key: value for key, value in places_of(before).items() if key != gone.sha256}
    assert {item.sha256: item.label for item in after.items}[moved.sha256] == "japan"
    assert after.relabelled == ((moved.sha256, places_of(before)[moved.sha256]),)
    assert [sha256 for sha256, _ in after.excluded] == [gone.sha256]


@pytest.mark.parametrize("split", SPLITS)
def test_a_program_takes_photos_out_of_training_alone_and_a_person_is_told_where(split: Split) -> None:
    photos = plenty()
    item = build(photos).split(split)[0]
    chosen = next(photo for photo in photos if photo.sha256 == item.sha256)
    by_program = build(photos, decisions=standing(decided(chosen, "drop", by="program")))
    assert (item.sha256 in places_of(by_program)) == (split != "train")
    by_person = build(photos, decisions=standing(decided(chosen, "drop")))
    assert by_person.excluded == ((item.sha256, TAKEN_OUT["person", split]),)
    assert split == "train" or split in TAKEN_OUT["person", split]


def test_a_decision_holds_for_the_same_bytes_under_another_id_and_for_the_id_with_other_bytes() -> None:
    photos = plenty()
    decision = decided(photos[0], "drop")
    for again in (replace(photos[0], photo_id="new"), replace(photos[0], sha256="f" * 64)):
        assert len(build([again, *photos[1:]], decisions=standing(decision)).excluded) == 1


def test_a_person_settles_near_duplicates_with_different_labels() -> None:
    photos = plenty()
    twin = photo(99_999, label="china", member="brazil0", phash=photos[0].phash)
    assert {reason for _, reason in build([*photos, twin]).excluded} == {OTHER_LABEL}
    settled = build([*photos, twin], decisions=standing(decided(twin, "relabel", label="brazil")))
    assert not settled.excluded
    assert len(build([*photos, twin], decisions=standing(decided(twin, "drop"))).excluded) == 1


def test_a_decided_label_that_no_longer_exists_does_not_count() -> None:
    photos = plenty()
    unknown = standing(decided(photos[0], "relabel", label="atlantis"))
    assert build(photos, decisions=unknown).items == build(photos).items


# Contributed by their authors


def contributed(number: int, *, account: str = "7", label: str = "japan", **more: Any) -> Photo:
    return photo(90_000 + number, label=label, member=account, source=SOURCE, **more)


def test_contributed_photos_are_for_training_alone_and_change_nothing_about_the_others() -> None:
    photos = plenty(n_members=40)
    without = build(photos)
    # Accounts that are called as members are nobody's members.
    offered = [contributed(n, account=f"japan{n}") for n in range(40)]
    dataset = build([*offered[:20], *photos, *offered[20:]])
    assert dataset.items[: len(photos)] == without.items
    more = dataset.items[len(photos) :]
    assert {item.split for item in more} == {"train"}
    assert dataset.contributed == tuple(item.sha256 for item in more)
    n_train = sum(item.label == "japan" for item in without.split("train"))
    assert len(more) == int(0.02 * n_train) > 0
    assert {reason for _, reason in dataset.excluded} == {CONTRIBUTED_BEYOND_SHARE}


def test_of_one_account_five_contributed_photos_are_used() -> None:
    photos = plenty(n_members=99, n_photos=9)
    dataset = build([*photos, *(contributed(n) for n in range(7)), contributed(8, account="8")])
    assert [sha256 for sha256, _ in dataset.excluded] == [contributed(n).sha256 for n in (5, 6)]
    assert {reason for _, reason in dataset.excluded} == {CONTRIBUTED_TOO_MANY}
    assert len(dataset.contributed) == 6


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("label", ["japan", "brazil"])
def test_a_contributed_copy_takes_no_photo_out(split: str, label: str) -> None:
    photos = plenty(n_members=40)
    without = build(photos)
    victim = next(item.sha256 for item in without.items if item.split == split and item.label == "japan")
    copied = next(photo for photo in photos if photo.sha256 == victim)
    dataset = build([*photos, contributed(1, label=label, phash=copied.phash)])
    assert dataset.items == without.items
    assert dataset.excluded == ((contributed(1).sha256, CONTRIBUTED_TWICE),)


def test_a_photo_that_is_contributed_twice_counts_once() -> None:
    offered = [contributed(1), contributed(2, account="8", phash=phash(90_001, flipped=3))]
    dataset = build([*plenty(n_members=40), *offered])
    assert dataset.contributed == (offered[0].sha256,)
    assert dataset.excluded == ((offered[1].sha256, CONTRIBUTED_TWICE),)


def test_a_contributed_photo_makes_no_label() -> None:
    dataset = build([*plenty(n_members=40), contributed(1, label="atlantis")])
    assert dataset.labels == LABELS
    assert dataset.excluded == ((contributed(1).sha256, CONTRIBUTED_ELSEWHERE),)
