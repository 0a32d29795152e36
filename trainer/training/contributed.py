"""Removes contributed photos that their authors took back, or that nobody settled in time, with all their traces."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from trainer.bucket import open_bucket
from trainer.config import Settings
from trainer.errors import ImageError
from trainer.lock import only_one
from trainer.photos.contributions import SOURCE, Contribution, Contributions
from trainer.photos.decisions import Decision, Decisions
from trainer.photos.decode import Decoder
from trainer.photos.duplicates import perceptual_hash
from trainer.photos.manifest import FILE_NAME, Manifest
from trainer.photos.photo_files import open_files, read_photo
from trainer.training.session import LOCK
from trainer.training.takedown import take_down
from trainer.training.training_data import features_dir
from trainer.vgg16.cache import remove_everywhere

logger = logging.getLogger(__name__)

UNDO = timedelta(days=1)  # a dropped photo stays for so long, so that the decision can be taken back
LEFTOVER = timedelta(hours=1)  # a file without a record is one of a crash, or one that is being written


@dataclass(frozen=True, slots=True)
class Held:
    """A contributed photo that is there, and what a person decided about it; None: nothing yet."""

    contribution: Contribution
    decision: Decision | None

    @property
    def state(self) -> str:
        """In words."""
        if self.decision is None:
            return "waits"
        if self.decision.verdict == "drop":
            return "dropped"
        return f"accepted as {self.decision.label or self.contribution.label}"


def held(settings: Settings, *, now: datetime) -> list[Held]:
    """All contributed photos, the oldest first. Raises StorageError."""
    found = Contributions(settings.data_dir).all()
    decided: Mapping[str, Decision] = {}
    if found and (settings.data_dir / FILE_NAME).exists():
        with Manifest(settings.data_dir / FILE_NAME) as manifest:
            decided = Decisions(manifest).standing(SOURCE, at=now).of_id
    return [Held(each, decided.get(each.id)) for each in found]


def tidy(settings: Settings, *, now: datetime) -> int:
    """Remove what was taken back, dropped, or not settled in time, and prepare what is new; returns how many went.

    What goes is the file, its features, its place in lists and reports of versions, in journal and logs, and what was
    decided. After a crash, the same call finishes the work.

    Raises:
        StorageError: a training is running, or a file cannot be written; run it again.
    """
    folder = Contributions(settings.data_dir)
    if not folder.folder.is_dir():
        return 0
    with only_one(settings.data_dir / LOCK, "training"):
        return _tidy(folder, settings, now)


def _tidy(folder: Contributions, settings: Settings, now: datetime) -> int:
    keep = timedelta(days=settings.review.keep_contributions_days)
    for each in held(settings, now=now):
        if _is_over(each, now, keep):
            folder.take_back(each.contribution.id)
    gone = folder.taken_back()
    for contribution in gone:
        take_down(settings.data_dir, [contribution.photo("")], id_=contribution.id)
    if gone:
        sha256s = [contribution.sha256 for contribution in gone]
        remove_everywhere(features_dir(settings), sha256s, bucket=open_bucket(settings))
    if (settings.data_dir / FILE_NAME).exists():
        with Manifest(settings.data_dir / FILE_NAME) as manifest:
            Decisions(manifest).keep_only(SOURCE, [contribution.id for contribution in folder.all()])
    for contribution in gone:
        folder.forget(contribution.id)
        logger.info("contribution removed id=%s", contribution.id)
    folder.delete_leftovers(before=(now - LEFTOVER).timestamp())
    _measure(folder, settings)
    return len(gone)


def _is_over(each: Held, now: datetime, keep: timedelta) -> bool:
    if each.decision is None:
        return now - each.contribution.offered_at > keep
    return each.decision.verdict == "drop" and now - each.decision.decided_at > UNDO


def _measure(folder: Contributions, settings: Settings) -> None:
    """Store the perceptual hash of each new photo; one that cannot be decoded is taken back."""
    new = [each for each in folder.all() if folder.phash(each.id) is None]
    if not new:
        return
    files = open_files(settings)
    with closing(Decoder.in_bulk(settings.images, n_children=1)) as decoder:
        for each in new:
            try:
                data = read_photo(replace(each.photo(""), path=settings.data_dir / each.path), files)
                folder.set_phash(each.id, perceptual_hash(decoder.measure(data).brightness))
            except ImageError as error:
                logger.warning("contribution not readable id=%s error=%s", each.id, error)
                folder.take_back(each.id)
