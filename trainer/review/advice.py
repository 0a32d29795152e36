"""What would help most, in words: balance first, then labels, then more photos, by a learning curve."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from trainer.config import Settings
from trainer.evaluation.evaluate import balanced_accuracy
from trainer.head.fit import fit_head
from trainer.review.suspects import Examined, Suspect
from trainer.training.training_data import class_indexes, groups

SHARES = (0.25, 0.5, 0.75, 1.0)  # of the training members
N_DRAWS = 3
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


def draw_curve(examined: Examined, settings: Settings, progress: Callable[[int, int], None]) -> list[Point]:
    """The learning curve; empty if validation or training lacks a label."""
    items = examined.dataset.items
    classes, members = class_indexes(items), examined.members
    train = np.array([item.split == "train" for item in items])
    judged = np.array([item.split == "validation" for item in items])
    n_labels = len(examined.dataset.labels)
    owners = np.unique(members[train])
    plain = settings.head.model_copy(update={"hidden_units": 0, "fine_tune": "none"})
    none = np.zeros((0, examined.features.shape[1]), dtype=np.float32)
    points = []
    for number, share in enumerate(SHARES, start=1):
        figures, n_photos = [], []
        for draw in range(N_DRAWS if share < 1 else 1):
            order = np.random.default_rng(draw).permutation(owners)
            rows = np.flatnonzero(train & np.isin(members, order[: max(1, round(share * len(order)))]))
            if len(np.unique(classes[rows])) < n_labels:
                continue
            fitted = fit_head(
                examined.features[rows][:, None],
                classes[rows],
                validation_features=none,
                validation_class_indexes=np.zeros(0, dtype=np.int64),
                labels=examined.dataset.labels,
                settings=plain,
                groups=[groups(items)[row] for row in rows],
            )
            answers = fitted.head.logits(examined.features[judged]).argmax(axis=1)
            figures.append(float(balanced_accuracy(classes[judged], answers)))
            n_photos.append(len(rows))
        if figures:
            mean_photos = round(float(np.mean(n_photos)))
            points.append(Point(share, mean_photos, float(np.mean(figures)), float(np.std(figures))))
        progress(number, len(SHARES))
    return points


def advise(examined: Examined, suspects: Sequence[Suspect], curve: Sequence[Point]) -> list[str]:
    """What would help most, the most useful first."""
    n_photos = Counter(item.label for item in examined.dataset.split("train"))
    advice = []
    rarest = min(n_photos, key=lambda label: n_photos[label])
    usual = round(median(n for label, n in n_photos.items() if label != rarest))
    if n_photos[rarest] < RARE * usual:
        advice.append(
            f"balance: {rarest} has {n_photos[rarest]:,} photos to learn from, the others about {usual:,}; "
            f"{round(RARE * usual) - n_photos[rarest]:,} more of it would help most"
        )
    doubtful = sum(each.kind in ("label", "two labels") for each in suspects)
    if doubtful > MANY_WRONG * len(examined.photos):
        advice.append(
            f"labels: those of {doubtful:,} of {len(examined.photos):,} photos are in doubt; settle them next"
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
