"""Block4's maps of photos on disk: what a fine-tuned block5 starts from, without another pass of VGG16.

A map has 14 x 14 x 512 values, 200 kB as float16. So only what is looked at is kept: all configured views of photos
that are learned from, the first view of others.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.photos.dataset import Dataset
from trainer.vgg16.backbone import Backbone
from trainer.vgg16.cache import FeatureCache
from trainer.vgg16.last_block import BATCH, Block5

logger = logging.getLogger(__name__)

STORE_EVERY_S = 2.0


def open_maps(features_dir: Path, backbone: Backbone, views: Sequence[str]) -> FeatureCache:
    """The maps that a backbone gives, beside the features. Raises StorageError where they cannot be read."""
    n_values = math.prod(backbone.map_shape)
    return FeatureCache(features_dir / backbone.map_key, views=views, n_features=n_values, kind="<f2")


@dataclass(frozen=True, eq=False)
class WantedMaps:
    """Which maps of a data set's photos shall be held.

    Attributes:
        cache: where they are, or go.
        judged: photos of which the first view is enough.
    """

    cache: FeatureCache
    judged: frozenset[str]

    @classmethod
    def of(cls, dataset: Dataset, cache: FeatureCache) -> WantedMaps:
        """Of a data set, with the cache's views."""
        return cls(cache, frozenset(item.sha256 for item in dataset.items if item.split != "train"))

    def missing_views(self, sha256: str) -> tuple[str, ...]:
        """The views of one photo whose maps are wanted and not held."""
        views = self.cache.views[:1] if sha256 in self.judged else self.cache.views
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
    """Compute a fine-tuned backbone's features of those photos whose maps are held; the others stay missing.

    Args:
        cache: of this backbone.
        frozen: of the same backbone with VGG16's own block5, which the earlier blocks' columns are taken from.
        maps: block4's.
        progress: called after each batch with (views done, views to do).

    Raises:
        StorageError: the disk is full; what was stored before is whole.
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
