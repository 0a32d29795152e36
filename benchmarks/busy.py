"""Measures answer times while the bot trains, compared with times without a training.

One bot process answers one mention at a time. An admin starts a training by the direct message `train`. As always, it
is a child process with low priority, half of the cores and a memory limit. In each round, the child is first stopped
(SIGSTOP), then continued (SIGCONT), and the same number of mentions is answered in both states, so that changes in the
machine's speed affect both. A third part of each round without mentions shows how much the answers slow down the
training.
"""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from benchmarks.home import Home, draw_photos, home, running, until
from benchmarks.result import Figure, Goal, Result
from sandbox.instance import Account
from trainer.training.journal import Journal

# Enough that computing features takes longer than all rounds, also on a fast machine.
PHOTOS_PER_LABEL = 60
VIEWS = "[whole, mirror, top, middle, bottom]"
PATIENCE_S = 600.0  # until the training begins: on a busy machine, a child with the lowest priority waits
WARM_UP_CPU_S = 5.0  # CPU time in the step "features" after which the network is built and running


@dataclass
class Measured:
    """Measurements: seconds of each answer, and the training's CPU time per second."""

    idle: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    pace_beside_answers: list[float] = field(default_factory=list)
    pace_alone: list[float] = field(default_factory=list)


def run(*, quick: bool, work_dir: Path, say: Callable[[str], None]) -> Result:
    """Run the benchmark.

    Args:
        quick: one short round.
        work_dir: an empty folder.
        say: prints a line of progress.
    """
    n_rounds, n_each = (1, 4) if quick else (5, 8)
    photos = draw_photos(n_each)
    folder = _draw_training_photos(work_dir / "photos")
    settings = {
        "SOURCE__KIND": "folder",
        "SOURCE__FOLDER__PATH": str(folder),
        "FEATURES__WEIGHTS": "random",
        "FEATURES__VIEWS": VIEWS,
        "SCHEDULE__SCRAPE__ENABLED": "false",
        "SCHEDULE__TRAIN__ENABLED": "false",
        "BOT__ADMINS": "[admin]",
        "MASTODON__CATCH_UP_EVERY_S": "5",  # the instance filters an admin's first direct message from the stream
    }
    seen = Measured()
    with home(work_dir, **settings) as place:
        asker, admin = place.person("asker"), place.person("admin")
        with running(place) as (bot, _):
            place.wait_for_answer(place.ask(asker, photos[0]))
            training = _begin_training(place, admin, bot.pid)
            say(f"the bot trains: niceness {training.nice()}, {training.num_threads()} threads")
            niceness = training.nice()
            for number in range(n_rounds):
                _round(place, asker, training, photos, seen)
                medians = statistics.median(seen.idle), statistics.median(seen.busy)
                say(f"round {number + 1}: median {medians[0]:.3f} s without, {medians[1]:.3f} s while training")
            _check_running(place, training)
    figures: dict[str, Figure] = {
        "idle_median_s": statistics.median(seen.idle),
        "busy_median_s": statistics.median(seen.busy),
        "median_times_idle": statistics.median(seen.busy) / statistics.median(seen.idle),
        "idle_p95_s": float(np.quantile(seen.idle, 0.95)),
        "busy_p95_s": float(np.quantile(seen.busy, 0.95)),
        "training_cores_alone": statistics.median(seen.pace_alone),
        "training_cores_beside_answers": statistics.median(seen.pace_beside_answers),
        "training_times_slower": statistics.median(seen.pace_alone) / statistics.median(seen.pace_beside_answers),
        "training_niceness": niceness,
        "mentions": len(seen.idle) + len(seen.busy),
    }
    return Result(figures=figures, goals=(Goal("median_times_idle", at_most=2.0),))


def _draw_training_photos(folder: Path) -> Path:
    """Draw training photos into a folder for each label."""
    for label in ("brazil", "china", "japan"):
        (folder / label).mkdir(parents=True)
    for number, photo in enumerate(draw_photos(3 * PHOTOS_PER_LABEL, seed=1000)):
        (folder / ("brazil", "china", "japan")[number % 3] / f"{number}.jpg").write_bytes(photo)
    return folder


def _begin_training(place: Home, admin: Account, bot_pid: int) -> psutil.Process:
    """Start a training, and wait until its network runs; returns its process."""
    order = place.instance.post(admin, "@dokocos train", visibility="direct")
    place.wait_for_answer(order)
    found: list[psutil.Process] = []

    def computes() -> bool:
        found[:] = [each for each in psutil.Process(bot_pid).children() if "trainer" in each.cmdline()]
        return bool(found) and _step(place) == "features"

    until(computes, timeout_s=PATIENCE_S)
    (training,) = found
    began_at = _cpu_s(training)
    until(lambda: _cpu_s(training) > began_at + WARM_UP_CPU_S, timeout_s=PATIENCE_S)
    return training


def _round(place: Home, asker: Account, training: psutil.Process, photos: list[bytes], seen: Measured) -> None:
    """Measure answers without training, answers during training, and training without answers."""
    training.send_signal(signal.SIGSTOP)
    seen.idle += _answers(place, asker, photos)
    training.send_signal(signal.SIGCONT)
    with_answers_s = time.monotonic()
    before = _cpu_s(training)
    seen.busy += _answers(place, asker, photos)
    with_answers_s = time.monotonic() - with_answers_s
    seen.pace_beside_answers.append((_cpu_s(training) - before) / with_answers_s)
    before = _cpu_s(training)
    time.sleep(with_answers_s)
    seen.pace_alone.append((_cpu_s(training) - before) / with_answers_s)


def _answers(place: Home, asker: Account, photos: list[bytes]) -> list[float]:
    """Seconds of each answer; the first is not counted, because caches are cold."""
    return [place.wait_for_answer(place.ask(asker, photo)) for photo in [photos[0], *photos]][1:]


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _step(place: Home) -> str:
    runs = Journal(place.data_dir).runs()
    return runs[-1].step if runs and runs[-1].ended is None else ""


def _check_running(place: Home, training: psutil.Process) -> None:
    """Check that the network was running in all rounds; otherwise the figures are useless.

    Raises:
        RuntimeError: the training has moved on to its next step, or ended.
    """
    if not training.is_running() or _step(place) != "features":
        raise RuntimeError("the training ended before the last round; increase PHOTOS_PER_LABEL")
