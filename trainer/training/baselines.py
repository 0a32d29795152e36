"""Computes baselines that a head must beat: the most frequent label, and a classifier of colour histograms.

The histograms are cached beside the features, so a later training computes them for new photos only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from trainer.bucket import open_bucket
from trainer.config import Settings
from trainer.errors import ImageError
from trainer.evaluation.evaluate import balanced_accuracy
from trainer.head.head import Floats
from trainer.photos.dataset import Dataset, Item
from trainer.photos.decode import Decoder
from trainer.photos.photo_files import PhotoFiles, open_files
from trainer.training.training_data import class_indexes, features_dir
from trainer.vgg16.cache import FeatureCache

BINS = 4  # bins per colour channel: 64 colours
SIDE_PX = 64
KEY = f"colours{BINS}-{SIDE_PX}"
MAX_PHOTOS = 3000  # per split, evenly spaced: enough for a regression on 64 features
STORE_EVERY = 200  # photos


def baselines(
    dataset: Dataset, settings: Settings, decoder: Decoder, *, progress: Callable[[int, int], None] = lambda *_: None
) -> dict[str, float]:
    """Balanced accuracy on the holdout, 0..1, of the most frequent label and of a regression on colour histograms.

    Args:
        progress: called with (photos done, photos to do) while histograms are computed.

    Raises:
        StorageError: the disk is full.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, holdout = (_spread(dataset.split(name)) for name in ("train", "holdout"))
    cache = FeatureCache(
        features_dir(settings) / KEY, views=["whole"], n_features=BINS**3, bucket=open_bucket(settings)
    )
    _compute_missing([*train, *holdout], cache, decoder, open_files(settings), progress)
    unread = set(cache.missing(item.sha256 for item in [*train, *holdout]))
    train, holdout = ([item for item in items if item.sha256 not in unread] for items in (train, holdout))
    majority = np.bincount(class_indexes(train)).argmax()
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000, C=0.1))
    with threadpool_limits(1, user_api="blas"):  # faster, for products as small as these
        model.fit(_load(train, cache), class_indexes(train))
    return {
        "majority class": balanced_accuracy(class_indexes(holdout), np.full(len(holdout), majority)),
        "colour histogram": balanced_accuracy(class_indexes(holdout), model.predict(_load(holdout, cache))),
    }


def colour_histogram(data: bytes, decoder: Decoder) -> Floats:
    """The share of a photo's pixels in each of 64 colours, (64,). Raises ImageError."""
    pixels = decoder.prepare(data, side_px=SIDE_PX).reshape(-1, 3)
    colours = (pixels // (256 // BINS)).astype(np.int64) @ np.array([BINS * BINS, BINS, 1])
    return (np.bincount(colours, minlength=BINS**3) / len(pixels)).astype(np.float32)


def _spread(items: Sequence[Item]) -> list[Item]:
    if len(items) <= MAX_PHOTOS:
        return list(items)
    return [items[at] for at in np.linspace(0, len(items) - 1, MAX_PHOTOS).astype(int)]


def _compute_missing(
    items: Sequence[Item],
    cache: FeatureCache,
    decoder: Decoder,
    files: PhotoFiles,
    progress: Callable[[int, int], None],
) -> None:
    """Compute missing histograms; photos that can no longer be read are skipped."""
    paths = {item.sha256: item.path for item in items}
    missing = cache.missing(paths)
    for start in range(0, len(missing), STORE_EVERY):
        found = {}
        for sha256 in missing[start : start + STORE_EVERY]:
            try:
                found[sha256] = colour_histogram(files.read(paths[sha256]), decoder)
            except (OSError, ImageError):
                continue
        if found:
            cache.append(list(found), np.stack(list(found.values()))[:, None])
        progress(min(start + STORE_EVERY, len(missing)), len(missing))
    cache.compact()


def _load(items: Sequence[Item], cache: FeatureCache) -> Floats:
    return cache.load([item.sha256 for item in items])[:, 0]
