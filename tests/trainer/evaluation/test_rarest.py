"""The rarest label's figures are told, with what would help where it lies far below the others."""

from __future__ import annotations

import numpy as np

from trainer.config import EvaluateSettings
from trainer.evaluation.evaluate import Report, evaluate
from trainer.evaluation.rarest import rarest

LABELS = ("brazil", "china", "japan")


def report(recalls: dict[str, float], n: int = 20) -> Report:
    """Of n photos of each label, of which so many are right; the others are called the next label."""
    indexes = np.repeat(np.arange(len(LABELS)), n)
    answers = np.concatenate(
        [
            np.where(np.arange(n) < round(recalls[label] * n), index, (index + 1) % len(LABELS))
            for index, label in enumerate(LABELS)
        ]
    )
    scores = np.full((len(indexes), len(LABELS)), 0.1, dtype=np.float32)
    scores[np.arange(len(indexes)), answers] = 0.8
    groups = [str(number) for number in range(len(indexes))]
    settings = EvaluateSettings(resamples=100)
    return evaluate(scores, indexes, groups, labels=LABELS, threshold=0.5, settings=settings)


def test_a_rare_label_far_below_the_others_is_told_how_many_photos_would_help() -> None:
    found = rarest(report({"brazil": 0.4, "china": 0.8, "japan": 0.9}), {"brazil": 12, "china": 50, "japan": 60})
    assert found is not None
    assert found.in_words() == (
        "The rarest label, brazil (12 training photos), lies 45 points below the others. "
        "38 more photos of it, as many as the next label has, would help most."
    )


def test_a_rare_label_that_does_as_well_as_the_others_asks_for_nothing() -> None:
    found = rarest(report({"brazil": 0.9, "china": 0.8, "japan": 0.8}), {"brazil": 12, "china": 50, "japan": 60})
    assert found is not None
    assert found.in_words() == "The rarest label, brazil (12 training photos), lies 10 points above the others."


def test_where_no_label_is_rarer_nothing_is_said() -> None:
    assert rarest(report(dict.fromkeys(LABELS, 0.8)), {"brazil": 50, "china": 50, "japan": 60}) is None
