"""Kills trainings with SIGKILL at random moments, and checks that the resumed result is bit-identical.

A gallery on loopback is scraped and trained on, once without interruption, then repeatedly with a kill between the
first listing and the registry. The backbone has only one layer, so that all steps are hit, not only the features. It is
int8 where VGG16 can be quantised; the quantised network is compared too.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.result import Figure, Goal, Result
from benchmarks.studio import Studio, studio
from sandbox.gallery import Gallery
from trainer.training.journal import Journal

PHOTOS_PER_LABEL = 40
KILLS_EACH = 3  # per training, which then runs to its end; a new one scrapes again
CUT_SHORT = {"FEATURES__LAYERS": "[block1_conv1]", "FEATURES__PRECISION": "int8", "FEATURES__BATCH_SIZE": "8"}


def run(*, quick: bool, work_dir: Path, say: Callable[[str], None]) -> Result:
    """Run the benchmark.

    Args:
        quick: 4 kills instead of 20.
        work_dir: an empty folder for the data folders.
        say: prints a line of progress.
    """
    n_kills = 4 if quick else 20
    gallery = Gallery(1, members_per_label=12)
    with studio(
        work_dir / "undisturbed", photos_per_label=PHOTOS_PER_LABEL, gallery=gallery, options=CUT_SHORT
    ) as undisturbed:
        say("one training without interruption")
        whole_s = undisturbed_s = undisturbed.run("train")
        expected = undisturbed.outcome()
        rng = random.Random(0)
        hit: Counter[str] = Counter()
        outcomes: list[tuple[bytes, ...]] = []
        while hit.total() < n_kills:
            place = replace(undisturbed, data_dir=work_dir / str(len(outcomes)))
            for _ in range(min(KILLS_EACH, n_kills - hit.total())):
                moment_s = rng.uniform(0.5, whole_s)
                took_s = _train_until(place, moment_s)
                if took_s is not None:
                    whole_s = took_s  # the machine is faster than before, or much was done already
                    break
                hit[_last_step(place.data_dir)] += 1
                say(f"kill {hit.total()} after {moment_s:.1f} s, in the step {_last_step(place.data_dir)}")
            else:
                place.run("train")
            outcomes.append(place.outcome())
    figures: dict[str, Figure] = {
        "sudden_ends": n_kills,
        **{f"in_{step}": n for step, n in sorted(hit.items())},
        "trainings_finished_after_them": len(outcomes),
        "identical_share": sum(outcome == expected for outcome in outcomes) / len(outcomes),
        "undisturbed_s": undisturbed_s,
        "precision": undisturbed.champion().facts.precision,
    }
    return Result(figures=figures, goals=(Goal("identical_share", at_least=1.0),))


def _train_until(place: Studio, moment_s: float) -> float | None:
    """Run a training and kill it after some seconds; returns its own seconds if it ended before, else None."""
    started = time.perf_counter()
    process = place.start("train")
    try:
        _, errors = process.communicate(timeout=moment_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None
    if process.returncode != 0:
        raise RuntimeError(f"a training failed: {errors[-2000:]}")
    return time.perf_counter() - started


def _last_step(data_dir: Path) -> str:
    runs = Journal(data_dir).runs()
    return runs[-1].step if runs and runs[-1].ended is None else "start"
