"""Assigns photos to train, validation and holdout, so that no member and no near-duplicate is in two splits.

- All photos of a member are in one split, chosen by a hash of the member: new photos never move old ones.
- A photo without a member joins the split of its near-duplicate; if it has none, its own hash decides.
- A near-duplicate of an earlier photo in another split is excluded. Near-duplicates with different labels are all
  excluded: one of the labels is wrong, and it is unknown which.
- While a label has few members, a new member goes to a split without photos of the label, as soon as the split's share
  of the members is at least one. Only earlier photos count, so later photos do not change this either.
- What was decided about a photo changes its label, or takes it out, and moves no photo to another split. The decisions
  of a program count in training alone: no figure improves by what a program takes out of validation or the holdout.
- Photos that their authors contributed are for training alone, and change nothing about the others: those that are
  nearly the same as another photo, beyond their share of a label, or too many of one account are left out.
- Splits given by the source are kept; of near-duplicates in two splits, holdout keeps its photo, then validation. A
  missing validation or holdout split is taken from the source's training photos, as above.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from trainer.config import SplitSettings
from trainer.errors import DatasetError
from trainer.photos.contributions import MAX_OF_ACCOUNT, MAX_SHARE, SOURCE
from trainer.photos.decisions import Standing
from trainer.photos.duplicates import Neighbours, find_neighbours
from trainer.photos.manifest import Photo

Split = Literal["train", "validation", "holdout"]
SPLITS: tuple[Split, ...] = ("train", "validation", "holdout")
# The split that keeps a photo when the source has it in two splits.
KEEPS_FIRST: dict[str | None, int] = {"holdout": 0, "validation": 1, "train": 2, None: 0}

Flags = npt.NDArray[np.bool_]

NOTHING = Standing()
EPSILON = 1e-9  # 0.2 * 5 must count as 1

OTHER_SPLIT = "nearly the same as a photo in another split"
OTHER_LABEL = "nearly the same as a photo with another label"
CONTRIBUTED_TWICE = "contributed, but nearly the same as another photo"
CONTRIBUTED_TOO_MANY = f"contributed, beyond {MAX_OF_ACCOUNT} photos of one account"
CONTRIBUTED_BEYOND_SHARE = f"contributed, beyond {MAX_SHARE:.0%} of a label"
CONTRIBUTED_ELSEWHERE = "contributed, under a label that is not there"
TAKEN_OUT = {
    ("person", "train"): "taken out by hand",
    ("person", "validation"): "taken out of validation by hand",
    ("person", "holdout"): "taken out of the holdout by hand",
    ("program", "train"): "taken out by the program, beyond doubt",
}


@dataclass(frozen=True, slots=True)
class Item:
    """A photo with its class and split.

    Attributes:
        path: of the file, absolute or relative to the working directory.
        class_index: index of the label in `Dataset.labels`.
        group: the member, or the group of near-duplicates; its photos stay in one split.
    """

    sha256: str
    path: Path
    label: str
    class_index: int
    group: str
    split: Split


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled photos in three splits.

    Attributes:
        labels: sorted; the index of a label is its class index.
        items: in the order of admission.
        excluded: (sha256, reason) of excluded photos, in the order of admission.
        relabelled: (sha256, split) of photos in `items` whose label was decided, in the order of admission.
        decided_at: decisions of later do not count; None: none does.
        contributed: sha256 of photos in `items` that their authors contributed, all in training.
    """

    labels: tuple[str, ...]
    items: tuple[Item, ...]
    excluded: tuple[tuple[str, str], ...]
    relabelled: tuple[tuple[str, Split], ...] = ()
    decided_at: datetime | None = None
    contributed: tuple[str, ...] = ()

    def split(self, name: str) -> tuple[Item, ...]:
        """The photos of one split, in the order of admission."""
        return tuple(item for item in self.items if item.split == name)


