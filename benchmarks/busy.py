"""How long answers take while the bot trains, beside how long they take while it does not.

One bot process answers one mention at a time. An admin's `train` by direct message lets it begin a training as it
begins every training: a child of low priority, on half of the cores, with a memory limit. In each round that child is
first held (SIGSTOP), then let go on (SIGCONT), and the same number of mentions is answered in both states, so that a
machine whose speed drifts drifts for both. A third, quiet span in each round tells what the answers cost the training.
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

# Enough for the features of a training to take longer than all rounds, also on a quick machine.
PHOTOS_PER_LABEL = 60
VIEWS = "[whole, mirror, top, middle, bottom]"
PATIENCE_S = 600.0  # for the training to begin: on a machine with other work, a child of the lowest priority waits
WARM_UP_CPU_S = 5.0  # processor time in the step "features" after which the network has been built and runs


@dataclass
class Taken:
    """What was measured: seconds of each answer, and the training's processor time for each second."""

    idle: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    pace_beside_answers: list[float] = field(default_factory=list)
    pace_alone: list[float] = field(default_factory=list)


def run(*, quick: bool, work_dir: Path, say: Callable[[str], None]) -> Result:
    """Take the figures.

    Args:
        quick: one short round.
        work_dir: an empty folder.
        say: shows a line of progress.
    """
    n_rounds, n_each = (1, 4) if quick else (5, 8)
    photos = draw_photos(n_each)
    folder = _hang(work_dir / "photos")
    settings = {
        "SOURCE__KIND": "folder",
        "SOURCE__FOLDER__PATH": str(folder),
        "FEATURES__WEIGHTS": "random",
        "FEATURES__VIEWS": VIEWS,
        "SCHEDULE__SCRAPE__ENABLED": "false",
        "SCHEDULE__TRAIN__ENABLED": "false",
        "BOT__ADMINS": "[admin]",
        "MASTODON__CATCH_UP_EVERY_S": "5",  # an instance filters an admin's first direct message from the stream
    }
    taken = Taken()
    with home(work_dir, **settings) as place:
        asker, admin = place.person("asker"), place.person("admin")
        with running(place) as (bot, _):
            place.wait_for_answer(place.ask(asker, photos[0]))
            training = _begin_training(place, admin, bot.pid)
            say(f"the bot trains: niceness {training.nice()}, {training.num_threads()} threads")
            niceness = training.nice()
            for number in range(n_rounds):
                _round(place, asker, training, photos, taken)
                medians = statistics.median(taken.idle), statistics.median(taken.busy)
                say(f"round {number + 1}: median {medians[0]:.3f} s without, {medians[1]:.3f} s while training")
            _check_at_work(place, training)
    figures: dict[str, Figure] = {
        "idle_median_s": statistics.median(taken.idle),
        "busy_median_s": statistics.median(taken.busy),
        "median_times_idle": statistics.median(taken.busy) / statistics.median(taken.idle),
        "idle_p95_s": float(np.quantile(taken.idle, 0.95)),
        "busy_p95_s": float(np.quantile(taken.busy, 0.95)),
        "training_cores_alone": statistics.median(taken.pace_alone),
        "training_cores_beside_answers": statistics.median(taken.pace_beside_answers),
        "training_times_slower": statistics.median(taken.pace_alone) / statistics.median(taken.pace_beside_answers),
        "training_niceness": niceness,
        "mentions": len(taken.idle) + len(taken.busy),
    }
    return Result(figures=figures, goals=(Goal("median_times_idle", at_most=2.0),))


def _hang(folder: Path) -> Path:
    """Photos to train on, a folder for each label."""
    for label in ("brazil", "china", "japan"):
        (folder / label).mkdir(parents=True)
    for number, photo in enumerate(draw_photos(3 * PHOTOS_PER_LABEL, seed=1000)):
        (folder / ("brazil", "china", "japan")[number % 3] / f"{number}.jpg").write_bytes(photo)
    return folder


def _begin_training(place: Home, admin: Account, bot_pid: int) -> psutil.Process:
    """Order a training, and wait until its network computes; returns its process."""
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


def _round(place: Home, asker: Account, training: psutil.Process, photos: list[bytes], taken: Taken) -> None:
    """Answers without the training, answers beside it, and the training without answers."""
    training.send_signal(signal.SIGSTOP)
    taken.idle += _answers(place, asker, photos)
    training.send_signal(signal.SIGCONT)
    with_answers_s = time.monotonic()
    before = _cpu_s(training)
    taken.busy += _answers(place, asker, photos)
    with_answers_s = time.monotonic() - with_answers_s
    taken.pace_beside_answers.append((_cpu_s(training) - before) / with_answers_s)
    before = _cpu_s(training)
    time.sleep(with_answers_s)
    taken.pace_alone.append((_cpu_s(training) - before) / with_answers_s)


def _answers(place: Home, asker: Account, photos: list[bytes]) -> list[float]:
    """Seconds of each answer; the first one, in which caches change hands, does not count."""
    return [place.wait_for_answer(place.ask(asker, photo)) for photo in [photos[0], *photos]][1:]


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _step(place: Home) -> str:
    runs = Journal(place.data_dir).runs()
    return runs[-1].step if runs and runs[-1].ended is None else ""


def _check_at_work(place: Home, training: psutil.Process) -> None:
    """All rounds must have been beside the network's work, or the figures say nothing.

    Raises:
        RuntimeError: the training went on to its next step, or ended.
    """
    if not training.is_running() or _step(place) != "features":
        raise RuntimeError("the training was done before the last round; let PHOTOS_PER_LABEL be more")
