"""Compares a version with the champion on held-out photos that neither has learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from trainer.config import Settings
from trainer.errors import ModelError
from trainer.evaluation.promotion import Verdict, compare
from trainer.head.head import Indexes
from trainer.photos.dataset import Dataset, Item
from trainer.registry.registry import PHOTOS, Version
from trainer.training.fitting import Trained
from trainer.training.training_data import (
    Flags,
    TrainingData,
    Watcher,
    class_indexes,
    compute_scores,
    groups,
    training_data_for,
)


@dataclass(frozen=True, slots=True)
class _Answers:
    """What a version says of n photos.

    Attributes:
        indexes: (n,) the class index of its best label; one more than there are for a label that the photos lack.
        known: (n,) whether it would answer at all; None if it answers everything.
    """

    items: Sequence[Item]
    indexes: Indexes
    known: Flags | None


def compare_with_champion(
    champion: Version, trained: Trained, training_data: TrainingData, settings: Settings, watcher: Watcher
) -> Verdict:
    """Compare a challenger that was just trained with the champion on the current holdout, as `compare_versions`."""
    dataset = training_data.dataset
    fresh = _fresh(dataset, champion)
    if not _has_all_labels(fresh, dataset):
        return Verdict(False, ("the champion was trained on too many photos of the current holdout; promote by hand",))
    challengers = _Answers(dataset.split("holdout"), trained.holdout_scores.argmax(axis=1), trained.holdout_known)
    champions = _answers(champion, fresh, dataset, settings, watcher, known=training_data)
    return _compare(champions, challengers, dataset, settings)


def compare_versions(
    champion: Version, challenger: Version, dataset: Dataset, settings: Settings, watcher: Watcher
) -> Verdict:
    """Compare two versions on the current holdout, without the training photos of either.

    If their labels differ, the current labels count: photos of a label unknown to a version count as its errors. So do
    photos that a version would refuse as unlike all it learned from; if one of them cannot refuse, both answer all.

    Raises:
        ModelError: one of them cannot be run, or nobody knows its training photos.
        StorageError: the disk is full.
    """
    fresh = _fresh(dataset, champion, challenger)
    if not _has_all_labels(fresh, dataset):
        return Verdict(False, ("both were trained on too many photos of the current holdout; promote by hand",))
    champions, challengers = (
        _answers(version, fresh, dataset, settings, watcher) for version in (champion, challenger)
    )
    return _compare(champions, challengers, dataset, settings)


def learned_photos(version: Version) -> set[str]:
    """SHA-256 of the photos that a version was trained and calibrated on.

    Raises:
        ModelError: it was imported without their list.
    """
    if PHOTOS not in version.sums:
        raise ModelError(
            f"{version.name}: the list of its training photos stayed where it was trained; export it with --photo-lists"
        )
    return set(version.read(PHOTOS).decode().split())


def _fresh(dataset: Dataset, *versions: Version) -> tuple[Item, ...]:
    """Held-out photos that no version has learned from."""
    learned = set().union(*map(learned_photos, versions))
    return tuple(item for item in dataset.split("holdout") if item.sha256 not in learned)


def _has_all_labels(items: Sequence[Item], dataset: Dataset) -> bool:
    return len({item.label for item in items}) == len(dataset.labels)


def _answers(
    version: Version,
    items: tuple[Item, ...],
    dataset: Dataset,
    settings: Settings,
    watcher: Watcher,
    *,
    known: TrainingData | None = None,
) -> _Answers:
    """A version's answers to those photos that can still be read; `known` as in `training_data_for`."""
    labels = dataset.labels
    seen = training_data_for(version, replace(dataset, items=items), settings, watcher, known=known)
    places = np.array([labels.index(label) if label in labels else len(labels) for label in version.facts.labels])
    scores, is_known = compute_scores(version, seen)
    return _Answers(seen.dataset.items, places[scores.argmax(axis=1)], is_known)


def _compare(champion: _Answers, challenger: _Answers, dataset: Dataset, settings: Settings) -> Verdict:
    """The verdict on the photos that both have answered."""
    n_labels = len(dataset.labels)
    both_refuse = champion.known is not None and challenger.known is not None

    def by_photo(answers: _Answers) -> dict[str, int]:
        known = answers.known if both_refuse and answers.known is not None else np.ones(len(answers.items), np.bool_)
        indexes = np.where(known, answers.indexes, n_labels)
        return dict(zip((item.sha256 for item in answers.items), indexes.tolist(), strict=True))

    champions, challengers = by_photo(champion), by_photo(challenger)
    items = [item for item in champion.items if item.sha256 in challengers]
    return compare(
        np.array([champions[item.sha256] for item in items]),
        np.array([challengers[item.sha256] for item in items]),
        class_indexes(items),
        groups(items),
        labels=dataset.labels,
        settings=settings.evaluate,
    )
