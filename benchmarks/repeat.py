"""Checks that the same training gives the same result twice, and measures its spread over seeds.

It runs two processes, `python -m trainer train`, each in a data folder with only the same photos: features, precision
and everything else are computed again. Then the fit is repeated with five seeds, as `train --repeat 5` does. VGG16 has
seeded random weights.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.result import Figure, Goal, Result
from benchmarks.studio import COMPARED, Silent, Studio, describe_weights, gather, scraped_studio
from trainer.training.fitting import fit_and_evaluate, repeat

N_SEEDS = 5


def run(*, quick: bool, work_dir: Path, say: Callable[[str], None], weights: str = "random") -> Result:
    """Run the benchmark.

    Args:
        quick: a fifth of the photos.
        work_dir: an empty folder for the data folders.
        say: prints a line of progress.
        weights: as `features.weights`.
    """
    photos_per_label = 40 if quick else 200
    with scraped_studio(work_dir / "first", photos_per_label=photos_per_label, say=say, weights=weights) as first:
        second = replace(first, data_dir=work_dir / "second")
        shutil.copytree(first.data_dir, second.data_dir)
        took_s = []
        for place in (first, second):
            say(f"training in {place.data_dir.name}")
            took_s.append(place.run("train"))
        same = [one == other for one, other in zip(first.outcome(), second.outcome(), strict=True)]
        precisions = {place.champion().facts.precision for place in (first, second)}
        say(f"the same photos with {N_SEEDS} seeds")
        accuracies = _accuracies(first, say)
    figures: dict[str, Figure] = {
        "photos": photos_per_label * len(first.gallery.labels),
        "training_s": statistics.mean(took_s),
        "precision": " and ".join(sorted(precisions)),
        "files_compared": ", ".join(COMPARED),
        "identical_share": sum(same) / len(same),
        "seeds": N_SEEDS,
        "balanced_accuracy_mean": statistics.mean(accuracies),
        "balanced_accuracy_standard_deviation": statistics.stdev(accuracies),
        "balanced_accuracy_min": min(accuracies),
        "balanced_accuracy_max": max(accuracies),
        "weights": describe_weights(weights),
    }
    return Result(figures=figures, goals=(Goal("identical_share", at_least=1.0),))


def _accuracies(place: Studio, say: Callable[[str], None]) -> list[float]:
    """Balanced accuracy on the holdout with each seed."""
    settings, _, training_data = gather(place, say)
    first = fit_and_evaluate(training_data, settings, Silent())
    trained = repeat(training_data, settings, Silent(), n=N_SEEDS, first=first).values()
    return [one.report.balanced_accuracy.value or 0.0 for one in trained]
