"""Finds stored photos that are worth a second look, with the reason in words; changes nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np

from trainer.config import Settings
from trainer.errors import DatasetError
from trainer.head.head import Floats, Indexes
from trainer.photos.contributions import SOURCE
from trainer.photos.dataset import OTHER_LABEL, Dataset, Split
from trainer.photos.decisions import Decisions, Verdict
from trainer.photos.decode import Decoder
from trainer.photos.duplicates import find_neighbours
from trainer.photos.manifest import FILE_NAME, Manifest, Photo
from trainer.photos.photo_files import open_files
from trainer.review.cached import gather
from trainer.review.cameras import load_cameras
from trainer.review.compared import Compared
from trainer.review.neighbours import Numbers, distance_under_label, last_block, nearest
from trainer.review.out_of_fold import Contradiction, find_contradictions, score_out_of_fold
from trainer.review.reposts import SURELY_SAME, Look, Repost, candidates, find_reposts
from trainer.review.statistics import is_blank, is_text, load_statistics, small_pictures
from trainer.review.words import Words
from trainer.training.figures import Counts, load_counts
from trainer.training.training_data import TrainingData, Watcher, class_indexes, features_dir, groups, read_photos

Kind = Literal[
    "blank", "text", "tiny", "placeholder", "repost", "label", "two labels", "alone", "contributed",
    "no figure", "small figure", "crowd",
]  # fmt: skip

TINY_PX = 64  # of the shorter side
PLACEHOLDER_MEMBERS = 3  # so many members do not post the same picture by chance
CROWD = 5  # figures in one photo
SURELY_WRONG = (0.02, 0.95)  # at most for the own label, at least for the other
ALONE = 3.3  # robust standard deviations beyond the median distance


@dataclass(frozen=True, slots=True)
class Suspect:
    """A photo that is worth a second look.

    Attributes:
        split: None for a photo that is in no split.
        reason: `str` says it in English.
        score: 0..1, how useful a look is.
        suggested: what to decide; None: a person must look.
        label: the suggested label, for "relabel"; else None.
        is_sure: beyond doubt: `--drop-sure` takes it out of training.
        neighbours: photos that the reason is about, or that are nearest.
        scores: of each label, from a head that did not learn from this member; empty if unknown.
    """

    photo: Photo
    split: Split | None
    kind: Kind
    reason: Words
    score: float
    suggested: Verdict | None = None
    label: str | None = None
    is_sure: bool = False
    neighbours: tuple[Photo, ...] = ()
    scores: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Examined:
    """All photos, with what is known about each.

    Attributes:
        photos: all of the source, in the order of admission.
        dataset: those that are used.
        used: the photos of `dataset.items`, in this order.
        features: (n, d) of `used`, in the view used for prediction.
        scores: (n, k) out of fold; None if there are too few members.
        statistics: SHA-256 -> the figures of `trainer.review.statistics`.
        counts: SHA-256 -> what the detector of figures found; empty unless trainings crop to the figure.
        layers: of the features.
        cameras: SHA-256 -> camera, of the photos whose file names one.
        remarks: what could not be examined, in words.
    """

    photos: tuple[Photo, ...]
    dataset: Dataset
    used: tuple[Photo, ...]
    features: Floats
    scores: Floats | None
    statistics: dict[str, Floats]
    layers: tuple[str, ...]
    cameras: dict[str, str]
    remarks: tuple[str, ...]
    counts: dict[str, Counts] = field(default_factory=dict)

    @property
    def members(self) -> Indexes:
        """A number for the member of each of `used`."""
        return np.unique(np.asarray(groups(self.dataset.items)), return_inverse=True)[1].astype(np.int64)


@dataclass(frozen=True, eq=False)
class Review:
    """Suspects, the most useful first, and all that was examined."""

    suspects: tuple[Suspect, ...]
    examined: Examined


def find_suspects(settings: Settings, watcher: Watcher) -> Review:
    """Examine the photos of the configured source about which nothing was decided; missing features are computed.

    Without missing features, the network is not loaded.

    Raises:
        DatasetError: too few photos.
        ModelError: the weights are not available.
        StorageError: the disk is full.
    """
    photos = [photo for photo in read_photos(settings) if photo.source != SOURCE]  # a person has looked at those
    with Manifest(settings.data_dir / FILE_NAME) as manifest:
        standing = Decisions(manifest).standing(settings.source.kind, at=datetime.now(UTC))
    training_data = gather(settings, watcher, photos)
    with closing(Decoder.in_bulk(settings.images)) as decoder:
        examined = _examine(photos, training_data, settings, watcher, decoder)
        watcher.step("suspects")
        found: dict[str, Suspect] = {}
        for each in _all(examined, settings, decoder, watcher.update):
            if standing.find(each.photo) is None:
                found.setdefault(each.photo.sha256, each)  # the first reason is the plainest
    return Review(tuple(sorted(found.values(), key=lambda each: (-each.is_sure, -each.score))), examined)


def _examine(
    photos: Sequence[Photo], training_data: TrainingData, settings: Settings, watcher: Watcher, decoder: Decoder
) -> Examined:
    dataset = training_data.dataset
    by_sha256 = {photo.sha256: photo for photo in photos}
    features = training_data.features(dataset.items, views=[settings.views[0]])[:, 0]
    watcher.step("statistics")
    placed = [Placed(photo.sha256, settings.data_dir / photo.path) for photo in photos]
    known, figures = load_statistics(placed, settings, decoder, progress=watcher.update)
    counts: dict[str, Counts] = {}
    if settings.images.crop == "figure":
        watcher.step("figures")
        counts = load_counts(placed, settings, decoder, progress=watcher.update)
    watcher.step("cameras")
    cameras = load_cameras(placed, settings, decoder, progress=watcher.update)
    watcher.step("folds")
    remarks, scores = [], None
    try:
        scores = score_out_of_fold(
            features,
            class_indexes(dataset.items),
            groups(dataset.items),
            labels=dataset.labels,
            settings=settings.head,
            progress=watcher.update,
        )
    except DatasetError as error:
        remarks.append(f"labels were not compared with photos: this {error}")
    if len(known) < len(photos):
        remarks.append(f"{len(photos) - len(known):,} photos cannot be read; run `python -m trainer scrape --verify`")
    return Examined(
        tuple(photos),
        dataset,
        tuple(by_sha256[item.sha256] for item in dataset.items),
        features,
        scores,
        dict(zip(known, figures, strict=True)),
        training_data.backbone.layers,
        cameras,
        tuple(remarks),
        counts,
    )


def _all(
    examined: Examined, settings: Settings, decoder: Decoder, progress: Callable[[int, int], None]
) -> Iterator[Suspect]:
    split_of = {item.sha256: item.split for item in examined.dataset.items}
    yield from _plain(examined, split_of)
    yield from _placeholders(examined, split_of, settings.split.near_duplicate_bits)
    rows = last_block(examined.features, examined.layers)
    places = nearest(rows, examined.members)[0]
    pairs = candidates(rows, small_pictures(examined.statistics, examined.used), examined.members)
    compared = Compared.load(features_dir(settings))
    look = Look(decoder, open_files(settings))
    yield from _reposts(examined, find_reposts(pairs, examined.dataset.items, compared, look, progress=progress))
    yield from _contradictions(examined, places)
    yield from _alone(examined, rows, places)
    doubtful = {sha256 for sha256, reason in examined.dataset.excluded if reason == OTHER_LABEL}
    for photo in examined.photos:
        if photo.sha256 in doubtful:
            yield Suspect(photo, None, "two labels", Words("two_labels"), 0.6)
    yield from _figures(examined, split_of)


def _plain(examined: Examined, split_of: dict[str, Split]) -> Iterator[Suspect]:
    """Photos that show nothing, or text."""
    for photo in examined.photos:
        figures, split = examined.statistics.get(photo.sha256), split_of.get(photo.sha256)
        if figures is not None and is_blank(figures):
            yield Suspect(photo, split, "blank", Words("blank"), 1.0, "drop", is_sure=True)
        elif figures is not None and is_text(figures):
            yield Suspect(photo, split, "text", Words("text"), 0.9, "drop")
        elif min(photo.width, photo.height) < TINY_PX:
            reason = Words("tiny", {"width": photo.width, "height": photo.height})
            yield Suspect(photo, split, "tiny", reason, 0.5, "drop")


def _figures(examined: Examined, split_of: dict[str, Split]) -> Iterator[Suspect]:
    """Photos that a crop to the figure is of no use for. None is wrong by that: a person must look."""
    for photo in examined.photos:
        counts, split = examined.counts.get(photo.sha256), split_of.get(photo.sha256)
        if counts is None:
            continue
        if counts.is_tiny:
            yield Suspect(photo, split, "small figure", Words("small_figure"), 0.3)
        elif not counts.is_cropped:
            yield Suspect(photo, split, "no figure", Words("no_figure"), 0.25)
        elif counts.n_faces >= CROWD:
            yield Suspect(photo, split, "crowd", Words("crowd", {"figures": counts.n_faces}), 0.2)


def _placeholders(examined: Examined, split_of: dict[str, Split], max_bits: int) -> Iterator[Suspect]:
    """One picture that many members have, as "image removed"."""
    photos = examined.photos
    neighbours = find_neighbours([photo.phash for photo in photos], max_bits=max_bits)
    by_hash = defaultdict(list)
    for number, photo in zip(neighbours.ids.tolist(), photos, strict=True):
        by_hash[number].append(photo)
    for number, photo in zip(neighbours.ids.tolist(), photos, strict=True):
        same = [other for near in neighbours.near(number).tolist() for other in by_hash[near]]
        owners = {other.member_id or other.photo_id for other in same}
        if len(owners) >= PLACEHOLDER_MEMBERS:
            reason = Words("placeholder", {"photos": len(same), "members": len(owners)})
            others = tuple(other for other in same if other.sha256 != photo.sha256)[:4]
            yield Suspect(photo, split_of.get(photo.sha256), "placeholder", reason, 0.95, "drop", neighbours=others)


def _reposts(examined: Examined, found: Iterable[Repost]) -> Iterator[Suspect]:
    """Photos that are one of another member, mirrored, framed or cropped."""
    for each in found:
        photo, original = examined.used[each.row], examined.used[each.original]
        item, first = examined.dataset.items[each.row], examined.dataset.items[each.original]
        is_elsewhere = (first.split, first.label) != (item.split, item.label)
        values = {"photo_id": original.photo_id, "label": first.label, "split": Words(first.split)}
        yield Suspect(
            photo,
            item.split,
            "repost",
            Words("repost_elsewhere" if is_elsewhere else "repost", values),
            each.likeness,
            "drop",
            is_sure=each.likeness >= SURELY_SAME,
            neighbours=(original,),
            scores=_scores(examined, each.row),
        )


def _contradictions(examined: Examined, places: Numbers) -> Iterator[Suspect]:
    if examined.scores is None:
        return
    labels = examined.dataset.labels
    for found in find_contradictions(examined.scores, class_indexes(examined.dataset.items)):
        item, other = examined.dataset.items[found.row], labels[found.other]
        values = {"label": item.label, "own": found.own, "other": other, "score": found.score}
        yield Suspect(
            examined.used[found.row],
            item.split,
            "label",
            Words("label", values),
            found.score - found.own,
            "relabel",
            label=other,
            is_sure=_is_surely_wrong(found),
            neighbours=tuple(examined.used[at] for at in places[found.row, :4].tolist()),
            scores=_scores(examined, found.row),
        )


def _is_surely_wrong(found: Contradiction) -> bool:
    own, other = SURELY_WRONG
    return found.own <= own and found.score >= other


def _alone(examined: Examined, rows: Floats, places: Numbers) -> Iterator[Suspect]:
    """Photos that are like nothing else under their label."""
    classes = class_indexes(examined.dataset.items)
    distances = np.log(np.maximum(distance_under_label(rows, examined.members, classes), 1e-6))
    for index, label in enumerate(examined.dataset.labels):
        of_label = np.flatnonzero(classes == index)
        middle = np.median(distances[of_label])
        spread = 1.4826 * np.median(np.abs(distances[of_label] - middle)) or 1e-6
        beyond = (distances[of_label] - middle) / spread
        for at in of_label[np.argsort(-beyond, kind="stable")].tolist():
            far = float((distances[at] - middle) / spread)
            if far <= ALONE:
                break
            yield Suspect(
                examined.used[at],
                examined.dataset.items[at].split,
                "alone",
                Words("alone", {"label": label}),
                min(0.9, far / 10),
                "drop",
                neighbours=tuple(examined.used[other] for other in places[at, :4].tolist()),
                scores=_scores(examined, at),
            )


def _scores(examined: Examined, row: int) -> tuple[float, ...]:
    return () if examined.scores is None else tuple(examined.scores[row].tolist())


@dataclass(frozen=True, slots=True)
class Placed:
    """A photo with its path from the working directory."""

    sha256: str
    path: Path


def count_by_kind(suspects: Sequence[Suspect]) -> Counter[Kind]:
    """The number of suspects of each kind."""
    return Counter(each.kind for each in suspects)
