"""Measures memory and seconds for loading the features of many photos and fitting a head on them.

The features are generated (a noisy cluster for each label), have the shape of the default settings, and are stored in
the real cache. Each size runs in a separate process, to measure its peak memory. The fit uses one thread, so its
processor time tells more than the seconds that passed on a machine with other work.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.result import Figure, Goal, Result
from trainer.config import FeatureSettings, HeadSettings
from trainer.head.fit import fit_head
from trainer.head.head import Indexes
from trainer.vgg16.cache import FeatureCache
from trainer.vgg16.weights import kernel_shape

SETTINGS = FeatureSettings()
N_FEATURES = sum(kernel_shape(name)[3] for name in SETTINGS.layers)
LABELS = ("japan", "china", "brazil")
PHOTOS_PER_SHARD = 2000


def run(*, quick: bool, work_dir: Path, say: Callable[[str], None]) -> Result:
    """Run the benchmark.

    Args:
        quick: a twentieth of the larger numbers of photos.
        work_dir: an empty folder, for about one gigabyte.
        say: prints a line of progress.
    """
    figures: dict[str, Figure] = {"features_per_view": N_FEATURES, "views": len(SETTINGS.views)}
    for size, n_photos in (("few", 1000), ("small", 15_000), ("large", 100_000)):
        n_photos = n_photos // 20 if quick and size != "few" else n_photos
        say(f"{n_photos:,} photos: generating features")
        folder = work_dir / size
        class_indexes = _fill(folder, n_photos)
        say(f"{n_photos:,} photos: loading features and fitting a head")
        with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
            measured = pool.submit(_load_and_fit, folder, class_indexes).result()
        figures |= {f"{size}_photos": n_photos, **{f"{size}_{name}": value for name, value in measured.items()}}
    goals = (
        Goal("few_fit_processor_s", at_most=1),
        Goal("small_fit_processor_s", at_most=10),
        Goal("large_fit_processor_s", at_most=60),
        Goal("large_peak_mb", at_most=3000),
    )
    return Result(figures=figures, goals=goals)


def _sha256s(numbers: Sequence[int]) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in numbers]


def _open(folder: Path) -> FeatureCache:
    return FeatureCache(folder, views=SETTINGS.views, n_features=N_FEATURES)


def _fill(folder: Path, n_photos: int) -> Indexes:
    """Write a cache; returns the class index of each photo, 2:2:1 like the site's countries."""
    rng = np.random.default_rng(0)
    class_indexes = rng.choice(len(LABELS), size=n_photos, p=[0.4, 0.4, 0.2])
    centres = rng.random((len(LABELS), 1, N_FEATURES), dtype=np.float32)
    cache = _open(folder)
    for start in range(0, n_photos, PHOTOS_PER_SHARD):
        part = class_indexes[start : start + PHOTOS_PER_SHARD]
        noise = rng.standard_normal((len(part), len(SETTINGS.views), N_FEATURES), dtype=np.float32)
        cache.append(_sha256s(range(start, start + len(part))), centres[part] + 5 * noise)
    return class_indexes.astype(np.int64)


def _load_and_fit(folder: Path, class_indexes: Indexes) -> dict[str, Figure]:
    """Load and fit as a training does: 60% training, 20% validation, 20% holdout."""
    n = len(class_indexes)
    training, validation, holdout = (range(n * low // 5, n * high // 5) for low, high in ((0, 3), (3, 4), (4, 5)))
    first_view = SETTINGS.views[:1]
    started = time.perf_counter()
    cache = _open(folder)
    opened = time.perf_counter()
    features = cache.load(_sha256s(training))
    validation_features = cache.load(_sha256s(validation), views=first_view)[:, 0]
    loaded, used_s = time.perf_counter(), time.process_time()
    fitted = fit_head(
        features,
        class_indexes[list(training)],
        validation_features=validation_features,
        validation_class_indexes=class_indexes[list(validation)],
        labels=LABELS,
        settings=HeadSettings(),
    )
    finished, used_s = time.perf_counter(), time.process_time() - used_s
    answers = fitted.head.scores(cache.load(_sha256s(holdout), views=first_view)[:, 0]).argmax(axis=1)
    return {
        "open_s": opened - started,
        "load_s": loaded - opened,
        "fit_s": finished - loaded,
        "fit_processor_s": used_s,
        "load_and_fit_s": finished - started,
        "strengths_tried": len(fitted.linear.path),
        "holdout_accuracy": float((answers == class_indexes[list(holdout)]).mean()),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
