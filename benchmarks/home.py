"""Sets up a bot for benchmarks: a sandbox instance, a real `python -m bot run`, and an untrained version.

The time does not depend on the weights of the head, so they are random from a seed; the network is the full VGG16.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from sandbox.child import STOP_TIMEOUT_S, environment, stop
from sandbox.gallery import Gallery
from sandbox.instance import NO_RATE_LIMITS, Account, Instance, InstanceSettings, Media, Status, create_app
from sandbox.server import serve
from trainer.config import Settings
from trainer.head.head import Head
from trainer.registry.registry import Registry, VersionFacts
from trainer.vgg16.backbone import SIDE_PX, Pixels
from trainer.vgg16.int8 import Int8Backbone
from trainer.vgg16.load import load_network

LABELS = ("brazil", "china", "japan")
START_TIMEOUT_S = 120.0


@dataclass
class Home:
    """The instance and the bot's account."""

    instance: Instance
    url: str
    me: Account
    data_dir: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    program: Sequence[str] = ("bot", "run")  # arguments of `python -m`
    folder_for_temporary_files: Path | None = None  # None means the system's

    def environment(self) -> dict[str, str]:
        """The environment variables of the bot process."""
        own = {
            "DATA_DIR": str(self.data_dir),
            "WEB__ALLOW_PRIVATE_ADDRESSES": "true",
            "MASTODON__BASE_URL": self.url,
            "MASTODON__ACCESS_TOKEN": self.me.token,
            "MASTODON__ALLOW_HTTP": "true",
        }
        temporary = {"TMPDIR": str(self.folder_for_temporary_files)} if self.folder_for_temporary_files else {}
        return environment(own | dict(self.settings)) | temporary

    def start_bot(self) -> subprocess.Popen[bytes]:
        """Start the bot, without waiting until it is ready."""
        with (self.data_dir / "bot.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *self.program], env=self.environment(), stdout=log, stderr=log
            )

    def wait_until_ready(self, process: subprocess.Popen[bytes]) -> float:
        """Wait until the bot listens for mentions; returns the seconds.

        Raises:
            RuntimeError: the bot exited; the message has its last lines.
        """
        started = time.monotonic()
        while not self.instance.hub.listeners(self.me):
            if process.poll() is not None or time.monotonic() - started > START_TIMEOUT_S:
                lines = (self.data_dir / "bot.log").read_text(encoding="utf-8", errors="replace").splitlines()
                raise RuntimeError("the bot is not ready:\n" + "\n".join(lines[-20:]))
            time.sleep(0.01)
        return time.monotonic() - started

    def person(self, name: str) -> Account:
        """Create an account that is not new."""
        return self.instance.add_account(name, created_at=datetime.now(UTC) - timedelta(days=400))

    def ask(self, by: Account, photo: bytes | Media | None, *, text: str = "@dokocos which gallery?") -> Status:
        """Post a mention, optionally with a photo (bytes, or an uploaded attachment)."""
        media = self.instance.attach(by, photo) if isinstance(photo, bytes) else photo
        return self.instance.post(by, text, attachments=[media] if media else [])

    def answers(self, question: Status) -> list[Status]:
        """The bot's replies to a status, from the instance."""
        return [reply for reply in self.instance.replies_to(question) if reply.account is self.me]

    def wait_for_answer(self, question: Status) -> float:
        """Wait until the bot has replied to a status; returns the seconds."""
        return until(lambda: self.answers(question))


@contextmanager
def home(work_dir: Path, **settings: str) -> Iterator[Home]:
    """Set up an instance without rate limits, and a data_dir with a champion.

    Args:
        settings: additional settings of the bot, named as environment variables without the prefix.
    """
    with _home(work_dir, settings) as place:
        make_champion(place.data_dir)
        yield place


@contextmanager
def quick_home(work_dir: Path, **settings: str) -> Iterator[Home]:
    """Like `home`, but for `benchmarks.quick_bot`, without a champion."""
    with _home(work_dir, settings) as place:
        place.program = ("benchmarks.quick_bot",)
        yield place


