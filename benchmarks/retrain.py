"""Measures the cost of a training after 1% new photos, compared with the first training.

Both are processes `python -m trainer train`, measured from start to end: imports, missing features, head, baselines,
comparison with the champion, evaluation, report, version. Scraping is not included. In between, the gallery grows by
photos of old and new members, like the real site. VGG16 has seeded random weights.

A third training without new photos measures the fixed part. Processor seconds, of all processes of a training
together, are shown beside: they depend less on what else the machine does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from benchmarks.features import images_per_s_of_product
from benchmarks.result import Figure, Goal, Result
from benchmarks.studio import Studio, describe_weights, scraped_studio, step_seconds

NEW_SHARE = 0.01


def run(*, quick: bool, work_dir: Path, say: Callable[[str], None], weights: str = "random") -> Result:
    """Run the benchmark.

    Args:
        quick: a sixteenth of the photos; the fixed part then dominates, and the share says little.
        work_dir: an empty folder for the data folder.
        say: prints a line of progress.
        weights: as `features.weights`.
    """
    photos_per_label = 50 if quick else 800
    with scraped_studio(work_dir / "data", photos_per_label=photos_per_label, say=say, weights=weights) as place:
        say("the first training")
        first = _train(place)
        n_new = grow(place, max(1, round(NEW_SHARE * photos_per_label)))
        place.run("scrape")
        say(f"{first['whole_s']:.0f} s; {n_new} photos are new, training again")
        again = _train(place)
        say(f"{again['whole_s']:.0f} s; and once more, with nothing new")
        fixed = _train(place)
        champion = place.champion()
    figures: dict[str, Figure] = {
        "photos": photos_per_label * len(place.gallery.labels),
        "new_photos": n_new,
        "first_training_s": first["whole_s"],
        "retraining_s": again["whole_s"],
        "retraining_share": again["whole_s"] / first["whole_s"],
        "fixed_part_s": fixed["whole_s"],
        "fixed_part_share": fixed["whole_s"] / first["whole_s"],
        **{f"fixed_part_{name}": seconds for name, seconds in fixed.items() if name != "whole_s"},
        **{f"first_{name}": seconds for name, seconds in first.items() if name != "whole_s"},
        **{f"retraining_{name}": seconds for name, seconds in again.items() if name != "whole_s"},
        "precision": champion.facts.precision,
        "bfloat16_product_images_per_s": images_per_s_of_product("bfloat16"),
        "weights": describe_weights(weights),
    }
    return Result(figures=figures, goals=(Goal("retraining_share", at_most=0.04),))


def _train(place: Studio) -> dict[str, float]:
    """Seconds of a training and of each of its steps; `imports_s` is the remaining time."""
    before = os.times()
    whole_s = place.run("train")
    after = os.times()
    processor_s = sum(getattr(after, name) - getattr(before, name) for name in ("children_user", "children_system"))
    steps = step_seconds(place.data_dir)
    around_s = whole_s - sum(steps.values())
    return {
        "whole_s": whole_s,
        "processor_s": processor_s,
        "imports_s": around_s,
        **{f"{name}_s": seconds for name, seconds in steps.items()},
    }


def grow(place: Studio, n_each: int) -> int:
    """Add photos to each label, half of them by a new member; returns their total number."""
    for label in place.gallery.labels:
        by_new = n_each // 2
        place.gallery.grow(label, members=1, photos=by_new)
        place.gallery.grow(label, photos=n_each - by_new)
    place.photos_per_label += n_each
    return n_each * len(place.gallery.labels)
