"""Loads the photos in their splits, with their features."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice, zip_longest
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from trainer.bucket import open_bucket
from trainer.config import FeatureSettings, Settings
from trainer.errors import DatasetError, ImageError, ModelError
from trainer.files import storage_error
from trainer.head.head import Floats, Indexes
from trainer.photos.contributions import SOURCE, Contributions
from trainer.photos.dataset import Dataset, Item, build_dataset
from trainer.photos.decisions import Decisions, Standing
from trainer.photos.decode import Decoder
from trainer.photos.figure import check_detector
from trainer.photos.manifest import FILE_NAME, Manifest, Photo
from trainer.photos.photo_files import open_files, read_photo
from trainer.registry.registry import Registry, Version
from trainer.vgg16 import int8, mirror
from trainer.vgg16.backbone import SIDE_PX, TUNED, Backbone, Extractor, Pixels
from trainer.vgg16.cache import FeatureCache
from trainer.vgg16.engines.engine import OpenEngine
from trainer.vgg16.engines.local import open_local
from trainer.vgg16.features import compute_features, missing_views
from trainer.vgg16.int8 import Int8Backbone
from trainer.vgg16.known import remember_network
from trainer.vgg16.load import N_SAMPLES, load_network
from trainer.vgg16.maps import WantedMaps, fill_from_maps, open_maps
from trainer.vgg16.stored_rows import Table
from trainer.vgg16.weights import Convolution

Flags = npt.NDArray[np.bool_]

IN_MEMORY = 200_000_000  # values, 0.8 GB: the training rows of 130,000 photos with two views; more are read from disk


class Watcher(Protocol):
    """Receives the progress of a training, to show or record it."""

    def step(self, name: str, total: int | None = None) -> None:
        """A step begins; `total` is in the step's own units, or None if unknown."""

    def update(self, done: int, total: int) -> None:
        """The step has made progress."""


def read_photos(settings: Settings) -> list[Photo]:
    """The manifest's photos of the configured source and labels, in the order of admission; then contributed ones.

    Raises:
        DatasetError: the manifest has none.
    """
    source = settings.source.kind
    labels = wanted_labels(settings)
    with Manifest(settings.data_dir / FILE_NAME) as manifest:
        photos = [photo for photo in manifest.photos(source) if photo.label in labels]
        n_refused = sum(1 for _ in manifest.refusals(source))
    if photos:
        return photos + Contributions(settings.data_dir).photos()
    if n_refused:
        raise DatasetError(f"all {n_refused:,} photos were refused; run `python -m trainer scrape` to see the reasons")
    raise DatasetError("there are no photos yet; run `python -m trainer scrape`")


def wanted_labels(settings: Settings) -> set[str]:
    """All configured labels, including those without a usable photo."""
    if settings.source.kind == "worldcosplay":
        return set(settings.source.worldcosplay.countries)
    with Manifest(settings.data_dir / FILE_NAME) as manifest:
        return manifest.labels(settings.source.kind)


def sort_photos(
    photos: Sequence[Photo],
    settings: Settings,
    *,
    labels: Collection[str] | None = None,
    decided_at: datetime | None = None,
) -> Dataset:
    """Assign photos to splits, as was decided about them; of contributed ones, only those that a person accepted.

    Args:
        labels: the labels that must have photos; None: those of the settings.
        decided_at: only decisions that stood at that time count; None: those of now.

    Raises:
        DatasetError: one of them has too few photos.
    """
    labels = wanted_labels(settings) if labels is None else labels
    with Manifest(settings.data_dir / FILE_NAME) as manifest:
        table, at = Decisions(manifest), decided_at or datetime.now(UTC)
        decisions, contributed = table.standing(settings.source.kind, at=at), table.standing(SOURCE, at=at)
    photos = [accepted for photo in photos if (accepted := _accepted(photo, contributed)) is not None]
    return build_dataset(photos, split=settings.split, data_dir=settings.data_dir, labels=labels, decisions=decisions)


def _accepted(photo: Photo, decisions: Standing) -> Photo | None:
    """A photo with the label that counts; None for a contributed one that nobody has accepted."""
    if photo.source != SOURCE:
        return photo
    decision = decisions.of_id.get(photo.photo_id)
    if decision is None or decision.by != "person" or decision.verdict == "drop":
        return None
    return replace(photo, label=decision.label or photo.label)


def samples(dataset: Dataset, settings: Settings, n: int = N_SAMPLES) -> Pixels:
    """Up to n training photos in the first view, (m, side_px, side_px, 3) uint8: the labels in turn, by SHA-256.

    Photos that cannot be read are left out; `compute_features` reports them.
    """
    by_label = [
        sorted((item for item in dataset.split("train") if item.label == label), key=lambda item: item.sha256)
        for label in dataset.labels
    ]
    in_turn = (item for items in zip_longest(*by_label) for item in items if item is not None)
    images = []
    files = open_files(settings)
    with closing(Decoder.in_bulk(settings.images, n_children=1)) as decoder:
        for item in islice(in_turn, n):
            with suppress(ImageError):
                data = read_photo(item, files)
                images.append(decoder.views(data, settings.views[:1], side_px=SIDE_PX)[0])
    return np.array(images, dtype=np.uint8).reshape(-1, SIDE_PX, SIDE_PX, 3)


