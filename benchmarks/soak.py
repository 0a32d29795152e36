"""Sends 10,000 mentions with photos to one bot process, and measures whether memory keeps growing.

Resident memory of the bot and of its decoding processes is read after every few hundred answers. The slope is that of a
straight line through the readings after the warm-up. The classifier is a stand-in (`benchmarks.quick_bot`), so the
figures do not include TensorFlow; `benchmarks.latency` and `benchmarks.burst` do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sized
from pathlib import Path

import numpy as np
import psutil

from benchmarks.home import Home, draw_photos, quick_home, running, until
from benchmarks.quick_bot import STAND_IN
from benchmarks.result import Figure, Goal, Result
from bot.storage.store import DATABASE
from sandbox.instance import Status

MIB = 2**20
WARM_UP = 0.3  # share of the mentions not used for the line, while pools, caches and the allocator fill up
MAX_MB_PER_1000 = 1.0


def run(*, quick: bool, work_dir: Path, say: Callable[[str], None]) -> Result:
    """Run the benchmark.

    Args:
        quick: 300 mentions, too few for a useful slope.
        work_dir: an empty folder.
        say: prints a line of progress.
    """
    n_mentions, per_round = (300, 30) if quick else (10_000, 250)
    temporary = work_dir / "tmp"
    temporary.mkdir()
    say(f"{n_mentions} mentions with photos; the classifier is a stand-in: {STAND_IN}")
    with quick_home(work_dir) as place:
        place.folder_for_temporary_files = temporary
        photos = draw_photos(12)
        askers = [place.person(f"asker{number}") for number in range(50)]
        with running(place) as (process, _):
            bot = psutil.Process(process.pid)
            readings: list[tuple[int, float, float]] = []
            n_wrong = 0
            started = time.monotonic()
            for first in range(0, n_mentions, per_round):
                numbers = range(first, min(first + per_round, n_mentions))
                questions = [place.ask(askers[n % len(askers)], photos[n % len(photos)]) for n in numbers]
                n_wrong += _wait_for(place, questions)
                readings.append((numbers[-1] + 1, _memory_mb(bot), sum(map(_memory_mb, bot.children()))))
                say(f"{readings[-1][0]} answered, {readings[-1][1]:.1f} MB, decoders {readings[-1][2]:.1f} MB")
            took_s = time.monotonic() - started
            n_threads, n_files, n_connections = bot.num_threads(), _count(bot.open_files), _count(bot.net_connections)
        n_answers = len(place.instance.statuses_of(place.me))
        database_mb = sum(path.stat().st_size for path in place.data_dir.glob(f"{DATABASE}*")) / MIB
        log_mb = (place.data_dir / "bot.log").stat().st_size / MIB
    settled = [each for each in readings if each[0] >= WARM_UP * n_mentions]
    figures: dict[str, Figure] = {
        "mb_per_1000_mentions": _slope([(n, mb) for n, mb, _ in settled]),
        "decoders_mb_per_1000_mentions": _slope([(n, mb) for n, _, mb in settled]),
        "first_mb": settled[0][1],
        "last_mb": settled[-1][1],
        "decoders_last_mb": settled[-1][2],
        "mentions": n_mentions,
        "answers": n_answers,
        "not_answered_once": n_wrong,
        "threads": n_threads,
        "open_files": n_files,
        "connections": n_connections,
        "temporary_files": sum(path.is_file() for path in temporary.rglob("*")),
        "database_mb": database_mb,
        "database_bytes_per_mention": round(database_mb * MIB / n_mentions),
        "log_mb": log_mb,
        "mentions_per_s": n_mentions / took_s,
        "classifier": f"stand-in: {STAND_IN}",
    }
    goals = [Goal("not_answered_once", at_most=0), Goal("temporary_files", at_most=0)]
    if not quick:
        goals += [
            Goal("mb_per_1000_mentions", at_most=MAX_MB_PER_1000),
            Goal("decoders_mb_per_1000_mentions", at_most=MAX_MB_PER_1000),
        ]
    return Result(figures=figures, goals=tuple(goals))


def _wait_for(place: Home, questions: list[Status]) -> int:
    """Wait for an answer to each; returns the number without exactly one answer."""
    until(lambda: all(place.answers(question) for question in questions), timeout_s=300.0)
    for media in (each for question in questions for answer in place.answers(question) for each in answer.media):
        media.data, media.preview = b"", b""  # free memory: the instance runs in this process
    return sum(len(place.answers(question)) != 1 for question in questions)


def _count(look: Callable[[], Sized]) -> Figure:
    try:
        return len(look())
    except psutil.AccessDenied:
        return "not seen: the bot closes this to its own user, and only root may look"


def _memory_mb(process: psutil.Process) -> float:
    return float(process.memory_info().rss / MIB)


def _slope(readings: list[tuple[int, float]]) -> float:
    """Growth in MB per 1,000 mentions, from a least-squares line."""
    numbers, megabytes = zip(*readings, strict=True)
    return float(np.polyfit(np.array(numbers) / 1000.0, megabytes, 1)[0])
