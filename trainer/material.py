"""What a head is fitted on and judged by: photos in splits, and their features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from trainer.cache import FeatureCache
from trainer.config import FeatureSettings, Settings
from trainer.dataset import Dataset, Item, build_dataset
from trainer.errors import DatasetError, ModelError
from trainer.features import Backbone, choose_batch_size, choose_precision, compute_features
from trainer.head import Head
from trainer.manifest import FILE_NAME, Manifest
from trainer.registry import Version

Floats = npt.NDArray[np.float32]
Indexes = npt.NDArray[np.int64]


class Watcher(Protocol):
    """Is told how far a training is; shows it, or writes it down."""

    def step(self, name: str, total: int | None = None) -> None:
        """A step begins; `total` is in the step's own units, None where it cannot be said."""

    def update(self, done: int, total: int) -> None:
        """So much of the step is done."""


def read_dataset(settings: Settings) -> Dataset:
    """The manifest's photos of the configured source, in splits.

    Raises:
        DatasetError: none, or too few.
    """
    with Manifest(settings.data_dir / FILE_NAME) as manifest:
        photos = list(manifest.photos(settings.source.kind))
    if not photos:
        raise DatasetError("there are no photos yet; run `python -m trainer scrape`")
    labels = settings.source.worldcosplay.countries if settings.source.kind == "worldcosplay" else ()
    return build_dataset(photos, split=settings.split, data_dir=settings.data_dir, labels=labels)


def class_indexes(items: Sequence[Item]) -> Indexes:
    """(n,) int64."""
    return np.array([item.class_index for item in items], dtype=np.int64)


def groups(items: Sequence[Item]) -> list[str]:
    """(n,) whose the photos are."""
    return [item.group for item in items]


@dataclass(frozen=True, eq=False)
class Material:
    """Photos with their features.

    Attributes:
        dataset: without the photos that have no features; those stand in `dataset.excluded`.
        n_new: photos whose features were computed for it.
    """

    dataset: Dataset
    backbone: Backbone
    cache: FeatureCache
    n_new: int

    @classmethod
    def gather(cls, settings: Settings, watcher: Watcher) -> Self:
        """Sort photos into splits, and compute the features that are missing.

        Raises:
            DatasetError: too few photos.
            ModelError: the backbone's weights cannot be had.
            StorageError: the disk is full; what was computed before is kept.
        """
        watcher.step("photos")
        dataset = read_dataset(settings)
        watcher.step("network")
        backbone = Backbone.load(settings.features, precision=choose_precision(settings.features, settings.data_dir))
        return cls.of(dataset, backbone, settings.features.views, settings, watcher)

    @classmethod
    def of(
        cls, dataset: Dataset, backbone: Backbone, views: Sequence[str], settings: Settings, watcher: Watcher
    ) -> Self:
        """Compute the features that a data set misses of a backbone; raises as `gather`."""
        folder = settings.data_dir / "features" / backbone.key
        cache = FeatureCache(folder, views=views, n_features=backbone.n_features)
        watcher.step("features", len(cache.missing(item.sha256 for item in dataset.items)))
        computed = compute_features(
            dataset.items,
            backbone=backbone,
            cache=cache,
            limits=settings.images,
            batch_size=choose_batch_size(settings.features),
            progress=lambda done, total, _: watcher.update(done, total),
        )
        gone = {refused.sha256: refused.reason for refused in computed.refused}
        kept = tuple(item for item in dataset.items if item.sha256 not in gone)
        return cls(
            Dataset(dataset.labels, kept, (*dataset.excluded, *gone.items())), backbone, cache, computed.n_photos
        )

    def features(self, items: Sequence[Item], *, views: Sequence[str] | None = None) -> Floats:
        """(n, n_views, d) in the order of the items; all views, or those named."""
        return self.cache.load([item.sha256 for item in items], views=views)


def material_for(version: Version, dataset: Dataset, settings: Settings, watcher: Watcher) -> Material:
    """The same photos as a version sees them, with features of its own kind.

    Raises:
        ModelError: its backbone's weights cannot be had any more; or the photos have other labels.
        StorageError: the disk is full.
    """
    facts = version.facts
    if dataset.labels != facts.labels:
        raise ModelError(
            f"{version.name} tells {', '.join(facts.labels)}; the photos at hand are of {', '.join(dataset.labels)}: "
            "nothing to judge it by"
        )
    backbone = Backbone.load(
        FeatureSettings(weights=facts.weights, weights_seed=facts.weights_seed, layers=facts.layers),
        precision=facts.precision,
    )
    if backbone.fingerprint != facts.fingerprint:
        raise ModelError(f"{version.name}: {facts.weights} holds other VGG16 weights now than it was trained on")
    return Material.of(dataset, backbone, [facts.view], settings, watcher)


def scores_of(version: Version, material: Material, items: Sequence[Item]) -> Floats:
    """(n, k) what a version says of photos; `material` as of `material_for`."""
    features = material.features(items, views=[version.facts.view])[:, 0]
    return Head.load(version.folder).scores(features)
