"""What int8 costs on real pictures, beside float32: `--pictures FOLDER`, as for the benchmark `real`.

Both precisions compute the features of the same pictures, and ten draws fit a head on each. In each draw one label in
turn is foreign: it is left out, and told from the holdout of the others by the distance to what was learned. The heat
maps of both are of one head, that of the first draw, on pictures that it did not learn from; also of those pictures to
which int8 makes it give another answer.

VGG16 has ImageNet's weights, unless `--weights` says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import numpy.typing as npt

from benchmarks.foreign import Kind, tell
from benchmarks.pictures import folder_of, gather_pictures, real_weights, split
from benchmarks.result import Figure, Goal, Result
from benchmarks.studio import Silent, describe_weights, with_photos
from trainer.config import Settings
from trainer.head.evidence import evidence, heat
from trainer.head.head import Floats, Head, Indexes
from trainer.photos.dataset import SPLITS, Item, Split
from trainer.photos.decode import Decoder
from trainer.photos.manifest import Photo
from trainer.training.fitting import fit_and_evaluate
from trainer.training.training_data import TrainingData, class_indexes
from trainer.vgg16.load import relative_distance

N_DRAWS, N_QUICK = 10, 2
N_MAPS = 80
PRECISIONS = ("float32", "int8")


@dataclass(frozen=True, slots=True)
class _Draw:
    """The figures of a draw in one precision."""

    head: Head
    balanced_accuracy: float
    calibration_error: float
    foreign_auroc: float


def run(
    *,
    quick: bool,
    work_dir: Path,
    say: Callable[[str], None],
    pictures: Path | None = None,
    weights: str | None = None,
) -> Result:
    """Take the figures.

    Args:
        quick: fewer draws.
        work_dir: an empty folder; the data folder is made in it.
        say: shows a line of progress.
        pictures: a folder with a sub-folder for each label.
        weights: as `features.weights`; None: ImageNet's.
    """
    weights = weights or real_weights()
    folder, data_dir = folder_of(pictures), work_dir / "data"
    gathered = [gather_pictures(folder, weights, data_dir, say, precision=name) for name in PRECISIONS]
    settings, photos, exact = gathered[0]
    rounded = gathered[1][2]
    draws: list[list[_Draw]] = []
    for number in range(N_QUICK if quick else N_DRAWS):
        say(f"draw {number + 1}")
        draws.append([_draw(data, photos, settings, number) for data in (exact, rounded)])
    fresh = with_photos(exact, split(photos, 0), settings).dataset.split("holdout")[:N_MAPS]
    items = exact.dataset.items
    means = {
        f"{name}_{figure}": mean(getattr(draw[place], figure) for draw in draws)
        for figure in ("balanced_accuracy", "calibration_error", "foreign_auroc")
        for place, name in enumerate(PRECISIONS)
    }
    lost = [100 * (one.balanced_accuracy - other.balanced_accuracy) for one, other in draws]
    correlations, other_answers = _compare_maps(draws[0][0].head, fresh, exact, rounded, settings)
    figures: dict[str, Figure] = {
        "weights": describe_weights(weights),
        "pictures": len(photos),
        "draws": len(draws),
        "distance": relative_distance(rounded.features(items)[:, 0], exact.features(items)[:, 0]),
        **means,
        "points_lost": mean(lost),
        "points_lost_standard_error": stdev(lost) / len(lost) ** 0.5,
        "calibration_error_gained": means["int8_calibration_error"] - means["float32_calibration_error"],
        "foreign_auroc_lost": means["float32_foreign_auroc"] - means["int8_foreign_auroc"],
        "heat_map_correlation": float(correlations.mean()),
        "heat_map_correlation_lowest": float(correlations.min()),
        "heat_map_correlation_of_same_answers": float(correlations[~other_answers].mean()),
        "other_answers_share": float(other_answers.mean()),
    }
    goals = (
        Goal("points_lost", at_most=0.5),
        Goal("calibration_error_gained", at_most=0.01),
        Goal("foreign_auroc_lost", at_most=0.01),
        Goal("heat_map_correlation", at_least=0.98),
    )
    return Result(figures, goals)


def _draw(data: TrainingData, photos: Sequence[Photo], settings: Settings, number: int) -> _Draw:
    drawn = with_photos(data, split(photos, number), settings)
    trained = fit_and_evaluate(drawn, settings, Silent())
    labels = drawn.dataset.labels
    foreign = labels[number % len(labels)]
    splits: dict[Split, tuple[Floats, Indexes]] = {}
    for name in SPLITS:
        items = [item for item in drawn.dataset.split(name) if item.label != foreign]
        splits[name] = drawn.features(items)[:, 0], class_indexes(items)
    others = drawn.features([item for item in drawn.dataset.items if item.label == foreign])[:, 0]
    told = tell(Kind(labels, data.backbone.layers, splits), others)
    return _Draw(
        trained.head,
        trained.report.balanced_accuracy.value or 0.0,
        trained.report.expected_calibration_error,
        told.auroc,
    )


def _compare_maps(
    head: Head, items: Sequence[Item], exact: TrainingData, rounded: TrainingData, settings: Settings
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """The correlation of each picture's two heat maps, (n,), and whether they explain two answers, (n,)."""
    with closing(Decoder.in_bulk(settings.images, n_children=1)) as decoder:
        view = settings.views[:1]
        images = np.concatenate([decoder.views(item.path.read_bytes(), view) for item in items])
    maps, answers = [], []
    for data in (exact, rounded):
        parts = [data.backbone.extract(image[None], with_maps=True) for image in images]
        maps.append(np.concatenate([heat(evidence(head, part)) for part in parts]))
        answers.append(np.concatenate([head.logits(part.features).argmax(axis=1) for part in parts]))
    found = [np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in zip(*maps, strict=True)]
    return np.array(found, dtype=np.float32), answers[0] != answers[1]
