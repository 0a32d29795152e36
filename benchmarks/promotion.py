"""Measures how often the promotion test is wrong, for equally good and for better challengers.

Champion and challenger are simulated: whether an answer is right depends on the photo (difficult for both), the member
(whose photos are similar), and chance, separately for each head. Two equally good heads differ on about a quarter of
the photos, like two trainings with different seeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.stats import norm

from benchmarks.result import Figure, Goal, Result
from trainer.config import EvaluateSettings
from trainer.evaluation.promotion import Verdict, compare
from trainer.head.head import Indexes

LABELS = ("japan", "china", "brazil")
ACCURACY = 0.65
GAIN = 0.05
PHOTOS_PER_MEMBER = 5
SHARED, MEMBER, OWN = 0.55, 0.2, 0.25  # shares of the variance of a photo's difficulty


def run(*, quick: bool, work_dir: Path, say: Callable[[str], None]) -> Result:  # noqa: ARG001
    """Run the benchmark.

    Args:
        quick: 100 challengers of each kind instead of 1,000, and fewer bootstrap samples.
        work_dir: not used.
        say: prints a line of progress.
    """
    n_challengers = 100 if quick else 1000
    settings = EvaluateSettings(resamples=500 if quick else 1000)
    figures: dict[str, Figure] = {"challengers_of_each_kind": n_challengers, "confidence": settings.confidence}
    for name, gain, n_photos in (
        ("equal", 0.0, 3000),
        ("better", GAIN, 3000),
        ("equal_600", 0.0, 600),
        ("better_600", GAIN, 600),
    ):
        say(f"{n_challengers:,} challengers, {100 * gain:+.0f} points, holdout of {n_photos:,} photos")
        started = time.perf_counter()
        rng = np.random.default_rng(0)
        verdicts = [simulate(rng, gain=gain, n_photos=n_photos, settings=settings) for _ in range(n_challengers)]
        figures[f"{name}_promoted_share"] = float(np.mean([verdict.promoted for verdict in verdicts]))
        figures[f"{name}_ms_per_verdict"] = (time.perf_counter() - started) * 1000 / n_challengers
    goals = (Goal("equal_promoted_share", at_most=0.05), Goal("better_promoted_share", at_least=0.8))
    return Result(figures=figures, goals=goals)


def simulate(rng: np.random.Generator, *, gain: float, n_photos: int, settings: EvaluateSettings) -> Verdict:
    """Compare a simulated champion with a challenger that is better by `gain`, on a simulated holdout."""
    classes = rng.integers(0, len(LABELS), n_photos // PHOTOS_PER_MEMBER).repeat(PHOTOS_PER_MEMBER)
    members = np.arange(len(classes)) // PHOTOS_PER_MEMBER
    ease = np.sqrt(MEMBER) * rng.normal(size=members[-1] + 1)[members] + np.sqrt(SHARED) * rng.normal(size=len(classes))

    def answers(accuracy: float) -> Indexes:
        right = ease + np.sqrt(OWN) * rng.normal(size=len(classes)) < norm.ppf(accuracy)
        wrong = (classes + rng.integers(1, len(LABELS), len(classes))) % len(LABELS)
        return np.where(right, classes, wrong)

    return compare(
        answers(ACCURACY),
        answers(ACCURACY + gain),
        classes,
        [str(member) for member in members],
        labels=LABELS,
        settings=settings,
    )
