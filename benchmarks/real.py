"""How good the head is on pictures that nobody here made: `--pictures FOLDER --weights PATH`.

The folder has a sub-folder of pictures for each label, e.g. `animals`, `food`, `plants` and `town` of Debian's package
tuxpaint-stamps-default (`apt-get download`, `dpkg -x`). Each draw makes other splits: half of the pictures to learn
from, a fifth for validation, the rest for the holdout. The head is compared with a plain logistic regression on the
same features, its strength chosen by validation loss. Then one label is thinned to a quarter; and one label is left
out and shown as something foreign.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np

from benchmarks.result import Figure, Goal, Result
from benchmarks.studio import Silent, with_photos
from trainer.config import Settings
from trainer.errors import ConfigError
from trainer.evaluation.evaluate import balanced_accuracy
from trainer.head.head import Floats, Indexes
from trainer.head.novelty import Novelty
from trainer.photos.decode import Decoder
from trainer.photos.manifest import FILE_NAME, Manifest, Photo
from trainer.scrape.scrape import Scrape
from trainer.scrape.sites.choose import open_site
from trainer.training.fitting import Trained, fit_and_evaluate
from trainer.training.training_data import TrainingData, class_indexes, read_photos
from trainer.web.fetch import Fetcher

N_DRAWS, N_QUICK = 10, 2
SHARES = (("train", 0.5), ("validation", 0.7), ("holdout", 1.0))  # up to this share of a label's pictures
KEPT_OF_A_RARE_LABEL = 4  # one training picture in so many
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


def run(
    *,
    quick: bool,
    work_dir: Path,
    say: Callable[[str], None],
    pictures: Path | None = None,
    weights: str = "random",
) -> Result:
    """Take the figures.

    Args:
        quick: fewer draws.
        work_dir: an empty folder; the data folder is made in it.
        say: shows a line of progress.
        pictures: a folder with a sub-folder for each label.
        weights: as `features.weights`.
    """
    if pictures is None:
        raise ConfigError(
            "this benchmark needs --pictures FOLDER, a folder with a sub-folder of pictures for each label"
        )
    settings = Settings.model_validate(
        {
            "data_dir": work_dir / "data",
            "source": {"kind": "folder", "folder": {"path": pictures}},
            "split": {"min_photos_per_label": 10},
            "features": {"weights": weights},
        }
    )
    say("features")
    with (
        Fetcher(settings.web) as fetcher,
        Manifest(settings.data_dir / FILE_NAME) as manifest,
        closing(Decoder.in_bulk(settings.images)) as decoder,
    ):
        Scrape(open_site(settings, fetcher), manifest, settings, decoder).run()
    photos = read_photos(settings)
    data = TrainingData.gather(settings, Silent())
    labels = data.dataset.labels
    draws, thinned, foreign = [], [], []
    n_draws = N_QUICK if quick else N_DRAWS
    for draw in range(n_draws):
        say(f"draw {draw + 1} of {n_draws}")
        split = _split(photos, draw)
        drawn = with_photos(data, split, settings)
        trained = fit_and_evaluate(drawn, settings, Silent())
        draws.append((trained, _regression(drawn, settings)))
        rare = labels[draw % len(labels)]
        thin = fit_and_evaluate(with_photos(data, _thinned(split, rare), settings), settings, Silent())
        thinned.append(_recalls(thin, rare))
        foreign.append(_foreign(drawn, rare))
    accuracies = [trained.report.balanced_accuracy.value or 0.0 for trained, _ in draws]
    figures: dict[str, Figure] = {
        "weights": "VGG16 with seeded random weights" if weights == "random" else weights,
        "pictures": len(photos),
        "labels": len(labels),
        "draws": n_draws,
        "balanced_accuracy": mean(accuracies),
        "balanced_accuracy_lowest": min(accuracies),
        "balanced_accuracy_highest": max(accuracies),
        "regression_balanced_accuracy": mean(regression for _, regression in draws),
        "points_above_regression": 100 * (mean(accuracies) - mean(regression for _, regression in draws)),
        "majority_balanced_accuracy": 1 / len(labels),
        "expected_calibration_error": mean(one.report.expected_calibration_error for one, _ in draws),
        "coverage": mean(one.report.coverage for one, _ in draws),
        "thinned_label_recall": mean(rare for rare, _ in thinned),
        "thinned_others_recall": mean(others for _, others in thinned),
        "thinned_points_below": 100 * mean(others - rare for rare, others in thinned),
        "own_refused": mean(one.holdout_refused for one, _ in draws),
        "foreign_auroc": mean(foreign),
        "foreign_auroc_lowest": min(foreign),
    }
    goals = (
        Goal("points_above_regression", at_least=-1),
        Goal("thinned_points_below", at_most=15),
        Goal("own_refused", at_most=0.07),
    )
    return Result(figures, goals)


def _split(photos: Sequence[Photo], draw: int) -> list[Photo]:
    """The photos with splits of their own, drawn label by label."""
    rng = np.random.default_rng(draw)
    found = []
    for label in sorted({photo.label for photo in photos}):
        own = [photo for photo in photos if photo.label == label]
        for place, number in enumerate(rng.permutation(len(own))):
            split = next(name for name, share in SHARES if place < share * len(own))
            found.append(replace(own[number], split=split))
    return found


def _thinned(photos: Sequence[Photo], rare: str) -> list[Photo]:
    """The photos, less three of four training photos of one label."""
    learned = [photo for photo in photos if photo.label == rare and photo.split == "train"]
    gone = {photo.sha256 for number, photo in enumerate(learned) if number % KEPT_OF_A_RARE_LABEL}
    return [photo for photo in photos if photo.sha256 not in gone]


def _recalls(trained: Trained, rare: str) -> tuple[float, float]:
    """The recall of one label, and the mean of the others."""
    recalls = {each.label: each.recall.value or 0.0 for each in trained.report.classes}
    return recalls[rare], mean(recall for label, recall in recalls.items() if label != rare)


def _features(data: TrainingData, split: str, views: Sequence[str]) -> tuple[Floats, Indexes]:
    items = data.dataset.split(split)
    return data.features(items, views=views)[:, 0], class_indexes(items)


def _regression(data: TrainingData, settings: Settings) -> float:
    """Balanced accuracy of scikit-learn's logistic regression, its strength chosen by validation loss."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.preprocessing import StandardScaler

    view = settings.features.views[:1]
    (rows, indexes), (validation, truth), (holdout, held) = (
        _features(data, split, view) for split in ("train", "validation", "holdout")
    )
    scaler = StandardScaler().fit(rows)
    fits = [
        LogisticRegression(C=1 / (strength * len(rows)), class_weight="balanced", max_iter=2000).fit(
            scaler.transform(rows), indexes
        )
        for strength in STRENGTHS
    ]
    best = min(fits, key=lambda fit: log_loss(truth, fit.predict_proba(scaler.transform(validation))))
    return balanced_accuracy(held, best.predict(scaler.transform(holdout)))


def _foreign(data: TrainingData, label: str) -> float:
    """AUROC between one label, which is not learned, and the held-out photos of the others."""
    from sklearn.metrics import roc_auc_score

    index, view = data.dataset.labels.index(label), data.cache.views[:1]
    parts = {split: _features(data, split, view) for split in ("train", "validation", "holdout")}
    own = {split: features[indexes != index] for split, (features, indexes) in parts.items()}
    other = np.concatenate([features[indexes == index] for features, indexes in parts.values()])
    novelty = Novelty.fit(own["train"], own["validation"], layers=data.backbone.layers)
    distances = novelty.distances(np.concatenate([own["holdout"], other]))
    return float(roc_auc_score([False] * len(own["holdout"]) + [True] * len(other), distances))
