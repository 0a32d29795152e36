"""Stores block4's output maps on disk, so that fine-tuning block5 needs no further pass of blocks 1 to 4.

A map has 14 x 14 x 512 values, 200 kB as float16. So only the needed maps are stored: all configured views of training
photos, and the first view of other photos.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.bucket import Bucket
from trainer.photos.dataset import Dataset
from trainer.vgg16.backbone import Backbone
from trainer.vgg16.cache import FeatureCache
from trainer.vgg16.last_block import BATCH, Block5

logger = logging.getLogger(__name__)

STORE_EVERY_S = 2.0


def open_maps(
    features_dir: Path, backbone: Backbone, views: Sequence[str], *, bucket: Bucket | None = None
) -> FeatureCache:
    """Open the cache of a backbone's block4 maps. Raises StorageError if it cannot be read."""
    n_values = math.prod(backbone.map_shape)
    return FeatureCache(features_dir / backbone.map_key, views=views, n_features=n_values, kind="<f2", bucket=bucket)


@dataclass(frozen=True, eq=False)
class WantedMaps:
    """Selects the maps to store for the photos of a data set.

    Attributes:
        cache: where the maps are stored.
        first_view_only: photos that need only the first view.
    """

    cache: FeatureCache
    first_view_only: frozenset[str]

    @classmethod
    def for_dataset(cls, dataset: Dataset, cache: FeatureCache) -> WantedMaps:
        """The maps needed for a data set, in the cache's views."""
        return cls(cache, frozenset(item.sha256 for item in dataset.items if item.split != "train"))

    def missing_views(self, sha256: str) -> tuple[str, ...]:
        """The views of a photo whose maps are needed and not stored."""
        views = self.cache.views[:1] if sha256 in self.first_view_only else self.cache.views
        return tuple(view for view in self.cache.missing_views(sha256) if view in views)


def fill_from_maps(
    sha256s: Iterable[str],
    backbone: Backbone,
    cache: FeatureCache,
    *,
    frozen: FeatureCache,
    maps: FeatureCache,
    progress: Callable[[int, int], None],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Compute features of a fine-tuned backbone from stored maps; photos without maps are skipped.

    Args:
        cache: of this backbone.
        frozen: of the same backbone with VGG16's own block5; the columns of earlier blocks are copied from it.
        maps: block4's.
        progress: called after each batch with (views done, views to do).

    Raises:
        StorageError: the disk is full; rows stored before are kept.
    """
    rows = [
        (sha256, view)
        for sha256 in dict.fromkeys(sha256s)
        for view in cache.missing_views(sha256)
        if frozen.holds(sha256, view) and maps.holds(sha256, view)
    ]
    if not rows:
        return
    block5 = Block5(
        backbone.block5(), layers=backbone.layers, map_shape=backbone.map_shape, precision=backbone.precision
    )
    stored, stored_at = 0, clock()
    found = []
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        found.append(block5.features(frozen.load_rows(batch), maps.load_rows(batch)))
        done = start + len(batch)
        if clock() - stored_at >= STORE_EVERY_S or done == len(rows):
            cache.append_rows(rows[stored:done], np.concatenate(found))
            stored, stored_at = done, clock()
            found.clear()
        progress(done, len(rows))
    cache.compact()
    logger.info("features computed from maps views=%d key=%s", len(rows), backbone.key)