@contextmanager
def _home(work_dir: Path, settings: Mapping[str, str]) -> Iterator[Home]:
    data_dir = work_dir / "data"
    data_dir.mkdir()
    instance = Instance(InstanceSettings(rate_limits=NO_RATE_LIMITS))
    me = instance.add_account("dokocos", bot=True)
    generous = {"BOT__" + name: "1000000" for name in ("MAX_ANSWERS_PER_HOUR", "MAX_ANSWERS_PER_HOUR_NEW")}
    with serve(create_app(instance)) as url:
        yield Home(instance, url, me, data_dir, {**generous, **settings})


@contextmanager
def running(place: Home) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """Run the bot while the context lasts; yields its process and the seconds until it was ready."""
    process = place.start_bot()
    try:
        yield process, place.wait_until_ready(process)
    finally:
        stop(process)


def make_champion(data_dir: Path, *, seed: int = 0, only_keras: bool = False) -> None:
    """Create a champion with random weights, in the precision that a training on this machine would choose.

    Args:
        seed: of the head's weights.
        only_keras: never int8.
    """
    settings = Settings.model_validate({"data_dir": data_dir, "features": {"weights": "random"}})
    backbone = load_network(settings.features, data_dir, prepared_photos, only_keras=only_keras)
    kernel = np.random.default_rng(seed).normal(0, 0.03, (backbone.n_features, 3)).astype(np.float32)
    head = Head(
        labels=LABELS,
        mean=np.zeros(backbone.n_features, dtype=np.float32),
        scale=np.ones(backbone.n_features, dtype=np.float32),
        layers=((kernel, np.zeros(3, dtype=np.float32)),),
    )
    facts = VersionFacts(
        labels=LABELS,
        weights="random",
        weights_seed=settings.features.weights_seed,
        fingerprint=backbone.fingerprint,
        layers=backbone.layers,
        view="whole",
        precision=backbone.precision,
        threshold=0.0,
        temperature=1.0,
        seed=seed,
        n_photos=0,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        libraries={},
        settings={},
        tuned=None,
        quantised=backbone.sha256 if isinstance(backbone, Int8Backbone) else None,
    )

    def write(folder: Path) -> None:
        head.save(folder)
        if isinstance(backbone, Int8Backbone):
            backbone.save(folder)

    registry = Registry(data_dir)
    registry.promote(registry.add(facts, {}, write).name, reason="made for a benchmark")


def prepared_photos(n: int = 80) -> Pixels:
    """Draw photos and prepare them for VGG16, (n, 224, 224, 3) uint8."""
    opened = (Image.open(BytesIO(data)).convert("RGB") for data in draw_photos(n))
    return np.stack([np.asarray(photo.resize((SIDE_PX, SIDE_PX))) for photo in opened])


def draw_photos(n: int, *, seed: int = 0) -> list[bytes]:
    """Draw JPEGs like those that users post."""
    gallery = Gallery(seed)
    return [gallery.draw_fresh(gallery.labels[number % len(gallery.labels)], seed + number) for number in range(n)]


def resident_mb(process: subprocess.Popen[bytes]) -> float:
    """Resident memory of a process, without its children, in MB."""
    return float(psutil.Process(process.pid).memory_info().rss / 2**20)


def until(condition: Callable[[], Any], *, timeout_s: float = 120.0) -> float:
    """Wait until a condition is true; returns the seconds.

    Raises:
        TimeoutError: it did not become true.
    """
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > timeout_s:
            raise TimeoutError(f"the condition was not true within {timeout_s:.0f} s")
        time.sleep(0.002)
    return time.monotonic() - started


class BareForward:
    """A process that only runs the champion on prepared images: the lower limit of an answer's time."""

    def __init__(self, data_dir: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.bare_forward", str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.seconds(1)

    def seconds(self, batch_size: int) -> float:
        """Seconds of one pass over a batch."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{batch_size}\n")
        self._process.stdin.flush()
        return float(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(STOP_TIMEOUT_S)
