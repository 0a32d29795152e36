"""Loads the champion and computes scores and heat maps of prepared images.

Also gives the bot the versions with their metrics, and the number of new photos.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import numpy as np

from trainer.config import FeatureSettings, Settings
from trainer.errors import ModelError
from trainer.head.evidence import evidence, heat
from trainer.head.head import Floats, Head
from trainer.head.novelty import Novelty
from trainer.photos.contributions import SOURCE, Contributions
from trainer.photos.decisions import Decisions
from trainer.photos.figure import check_detector
from trainer.photos.manifest import FILE_NAME, Manifest
from trainer.registry.registry import BLOCK5, Registry
from trainer.registry.registry import Version as Version  # part of the API for the bot
from trainer.vgg16 import int8
from trainer.vgg16.backbone import Backbone, Extractor, Pixels, Precision
from trainer.vgg16.backend import load_keras
from trainer.vgg16.int8 import Int8Backbone

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Scored:
    """The prediction of a version for one image.

    Attributes:
        scores: (k,) float32 in the order of the version's labels, calibrated; the sum is 1.
        heatmap: (h, w) float32 in 0..1: the places that speak for the best label against the others; 0 where nothing
            does.
        is_known: whether the image is similar to the version's training photos.
    """

    scores: Floats
    heatmap: Floats
    is_known: bool = True


@dataclass(frozen=True, slots=True)
class Holdings:
    """Numbers of stored photos.

    Attributes:
        n_by_label: label -> number of photos.
        n_new: photos added since the newest version was trained; all photos if there is no version.
    """

    n_by_label: dict[str, int]
    n_new: int


@dataclass(frozen=True, slots=True)
class _Tuned:
    """A version's fine-tuned weights, not read yet; equal to those of the same file."""

    path: Path
    version: Version = field(compare=False)


class Classifier:
    """One version in memory; not thread-safe."""

    def __init__(self, version: Version, *, backbone: Extractor, head: Head, novelty: Novelty | None = None) -> None:
        """Private; use `load`."""
        self.version = version.name
        self.labels = version.facts.labels
        self.view = version.facts.view
        self.thresholds = version.facts.label_thresholds
        self._backbone = backbone
        self._head = head
        self._novelty = novelty

    @classmethod
    def load(cls, settings: Settings, version: str | None = None) -> Classifier:
        """Load a version and run it once, so that the first prediction is as fast as the others.

        Args:
            settings: only `data_dir` is used; the version itself records how to compute features.
            version: its name; None means the champion.

        Raises:
            ModelError: there is no such version, or none yet; it is damaged; or the VGG16 weights it was trained on, or
                the crop, are not available.
        """
        started = time.monotonic()
        classifier = cls.of(_find(settings, version))
        logger.info("version loaded name=%s took_s=%.1f", classifier.version, time.monotonic() - started)
        return classifier

    @classmethod
    def of(cls, found: Version) -> Classifier:
        """As `load`, for a version that was found already."""
        facts = found.facts
        try:
            check_detector(facts.view)
        except ModelError as error:
            raise ModelError(f"{found.name}: {error}") from error
        if facts.quantised is None:
            block5 = _Tuned(found.folder / BLOCK5, found) if facts.tuned else None
            backbone = _load_backbone(
                facts.weights, facts.weights_seed, facts.layers, facts.precision, facts.fingerprint, block5
            )
        else:
            backbone = Int8Backbone(found.folder / int8.FILE_NAME, found.read(int8.FILE_NAME))
        classifier = cls(found, backbone=backbone, head=found.head(), novelty=found.novelty())
        classifier._check_fit()
        classifier._warm_up()
        return classifier

    def predict(self, images: Pixels) -> list[Scored]:
        """Compute scores and heat maps in one pass, in the order given.

        Args:
            images: (n, 224, 224, 3) uint8, RGB, the version's view of each photo (see `trainer.photos.views`).

        Raises:
            ImageError: another shape or dtype.
        """
        extracted = self._backbone.extract(images, with_maps=True)
        scores = self._head.scores(extracted.features)
        maps = heat(evidence(self._head, extracted))
        known = [True] * len(images) if self._novelty is None else self._novelty.is_known(extracted.features).tolist()
        return [Scored(*one) for one in zip(scores, maps, known, strict=True)]

    def _check_fit(self) -> None:
        if self._head.labels != self.labels or self._head.n_features != self._backbone.n_features:
            raise ModelError(
                f"{self.version}: the head has {len(self._head.labels)} labels and {self._head.n_features} features, "
                f"the version {len(self.labels)} and {self._backbone.n_features}; promote another version"
            )

    def _warm_up(self) -> None:
        """Run one image, then two: after a second batch size, Keras compiles no more shapes."""
        for n in (1, 2):
            self.predict(np.zeros((n, self._backbone.side_px, self._backbone.side_px, 3), dtype=np.uint8))


