"""A whole training, beside the recipe that everybody copies, on the same photos, splits and VGG16 weights.

- Ours is one process, `python -m trainer train`, from its start to its end: imports, the choice of precision, features
  of all views, head, baselines, evaluation, report, version. Photos are on the disk; nothing of them is cached.
- The reference (`benchmarks.reference`) would run for hours, so it runs a few epochs, in a process of its own. Its 200
  epochs are extrapolated: the first as it was, each other one as the mean of those measured after it. Its imports do
  not count. Its accuracy is that of the epochs it ran, and of no more.
- The machine's ceilings are taken in the same run, before and after; the better one counts.

Both have VGG16 with weights drawn from a seed: the comparison is one of ways to train, and says nothing of real photos.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import reference
from benchmarks.features import images_per_s_ceiling
from benchmarks.result import Figure, Goal, Result
from benchmarks.studio import ROOT, Studio, step_seconds, studio
from trainer.backbone import POLICIES
from trainer.material import read_photos, sort_photos

REFERENCE_EPOCHS = 3


def run(*, quick: bool, work_dir: Path, say: Callable[[str], None]) -> Result:
    """Take the figures.

    Args:
        quick: an eighth of the photos, and two epochs of the reference in place of three.
        work_dir: an empty folder; data folder and photos are put there.
        say: shows a line of progress.
    """
    photos_per_label, epochs = (40, 2) if quick else (300, REFERENCE_EPOCHS)
    with studio(work_dir / "data", photos_per_label=photos_per_label) as place:
        say(f"scraping {photos_per_label} photos for each of {len(place.gallery.labels)} labels")
        place.run("scrape")
        ceilings = [_ceilings()]
        say("a whole training; VGG16 has seeded random weights, as the reference's has")
        ours_s = place.run("train")
        say(f"{ours_s:.0f} s; {epochs} of {reference.EPOCHS} epochs of the reference")
        theirs = _run_reference(place, work_dir / "reference", epochs)
        ceilings.append(_ceilings())
    return _result(place, ours_s, theirs, {name: max(one[name] for one in ceilings) for name in ceilings[0]})


def _ceilings() -> dict[str, float]:
    return {precision: images_per_s_ceiling(precision) for precision in POLICIES}


def _run_reference(place: Studio, folder: Path, epochs: int) -> dict[str, Any]:
    """What the reference prints, on the very photos and splits that the trainer had."""
    settings = place.settings()
    reference.hang(sort_photos(read_photos(settings), settings).items, folder)
    environment = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.reference", str(folder), "--epochs", str(epochs)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode != 0:
        raise RuntimeError(f"the reference failed: {ran.stderr[-2000:]}")
    printed: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return printed


def _result(place: Studio, ours_s: float, theirs: dict[str, Any], ceilings: dict[str, float]) -> Result:
    champion = place.champion()
    settings = place.settings()
    dataset = sort_photos(read_photos(settings), settings)
    n_views = len(dataset.items) * len(settings.features.views)
    epoch_s = theirs["epoch_s"]
    reference_s = reference.whole_training_s(epoch_s)
    accuracy = champion.metrics["report"]["balanced_accuracy"]["value"]
    features_s = step_seconds(place.data_dir)["features"]
    figures: dict[str, Figure] = {
        "photos": len(dataset.items),
        **{f"{name}_photos": len(dataset.split(name)) for name in ("train", "validation", "holdout")},
        "whole_training_s": ours_s,
        "of_which_features_s": features_s,
        "features_images_per_s": n_views / features_s,
        "precision": champion.facts.precision,
        **{f"{precision}_ceiling_images_per_s": rate for precision, rate in ceilings.items()},
        "reference_epochs_run": len(epoch_s),
        "reference_first_epoch_s": epoch_s[0],
        "reference_s_per_epoch_after_the_first": sum(epoch_s[1:]) / (len(epoch_s) - 1),
        "reference_epochs_extrapolated_to": reference.EPOCHS,
        "reference_whole_training_s_extrapolated": reference_s,
        "times_faster": reference_s / ours_s,
        "balanced_accuracy": accuracy,
        f"reference_balanced_accuracy_after_{len(epoch_s)}_epochs_only": theirs["balanced_accuracy"],
        "balanced_accuracy_gain_points": 100 * (accuracy - theirs["balanced_accuracy"]),
        "weights": "VGG16 with seeded random weights, both",
    }
    goals = (Goal("times_faster", at_least=100), Goal("balanced_accuracy_gain_points", at_least=0))
    return Result(figures=figures, goals=goals)