def build_dataset(
    photos: Iterable[Photo],
    *,
    split: SplitSettings,
    data_dir: Path,
    labels: Collection[str] = (),
    decisions: Standing = NOTHING,
) -> Dataset:
    """Assign photos to splits.

    Args:
        photos: in the order of admission. Photos added at the end do not move earlier ones to another split.
            Contributed ones are those that a person accepted, with the label that was decided.
        data_dir: base of relative photo paths.
        labels: required labels; there may be more.
        decisions: about these photos. A decided label that is none of the photos' own or required ones does not count.

    Raises:
        DatasetError: a label has too few photos, or none in one of the splits; the message says how many are missing.
    """
    given = list(photos)
    listed = [photo for photo in given if photo.source != SOURCE]
    neighbours = find_neighbours([photo.phash for photo in listed], max_bits=split.near_duplicate_bits)
    places = _places(listed, neighbours, split)
    names = tuple(sorted({photo.label for photo in listed} | set(labels)))
    indexes = {name: index for index, name in enumerate(names)}
    decided = [_decided(photo, place, decisions, names) for photo, place in zip(listed, places, strict=True)]
    conflicting = _with_conflicting_labels([each.label for each in decided], neighbours)
    items: list[Item] = []
    excluded: list[tuple[str, str]] = []
    relabelled: list[tuple[str, Split]] = []
    for at, (photo, place, now) in enumerate(zip(listed, places, decided, strict=True)):
        if now.label is None:
            excluded.append((photo.sha256, now.reason))
        elif conflicting[at]:
            excluded.append((photo.sha256, OTHER_LABEL))
        elif place is None:
            excluded.append((photo.sha256, OTHER_SPLIT))
        else:
            group, where = place
            path = data_dir / photo.path
            items.append(Item(photo.sha256, path, now.label, indexes[now.label], group, where))
            if now.label != photo.label:
                relabelled.append((photo.sha256, where))
    _check(names, items, split)
    contributed, left_out = _contributed(given, items, names, split)
    for photo in contributed:
        group = f"{photo.source}:{photo.member_id}"
        items.append(Item(photo.sha256, data_dir / photo.path, photo.label, indexes[photo.label], group, "train"))
    excluded += left_out
    used = tuple(photo.sha256 for photo in contributed)
    return Dataset(names, tuple(items), tuple(excluded), tuple(relabelled), decisions.at, used)


@dataclass(frozen=True, slots=True)
class _Decided:
    """The label that counts; None for a photo that was taken out, with the reason."""

    label: str | None
    reason: str = ""


def _decided(photo: Photo, place: tuple[str, Split] | None, decisions: Standing, labels: Collection[str]) -> _Decided:
    decision = decisions.find(photo)
    split: Split = "train" if place is None else place[1]
    if decision is None or (decision.by == "program" and split != "train"):
        return _Decided(photo.label)
    if decision.verdict == "drop":
        return _Decided(None, TAKEN_OUT[decision.by, split])
    if decision.verdict == "relabel" and decision.label in labels:
        return _Decided(decision.label)
    return _Decided(photo.label)


def _places(photos: Sequence[Photo], neighbours: Neighbours, settings: SplitSettings) -> list[tuple[str, Split] | None]:
    """(group, split) of each photo; None for one that would be in two splits."""
    splitter = _Splitter(settings, own={photo.split for photo in photos})
    places: list[tuple[str, Split] | None] = [None] * len(photos)
    placed: dict[int, tuple[int, str, Split]] = {}  # perceptual hash -> (order, group, split) of its first photo
    order = sorted(range(len(photos)), key=lambda at: KEEPS_FIRST[photos[at].split])
    for turn, at in enumerate(order):
        photo, number = photos[at], int(neighbours.ids[at])
        near = [placed[other] for other in neighbours.near(number).tolist() if other in placed]
        if photo.member_id is not None:
            group = f"{photo.source}:{photo.member_id}"
        else:
            group = min(near)[1] if near else f"file:{photo.sha256}"
        where = splitter.choose(group, photo)
        if all(split == where for _, _, split in near):
            splitter.settle(group, photo.label, where)
            placed.setdefault(number, (turn, group, where))
            places[at] = (group, where)
    return places


class _Splitter:
    """Assigns groups to splits, one after another; later photos do not move earlier ones."""

    def __init__(self, settings: SplitSettings, *, own: Collection[str | None]) -> None:
        """`own`: the splits given by the source; None stands for photos without one."""
        holdout = 0.0 if "holdout" in own else settings.holdout
        validation = 0.0 if "validation" in own else settings.validation
        self._shares: dict[Split, float] = {
            "train": 1 - holdout - validation,
            "validation": validation,
            "holdout": holdout,
        }
        self._splits: dict[str, Split] = {}
        self._n_groups: defaultdict[str, Counter[Split]] = defaultdict(Counter)

    def choose(self, group: str, photo: Photo) -> Split:
        """Choose the split for a photo of a group."""
        if photo.split == "holdout":
            return "holdout"
        if photo.split == "validation":
            return "validation"
        split = self._splits.get(group) or self._split_for_new_group(group, photo.label)
        return split if self._shares[split] else "train"

    def settle(self, group: str, label: str, split: Split) -> None:
        """Record the split of a group."""
        if group not in self._splits:
            self._splits[group] = split
            self._n_groups[label][split] += 1

    def _split_for_new_group(self, group: str, label: str) -> Split:
        by_hash = self._by_hash(group)
        had = self._n_groups[label]
        n_groups = had.total() + 1
        due = [split for split in SPLITS if not had[split] and self._shares[split] * n_groups >= 1 - EPSILON]
        return by_hash if by_hash in due or not due else due[0]

    def _by_hash(self, group: str) -> Split:
        at = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8]) / 2**64
        if at < self._shares["holdout"]:
            return "holdout"
        return "validation" if at < self._shares["holdout"] + self._shares["validation"] else "train"


