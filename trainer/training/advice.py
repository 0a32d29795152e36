"""What would help most, in words: balance first, then labels, then more photos, by a learning curve."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from trainer.config import Settings
from trainer.evaluation.evaluate import balanced_accuracy
from trainer.head.calibration import fit_calibration
from trainer.head.fit import fit_head
from trainer.head.head import Floats, Indexes
from trainer.photos.dataset import Dataset
from trainer.training.charts import Chart, line_chart
from trainer.training.fitting import Trained
from trainer.training.training_data import TrainingData, class_indexes, groups

SHARES = (0.25, 0.5, 0.75, 1.0)  # of the training members
N_DRAWS = 3
MANY_PHOTOS = 20_000  # to learn from; from here on one draw, and none in a training: it takes long, and chance is small
RARE = 0.5  # of the other labels' photos
MANY_WRONG = 0.03  # of the photos
WORTH_IT = 0.01  # of balanced accuracy


@dataclass(frozen=True, slots=True)
class Point:
    """Balanced accuracy on validation, learned from a share of the training members; mean and spread of some draws."""

    share: float
    n_photos: int
    balanced_accuracy: float
    spread: float


@dataclass(frozen=True, slots=True)
class Advice:
    """What would help most, in words, the most useful first, and the learning curve."""

    lines: tuple[str, ...]
    curve: tuple[Point, ...]

    def chart(self) -> str:
        """The learning curve as an <svg> element, which says in words what is seen; "" with fewer than two points."""
        if len(self.curve) < 2:
            return ""
        words = ", ".join(f"{100 * point.balanced_accuracy:.0f}% from {point.n_photos:,}" for point in self.curve)
        photos, accuracies = zip(*((point.n_photos, point.balanced_accuracy) for point in self.curve), strict=True)
        return line_chart(
            Chart(
                title=f"balanced accuracy on validation by photos learned from: {words}",
                x_label="photos learned from",
                y_label="balanced accuracy",
                lines={"validation": (photos, accuracies)},
                sizes={"validation": [1.0] * len(photos)},
            )
        )


def advise_training(
    training_data: TrainingData, trained: Trained, settings: Settings, progress: Callable[[int, int], None]
) -> Advice:
    """What would help most, from what a training has at hand; it costs ten fits of a linear head of one strength.

    From `MANY_PHOTOS` on there is no learning curve: it would take longer than the training, and more memory.

    Labels are doubted on validation, and, where the penalty was chosen by folds, on training photos by heads that did
    not learn from their members.
    """
    dataset, view = training_data.dataset, settings.views[:1]
    linear = trained.fitted.linear
    strength = linear.path[linear.chosen].value
    curve: list[Point] = []
    if len(dataset.split("train")) < MANY_PHOTOS:
        features = training_data.features(dataset.items, views=view)[:, 0]
        curve = draw_curve(dataset, features, settings, progress, strength=strength)
    validation = dataset.split("validation")
    head = linear.head
    logits = head.logits(training_data.rows(validation, view))
    truth = class_indexes(validation)
    if linear.out_of_fold is not None:
        out_of_fold, their_truth = linear.out_of_fold
        logits, truth = np.concatenate([logits, out_of_fold]), np.concatenate([truth, their_truth])
    scores = head.calibrated(fit_calibration(logits, truth)).calibrated_scores(logits)
    lines = advise(dataset, count_doubtful(scores, truth), len(truth), curve)
    return Advice(tuple(lines), tuple(curve))


def count_doubtful(scores: Floats, class_indexes: Indexes) -> int:
    """How many photos' scores contradict their labels.

    A photo counts as of another label if its score of it is at least the mean of those that have it.

    Args:
        scores: (n, k), of heads that did not learn from these photos.
        class_indexes: (n,) each class at least once.

    Source: Northcutt et al., "Confident Learning", arXiv:1911.00068.
    """
    usual = np.array([scores[class_indexes == index, index].mean() for index in range(scores.shape[1])])
    confident = np.where(scores >= usual, scores, -1.0)
    best = confident.argmax(axis=1)
    return int(((confident.max(axis=1) >= 0) & (best != class_indexes)).sum())


def draw_curve(
    dataset: Dataset,
    features: Floats,
    settings: Settings,
    progress: Callable[[int, int], None],
    *,
    strength: float | None = None,
) -> list[Point]:
    """The learning curve; a point is missing where training lacks a label.

    Args:
        features: (n, d) of the data set's photos, in the view used for prediction.
        strength: of the penalty, as `head.l2`, for all shares; None: that of all photos is chosen, and used for all.
    """
    items = dataset.items
    classes, names = class_indexes(items), groups(items)
    members = np.unique(np.asarray(names), return_inverse=True)[1]
    train = np.array([item.split == "train" for item in items])
    judged = np.array([item.split == "validation" for item in items])
    n_labels, n_draws = len(dataset.labels), N_DRAWS if train.sum() < MANY_PHOTOS else 1
    owners = np.unique(members[train])
    plain = settings.head.model_copy(update={"hidden_units": 0, "fine_tune": "none"})
    if strength is not None:
        plain = plain.model_copy(update={"l2": strength})
    none = np.zeros((0, features.shape[1]), dtype=np.float32)
    points = []
    for number, share in enumerate(reversed(SHARES), start=1):  # all photos first, for the strength
        figures, n_photos = [], []
        for draw in range(n_draws if share < 1 else 1):
            order = np.random.default_rng(draw).permutation(owners)
            rows = np.flatnonzero(train & np.isin(members, order[: max(1, round(share * len(order)))]))
            if len(np.unique(classes[rows])) < n_labels:
                continue
            fitted = fit_head(
                features[rows][:, None],
                classes[rows],
                validation_features=none,
                validation_class_indexes=np.zeros(0, dtype=np.int64),
                labels=dataset.labels,
                settings=plain,
                groups=[names[row] for row in rows],
            )
            plain = plain.model_copy(update={"l2": fitted.linear.path[fitted.linear.chosen].value})
            answers = fitted.head.logits(features[judged]).argmax(axis=1)
            figures.append(float(balanced_accuracy(classes[judged], answers)))
            n_photos.append(len(rows))
        if figures:
            mean_photos = round(float(np.mean(n_photos)))
            points.append(Point(share, mean_photos, float(np.mean(figures)), float(np.std(figures))))
        progress(number, len(SHARES))
    return points[::-1]


def advise(dataset: Dataset, n_doubtful: int, n_examined: int, curve: Sequence[Point]) -> list[str]:
    """What would help most, in words, the most useful first.

    Args:
        n_doubtful: of the `n_examined` photos whose labels were looked at.
    """
    n_photos = Counter(item.label for item in dataset.split("train"))
    advice = []
    rarest = min(n_photos, key=lambda label: n_photos[label])
    usual = round(median(n for label, n in n_photos.items() if label != rarest))
    if n_photos[rarest] < RARE * usual:
        advice.append(
            f"balance: {rarest} has {n_photos[rarest]:,} photos to learn from, the others about {usual:,}; "
            f"{round(RARE * usual) - n_photos[rarest]:,} more of it would help most"
        )
    if n_doubtful > MANY_WRONG * n_examined:
        advice.append(
            f"labels: those of {n_doubtful:,} of {n_examined:,} photos are in doubt; settle them next "
            "(`python -m trainer review --serve`)"
        )
    if len(curve) > 1 and curve[-1].share == 1 and curve[-2].share < 1:
        half = next((point for point in curve if point.share == 0.5), curve[0])
        gain = curve[-1].balanced_accuracy - half.balanced_accuracy
        if gain > max(WORTH_IT, half.spread):
            advice.append(
                f"more photos: from {half.n_photos:,} to {curve[-1].n_photos:,} photos, balanced accuracy rose by "
                f"{100 * gain:.1f} points; twice as many may bring about as much again"
            )
        else:
            advice.append(
                f"more photos would bring little: from {half.n_photos:,} to {curve[-1].n_photos:,}, balanced accuracy "
                f"changed by {100 * gain:+.1f} points"
            )
    return advice
