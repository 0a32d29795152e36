"""The rarest label is reported, with advice if its recall is far below the others'."""

from __future__ import annotations

import numpy as np

from trainer.config import EvaluateSettings
from trainer.evaluation.evaluate import Report, evaluate
from trainer.evaluation.rarest import rarest

LABELS = ("brazil", "china", "japan")


def report(recalls: dict[str, float], n: int = 20) -> Report:
    """A report of n photos per label with these recalls; wrong answers are the next label."""
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


def test_a_rare_label_far_below_the_others_gets_advice_on_more_photos() -> None:
    found = rarest(report({"brazil": 0.4, "china": 0.8, "japan": 0.9}), {"brazil": 12, "china": 50, "japan": 60})
    assert found is not None
    assert found.describe() == (
        "The rarest label, brazil (12 training photos), lies 45 points below the others. "
        "38 more photos of it, as many as the next label has, would help most."
    )


def test_a_rare_label_as_good_as_the_others_gets_no_advice() -> None:
    found = rarest(report({"brazil": 0.9, "china": 0.8, "japan": 0.8}), {"brazil": 12, "china": 50, "japan": 60})
    assert found is not None
    assert found.describe() == "The rarest label, brazil (12 training photos), lies 10 points above the others."


def test_of_two_labels_with_as_few_photos_the_worse_is_reported() -> None:
    found = rarest(report({"brazil": 0.6, "china": 0.3, "japan": 0.9}), {"brazil": 12, "china": 12, "japan": 60})
    assert found is not None
    assert found.describe() == (
        "The rarest label, china (12 training photos), lies 60 points below the others. "
        "48 more photos of it, as many as the next label has, would help most."
    )


def test_without_a_rarer_label_there_is_no_report() -> None:
    assert rarest(report(dict.fromkeys(LABELS, 0.8)), dict.fromkeys(LABELS, 50)) is None
