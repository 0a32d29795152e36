"""A trainer beside a gallery: photos that are drawn by program, scraped over loopback, and real `python -m trainer`.

VGG16 has weights drawn from a seed, as ImageNet's cannot be downloaded everywhere: what is compared here is compared
with the same weights on both sides, and no accuracy says anything about real photos.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from sandbox.gallery import Gallery, create_app
from sandbox.server import serve
from trainer.config import Settings, load_settings
from trainer.photos.manifest import Photo
from trainer.registry.registry import Registry, Version
from trainer.training.journal import FILE_NAME
from trainer.training.training_data import TrainingData, read_photos, sort_photos

ROOT = Path(__file__).parents[1]
COMPARED = ("head.npz", "metrics.json", "photos.txt")  # a version's files that two equal trainings have in common
PHOTOS_PER_MEMBER = 5
SPARE_PHOTOS = 8  # for each label, as some files are broken on purpose


class Silent:
    """A `trainer.training.training_data.Watcher` that shows nothing."""

    def step(self, name: str, total: int | None = None) -> None:
        """Nobody is told."""

    def update(self, done: int, total: int) -> None:
        """Nobody is told."""


@dataclass
class Studio:
    """A gallery that is served, and a data_dir that is filled from it.

    Attributes:
        options: more of the trainer's settings, as the environment spells them without the prefix.
    """

    gallery: Gallery
    url: str
    data_dir: Path
    photos_per_label: int
    options: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """What a trainer process is told; settings of whoever started the benchmark are left out."""
        countries = {label: {"region": pair[0], "country": pair[1]} for label, pair in self.gallery.countries.items()}
        options = {
            "DATA_DIR": str(self.data_dir),
            "WEB__ALLOW_PRIVATE_ADDRESSES": "true",
            "SOURCE__KIND": "worldcosplay",
            "SOURCE__WORLDCOSPLAY__BASE_URL": self.url,
            "SOURCE__WORLDCOSPLAY__IMAGE_HOSTS": "[127.0.0.1]",
            "SOURCE__WORLDCOSPLAY__COUNTRIES": json.dumps(countries),
            "SCRAPE__PHOTOS_PER_LABEL": str(self.photos_per_label),
            "SCRAPE__PAGE_PAUSE_S": "0",
            "SCRAPE__IMAGE_PAUSE_S": "0",
            "FEATURES__WEIGHTS": "random",
            **self.options,
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DOKOCOS_")}
        return inherited | {f"DOKOCOS_{name}": value for name, value in options.items()}

    def settings(self) -> Settings:
        """What such a process makes of it."""
        return load_settings(Settings, environ=self.environment(), root=self.data_dir)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command of the trainer; its working folder holds no config.yaml."""
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
        """Seconds of a whole command, from the start of its process to its end.

        Raises:
            RuntimeError: it failed; the message holds its last lines.
        """
        started = time.perf_counter()
        process = self.start(*words)
        _, errors = process.communicate()
        took_s = time.perf_counter() - started
        if process.returncode != 0:
            raise RuntimeError(f"trainer {' '.join(words)} failed: {errors[-2000:]}")
        return took_s

    def champion(self) -> Version:
        """The version that serves."""
        champion = Registry(self.data_dir).champion()
        assert champion is not None
        return champion

    def outcome(self) -> tuple[bytes, ...]:
        """What the champion came to: its COMPARED files."""
        return tuple((self.champion().folder / name).read_bytes() for name in COMPARED)


def hang(photos_per_label: int, *, seed: int = 0) -> Gallery:
    """A gallery with enough photos under each label."""
    n_members = -(-(photos_per_label + SPARE_PHOTOS) // PHOTOS_PER_MEMBER)
    gallery = Gallery(seed, members_per_label=n_members, photos_per_member=PHOTOS_PER_MEMBER)
    for label in gallery.labels:
        gallery.grow(label, photos=max(0, photos_per_label + SPARE_PHOTOS - len(gallery.photos(label))))
    return gallery


@contextmanager
def studio(
    data_dir: Path, *, photos_per_label: int, gallery: Gallery | None = None, options: Mapping[str, str] | None = None
) -> Iterator[Studio]:
    """A gallery that is served while the context lasts; nothing is scraped yet.

    Args:
        gallery: None: one with as many photos as are wanted.
        options: see `Studio`.
    """
    gallery = gallery or hang(photos_per_label)
    with serve(create_app(gallery)) as url:
        yield Studio(gallery, url, data_dir, photos_per_label, options or {})


@contextmanager
def scraped_studio(
    data_dir: Path, *, photos_per_label: int, say: Callable[[str], None], options: Mapping[str, str] | None = None
) -> Iterator[Studio]:
    """As `studio`, with the photos scraped."""
    with studio(data_dir, photos_per_label=photos_per_label, options=options) as place:
        say(f"scraping {photos_per_label} photos for each of {len(place.gallery.labels)} labels")
        place.run("scrape")
        yield place


def gather(place: Studio, say: Callable[[str], None]) -> tuple[Settings, list[Photo], TrainingData]:
    """The photos of a data_dir, and all of them with their features; what is missing is computed in this process."""
    say("features; VGG16 has seeded random weights")
    settings = place.settings()
    return settings, read_photos(settings), TrainingData.gather(settings, Silent())


def drawn_anew(photos: Sequence[Photo], turn: int) -> list[Photo]:
    """The same photos with other members held out: members get other ids, and by these they are put into splits.

    Args:
        photos: each with a member.
        turn: 0 leaves all as it is.
    """
    return [replace(photo, member_id=f"{photo.member_id}/{turn}" if turn else photo.member_id) for photo in photos]


def with_photos(training_data: TrainingData, photos: Sequence[Photo], settings: Settings) -> TrainingData:
    """The training_data of these photos alone, in the splits they fall into; their features must be there.

    Raises:
        DatasetError: too few photos, or a split lacks a label.
    """
    return replace(training_data, dataset=sort_photos(photos, settings))


def step_seconds(data_dir: Path) -> dict[str, float]:
    """Seconds of each step of the last run, as its journal tells; "start" is what lay before the first of them."""
    lines = (data_dir / FILE_NAME).read_text(encoding="utf-8").splitlines()
    return seconds_of_steps([json.loads(line) for line in lines])


def seconds_of_steps(entries: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """As `step_seconds`, of a journal's entries; a step that came twice counts in total."""
    marks = [entry for entry in entries if entry["run"] == entries[-1]["run"] and entry["event"] != "reading"]
    seconds: dict[str, float] = {}
    for mark, after in pairwise(marks):
        name = mark.get("name", "start")
        took_s = (datetime.fromisoformat(after["at"]) - datetime.fromisoformat(mark["at"])).total_seconds()
        seconds[name] = seconds.get(name, 0.0) + took_s
    return seconds
