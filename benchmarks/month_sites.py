"""Provides photos and versions for the simulated month: the sandbox's gallery and the real trainer, or fakes.

Both follow the plan of the month. The real source draws and serves photos, and trains with `python -m trainer train` on
a backbone of one layer: the same steps, in seconds.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import yaml

from benchmarks.home import until
from bot.admin.subprocesses import Subprocesses
from bot.config import Settings
from bot.photos.photos import Decoder as Decodes
from bot.photos.predict import Loader, ServingLoader
from sandbox.child import environment
from sandbox.faults import Fault, Faults
from sandbox.gallery import Gallery, Options, create_app
from sandbox.server import serve
from tests.fake_trainer import add_version, plan
from tests.fakes import FakeClassifier, FakeDecoder
from trainer.photos.decode import Decoder
from trainer.photos.images import prepare
from trainer.registry.registry import Registry
from trainer.registry.serving import Classifier
from trainer.training.journal import Journal

ROOT = Path(__file__).parent.parent
Training = Literal["better", "worse", "crash", "any"]
Site = Literal["grows", "down", "back"]
# Different ways in which a site can fail.
OUTAGES = (Fault(kind="answer", status=503), Fault(kind="cut"), Fault(kind="html"))
# A possible mistake in config.yaml: a penalty so large that the head learns nothing.
SLIP = {"l2": 1e6}
FIRST_MEMBERS, FIRST_PHOTOS = 7, 4  # per label; few photos, and half of them with a wrong label
FIRST_WRONG_SHARE = 0.5
NEW_MEMBERS, NEW_PHOTOS = 4, 10  # per label and night
LAYER = "block1_conv1"
N_JUDGED = 40  # new photos per label, for the comparison of the champions at the end


@dataclass(frozen=True, slots=True)
class Night:
    """The plan of one night.

    Attributes:
        site: it has new photos, fails, or is back with changes after failing.
        training: the planned result of this night's training; None without a training.
    """

    number: int
    site: Site
    training: Training | None


class StandIn:
    """A fake trainer and classifier that take no time; manifest, registry and figures are real.

    Attributes:
        settings: additional sections of config.yaml.
    """

    min_new_photos = 5
    settings: Mapping[str, Any] = {}

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._since = datetime.now(UTC)

    def install(self, config: Path) -> None:  # noqa: ARG002 - the fake needs no settings
        """Create the first champion."""
        add_version(self._data_dir, right=0.6, promoted=True, created_at=self._since)

    def prepare(self, night: Night) -> None:
        """Set up the site and the trainer for a night."""
        scrape = {"grows": 5, "down": "the site answers 503", "back": 12}[night.site]
        training = "worse" if night.training == "any" else night.training
        moment = self._since + timedelta(days=night.number + 1)
        plan(self._data_dir, now=moment.isoformat(), scrape=[scrape], train=[training])

    def subprocesses(self, settings: Settings, config: Path) -> Subprocesses:  # noqa: ARG002
        """The runner of the trainer's commands."""
        command = (sys.executable, "-m", "tests.fake_trainer", str(self._data_dir))
        return Subprocesses(settings.schedule, self._data_dir / "log", command=command, environ=_environment())

    @contextmanager
    def classifier_and_decoder(self, settings: Settings) -> Iterator[tuple[Loader, Decodes]]:  # noqa: ARG002
        """Yield the classifier loader and the decoder for the bot."""
        yield _RegistryLoader(self._data_dir), FakeDecoder()

    def accuracies(self, settings: Settings, versions: list[str]) -> list[float]:  # noqa: ARG002
        """Balanced accuracy, 0..1, of each version."""
        registry = Registry(self._data_dir)
        return [registry.load(name).metrics["report"]["balanced_accuracy"]["value"] for name in versions]


