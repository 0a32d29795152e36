"""How good the head is on real pictures: `--pictures FOLDER`, with a sub-folder of pictures for each label.

Each draw makes other splits: half of the pictures to learn from, a fifth for validation, the rest for the holdout. The
head is compared with a plain logistic regression on the same features, its strength chosen by validation loss, and with
the trainer's baselines. Then one label in turn is made rare, in two ways:

- 12 beside 50: a dozen training pictures and 8 for validation, beside at most 50 of each other label;
- 2:2:1: half as many for training and validation as of each other label, which have as many as the smallest has; its
  goal is for fifty and more.

VGG16 has ImageNet's weights, unless `--weights` says otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from statistics import mean

from threadpoolctl import threadpool_limits

from benchmarks import pictures as collection
from benchmarks.result import Figure, Goal, Result
from benchmarks.studio import Silent, describe_weights, with_photos
from trainer.config import Settings
from trainer.evaluation.evaluate import balanced_accuracy
from trainer.head.head import Floats, Indexes
from trainer.photos.decode import Decoder
from trainer.photos.manifest import Photo
from trainer.training.baselines import baselines
from trainer.training.fitting import Trained, fit_and_evaluate
from trainer.training.training_data import TrainingData, class_indexes

N_DRAWS, N_QUICK = 10, 2
DOZEN, ITS_VALIDATION, FIFTY = 12, 8, 50
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)

Limits = Mapping[str, Mapping[str, int]]


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
    weights = weights or collection.real_weights()
    gathered = collection.gather_pictures(collection.folder_of(pictures), weights, work_dir / "data", say)
    figures = measure(*gathered, n_draws=N_QUICK if quick else N_DRAWS, say=say)
    goals = [Goal("points_above_regression", at_least=-1), Goal("own_refused", at_most=0.07)]
    if figures["12_beside_50_points_below"] is not None:
        goals.append(Goal("12_beside_50_points_below", at_most=15))
    smallest = figures["2_2_1_training_pictures"]
    if isinstance(smallest, int) and smallest >= FIFTY:
        goals.append(Goal("2_2_1_points_below", at_most=10))
    return Result({"weights": describe_weights(weights), **figures}, tuple(goals))


def measure(
    settings: Settings, photos: Sequence[Photo], data: TrainingData, *, n_draws: int, say: Callable[[str], None]
) -> dict[str, Figure]:
    """The figures over all draws; means, unless they are named otherwise."""
    labels = data.dataset.labels
    draws, regressions, simpler = [], [], []
    below: dict[str, list[tuple[float, float]]] = {"12_beside_50": [], "2_2_1": []}
    for draw in range(n_draws):
        say(f"draw {draw + 1} of {n_draws}")
        split = collection.split(photos, draw)
        drawn = with_photos(data, split, settings)
        draws.append(fit_and_evaluate(drawn, settings, Silent()))
        regressions.append(_regression(drawn, settings))
        with closing(Decoder.in_bulk(settings.images, n_children=1)) as decoder:
            simpler.append(baselines(drawn.dataset, settings, decoder))
        learned = Counter(photo.label for photo in split if photo.split == "train")
        for name, limits in _rare_cases(learned, draw).items():
            rare, kept = limits
            thin = fit_and_evaluate(with_photos(data, collection.thinned(split, kept), settings), settings, Silent())
            below[name].append(_recalls(thin, rare))
    accuracies = [trained.report.balanced_accuracy.value or 0.0 for trained in draws]
    first = draws[0].report
    return {
        "pictures": len(photos),
        **{f"pictures_{label}": sum(photo.label == label for photo in photos) for label in labels},
        "draws": n_draws,
        "balanced_accuracy": mean(accuracies),
        "balanced_accuracy_lowest": min(accuracies),
        "balanced_accuracy_highest": max(accuracies),
        "balanced_accuracy_of_first_draw": first.balanced_accuracy.value,
        "its_interval_from": first.balanced_accuracy.low,
        "its_interval_to": first.balanced_accuracy.high,
        **{f"recall_{label}": mean(_recalls(one, label)[0] for one in draws) for label in labels},
        "regression_balanced_accuracy": mean(regressions),
        "points_above_regression": 100 * (mean(accuracies) - mean(regressions)),
        "majority_balanced_accuracy": mean(one["majority class"] for one in simpler),
        "colour_histogram_balanced_accuracy": mean(one["colour histogram"] for one in simpler),
        "expected_calibration_error": mean(one.report.expected_calibration_error for one in draws),
        "coverage": mean(one.report.coverage for one in draws),
        "precision_wanted_when_sure": settings.evaluate.target_precision,
        "precision_when_sure": _mean([one.report.answered_accuracy for one in draws]),
        "labels_with_own_limit": mean(sum(each > min(one.thresholds) for each in one.thresholds) for one in draws),
        **_gaps("12_beside_50", below["12_beside_50"]),
        "2_2_1_training_pictures": min(learned.values()),
        **_gaps("2_2_1", below["2_2_1"]),
        "own_refused": mean(one.holdout_refused for one in draws),
    }


def _rare_cases(learned: Mapping[str, int], draw: int) -> dict[str, tuple[str, Limits]]:
    """Name -> the rare label of this draw, and how many pictures of each label are kept in a split.

    Args:
        learned: training pictures by label.
    """
    cases: dict[str, tuple[str, Limits]] = {}
    many = [label for label, n in sorted(learned.items()) if n >= 2 * DOZEN]
    if many:
        rare = many[draw % len(many)]
        limits = {label: {"train": FIFTY} for label in learned}
        cases["12_beside_50"] = rare, {**limits, rare: {"train": DOZEN, "validation": ITS_VALIDATION}}
    smallest = min(learned.values())
    rare = sorted(learned)[draw % len(learned)]
    equal = {label: {"train": smallest, "validation": round(0.4 * smallest)} for label in learned}
    halved = {"train": smallest // 2, "validation": round(0.2 * smallest)}
    cases["2_2_1"] = rare, {**equal, rare: halved}
    return cases


def _gaps(name: str, recalls: Sequence[tuple[float, float]]) -> dict[str, Figure]:
    """Recall of the rare label and of the others; None if no label has enough pictures."""
    if not recalls:
        return {f"{name}_points_below": None}
    return {
        f"{name}_rare_recall": mean(rare for rare, _ in recalls),
        f"{name}_others_recall": mean(others for _, others in recalls),
        f"{name}_points_below": 100 * mean(others - rare for rare, others in recalls),
    }


def _recalls(trained: Trained, label: str) -> tuple[float, float]:
    """The recall of one label, and the mean of the others."""
    recalls = {each.label: each.recall.value or 0.0 for each in trained.report.classes}
    return recalls[label], mean(recall for name, recall in recalls.items() if name != label)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def _features(data: TrainingData, split: str, views: Sequence[str]) -> tuple[Floats, Indexes]:
    items = data.dataset.split(split)
    return data.features(items, views=views)[:, 0], class_indexes(items)


def _regression(data: TrainingData, settings: Settings) -> float:
    """Balanced accuracy of scikit-learn's logistic regression, its strength chosen by validation loss."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.preprocessing import StandardScaler

    view = settings.views[:1]
    (rows, indexes), (validation, truth), (holdout, held) = (
        _features(data, split, view) for split in ("train", "validation", "holdout")
    )
    scaler = StandardScaler().fit(rows)
    with threadpool_limits(1, user_api="blas"):
        fits = [
            LogisticRegression(C=1 / (strength * len(rows)), class_weight="balanced", max_iter=2000).fit(
                scaler.transform(rows), indexes
            )
            for strength in STRENGTHS
        ]
    best = min(fits, key=lambda fit: log_loss(truth, fit.predict_proba(scaler.transform(validation))))
    return balanced_accuracy(held, best.predict(scaler.transform(holdout)))