def champion(settings: Settings) -> Version | None:
    """The champion, with its files checked but not loaded; None if there is none.

    Raises:
        ModelError: all champions are missing or damaged.
    """
    return Registry(settings.data_dir).champion()


def versions(settings: Settings) -> list[Version]:
    """All intact versions, oldest first; damaged ones are logged."""
    registry = Registry(settings.data_dir)
    whole = []
    for name in registry.names():
        try:
            whole.append(registry.load(name))
        except ModelError as error:
            logger.warning("version damaged name=%s reason=%s", name, error)
    return whole


def champion_name(settings: Settings) -> str | None:
    """The name of the champion, without checking its files; None if there is none. Raises ModelError."""
    return Registry(settings.data_dir).champion_name()


def holdings(settings: Settings) -> Holdings:
    """Count the stored photos. Raises StorageError if the manifest cannot be read."""
    path = settings.data_dir / FILE_NAME
    if not path.exists():
        return Holdings({}, 0)
    with Manifest(path) as manifest:
        photos = list(manifest.photos(settings.source.kind))
    trained_at = [datetime.fromisoformat(version.facts.created_at) for version in versions(settings)]
    since = max(trained_at, default=None)
    n_new = sum(since is None or photo.fetched_at > since for photo in photos)
    return Holdings(dict(sorted(Counter(photo.label for photo in photos).items())), n_new)


def settled(settings: Settings, *, since: datetime | None = None) -> dict[str, int]:
    """How many photos a person has kept, relabelled and dropped, by these words; of decisions made since then.

    Args:
        since: aware, UTC.

    Raises:
        StorageError: the manifest cannot be read.
    """
    path = settings.data_dir / FILE_NAME
    if not path.exists():
        return {}
    with Manifest(path) as manifest:
        counted = Decisions(manifest).count(settings.source.kind, since=since)
    return {verdict: n for (by, verdict), n in sorted(counted.items()) if by == "person"}


def n_contributed(settings: Settings) -> int:
    """How many contributed photos wait for a person's decision. Raises StorageError."""
    ids = {each.id for each in Contributions(settings.data_dir).all()}
    if not ids or not (settings.data_dir / FILE_NAME).exists():
        return len(ids)
    with Manifest(settings.data_dir / FILE_NAME) as manifest:
        return len(ids - Decisions(manifest).standing(SOURCE, at=datetime.now(UTC)).of_id.keys())


def _find(settings: Settings, name: str | None) -> Version:
    registry = Registry(settings.data_dir)
    version = registry.champion() if name is None else registry.load(name)
    if version is None:
        raise ModelError(f"{settings.data_dir}: no version to serve yet; run `python -m trainer train`")
    return version


@lru_cache(maxsize=1)  # a new champion usually has the same backbone: swapping then takes no time and no memory
def _load_backbone(
    weights: str,
    weights_seed: int,
    layers: tuple[str, ...],
    precision: Precision,
    fingerprint: str,
    block5: _Tuned | None,
) -> Extractor:
    """Load the backbone that a version was trained on.

    Args:
        block5: the version with fine-tuned weights; None means VGG16's own.

    Raises:
        ModelError: its weights are not available, or they have changed.
    """
    load_keras(small_batches=True)
    settings = FeatureSettings(weights=weights, weights_seed=weights_seed, layers=layers)
    tuned = block5.version.block5() if block5 else None
    backbone = Backbone.load(settings, precision=precision, block5=tuned)
    if backbone.fingerprint != fingerprint:
        raise ModelError(
            f"features.weights: {weights} now holds other VGG16 weights ({backbone.fingerprint[:16]}) than the version "
            f"was trained on ({fingerprint[:16]}); restore the old file, or train again"
        )
    return backbone