class RealSource:
    """The sandbox's gallery, and the real trainer; its methods are those of `StandIn`.

    Args:
        url: of the gallery.
    """

    min_new_photos = 30

    def __init__(self, data_dir: Path, gallery: Gallery, options: Options, faults: Faults, url: str) -> None:
        self._data_dir = data_dir
        self._gallery = gallery
        self._options = options
        self._faults = faults
        self._config: Path | None = None
        countries = {label: {"region": pair[0], "country": pair[1]} for label, pair in gallery.countries.items()}
        self.settings = {
            "source": {"worldcosplay": {"base_url": url, "image_hosts": ["127.0.0.1"], "countries": countries}},
            "scrape": {"page_pause_s": 0, "image_pause_s": 0},
            "features": {"weights": "random", "layers": [LAYER], "views": ["whole"], "precision": "float32"},
        }

    def install(self, config: Path) -> None:
        self._config = config
        subprocesses = self.subprocesses(Settings(), config)
        for command in ("scrape", "train"):
            ended = subprocesses.run(command)
            if ended.status != 0:
                raise RuntimeError(f"the first {command} failed: {ended.why}")
        self._gallery.wrong_share = 0.0

    def prepare(self, night: Night) -> None:
        self._faults.clear()
        if night.site == "down":
            self._faults.add(OUTAGES[night.number % len(OUTAGES)])
        if night.site == "back":
            self._options.shape, self._options.relative_urls = "flat", True
        for label in self._gallery.labels:
            self._gallery.grow(label, members=NEW_MEMBERS, photos=NEW_PHOTOS)
        self._write_head(SLIP if night.training == "worse" else {})
        if night.training == "crash":
            threading.Thread(target=self._kill_training, name="killer", daemon=True).start()

    def subprocesses(self, settings: Settings, config: Path) -> Subprocesses:
        return Subprocesses(settings.schedule, self._data_dir / "log", config=config, environ=_environment())

    @contextmanager
    def classifier_and_decoder(self, settings: Settings) -> Iterator[tuple[Loader, Decodes]]:
        with Decoder(settings.images) as decoder:
            yield ServingLoader(settings), decoder

    def accuracies(self, settings: Settings, versions: list[str]) -> list[float]:
        """Accuracy, 0..1, of each version on new photos by people who are not in the gallery."""
        labels = [label for label in self._gallery.labels for _ in range(N_JUDGED)]
        files = [self._gallery.draw_fresh(label, number, width_px=350) for number, label in enumerate(labels)]
        photos = np.concatenate([prepare(data, settings.images, ("whole",)) for data in files])
        shares = []
        for name in versions:
            classifier = Classifier.load(settings, name)
            answers = [classifier.labels[int(each.scores.argmax())] for each in classifier.predict(photos)]
            shares.append(sum(map(str.__eq__, answers, labels)) / len(labels))
        return shares

    def _write_head(self, head: Mapping[str, Any]) -> None:
        """Change the head's settings in config.yaml."""
        assert self._config is not None
        content = yaml.safe_load(self._config.read_text(encoding="utf-8"))
        self._config.write_text(yaml.safe_dump({**content, "head": dict(head)}), encoding="utf-8")

    def _kill_training(self) -> None:
        """Wait for the next training, and kill it with SIGKILL while it runs."""
        journal = Journal(self._data_dir)
        n_before = len(journal.runs())
        until(lambda: len(journal.runs()) > n_before and journal.runs()[-1].step != "start", timeout_s=600)
        for child in psutil.Process().children():
            if "train" in child.cmdline():
                child.send_signal(signal.SIGKILL)


@contextmanager
def real_source(data_dir: Path) -> Iterator[RealSource]:
    """Serve a new gallery on loopback; yields the source with its trainer."""
    gallery = Gallery(3, members_per_label=FIRST_MEMBERS, photos_per_member=FIRST_PHOTOS, wrong_share=FIRST_WRONG_SHARE)
    options, faults = Options(), Faults()
    with serve(create_app(gallery, options, faults)) as url:
        yield RealSource(data_dir, gallery, options, faults, url)


def _environment() -> dict[str, str]:
    """The environment of child processes, whose settings come from config.yaml only."""
    return environment({}) | {"PYTHONPATH": str(ROOT)}


Source = StandIn | RealSource


class _RegistryLoader:
    """Loads a fake classifier with the champion's name."""

    def __init__(self, data_dir: Path) -> None:
        self._registry = Registry(data_dir)

    def stamp(self) -> object:
        """A value that changes with the champion."""
        return self._registry.champion_name()

    def load(self) -> FakeClassifier:
        """The fake classifier of the champion."""
        champion = self._registry.champion()
        assert champion is not None
        return FakeClassifier(champion.name)
