"""kill -9 at random moments of a training, from the first listing to the registry: the end is the same, bit for bit.

A gallery on loopback is scraped and trained on, once undisturbed, then again and again with a sudden end somewhere. The
backbone is cut above its first layer, so that all steps, not only the features, are hit.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.result import Figure, Goal, Result
from sandbox.gallery import Gallery, create_app
from sandbox.server import serve
from trainer.journal import Journal
from trainer.registry import Registry

ROOT = Path(__file__).parents[1]
COMPARED = ("head.npz", "metrics.json", "photos.txt")
PHOTOS_PER_LABEL = 40
KILLS_EACH = 3  # of one training, which then comes to its end; a new one scrapes again


def run(*, quick: bool, work_dir: Path, say: Callable[[str], None]) -> Result:
    """Take the figures.

    Args:
        quick: 4 sudden ends in place of 20.
        work_dir: an empty folder; each data folder is made in it.
        say: shows a line of progress.
    """
    n_kills = 4 if quick else 20
    gallery = Gallery(1, members_per_label=12)
    with serve(create_app(gallery)) as url:
        environment = _environment(gallery, url)
        say("one training undisturbed")
        started = time.perf_counter()
        _train(work_dir / "undisturbed", environment)
        whole_s = undisturbed_s = time.perf_counter() - started
        expected = _version(work_dir / "undisturbed")
        rng = random.Random(0)
        hit: Counter[str] = Counter()
        versions: list[tuple[bytes, ...]] = []
        while hit.total() < n_kills:
            data_dir = work_dir / str(len(versions))
            for _ in range(min(KILLS_EACH, n_kills - hit.total())):
                moment_s = rng.uniform(0.5, whole_s)
                started = time.perf_counter()
                if _train(data_dir, environment, kill_after_s=moment_s):
                    whole_s = time.perf_counter() - started  # the machine is less busy than it was, or much was done
                    break
                hit[_last_step(data_dir)] += 1
                say(f"sudden end {hit.total()} after {moment_s:.1f} s, in the step {_last_step(data_dir)}")
            else:
                _train(data_dir, environment)
            versions.append(_version(data_dir))
    figures: dict[str, Figure] = {
        "sudden_ends": n_kills,
        **{f"in_{step}": n for step, n in sorted(hit.items())},
        "trainings_finished_after_them": len(versions),
        "identical_share": sum(version == expected for version in versions) / len(versions),
        "undisturbed_s": undisturbed_s,
    }
    return Result(figures=figures, goals=(Goal("identical_share", at_least=1.0),))


def _environment(gallery: Gallery, url: str) -> dict[str, str]:
    countries = {label: {"region": pair[0], "country": pair[1]} for label, pair in gallery.countries.items()}
    settings = {
        "WEB__ALLOW_PRIVATE_ADDRESSES": "true",
        "SOURCE__WORLDCOSPLAY__BASE_URL": url,
        "SOURCE__WORLDCOSPLAY__IMAGE_HOSTS": "[127.0.0.1]",
        "SOURCE__WORLDCOSPLAY__COUNTRIES": json.dumps(countries),
        "SCRAPE__PHOTOS_PER_LABEL": str(PHOTOS_PER_LABEL),
        "SCRAPE__PAGE_PAUSE_S": "0",
        "SCRAPE__IMAGE_PAUSE_S": "0",
        "FEATURES__WEIGHTS": "random",
        "FEATURES__LAYERS": "[block1_conv1]",
        "FEATURES__PRECISION": "float32",
        "FEATURES__BATCH_SIZE": "8",
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DOKOCOS_")}
    return inherited | {f"DOKOCOS_{name}": value for name, value in settings.items()}


def _train(data_dir: Path, environment: dict[str, str], *, kill_after_s: float | None = None) -> bool:
    """Whether the training came to its end before the given time was up."""
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", "train"],
        cwd=ROOT,
        env={**environment, "DOKOCOS_DATA_DIR": str(data_dir)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, errors = process.communicate(timeout=kill_after_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return False
    if process.returncode != 0:
        raise RuntimeError(f"a training failed: {errors[-2000:]}")
    return True


def _version(data_dir: Path) -> tuple[bytes, ...]:
    """The champion's files that must be the same."""
    champion = Registry(data_dir).champion()
    assert champion is not None
    return tuple((champion.folder / name).read_bytes() for name in COMPARED)


def _last_step(data_dir: Path) -> str:
    runs = Journal(data_dir).runs()
    return runs[-1].step if runs and runs[-1].ended is None else "start"
