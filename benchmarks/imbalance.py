"""Measures the effect of 2:2:1 data on the rarest class, with and without class weights (`head.balance`).

The labels of the sandbox's gallery are not equally difficult. So each label is the rare one equally often: the
difficulty of labels cancels out over all draws, and the remaining gap is the effect of being rare. With all photos
(2:2:2) the mean gap is zero; its deviation over the draws shows how different the labels' difficulties are.

One gallery is scraped with equal numbers of photos per label, and its features are computed once. Each draw keeps every
second member of the rare label, assigns members to splits again, fits a head and evaluates it on the holdout; `weights`
and `none` use the same draws.

With `--pictures FOLDER`, a folder with a sub-folder for each label, these are used, as many of each label as the
smallest has, and each is its own member. VGG16 then has ImageNet's weights, unless `--weights` says otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks import pictures as collection
from benchmarks.result import Figure, Goal, Result
from benchmarks.studio import Silent, describe_weights, gather, scraped_studio, with_other_members, with_photos
from trainer.config import Settings
from trainer.photos.manifest import Photo
from trainer.training.fitting import fit_and_evaluate
from trainer.training.training_data import TrainingData

Balance = Literal["weights", "none"]


def run(
    *, quick: bool, work_dir: Path, say: Callable[[str], None], pictures: Path | None = None, weights: str | None = None
) -> Result:
    """Run the benchmark.

    Args:
        quick: a fifth of the photos, and one draw per rare label instead of five.
        work_dir: an empty folder for the data folder.
        say: prints a line of progress.
        pictures: real ones; None: a scraped gallery.
        weights: as `features.weights`; None: ImageNet's for real pictures, random for the gallery.
    """
    photos_per_label, n_turns = (80, 1) if quick else (400, 5)
    weights = weights or ("random" if pictures is None else collection.real_weights())
    if pictures is None:
        with scraped_studio(work_dir / "data", photos_per_label=photos_per_label, say=say, weights=weights) as place:
            settings, photos, training_data = gather(place, say)
    else:
        gathered = collection.gather_pictures(collection.folder_of(pictures), weights, work_dir / "data", say)
        settings, photos, training_data = gathered[0], equally_many(gathered[1]), gathered[2]
    figures: dict[str, Figure] = {"photos": len(photos), "draws": n_turns * len(training_data.dataset.labels)}
    balances: tuple[Balance, ...] = ("weights", "none")
    for name, thinned in (("2_2_1", True), ("2_2_2", False)):
        for balance in balances if thinned else balances[:1]:
            say(f"{name.replace('_', ':')}, balance {balance}")
            figures |= _recalls(
                photos, training_data, _with_balance(settings, balance), n_turns, thinned, f"{name}_{balance}"
            )
    figures["weights"] = describe_weights(weights)
    return Result(figures=figures, goals=(Goal("2_2_1_weights_gap_points", at_least=-10, at_most=10),))


def _with_balance(settings: Settings, balance: Balance) -> Settings:
    head = settings.head.model_copy(update={"balance": balance})
    return settings.model_copy(update={"head": head})


def _recalls(
    photos: Sequence[Photo], training_data: TrainingData, settings: Settings, n_turns: int, thinned: bool, name: str
) -> dict[str, Figure]:
    """Mean recall, 0..1, of the rare label and of the others, over all draws; the gap is their difference."""
    rare, others, n_rare = [], [], 0
    for turn in range(n_turns):
        drawn = with_other_members(photos, turn)
        for label in training_data.dataset.labels:
            part = drop_every_second_member(drawn, label) if thinned else drawn
            report = fit_and_evaluate(with_photos(training_data, part, settings), settings, Silent()).report
            recalls = {one.label: one.recall.value or 0.0 for one in report.classes}
            rare.append(recalls.pop(label))
            others.append(float(np.mean(list(recalls.values()))))
            n_rare += next(one.n_photos for one in report.classes if one.label == label)
    gaps = 100 * (np.array(others) - np.array(rare))
    return {
        f"{name}_rare_held_out_photos": n_rare,
        f"{name}_rare_recall": float(np.mean(rare)),
        f"{name}_others_recall": float(np.mean(others)),
        f"{name}_gap_points": float(gaps.mean()),
        f"{name}_gap_points_standard_deviation_over_draws": float(gaps.std(ddof=1)),
    }


def equally_many(photos: Sequence[Photo]) -> list[Photo]:
    """As many photos of each label as the rarest label has, each by a member of its own."""
    ordered = sorted(photos, key=lambda photo: photo.sha256)
    n_each = min(Counter(photo.label for photo in photos).values())
    return [
        replace(photo, member_id=photo.sha256)
        for label in sorted({photo.label for photo in photos})
        for photo in [photo for photo in ordered if photo.label == label][:n_each]
    ]


def drop_every_second_member(photos: Sequence[Photo], label: str) -> list[Photo]:
    """Remove the photos of every second member of a label, in the order of first photos."""
    members = list(dict.fromkeys(photo.member_id for photo in photos if photo.label == label))
    left_out = set(members[1::2])
    return [photo for photo in photos if photo.label != label or photo.member_id not in left_out]
