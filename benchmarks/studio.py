"""Sets up a trainer for benchmarks: a gallery with drawn photos on loopback, and real `python -m trainer` commands.

VGG16 has seeded random weights unless `--weights` says otherwise, because ImageNet's cannot be downloaded everywhere.
Comparisons use the same weights on both sides, and accuracies on drawings say nothing about real photos.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from sandbox.child import environment, source_settings
from sandbox.gallery import Gallery, create_app
from sandbox.server import serve
from trainer.config import Settings, load_settings
from trainer.photos.manifest import Photo
from trainer.registry.registry import Registry, Version
from trainer.training.journal import FILE_NAME
from trainer.training.training_data import TrainingData, read_photos, sort_photos
from trainer.vgg16 import int8

ROOT = Path(__file__).parents[1]
COMPARED = (
    "head.npz",
    "metrics.json",
    "photos.txt",
    int8.FILE_NAME,
)  # files of a version that are equal for two equal trainings
PHOTOS_PER_MEMBER = 5


def describe_weights(weights: str) -> str:
    """In words, for the figures.

    Args:
        weights: as `features.weights`.
    """
    return "VGG16 with seeded random weights" if weights == "random" else f"VGG16 with {Path(weights).stem}"


class Silent:
    """A `trainer.training.training_data.Watcher` without output."""

    def step(self, name: str, total: int | None = None) -> None:
        """Does nothing."""

    def update(self, done: int, total: int) -> None:
        """Does nothing."""


@dataclass
class Studio:
    """A served gallery, and a data_dir for its photos.

    Attributes:
        options: additional settings of the trainer, named as environment variables without the prefix.
    """

    gallery: Gallery
    url: str
    data_dir: Path
    photos_per_label: int
    options: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """The environment of a trainer process, without the user's own settings."""
        own = {"DATA_DIR": str(self.data_dir), "SCRAPE__PHOTOS_PER_LABEL": str(self.photos_per_label)}
        return environment(source_settings(self.gallery, self.url) | own | dict(self.options))

    def settings(self) -> Settings:
        """The settings of such a process."""
        return load_settings(Settings, environ=self.environment(), root=self.data_dir)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command of the trainer; its working directory has no config.yaml."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-m", "trainer", *words],
            cwd=self.data_dir,
            env={**self.environment(), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str) -> float:
        """Run a command; returns the seconds from start to end of its process.

        Raises:
            RuntimeError: it failed; the message has its last lines.
        """
        started = time.perf_counter()
        process = self.start(*words)
        _, errors = process.communicate()
        took_s = time.perf_counter() - started
        if process.returncode != 0:
            raise RuntimeError(f"trainer {' '.join(words)} failed: {errors[-2000:]}")
        return took_s

    def champion(self) -> Version:
        """The champion."""
        champion = Registry(self.data_dir).champion()
        assert champion is not None
        return champion

    def outcome(self) -> tuple[bytes, ...]:
        """The contents of the champion's COMPARED files; b"" for one that it has not."""
        files = [self.champion().folder / name for name in COMPARED]
        return tuple(file.read_bytes() if file.exists() else b"" for file in files)


@contextmanager
def studio(
    data_dir: Path,
    *,
    photos_per_label: int,
    gallery: Gallery | None = None,
    options: Mapping[str, str] | None = None,
    weights: str = "random",
) -> Iterator[Studio]:
    """Serve a gallery while the context lasts, without scraping.

    Args:
        gallery: None means a new one with enough photos.
        options: see `Studio`.
        weights: as `features.weights`.
    """
    gallery = gallery or Gallery.of_size(photos_per_label, photos_per_member=PHOTOS_PER_MEMBER)
    with serve(create_app(gallery)) as url:
        yield Studio(gallery, url, data_dir, photos_per_label, {"FEATURES__WEIGHTS": weights, **(options or {})})


@contextmanager
def scraped_studio(
    data_dir: Path,
    *,
    photos_per_label: int,
    say: Callable[[str], None],
    options: Mapping[str, str] | None = None,
    weights: str = "random",
) -> Iterator[Studio]:
    """Like `studio`, with scraped photos."""
    with studio(data_dir, photos_per_label=photos_per_label, options=options, weights=weights) as place:
        say(f"scraping {photos_per_label} photos for each of {len(place.gallery.labels)} labels")
        place.run("scrape")
        yield place


def gather(place: Studio, say: Callable[[str], None]) -> tuple[Settings, list[Photo], TrainingData]:
    """Load photos and features of a data_dir; missing features are computed in this process."""
    say("features")
    settings = place.settings()
    return settings, read_photos(settings), TrainingData.gather(settings, Silent())


def with_other_members(photos: Sequence[Photo], turn: int) -> list[Photo]:
    """The same photos with other member ids, so that other members are in the holdout.

    Args:
        photos: each with a member.
        turn: 0 changes nothing.
    """
    return [replace(photo, member_id=f"{photo.member_id}/{turn}" if turn else photo.member_id) for photo in photos]


def with_photos(training_data: TrainingData, photos: Sequence[Photo], settings: Settings) -> TrainingData:
    """The training data of these photos only, assigned to splits; their features must be stored.

    Raises:
        DatasetError: too few photos, or a split lacks a label.
    """
    return replace(training_data, dataset=sort_photos(photos, settings))


def step_seconds(data_dir: Path) -> dict[str, float]:
    """Seconds of each step of the last run, from its journal; "start" is the time before the first step."""
    lines = (data_dir / FILE_NAME).read_text(encoding="utf-8").splitlines()
    return seconds_of_steps([json.loads(line) for line in lines])


def seconds_of_steps(entries: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """Like `step_seconds`, from journal entries; times of a repeated step are added."""
    marks = [entry for entry in entries if entry["run"] == entries[-1]["run"] and entry["event"] != "reading"]
    seconds: dict[str, float] = {}
    for mark, after in pairwise(marks):
        name = mark.get("name", "start")
        took_s = (datetime.fromisoformat(after["at"]) - datetime.fromisoformat(mark["at"])).total_seconds()
        seconds[name] = seconds.get(name, 0.0) + took_s
    return seconds
