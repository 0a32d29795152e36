"""Trains on 10,000, 100,000 and 1,000,000 made-up photos, and measures every step: processor time and peak memory.

It is the `train` of `python -m trainer train`, with a real manifest and a real cache. Made up are the hashes and the
features (a noisy cluster for each label), members of eight photos each, and near-duplicates. Files are a few drawings
that all photos share; VGG16 is loaded, and has nothing to do, as all features are in the cache. Admission, storing,
training and evaluating run in a process each; each step of a training is measured by itself.

Processor time is told, as the machine may do other work; beside it stand the machine's ceilings of the same minutes.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from benchmarks.result import Figure, Goal, Result
from benchmarks.studio import Silent
from sandbox.gallery import Gallery
from trainer.config import FeatureSettings, Settings
from trainer.photos.manifest import FILE_NAME, Manifest, Photo
from trainer.training.train import evaluate_version, train
from trainer.training.training_data import features_dir
from trainer.vgg16.backbone import Backbone
from trainer.vgg16.cache import FeatureCache
from trainer.vgg16.weights import kernel_shape

SIZES = {"ten_thousand": 10_000, "hundred_thousand": 100_000, "million": 1_000_000}
FEATURES = FeatureSettings(weights="random", precision="float32")
N_FEATURES = sum(kernel_shape(name)[3] for name in FEATURES.layers)
SHARES = (0.4, 0.4, 0.2)  # of the labels
PHOTOS_PER_MEMBER = 8
NEAR_DUPLICATES = 0.02  # share of the photos that nearly are an earlier one, of any member and label
NEAR_BITS = 4  # in which they differ
N_FILES = 30  # of each label
STORED_AT_ONCE = 2000  # photos
CEILING_S = 1.0
HIGH_WATER = re.compile(r"VmHWM:\s+(\d+) kB")


@dataclass(frozen=True, slots=True)
class Used:
    """What a step took: seconds, seconds of processor time, and the most memory that its process held meanwhile."""

    s: float
    processor_s: float
    peak_mb: float


def run(*, quick: bool, work_dir: Path, say: Callable[[str], None], photos: int | None = None) -> Result:
    """Run the benchmark.

    Args:
        quick: a tenth of the first two numbers of photos.
        work_dir: an empty folder, for 17 GB.
        say: prints a line of progress.
        photos: this many, instead of the three numbers.
    """
    sizes = {"chosen": photos} if photos else SIZES
    if quick:
        sizes = {name: sizes[name] // 10 for name in list(sizes)[:2]}
    figures: dict[str, Figure] = {"features_per_view": N_FEATURES, "views": len(FEATURES.views)}
    seconds = []
    for name, n_photos in sizes.items():
        steps = _measure(work_dir / name, n_photos, say)
        of_size = figures_of_steps(steps)
        seconds.append(of_size["processor_s"])
        figures |= {f"{name}_photos": n_photos, **{f"{name}_{figure}": value for figure, value in of_size.items()}}
        figures |= {f"{name}_{figure}": value for figure, value in _ceilings().items()}
    *_, last = sizes
    goals = [Goal(f"{last}_peak_mb", at_most=4000)]
    if len(sizes) > 1:
        (n_before, n_last), (before_s, last_s) = list(sizes.values())[-2:], seconds[-2:]
        figures["processor_s_beside_photos"] = (last_s / before_s) / (n_last / n_before)
        goals.append(Goal("processor_s_beside_photos", at_most=1.2))
    return Result(figures=figures, goals=tuple(goals))


def figures_of_steps(steps: dict[str, Used]) -> dict[str, float]:
    """Figures of each step, and of all: their seconds added, and the highest of their peaks."""
    found = {"s": sum(used.s for used in steps.values())}
    found["processor_s"] = sum(used.processor_s for used in steps.values())
    found["peak_mb"] = max(used.peak_mb for used in steps.values())
    for step, used in steps.items():
        found |= {f"{step}_processor_s": used.processor_s, f"{step}_mb": used.peak_mb}
    return found


def _measure(folder: Path, n_photos: int, say: Callable[[str], None]) -> dict[str, Used]:
    """Every step for so many photos, each part in a process of its own."""
    steps: dict[str, Used] = {}
    for part in (admit, store, train_once, evaluate_once):
        with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
            for step, used in pool.submit(part, folder, n_photos).result().items():
                words = f"{used.s:.1f} s, {used.processor_s:.1f} s of a processor, {used.peak_mb:.0f} MB"
                say(f"{n_photos:,} photos, {step}: {words}")
                steps[step] = used
    for path in features_dir(_settings(folder)).rglob("*.npy"):
        path.unlink()
    return steps


def admit(folder: Path, n_photos: int) -> dict[str, Used]:
    """Write the photos into a new manifest, one transaction each, as a scrape does."""
    settings = _settings(folder)
    files = _draw(folder)
    collection = list(made_up(n_photos, files))

    def add() -> None:
        with Manifest(settings.data_dir / FILE_NAME) as manifest:
            for photo in collection:
                manifest.add(photo)

    return {"admission": _used(add)}


def store(folder: Path, n_photos: int) -> dict[str, Used]:
    """Write the photos' features into the cache and merge its shards, as `compute_features` does."""
    settings = _settings(folder)
    backbone = Backbone.load(FEATURES, precision="float32")
    cache = FeatureCache(features_dir(settings) / backbone.key, views=FEATURES.views, n_features=N_FEATURES)
    rng = np.random.default_rng(0)
    centres = rng.random((len(SHARES), 1, N_FEATURES), dtype=np.float32)
    classes = labels_of(n_photos)
    whole = Used(0, 0, 0)
    for start in range(0, n_photos, STORED_AT_ONCE):
        part = classes[start : start + STORED_AT_ONCE]
        noise = rng.standard_normal((len(part), len(cache.views), N_FEATURES), dtype=np.float32)
        values = np.maximum(centres[part] + 5 * noise, 0)
        sha256s = [sha256(number) for number in range(start, start + len(part))]
        whole = _added(whole, _used(lambda: cache.append(sha256s, values)))  # noqa: B023 - called at once
    return {"storing": whole, "merging": _used(cache.compact)}


