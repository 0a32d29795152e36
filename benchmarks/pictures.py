"""Reads folders of real pictures for benchmarks of learning; docs/BENCHMARKS.md says where to get some."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.studio import ROOT, Silent, describe_weights
from trainer.config import Settings
from trainer.errors import ConfigError
from trainer.photos.decode import Decoder
from trainer.photos.manifest import FILE_NAME, Manifest, Photo
from trainer.scrape.scrape import Scrape
from trainer.scrape.sites.choose import open_site
from trainer.training.training_data import TrainingData, read_photos
from trainer.web.fetch import Fetcher

WEIGHTS_VARIABLE = "DOKOCOS_TEST_WEIGHTS"
WEIGHTS_FILE = ROOT.parent / "shared" / "weights" / "vgg16_imagenet.npz"
SHARES = (("train", 0.5), ("validation", 0.7), ("holdout", 1.0))  # up to this share of a label's pictures


def real_weights() -> str:
    """VGG16's ImageNet weights: a file that is at hand, or "imagenet", which Keras downloads."""
    return os.environ.get(WEIGHTS_VARIABLE) or (str(WEIGHTS_FILE) if WEIGHTS_FILE.exists() else "imagenet")


def folder_of(pictures: Path | None) -> Path:
    """The folder of pictures that a benchmark needs. Raises ConfigError if there is none."""
    if pictures is None or not pictures.is_dir():
        raise ConfigError(
            "this benchmark needs --pictures FOLDER, a folder with a sub-folder of pictures for each label; "
            "docs/BENCHMARKS.md says how to get some"
        )
    return pictures


def gather_pictures(
    pictures: Path,
    weights: str,
    data_dir: Path,
    say: Callable[[str], None],
    *,
    precision: str = "auto",
    views: Sequence[str] = ("whole", "mirror"),
) -> tuple[Settings, list[Photo], TrainingData]:
    """Read a folder with a sub-folder of pictures for each label, and compute their features.

    Args:
        weights: as `features.weights`.
        data_dir: for the manifest and the features.
        precision, views: as in the section `features`.
    """
    settings = Settings.model_validate(
        {
            "data_dir": data_dir,
            "source": {"kind": "folder", "folder": {"path": pictures}},
            "split": {"min_photos_per_label": 10},
            "features": {"weights": weights, "precision": precision, "views": list(views)},
        }
    )
    say(f"features of {pictures.name}; {describe_weights(weights)}")
    with (
        Fetcher(settings.web) as fetcher,
        Manifest(settings.data_dir / FILE_NAME) as manifest,
        closing(Decoder.in_bulk(settings.images)) as decoder,
    ):
        Scrape(open_site(settings, fetcher), manifest, settings, decoder).run()
    data = TrainingData.gather(settings, Silent())
    used = {item.sha256 for item in data.dataset.items}  # not those that two labels have
    return settings, [photo for photo in read_photos(settings) if photo.sha256 in used], data


def split(photos: Sequence[Photo], draw: int) -> list[Photo]:
    """The photos with splits of their own, drawn label by label, in the order drawn."""
    rng = np.random.default_rng(draw)
    found = []
    for label in sorted({photo.label for photo in photos}):
        own = [photo for photo in photos if photo.label == label]
        for place, number in enumerate(rng.permutation(len(own))):
            name = next(name for name, share in SHARES if place < share * len(own))
            found.append(replace(own[number], split=name))
    return found


def thinned(photos: Sequence[Photo], limits: Mapping[str, Mapping[str, int]]) -> list[Photo]:
    """The photos, with at most `limits[label][split]` of a label in a split; without a limit, all of them."""
    taken: defaultdict[tuple[str, str | None], int] = defaultdict(int)
    found = []
    for photo in photos:
        taken[photo.label, photo.split] += 1
        limit = limits.get(photo.label, {}).get(photo.split or "")
        if limit is None or taken[photo.label, photo.split] <= limit:
            found.append(photo)
    return found
