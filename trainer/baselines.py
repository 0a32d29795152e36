"""What simpler ways to answer reach: what a head must be better than to be worth its name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from trainer.config import ImageSettings
from trainer.dataset import Item
from trainer.evaluate import balanced_accuracy
from trainer.images import prepare

BINS = 4  # steps of each colour channel: 64 colours
SIDE_PX = 64


def baselines(
    train: Sequence[Item], holdout: Sequence[Item], *, limits: ImageSettings, max_photos: int = 3000
) -> dict[str, float]:
    """Balanced accuracy, 0..1, of the most frequent label, and of a logistic regression on colour histograms.

    Args:
        max_photos: of each split that are looked at, evenly spread.

    Raises:
        ImageError: a photo cannot be read; those without features are to be left out before.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, holdout = (_spread(items, max_photos) for items in (train, holdout))
    train_indexes, holdout_indexes = (np.array([item.class_index for item in items]) for items in (train, holdout))
    majority = np.bincount(train_indexes).argmax()
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000, C=0.1))
    model.fit(_histograms(train, limits), train_indexes)
    return {
        "majority class": balanced_accuracy(holdout_indexes, np.full_like(holdout_indexes, majority)),
        "colour histogram": balanced_accuracy(holdout_indexes, model.predict(_histograms(holdout, limits))),
    }


def _spread(items: Sequence[Item], most: int) -> Sequence[Item]:
    if len(items) <= most:
        return items
    return [items[at] for at in np.linspace(0, len(items) - 1, most).astype(int)]


def _histograms(items: Iterable[Item], limits: ImageSettings) -> npt.NDArray[np.float64]:
    """(n, 64): share of the pixels of each colour."""
    return np.stack([_histogram(item, limits) for item in items])


def _histogram(item: Item, limits: ImageSettings) -> npt.NDArray[np.float64]:
    pixels = prepare(item.path.read_bytes(), limits, ["whole"], side_px=SIDE_PX)[0].reshape(-1, 3)
    colours = (pixels // (256 // BINS)).astype(int) @ [BINS * BINS, BINS, 1]
    return np.bincount(colours, minlength=BINS**3) / len(pixels)
