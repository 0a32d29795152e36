"""Fakes that several tests share; each passes the tests of the real thing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import Self
from unittest import mock

import numpy as np
import numpy.typing as npt
from PIL import Image

from trainer.config import ImageSettings
from trainer.errors import ModelError
from trainer.photos import images
from trainer.photos.figure import Figures

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class FakeScored:
    """A fake of `trainer.registry.serving.Scored`."""

    scores: npt.NDArray[np.float32]
    heatmap: npt.NDArray[np.float32]
    is_known: bool = True


class FakeClassifier:
    """A fake of `trainer.registry.serving.Classifier`: classifies by a photo's colour, without a network.

    Red looks like brazil, green like china, blue like japan; grey is not sure. Black looks like nothing it knows.
    """

    labels = ("brazil", "china", "japan")
    view = "whole"
    thresholds = (0.5, 0.5, 0.5)

    def __init__(self, version: str = "v1") -> None:
        self.version = version
        self.batches: list[int] = []

    def predict(self, photos: Pixels) -> Sequence[FakeScored]:
        self.batches.append(len(photos))
        return [self._score(photo) for photo in photos]

    def _score(self, photo: Pixels) -> FakeScored:
        mean = photo.reshape(-1, 3).mean(axis=0)
        strength = np.exp((mean - mean.max()) / 32.0)
        heatmap = np.linspace(0, 1, 14 * 14, dtype=np.float32).reshape(14, 14)
        return FakeScored((strength / strength.sum()).astype(np.float32), heatmap, is_known=bool(mean.max() > 8))


@dataclass
class FakeLoader:
    """Loads `classifier`; setting another one changes the champion."""

    classifier: FakeClassifier | None = field(default_factory=FakeClassifier)
    n_loads: int = 0

    def stamp(self) -> object:
        return None if self.classifier is None else self.classifier.version

    def load(self) -> FakeClassifier:
        self.n_loads += 1
        if self.classifier is None:
            raise ModelError("no version yet; run `python -m trainer train`")
        return self.classifier


def find_upper_half(_: Image.Image) -> Figures:
    """A fake of `trainer.photos.figure.Detector.find`: a figure is in the upper half of every photo."""
    return Figures(1, 0.1, (0.0, 0.0, 1.0, 0.5))


class FakeDecoder:
    """Decodes here and now; `trainer.photos.decode.Decoder` does the same in a process of its own."""

    def __init__(self, limits: ImageSettings | None = None) -> None:
        self._limits = limits or ImageSettings()
        self.gate = threading.Event()  # cleared: decoding waits
        self.gate.set()

    def prepare(self, data: bytes, view: str) -> Pixels:
        pixels: Pixels = self.views(data, [view])[0]
        return pixels

    def views(self, data: bytes, views: Sequence[str], *, side_px: int = 224) -> Pixels:
        self.gate.wait()
        return images.prepare(data, self._limits, views, side_px=side_px, find=find_upper_half)

    def measure(self, data: bytes) -> images.Measured:
        return images.measure(data, self._limits)

    def figures(self, data: bytes) -> Figures:
        return images.find_figures(data, self._limits, find_upper_half)

    def thumbnail(self, data: bytes, *, max_width: int, max_height: int) -> Pixels:
        return images.thumbnail(data, self._limits, max_width=max_width, max_height=max_height)


@contextmanager
def apscheduler_clock(now: Callable[[], float]) -> Iterator[None]:
    """Makes APScheduler read this clock (seconds since the epoch) instead of the machine's."""

    class Clocked(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(now(), tz)

    with (
        mock.patch("apscheduler.schedulers.base.datetime", Clocked),
        mock.patch("apscheduler.executors.base.datetime", Clocked),
    ):
        yield
