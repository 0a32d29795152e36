"""Compares a whole training with the usual tutorial recipe, on the same photos, splits and VGG16 weights.

- Ours is one process, `python -m trainer train`, from start to end: imports, choice of precision, features of all
  views, head, baselines, evaluation, report, version. Photos are on disk, and the caches are empty.
- The reference (`benchmarks.reference`) would run for hours, so it runs a few epochs, in a separate process. Its 200
  epochs are extrapolated: the first as measured, each other as the mean of the later ones. Imports are not included.
  It runs twice, with XLA (the default of Keras 3) and without; ours is compared with the faster one.
- Accuracies are compared at convergence: the trained part of the reference runs on maps of its frozen part, until its
  validation loss no longer falls (`--from-maps`).
- The machine's ceilings are measured in the same run, before and after; the better one counts.

Both use VGG16 with the same weights; on drawings, this compares training methods, and says nothing about real photos.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import reference
from benchmarks.features import images_per_s_of_product
from benchmarks.result import Figure, Goal, Result
from benchmarks.studio import ROOT, Studio, describe_weights, scraped_studio, step_seconds
from trainer.photos.dataset import SPLITS, Dataset
from trainer.training.training_data import read_photos, sort_photos
from trainer.vgg16.backbone import POLICIES

REFERENCE_EPOCHS = 3
WAYS: Mapping[str, Sequence[str]] = {"as_copied": (), "without_xla": ("--without-xla",)}  # name -> options


def run(*, quick: bool, work_dir: Path, say: Callable[[str], None], weights: str = "random") -> Result:
    """Run the benchmark.

    Args:
        quick: a fifth of the photos, and two epochs of the reference instead of three; it does not converge.
        work_dir: an empty folder for the data folder and photos.
        say: prints a line of progress.
        weights: as `features.weights`.
    """
    photos_per_label, epochs = (40, 2) if quick else (200, REFERENCE_EPOCHS)
    with scraped_studio(work_dir / "data", photos_per_label=photos_per_label, say=say, weights=weights) as place:
        ceilings = [_ceilings()]
        say("a whole training; VGG16 has the same weights as in the reference")
        ours_s = place.run("train")
        settings = place.settings()
        dataset = sort_photos(read_photos(settings), settings)
        reference.link_photos(dataset.items, work_dir / "reference")
        theirs = {}
        for name, options in WAYS.items():
            say(f"{epochs} of {reference.EPOCHS} epochs of the reference, {name.replace('_', ' ')}")
            theirs[name] = run_reference(work_dir / "reference", epochs, weights, options)
        say("the reference to convergence, from maps")
        limit = epochs if quick else reference.EPOCHS
        converged = run_reference(work_dir / "reference", limit, weights, ("--from-maps",))
        ceilings.append(_ceilings())
    best_ceilings = {name: max(one[name] for one in ceilings) for name in ceilings[0]}
    return _result(place, dataset, ours_s, theirs, converged, best_ceilings)


def _ceilings() -> dict[str, float]:
    return {precision: images_per_s_of_product(precision) for precision in POLICIES}


def run_reference(folder: Path, epochs: int, weights: str, options: Sequence[str]) -> dict[str, Any]:
    """Run the reference in a process with TensorFlow's default kernels; returns what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.reference",
            str(folder),
            "--epochs",
            str(epochs),
            "--weights",
            weights,
            *options,
        ],
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


def _result(
    place: Studio,
    dataset: Dataset,
    ours_s: float,
    theirs: Mapping[str, Mapping[str, Any]],
    converged: Mapping[str, Any],
    ceilings: Mapping[str, float],
) -> Result:
    champion = place.champion()
    n_views = len(dataset.items) * len(place.settings().features.views)
    features_s = step_seconds(place.data_dir)["features"]
    accuracy = champion.metrics["report"]["balanced_accuracy"]["value"]
    whole_s = {name: reference.whole_training_s(ran["epoch_s"]) for name, ran in theirs.items()}
    fastest = min(whole_s, key=lambda name: whole_s[name])
    n_epochs = len(theirs[fastest]["epoch_s"])
    figures: dict[str, Figure] = {
        "photos": len(dataset.items),
        **{f"{name}_photos": len(dataset.split(name)) for name in SPLITS},
        "whole_training_s": ours_s,
        "of_which_features_s": features_s,
        "features_images_per_s": n_views / features_s,
        "precision": champion.facts.precision,
        **{f"{precision}_ceiling_images_per_s": rate for precision, rate in ceilings.items()},
        "reference_epochs_run": n_epochs,
        "reference_epochs_extrapolated_to": reference.EPOCHS,
        **{f"reference_{name}_first_epoch_s": ran["epoch_s"][0] for name, ran in theirs.items()},
        **{f"reference_{name}_s_per_later_epoch": mean(ran["epoch_s"][1:]) for name, ran in theirs.items()},
        **{f"reference_{name}_extrapolated_s": seconds for name, seconds in whole_s.items()},
        "held_against": f"the reference {fastest.replace('_', ' ')}, extrapolated from {n_epochs} epochs",
        "times_faster": whole_s[fastest] / ours_s,
        "balanced_accuracy": accuracy,
        "reference_converged_after_epochs": len(converged["epoch_s"]),
        "reference_balanced_accuracy": converged["balanced_accuracy"],
        "balanced_accuracy_gain_points": 100 * (accuracy - converged["balanced_accuracy"]),
        "weights": f"{describe_weights(place.settings().features.weights)}, both",
    }
    goals = (Goal("times_faster", at_least=100), Goal("balanced_accuracy_gain_points", at_least=0))
    return Result(figures=figures, goals=goals)