def _contributed(
    photos: Sequence[Photo], items: Sequence[Item], labels: Collection[str], settings: SplitSettings
) -> tuple[list[Photo], list[tuple[str, str]]]:
    """The contributed photos that are used, the oldest first; and the others, as (sha256, reason)."""
    chosen: list[Photo] = []
    left_out: list[tuple[str, str]] = []
    if not any(photo.source == SOURCE for photo in photos):
        return chosen, left_out
    n_train = Counter(item.label for item in items if item.split == "train")
    of_label: Counter[str] = Counter()
    of_account: Counter[str | None] = Counter()
    neighbours = find_neighbours([photo.phash for photo in photos], max_bits=settings.near_duplicate_bits)
    numbers: list[int] = neighbours.ids.tolist()
    there = {number for photo, number in zip(photos, numbers, strict=True) if photo.source != SOURCE}
    for photo, number in zip(photos, numbers, strict=True):
        if photo.source != SOURCE:
            continue
        if photo.label not in labels:
            left_out.append((photo.sha256, CONTRIBUTED_ELSEWHERE))
        elif not there.isdisjoint(neighbours.near(number).tolist()):
            left_out.append((photo.sha256, CONTRIBUTED_TWICE))
        elif of_account[photo.member_id] >= MAX_OF_ACCOUNT:
            left_out.append((photo.sha256, CONTRIBUTED_TOO_MANY))
        elif of_label[photo.label] + 1 > MAX_SHARE * n_train[photo.label]:
            left_out.append((photo.sha256, CONTRIBUTED_BEYOND_SHARE))
        else:
            there.add(number)
            of_label[photo.label] += 1
            of_account[photo.member_id] += 1
            chosen.append(photo)
    return chosen, left_out


def _with_conflicting_labels(labels: Sequence[str | None], neighbours: Neighbours) -> Flags:
    """Whether each photo (n,) has a near-duplicate with another label; None stands for a photo that was taken out."""
    codes = {label: code for code, label in enumerate(sorted({label for label in labels if label is not None}))}
    code = np.array([-1 if label is None else codes[label] for label in labels], dtype=np.int64)
    there = code >= 0
    lowest, highest = (np.full(neighbours.n_distinct, edge) for edge in (len(codes), -1))
    np.minimum.at(lowest, neighbours.ids[there], code[there])
    np.maximum.at(highest, neighbours.ids[there], code[there])
    doubtful = neighbours.over_near(np.minimum, lowest) < neighbours.over_near(np.maximum, highest)
    flags: Flags = doubtful[neighbours.ids]
    return flags


def _check(labels: Sequence[str], items: Sequence[Item], settings: SplitSettings) -> None:
    if len(labels) < 2:
        held = f"there are photos of {labels[0]} only" if labels else "there are no photos"
        raise DatasetError(f"{held}; at least two labels are needed. Run `python -m trainer scrape`")
    n_photos = Counter(item.label for item in items)
    wanted = settings.min_photos_per_label
    few = [
        f"{label} has {n_photos[label]}, {wanted - n_photos[label]} are missing"
        for label in labels
        if n_photos[label] < wanted
    ]
    if few:
        raise DatasetError(
            f"each label needs {wanted} usable photos (split.min_photos_per_label): {'; '.join(few)}. "
            "Run `python -m trainer scrape`, or add photos to the folder"
        )
    filled = {(item.label, item.split) for item in items}
    empty = [f"{label} has none for {split}" for label in labels for split in SPLITS if (label, split) not in filled]
    if empty:
        n_groups = Counter(label for label, _ in {(item.label, item.group) for item in items})
        members = ", ".join(f"{label}: {n_groups[label]}" for label in labels)
        raise DatasetError(
            f"each split needs photos of each label: {'; '.join(empty)}. Photos of one member, and "
            f"near-duplicates, stay in one split (members by label: {members}); add photos of more members"
        )
