"""Creates a few photos that a head can classify by colour, and settings for a training in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.fakes import FakeDecoder
from trainer.config import Settings
from trainer.photos.manifest import FILE_NAME, Manifest
from trainer.scrape.scrape import Scrape
from trainer.scrape.sites.choose import open_site
from trainer.web.fetch import Fetcher

LABELS = ("brazil", "china", "japan")


def paint_photos(folder: Path, *, per_label: int = 24, seed: int = 0, labels: tuple[str, ...] = LABELS) -> None:
    """Draw block noise with a little more of one colour per label; no two photos are similar."""
    rng = np.random.default_rng(seed)
    for index, label in enumerate(labels):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(per_label):
            blocks = rng.integers(0, 200, (8, 6, 3))
            blocks[..., index % 3] += rng.integers(0, 56)
            pixels = blocks.astype(np.uint8).repeat(16, axis=0).repeat(16, axis=1)
            Image.fromarray(pixels).save(folder / label / f"{seed}-{number}.png")


def settings_for(folder: Path, data_dir: Path, **sections: dict[str, Any]) -> Settings:
    """Settings with the first layer of a random VGG16 and a linear head; `sections` override single keys."""
    quick: dict[str, dict[str, Any]] = {
        "source": {"kind": "folder", "folder": {"path": folder}},
        "split": {"min_photos_per_label": 10, "near_duplicate_bits": 0},
        "features": {
            "weights": "random",
            "layers": ["block1_conv1"],
            "views": ["whole"],
            "precision": "float32",
            "batch_size": 8,
        },
        "head": {"hidden_units": 0},
        "evaluate": {"resamples": 200},
    }
    for name, keys in sections.items():
        quick[name] = {**quick.get(name, {}), **keys}
    return Settings.model_validate({"data_dir": data_dir, **quick})


class Silent:
    """A watcher that records the steps, and can fail at one."""

    def __init__(self, fail_at: str = "") -> None:
        self.steps: list[str] = []
        self._fail_at = fail_at

    def step(self, name: str, total: int | None = None) -> None:  # noqa: ARG002
        self.steps.append(name)
        if name == self._fail_at:
            raise KeyboardInterrupt

    def update(self, done: int, total: int) -> None:
        assert 0 <= done <= total


def gather(settings: Settings) -> None:
    """Scrape, as `python -m trainer scrape` does."""
    with Fetcher(settings.web) as fetcher, Manifest(settings.data_dir / FILE_NAME) as manifest:
        Scrape(open_site(settings, fetcher), manifest, settings, FakeDecoder()).run()
