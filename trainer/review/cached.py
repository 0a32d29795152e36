"""Photos with the features that are cached, without loading the network."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.bucket import open_bucket
from trainer.config import Settings
from trainer.photos.manifest import Photo
from trainer.training.training_data import TrainingData, Watcher, features_dir, sort_photos
from trainer.vgg16.cache import FeatureCache
from trainer.vgg16.known import recall_network


def gather(settings: Settings, watcher: Watcher, photos: Sequence[Photo]) -> TrainingData:
    """As `TrainingData.gather`; if all features are cached, those of the network that was used last, in a second."""
    cached = _cached(settings, photos)
    return TrainingData.gather(settings, watcher, photos=photos) if cached is None else cached


def _cached(settings: Settings, photos: Sequence[Photo]) -> TrainingData | None:
    folder = features_dir(settings)
    network = recall_network(settings.features, folder, only_keras=settings.head.fine_tune != "none")
    if network is None:
        return None
    dataset = sort_photos(photos, settings)
    views = settings.views[:1]  # a review looks at no other
    bucket = open_bucket(settings)
    cache = FeatureCache(folder / network.key, views=views, n_features=network.n_features, bucket=bucket)
    if cache.missing(item.sha256 for item in dataset.items):
        return None
    return TrainingData(dataset, network, cache, refused=(), n_new=0)