def class_indexes(items: Sequence[Item]) -> Indexes:
    """The classes of photos, (n,) int64."""
    return np.array([item.class_index for item in items], dtype=np.int64)


def groups(items: Sequence[Item]) -> list[str]:
    """The groups of n photos: members, or near-duplicates."""
    return [item.group for item in items]


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Photos with their features.

    Attributes:
        dataset: without photos that could not be read.
        refused: (sha256, reason) of photos that could not be read.
        n_new: number of photos whose features were computed now.
        maps: block4's maps of the photos; None if not requested.
    """

    dataset: Dataset
    backbone: Extractor
    cache: FeatureCache
    refused: tuple[tuple[str, str], ...]
    n_new: int
    maps: FeatureCache | None = None

    @classmethod
    def gather(
        cls,
        settings: Settings,
        watcher: Watcher,
        *,
        photos: Sequence[Photo] | None = None,
        labels: Collection[str] | None = None,
        decided_at: datetime | None = None,
        open_engine: OpenEngine = open_local,
    ) -> Self:
        """Assign photos to splits, and compute missing features; also maps, if fine-tuning is configured.

        Args:
            photos: in the order of admission; None: all that are stored.
            labels, decided_at: as in `sort_photos`.
            open_engine: where the features are computed.

        Raises:
            DatasetError: too few readable photos.
            ModelError: the backbone's weights, or the detector of figures, are not available.
            StorageError: the disk is full; features computed so far are kept.
            ClusterError: no worker of a cluster is left; the same.
        """
        check_detector(settings.views[0])
        watcher.step("photos")
        photos = read_photos(settings) if photos is None else photos
        decided_at = decided_at or datetime.now(UTC)
        dataset = sort_photos(photos, settings, labels=labels, decided_at=decided_at)
        watcher.step("network")
        with_maps = settings.head.fine_tune != "none"

        def calibration_photos() -> Pixels:
            watcher.step("quantising")
            return samples(dataset, settings)

        backbone = load_network(
            settings.features, settings.data_dir, calibration_photos, only_keras=with_maps, progress=watcher.update
        )
        remember_network(backbone, settings.features, features_dir(settings), only_keras=with_maps)
        maps = None
        if with_maps:
            assert isinstance(backbone, Backbone)  # noqa: S101 - asked for
            maps = open_maps(features_dir(settings), backbone, settings.views, bucket=open_bucket(settings))
        training_data = cls.build(
            dataset, backbone, settings.views, settings, watcher, maps=maps, open_engine=open_engine
        )
        gone: dict[str, str] = {}
        n_new = training_data.n_new
        while training_data.refused:  # without them, other photos may be used, or a label may have too few
            gone |= dict(training_data.refused)
            left = [photo for photo in photos if photo.sha256 not in gone]
            dataset = sort_photos(left, settings, labels=labels, decided_at=decided_at)
            training_data = cls.build(
                dataset, backbone, settings.views, settings, watcher, maps=maps, open_engine=open_engine
            )
            n_new += training_data.n_new
        complete = replace(training_data.dataset, excluded=(*training_data.dataset.excluded, *gone.items()))
        return replace(training_data, dataset=complete, n_new=n_new)

    @classmethod
    def build(
        cls,
        dataset: Dataset,
        backbone: Extractor,
        views: Sequence[str],
        settings: Settings,
        watcher: Watcher,
        *,
        maps: FeatureCache | None = None,
        open_engine: OpenEngine = open_local,
    ) -> Self:
        """Compute the missing features of a data set with a backbone; raises as `gather`.

        Args:
            maps: the backbone's map cache; missing maps are computed too. None means no maps.
            open_engine: where they are computed.
        """
        cache = FeatureCache(
            features_dir(settings) / backbone.key,
            views=views,
            n_features=backbone.n_features,
            bucket=open_bucket(settings),
        )
        wanted = WantedMaps.for_dataset(dataset, maps) if maps is not None else None
        lacks = missing_views(cache, wanted)
        watcher.step("features", sum(bool(lacks(item.sha256)) for item in dataset.items))
        with open_engine(backbone, settings) as engine:
            computed = compute_features(dataset.items, engine=engine, cache=cache, maps=wanted, progress=watcher.update)
        refused = {photo.sha256: photo.reason for photo in computed.refused}
        kept = tuple(item for item in dataset.items if item.sha256 not in refused)
        return cls(replace(dataset, items=kept), backbone, cache, tuple(refused.items()), computed.n_photos, maps)

    def tuned(self, block5: dict[str, Convolution], settings: Settings, watcher: Watcher) -> Self:
        """The same photos with the features of a fine-tuned block5, in the first view; raises as `gather`."""
        backbone = Backbone.load(settings.features, precision=self.backbone.precision, block5=block5)
        return self.build_tuned(self.dataset, backbone, self.cache.views[0], settings, watcher, frozen=self)

    @classmethod
    def build_tuned(
        cls,
        dataset: Dataset,
        backbone: Backbone,
        view: str,
        settings: Settings,
        watcher: Watcher,
        *,
        frozen: TrainingData | None = None,
    ) -> Self:
        """As `build`, for a fine-tuned backbone: photos with stored maps need only block5 of VGG16.

        Args:
            frozen: training data of the same backbone with VGG16's own block5, if loaded; None means to open its caches
                on disk.
        """
        folder, bucket = features_dir(settings), open_bucket(settings)
        n_features = backbone.n_features
        cache = FeatureCache(folder / backbone.key, views=[view], n_features=n_features, bucket=bucket)
        if frozen is not None and frozen.maps is not None and frozen.backbone.key == backbone.frozen_key:
            untuned, maps = frozen.cache, frozen.maps
        else:
            untuned = FeatureCache(folder / backbone.frozen_key, views=[view], n_features=n_features, bucket=bucket)
            maps = open_maps(folder, backbone, [view], bucket=bucket)
        sha256s = [item.sha256 for item in dataset.items]
        watcher.step("features", len(cache.missing(sha256s)))
        fill_from_maps(sha256s, backbone, cache, frozen=untuned, maps=maps, progress=watcher.update)
        return cls.build(dataset, backbone, [view], settings, watcher)

    def features(self, items: Sequence[Item], *, views: Sequence[str] | None = None) -> Floats:
        """Load features (n, n_views, d) in the order of the items, in all views or the named ones."""
        return self.cache.load([item.sha256 for item in items], views=views)

    def rows(self, items: Sequence[Item], views: Sequence[str]) -> Table:
        """The same as rows, photo by photo, (n * n_views, d): in memory, or on disk if they are too many.

        Raises:
            StorageError: data_dir's disk has no room for them.
        """
        sha256s = [item.sha256 for item in items]
        if len(items) * len(views) * self.cache.n_features > IN_MEMORY:
            return self.cache.load_to_disk(sha256s, views=views)
        return self.cache.load(sha256s, views=views).reshape(-1, self.cache.n_features)


def training_data_for(
    version: Version, dataset: Dataset, settings: Settings, watcher: Watcher, *, known: TrainingData | None = None
) -> TrainingData:
    """The same photos with the features that a version uses.

    Args:
        known: training data already loaded, whose features and maps are reused.

    Raises:
        ModelError: its backbone's weights, or its crop, are no longer available.
        StorageError: the disk is full.
    """
    facts = version.facts
    check_detector(facts.view)
    if facts.quantised is not None:
        quantised = Int8Backbone(version.folder / int8.FILE_NAME, version.read(int8.FILE_NAME))
        return TrainingData.build(dataset, quantised, [facts.view], settings, watcher)
    backbone = Backbone.load(
        FeatureSettings(weights=facts.weights, weights_seed=facts.weights_seed, layers=facts.layers),
        precision=facts.precision,
        block5=version.block5(),
    )
    if backbone.fingerprint != facts.fingerprint:
        raise ModelError(f"{version.name}: the VGG16 weights of {facts.weights} have changed since it was trained")
    if backbone.tuned is not None:
        return TrainingData.build_tuned(dataset, backbone, facts.view, settings, watcher, frozen=known)
    return TrainingData.build(dataset, backbone, [facts.view], settings, watcher)


def compute_scores(version: Version, training_data: TrainingData) -> tuple[Floats, Flags | None]:
    """What a version says of all photos of a `training_data` from `training_data_for`.

    Returns:
        scores (n, k), and whether each photo is known (n,); None for a version that cannot tell.
    """
    features = training_data.rows(training_data.dataset.items, [version.facts.view])
    novelty = version.novelty()
    return version.head().scores(features), None if novelty is None else novelty.is_known(features)


def drop_tuned_features(settings: Settings) -> None:
    """Delete the cached features of fine-tuned versions, except those of the champion and the newest version.

    Each fine-tuned version has its own folder of features; they are quickly computed again from maps.

    Raises:
        ModelError: the registry, or one of the two versions, cannot be read; nothing was deleted.
        StorageError: a folder cannot be deleted, or a bucket does not answer.
    """
    registry = Registry(settings.data_dir)
    names = registry.names()
    in_use = {name for name in names if name in (registry.champion_name(), names[-1])}
    endings = tuple(f"{TUNED}{tuned[:16]}" for name in in_use if (tuned := registry.load(name).facts.tuned))
    for folder in features_dir(settings).glob(f"*{TUNED}*"):
        if not folder.name.endswith(endings):
            try:
                shutil.rmtree(folder)
            except OSError as error:
                raise storage_error(folder, error) from error
    bucket = open_bucket(settings)
    if bucket is not None:
        for key in mirror.mirrored(bucket):
            if TUNED in key and not key.endswith(endings):
                mirror.drop(bucket, key)


def features_dir(settings: Settings) -> Path:
    """The parent folder of all feature caches."""
    return settings.data_dir / "features"
