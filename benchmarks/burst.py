"""Measures 100 mentions at once, ten times, compared with the rate of the same network on prepared images in batches.

The photos are uploaded before, as a status requires. The instance runs on the same cores as the bot, and its CPU time
counts against the bot.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.home import BareForward, Home, draw_photos, home, resident_mb, running, until
from benchmarks.result import Figure, Goal, Result
from sandbox.instance import Status

BATCH_SIZES = (1, 2, 4, 8)


def run(*, quick: bool, work_dir: Path, say: Callable[[str], None]) -> Result:
    """Run the benchmark.

    Args:
        quick: fewer mentions.
        work_dir: an empty folder.
        say: prints a line of progress.
    """
    n_mentions, n_bursts, n_passes = (8, 1, 1) if quick else (100, 10, 4)
    photos = draw_photos(min(n_mentions, 20))
    with home(work_dir, BOT__PICTURES="false") as place:
        bare = BareForward(place.data_dir)
        for size in BATCH_SIZES:
            bare.seconds(size)
        askers = [place.person(f"asker{number}") for number in range(n_mentions)]
        rate_before = _best_rate(bare, n_passes)
        with running(place) as (process, _):
            place.wait_for_answer(place.ask(askers[0], photos[0]))
            uploaded = [place.instance.attach(asker, photos[at % len(photos)]) for at, asker in enumerate(askers)]
            rates, questions = [], []
            for _ in range(n_bursts):
                started = time.monotonic()
                burst = [place.ask(asker, media) for asker, media in zip(askers, uploaded, strict=True)]
                _wait_for_answers(place, burst)
                rates.append(n_mentions / (time.monotonic() - started))
                questions += burst
            rate, memory_mb = statistics.median(rates), resident_mb(process)
        rate_after = _best_rate(bare, n_passes)
        bare.close()
    ceiling = statistics.mean((rate_before, rate_after))
    say(f"{rate:.2f} answers/s, {ceiling:.2f} images/s in bare batches")
    n_answers = sum(len(place.answers(question)) for question in questions)
    figures: dict[str, Figure] = {
        "answers_per_s": rate,
        "bare_images_per_s": ceiling,
        "share_of_bare": rate / ceiling,
        "answers": n_answers,
        "mentions": len(questions),
        "resident_mb": memory_mb,
    }
    goals = (
        Goal("share_of_bare", at_least=0.8),
        Goal("answers", at_least=len(questions), at_most=len(questions)),
        Goal("resident_mb", at_most=350.0),
    )
    return Result(figures=figures, goals=goals)


def _wait_for_answers(place: Home, questions: Sequence[Status]) -> None:
    until(lambda: all(place.answers(question) for question in questions), timeout_s=600)


def _best_rate(bare: BareForward, n_passes: int) -> float:
    """Images per second with the best batch size."""
    return max(statistics.median(size / bare.seconds(size) for _ in range(n_passes)) for size in BATCH_SIZES)
