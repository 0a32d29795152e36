"""Takes out of training what is beyond doubt, within a limit; nothing is deleted, and all can be undone."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from trainer.config import Settings
from trainer.photos.contributions import ID
from trainer.photos.contributions import SOURCE as CONTRIBUTIONS
from trainer.photos.decisions import Decision, Decisions
from trainer.photos.manifest import FILE_NAME, Manifest
from trainer.review.suspects import Review, Suspect

logger = logging.getLogger(__name__)


def take_out_sure(review: Review, settings: Settings, *, now: datetime) -> list[Suspect]:
    """Record the decision to take out each training photo that is beyond doubt; returns these.

    Of a label, at most the share `review.max_share` of its training photos is taken out, those taken out by earlier
    runs included, and as many stay as a training needs. Photos about which a person decided stay as they are.

    Raises:
        StorageError: nothing was recorded.
    """
    train = Counter(item.label for item in review.examined.dataset.split("train"))
    spare = Counter(item.label for item in review.examined.dataset.items)
    spare.subtract(dict.fromkeys(spare, settings.split.min_photos_per_label))
    full: set[str] = set()
    with Manifest(settings.data_dir / FILE_NAME) as manifest:
        decisions = Decisions(manifest)
        standing = decisions.standing(settings.source.kind, at=now)
        taken = Counter(
            photo.label
            for photo in review.examined.photos
            if (found := standing.find(photo)) and found.by == "program" and found.verdict == "drop"
        )
        chosen: list[Suspect] = []
        for suspect in review.suspects:
            label = suspect.photo.label
            limit = settings.review.max_share * (train[label] + taken[label])
            if not can_go(suspect) or standing.find(suspect.photo):
                continue
            if taken[label] + 1 > limit or (suspect.split and spare[label] <= 0):
                full.add(label)
                continue
            taken[label] += 1
            spare[label] -= suspect.split is not None
            chosen.append(suspect)
        decisions.put(_decision(each, now) for each in chosen)
    for label in sorted(full):
        logger.warning("more is beyond doubt than review.max_share or split.min_photos_per_label allow label=%s", label)
    logger.info("taken out beyond doubt photos=%d", len(chosen))
    return chosen


def can_go(suspect: Suspect) -> bool:
    """Whether a photo is beyond doubt, and not held out."""
    return suspect.is_sure and suspect.split in ("train", None)


def undo(settings: Settings, photo_ids: Sequence[str], *, now: datetime) -> list[str]:
    """Take back the newest decision about each photo, or all of the program's for "all"; returns what was done."""
    source = settings.source.kind
    with Manifest(settings.data_dir / FILE_NAME) as manifest:
        decisions, done = Decisions(manifest), []
        standing = decisions.standing(source, at=now)
        for photo_id in photo_ids:
            photo = manifest.photo(source, photo_id)
            found = standing.find(photo) if photo else None  # perhaps about the same bytes under another id
            if ID.fullmatch(photo_id):
                undone = decisions.undo(CONTRIBUTIONS, photo_id, now=now)
                done.append(f"photo {photo_id}: {'waits again' if undone else 'nothing was decided about it'}")
            elif photo_id == "all":
                done.append(f"{decisions.undo_programs(source, now=now):,} decisions of the program are taken back")
            elif undone := decisions.undo(source, found.photo_id if found else photo_id, now=now):
                done.append(f"photo {photo_id}: no longer decided ({undone.verdict}: {undone.reason})")
            else:
                done.append(f"photo {photo_id}: nothing was decided about it")
    return done


def _decision(suspect: Suspect, now: datetime) -> Decision:
    photo = suspect.photo
    return Decision(photo.source, photo.photo_id, photo.sha256, "drop", None, "program", str(suspect.reason), now)
