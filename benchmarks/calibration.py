"""Measures the calibration of scores: predicted score against accuracy, on holdout members.

One gallery is scraped, and its features are computed once. Then the split is drawn several times, each time with other
holdout members. For each draw, a head is fitted, its calibration and "not sure" threshold are chosen on validation, and
it is evaluated on the holdout. The first draw is the one of `python -m trainer train`. The target precision is higher
than the default, because at 0.8 no photo would get "not sure".

On a limited number of photos, the error of a perfectly calibrated head is small, but not zero. It is simulated by
drawing the label of each photo from the head's own scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.result import Figure, Goal, Result
from benchmarks.studio import Silent, describe_weights, gather, scraped_studio, with_other_members, with_photos
from trainer.config import Settings
from trainer.head.calibration import expected_calibration_error
from trainer.head.head import Floats, Indexes
from trainer.training.fitting import fit_and_evaluate
from trainer.training.training_data import TrainingData, class_indexes

Flags = npt.NDArray[np.bool_]

SIMULATIONS = 1000
TARGET_PRECISION = 0.9


@dataclass(frozen=True, eq=False)
class Draw:
    """One draw of the holdout, and a head's scores for it.

    Attributes:
        raw: (n, k) scores before calibration; `scores` are calibrated.
        class_indexes: (n,) true classes.
        thresholds: for "not sure", by label.
    """

    raw: Floats
    scores: Floats
    class_indexes: Indexes
    temperature: float
    doubt: float
    thresholds: tuple[float, ...]

    @property
    def right(self) -> Flags:
        """Whether the best score is that of the true label, (n,)."""
        right: Flags = self.scores.argmax(axis=1) == self.class_indexes
        return right

    @property
    def sure(self) -> Flags:
        """Whether the best score reaches the threshold, (n,)."""
        sure: Flags = self.scores.max(axis=1) >= np.array(self.thresholds)[self.scores.argmax(axis=1)]
        return sure


def run(*, quick: bool, work_dir: Path, say: Callable[[str], None], weights: str = "random") -> Result:
    """Run the benchmark.

    Args:
        quick: a twelfth of the photos, and three draws instead of ten.
        work_dir: an empty folder for the data folder.
        say: prints a line of progress.
        weights: as `features.weights`.
    """
    photos_per_label, n_draws = (80, 3) if quick else (1000, 10)
    options = {"EVALUATE__TARGET_PRECISION": str(TARGET_PRECISION)}
    with scraped_studio(
        work_dir / "data", photos_per_label=photos_per_label, say=say, weights=weights, options=options
    ) as place:
        settings, photos, training_data = gather(place, say)
    draws = []
    for turn in range(n_draws):
        draws.append(_draw(with_photos(training_data, with_other_members(photos, turn), settings), settings))
        say(f"draw {turn + 1} of {n_draws}: error {_error(draws[-1]):.3f}")
    return Result(
        figures={**_figures(draws, len(photos), settings), "weights": describe_weights(weights)},
        goals=(Goal("calibration_error", at_most=0.05),),
    )


def _draw(training_data: TrainingData, settings: Settings) -> Draw:
    trained = fit_and_evaluate(training_data, settings, Silent())
    items = training_data.dataset.split("holdout")
    features = training_data.features(items, views=settings.views[:1])[:, 0]
    return Draw(
        raw=trained.fitted.head.scores(features),
        scores=trained.holdout_scores,
        class_indexes=class_indexes(items),
        temperature=trained.head.temperature,
        doubt=trained.head.doubt,
        thresholds=trained.thresholds,
    )


def _error(draw: Draw) -> float:
    return expected_calibration_error(draw.scores, draw.class_indexes)


def errors_by_chance(scores: Floats, *, n: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """Simulated calibration errors, (n,), of a perfectly calibrated head: labels are drawn from the scores.

    Args:
        scores: (photos, k).
        n: number of simulations.
    """
    rng = np.random.default_rng(seed)
    edges = scores.cumsum(axis=1)[:, :-1]
    return np.array(
        [
            expected_calibration_error(scores, (rng.random((len(scores), 1)) > edges).sum(axis=1).astype(np.int64))
            for _ in range(n)
        ]
    )


def _figures(draws: list[Draw], n_photos: int, settings: Settings) -> dict[str, Figure]:
    first = draws[0]
    errors = [_error(draw) for draw in draws]
    chance = errors_by_chance(first.scores, n=SIMULATIONS)
    right, sure = (np.concatenate(parts) for parts in zip(*((draw.right, draw.sure) for draw in draws), strict=True))
    return {
        "photos": n_photos,
        "held_out_photos": len(first.scores),
        "calibration_error": errors[0],
        "error_before_calibration": expected_calibration_error(first.raw, first.class_indexes),
        "error_by_chance_mean": float(chance.mean()),
        "error_by_chance_95th_percentile": float(np.quantile(chance, 0.95)),
        "temperature": first.temperature,
        "doubt": first.doubt,
        "draws_of_the_holdout": len(draws),
        "error_mean_over_draws": float(np.mean(errors)),
        "error_worst_of_draws": max(errors),
        "error_before_mean_over_draws": float(
            np.mean([expected_calibration_error(draw.raw, draw.class_indexes) for draw in draws])
        ),
        "accuracy_over_draws": float(right.mean()),
        "sure_answers_over_draws": int(sure.sum()),
        "coverage_over_draws": float(sure.mean()),
        "precision_wanted_when_sure": settings.evaluate.target_precision,
        "precision_when_sure_over_draws": float(right[sure].mean()) if sure.any() else None,
    }
