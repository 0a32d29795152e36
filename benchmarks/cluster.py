"""Measures features on two nodes of a real Ray on this machine, compared with the local engine on the same cores.

Rounds of both alternate. A rate counts from the first batch after all workers are ready to the end, without the task
that the other worker is at then; so neither side's loading of the network counts, and what it takes stands beside it.
Then one of the two nodes is killed midway.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.features import DrawnPhoto, draw_photos
from benchmarks.home import prepared_photos
from benchmarks.result import Figure, Goal, Result
from trainer.config import FeatureSettings, Settings
from trainer.vgg16.backbone import Extractor, choose_batch_size
from trainer.vgg16.cache import FeatureCache
from trainer.vgg16.engines.engine import OpenEngine
from trainer.vgg16.engines.local import open_local
from trainer.vgg16.engines.ray import LOOPBACK_ONLY, NO_USAGE_STATISTICS, PASSES, TASKS_AHEAD, on_ray
from trainer.vgg16.features import compute_features
from trainer.vgg16.load import load_network

SETTINGS = FeatureSettings(weights="random")
N_NODES = 2


def run(*, quick: bool, work_dir: Path, say: Callable[[str], None]) -> Result:
    """Run the benchmark; figures are medians over rounds.

    Args:
        quick: one round with few photos.
        work_dir: an empty folder for photos and caches.
        say: prints a line of progress.
    """
    n_rounds, n_photos = (1, 64) if quick else (5, 200)
    photos = draw_photos(work_dir, n_photos)
    settings = Settings(data_dir=work_dir, features=SETTINGS)
    backbone = load_network(SETTINGS, work_dir, prepared_photos)
    n_in_task = max(1, PASSES * choose_batch_size(SETTINGS, backbone.precision) // len(SETTINGS.views))
    held = TASKS_AHEAD * n_in_task
    local, there = [], []
    with _two_nodes() as (address, kill_one):
        for number in range(n_rounds):
            local.append(_measure(photos, backbone, settings, work_dir / f"local{number}", open_local, 0, n_in_task))
            there.append(
                _measure(photos, backbone, settings, work_dir / f"ray{number}", on_ray(address), N_NODES, n_in_task)
            )
            say(
                f"{number + 1} of {n_rounds}: two nodes {there[-1].photos_per_s:.2f}, "
                f"local {local[-1].photos_per_s:.2f} photos/s"
            )
        killed = _measure(
            photos, backbone, settings, work_dir / "killed", on_ray(address), N_NODES, n_in_task, kill_one
        )
    figures: dict[str, Figure] = {
        "precision": backbone.precision,
        "cores": os.cpu_count() or 1,
        "photos": n_photos,
        "local_photos_per_s": statistics.median(one.photos_per_s for one in local),
        "two_nodes_photos_per_s": statistics.median(one.photos_per_s for one in there),
        "share_of_local": statistics.median(
            one.photos_per_s / other.photos_per_s for one, other in zip(there, local, strict=True)
        ),
        "ready_s": statistics.median(one.ready_s for one in there),
        "differing_features": sum(int((one.features != local[0].features).sum()) for one in (*local, *there, killed)),
        "photos_held_by_a_node": held,
        "share_of_held_computed_again": killed.sent_again / held,
        "lost_after_a_kill": n_photos - killed.n_photos,
        "stored_twice_after_a_kill": killed.n_stored - n_photos * len(SETTINGS.views),
    }
    goals = (
        Goal("share_of_local", at_least=0.9),
        Goal("differing_features", at_most=0),
        Goal("share_of_held_computed_again", at_most=1),
        Goal("lost_after_a_kill", at_most=0),
        Goal("stored_twice_after_a_kill", at_most=0),
    )
    return Result(figures=figures, goals=goals)


@dataclass
class _Measured:
    photos_per_s: float
    ready_s: float
    n_photos: int
    n_stored: int
    sent_again: int
    features: Any


class _Lines(logging.Handler):
    """What the engine says of its workers."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record.getMessage())

    @property
    def n_ready(self) -> int:
        """How many workers have become ready."""
        return sum("worker ready" in line for line in self.found)

    @property
    def sent_again(self) -> int:
        """How many photos were sent more than once."""
        numbers = re.findall(r"ray finished .*sent_again=(\d+)", "\n".join(self.found))
        return int(numbers[-1]) if numbers else 0


def _measure(
    photos: list[DrawnPhoto],
    backbone: Extractor,
    settings: Settings,
    folder: Path,
    open_engine: OpenEngine,
    n_workers: int,
    n_in_task: int,
    at_a_third: Callable[[], None] | None = None,
) -> _Measured:
    cache = FeatureCache(folder, views=SETTINGS.views, n_features=backbone.n_features)
    lines = _Lines()
    engine_logger = logging.getLogger("trainer.vgg16.engines.ray")
    engine_logger.addHandler(lines)
    engine_logger.setLevel(logging.INFO)
    started = time.perf_counter()
    counted: list[tuple[float, int]] = []
    pending = [at_a_third] if at_a_third else []

    def progress(done: int, total: int) -> None:
        if lines.n_ready >= n_workers:
            counted.append((time.perf_counter(), done))
            if pending and done >= total // 3:
                pending.pop()()

    try:
        with open_engine(backbone, settings) as engine:
            computed = compute_features(photos, engine=engine, cache=cache, progress=progress)
    finally:
        engine_logger.removeHandler(lines)
    (ready_at, n_first), (ended_at, n_last) = counted[0], counted[-1]
    n_begun = max(n_workers - 1, 0) * n_in_task
    return _Measured(
        photos_per_s=(n_last - n_first - n_begun) / (ended_at - ready_at),
        ready_s=ready_at - started,
        n_photos=computed.n_photos,
        n_stored=sum(len(np.load(path, mmap_mode="r")) for path in folder.glob("*.npy")),
        sent_again=lines.sent_again,
        features=cache.load([photo.sha256 for photo in photos]),
    )


@contextmanager
def _two_nodes() -> Iterator[tuple[str, Callable[[], None]]]:
    """The address of two nodes that share this machine's cores, and a function that kills one of them."""
    environment = LOOPBACK_ONLY | NO_USAGE_STATISTICS | {"RAY_AUTH_MODE": "disabled"}
    with mock.patch.dict(os.environ, environment):
        cluster_utils = importlib.import_module("ray.cluster_utils")
        each = {"num_cpus": max(1, (os.cpu_count() or 1) // N_NODES), "include_dashboard": False}
        cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=each)
        try:
            other = cluster.add_node(**each)
            yield cluster.address, lambda: cluster.remove_node(other, allow_graceful=False)
        finally:
            cluster.shutdown()
