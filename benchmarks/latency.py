"""Measures the time from mention to reply, one at a time, compared with a forward pass of as many photos.

Passes and mentions alternate, so that changes in the machine's speed affect both. The second kind of pass is Keras', in
the faster of its precisions: the limit of an answer's time before int8. The clock starts when the instance has the
mention, and stops when it has the reply.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.home import BareForward, Home, draw_photos, home, make_champion, resident_mb, running
from benchmarks.result import Figure, Goal, Result


def run(*, quick: bool, work_dir: Path, say: Callable[[str], None]) -> Result:
    """Run the benchmark.

    Args:
        quick: fewer mentions.
        work_dir: an empty folder.
        say: prints a line of progress.
    """
    n_mentions = 5 if quick else 40
    photos = draw_photos(n_mentions)
    with home(work_dir) as place:
        make_champion(keras_dir := work_dir / "keras", only_keras=True)
        bare, keras = BareForward(place.data_dir), BareForward(keras_dir)
        rounds = {}
        ready_s = memory_mb = 0.0
        for kind, pictures in (("text", "false"), ("picture", "true")):
            place.settings = {**place.settings, "BOT__PICTURES": pictures}
            with running(place) as (process, took_s):
                say(f"{kind}: ready after {took_s:.1f} s")
                rounds[kind] = _mentions(place, bare, keras, photos, kind)
                ready_s, memory_mb = max(ready_s, took_s), max(memory_mb, resident_mb(process))
            median = statistics.median(rounds[kind][0])
            say(f"{kind}: median {median:.3f} s, bare {statistics.median(rounds[kind][1]):.3f} s")
        bare.close()
        keras.close()
    (text, bare_of_text, keras_of_text), (picture, bare_of_picture, _) = rounds["text"], rounds["picture"]
    bare_s = statistics.median(bare_of_text)
    times = statistics.median(text) / bare_s
    times_with_picture = statistics.median(picture) / statistics.median(bare_of_picture)
    figures: dict[str, Figure] = {
        "bare_forward_s": bare_s,
        "bare_keras_forward_s": statistics.median(keras_of_text),
        "reply_median_s": statistics.median(text),
        "reply_p95_s": float(np.quantile(text, 0.95)),
        "median_times_bare": times,
        "median_times_bare_keras": statistics.median(text) / statistics.median(keras_of_text),
        "p95_times_bare": float(np.quantile(text, 0.95)) / bare_s,
        "reply_with_picture_median_s": statistics.median(picture),
        "with_picture_times_without": times_with_picture / times,
        "ready_s": ready_s,
        "resident_mb": memory_mb,
        "mentions": n_mentions,
    }
    goals = (
        Goal("median_times_bare", at_most=2.0),
        Goal("median_times_bare_keras", at_most=0.8),
        Goal("p95_times_bare", at_most=4.0),
        Goal("with_picture_times_without", at_most=1.5),
        Goal("ready_s", at_most=2.0),
        Goal("resident_mb", at_most=350.0),
    )
    return Result(figures=figures, goals=goals)


def _mentions(
    place: Home, bare: BareForward, keras: BareForward, photos: list[bytes], kind: str
) -> tuple[list[float], list[float], list[float]]:
    """Seconds of each answer and of the passes before it; the first mention is a warm-up and not counted."""
    replies, passes, keras_passes = [], [], []
    asker = place.person(f"{kind}_asker")
    for photo in [photos[0], *photos]:
        passes.append(bare.seconds(1))
        keras_passes.append(keras.seconds(1))
        replies.append(place.wait_for_answer(place.ask(asker, photo)))
    return replies[1:], passes[1:], keras_passes[1:]