def train_once(folder: Path, n_photos: int) -> dict[str, Used]:  # noqa: ARG001 - as the others
    """Train a version; the steps are those that a training tells of."""
    watcher = _Steps()
    train(_settings(folder), watcher)
    watcher.step("end")
    return watcher.used


def evaluate_once(folder: Path, n_photos: int) -> dict[str, Used]:  # noqa: ARG001 - as the others
    """Evaluate the champion again on the holdout, as a comparison with a challenger does, from nothing in memory."""
    return {"evaluating_again": _used(lambda: evaluate_version(None, _settings(folder), Silent()))}


def made_up(n_photos: int, files: dict[str, list[Path]]) -> Iterator[Photo]:
    """Photos of members in turn, in the order of admission.

    Args:
        files: of each label, which its photos share.
    """
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 2**8, size=(n_photos, 32), dtype=np.uint8)
    names, now = list(files), datetime.now(UTC)
    for number, index in enumerate(labels_of(n_photos).tolist()):
        if number and rng.random() < NEAR_DUPLICATES:
            hashes[number] = hashes[rng.integers(number)]
            for bit in rng.integers(0, 256, size=NEAR_BITS).tolist():
                hashes[number, bit // 8] ^= 1 << bit % 8
        label = names[index]
        yield Photo(
            sha256=sha256(number),
            label=label,
            source="worldcosplay",
            photo_id=str(1_000_000 + number),
            member_id=str(number // PHOTOS_PER_MEMBER),
            page_url=f"https://gallery.example/photo/{1_000_000 + number}",
            image_url=f"https://images.gallery.example/{number:09d}-350x600.jpg",
            path=files[label][number % N_FILES],
            n_bytes=40_000,
            width=350,
            height=500,
            phash=hashes[number].tobytes().hex(),
            split=None,
            fetched_at=now,
        )


def labels_of(n_photos: int) -> npt.NDArray[np.int64]:
    """The class index of each photo; a member has one label."""
    n_members = -(-n_photos // PHOTOS_PER_MEMBER)
    of_members = np.random.default_rng(2).choice(len(SHARES), size=n_members, p=SHARES)
    return np.repeat(of_members, PHOTOS_PER_MEMBER)[:n_photos].astype(np.int64)


def sha256(number: int) -> str:
    """The made-up hash of a photo."""
    return hashlib.sha256(str(number).encode()).hexdigest()


class _Steps:
    """A `Watcher` that measures each step; times of a repeated one are added."""

    def __init__(self) -> None:
        self.used: dict[str, Used] = {}
        self._measuring: tuple[str, Callable[[], Used]] | None = None

    def step(self, name: str, total: int | None = None) -> None:  # noqa: ARG002 - of the protocol
        """Ends the step before."""
        if self._measuring is not None:
            before, used = self._measuring
            self.used[before] = _added(self.used.get(before, Used(0, 0, 0)), used())
        self._measuring = name, _start()

    def update(self, done: int, total: int) -> None:
        """Does nothing."""


def _start() -> Callable[[], Used]:
    """Begin to measure; the function that is returned tells what was used since."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark is what is held now
    started, used_s = time.perf_counter(), time.process_time()

    def used() -> Used:
        found = HIGH_WATER.search(Path("/proc/self/status").read_text(encoding="ascii"))
        assert found is not None
        return Used(time.perf_counter() - started, time.process_time() - used_s, int(found[1]) / 1024)

    return used


def _used(work: Callable[[], object]) -> Used:
    used = _start()
    work()
    return used()


def _added(one: Used, other: Used) -> Used:
    return Used(one.s + other.s, one.processor_s + other.processor_s, max(one.peak_mb, other.peak_mb))


def _settings(folder: Path) -> Settings:
    return Settings(data_dir=folder, features=FEATURES)


def _draw(folder: Path) -> dict[str, list[Path]]:
    """The files of each label."""
    gallery = Gallery.of_size(N_FILES, photos_per_member=PHOTOS_PER_MEMBER)
    files = {}
    for label in _settings(folder).source.worldcosplay.countries:
        files[label] = [folder / "images" / label / f"{number}.jpg" for number in range(N_FILES)]
        for number, path in enumerate(files[label]):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gallery.draw_fresh(label, number, width_px=350))
    return files


def _ceilings() -> dict[str, float]:
    """Gigabytes of rows that this machine hashes, and multiplies as a fit does, in a second of processor time."""
    rows = np.random.default_rng(0).random((1024, N_FEATURES), dtype=np.float32)
    kernel, errors = (
        np.ones((N_FEATURES, len(SHARES)), dtype=np.float32),
        np.ones((1024, len(SHARES)), dtype=np.float32),
    )

    def multiply() -> None:
        rows @ kernel
        rows.T @ errors

    with threadpool_limits(1, user_api="blas"):
        return {
            f"ceiling_{name}_gb_per_s": _rate(work) * rows.nbytes / 1e9
            for name, work in (("hashing", lambda: hashlib.sha256(rows.data)), ("products", multiply))
        }


def _rate(work: Callable[[], object]) -> float:
    """How often in a second of processor time."""
    n_done, started = 0, time.process_time()
    while time.process_time() - started < CEILING_S:
        work()
        n_done += 1
    return n_done / (time.process_time() - started)
