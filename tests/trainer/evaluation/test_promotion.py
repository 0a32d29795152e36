"""A challenger is promoted only if it is clearly better, and no label loses much."""

import json
from typing import Any

import numpy as np
import pytest

from benchmarks.promotion import simulate
from trainer.config import EvaluateSettings
from trainer.evaluation.promotion import Verdict, compare
from trainer.head.calibration import Indexes

LABELS = ("brazil", "china", "japan")
SETTINGS = EvaluateSettings(resamples=300)


def answers(truth: Indexes, accuracies: list[float], *, seed: int) -> Indexes:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(truth)) < np.array(accuracies)[truth], truth, (truth + 1) % 3)


def verdict(before: list[float], after: list[float], *, n: int = 900, **options: Any) -> Verdict:
    truth = np.arange(n) % 3
    groups = [str(number // 3) for number in range(n)]
    chosen = SETTINGS.model_copy(update=options)
    return compare(
        answers(truth, before, seed=1),
        answers(truth, after, seed=2),
        truth,
        groups,
        labels=LABELS,
        settings=chosen,
    )


def test_a_much_better_challenger_is_promoted_and_the_reason_has_the_gain() -> None:
    found = verdict([0.6] * 3, [0.8] * 3)
    assert found.promoted
    assert found.reasons[0].startswith("better: balanced accuracy changes by +")
    assert found.gain == pytest.approx(0.2, abs=0.05)
    assert found.gain_low is not None
    assert found.gain_high is not None
    assert found.gain is not None
    assert 0 < found.gain_low < found.gain < found.gain_high
    assert found.n_photos == 900


def test_a_worse_challenger_is_not_promoted() -> None:
    found = verdict([0.7] * 3, [0.6] * 3)
    assert not found.promoted
    assert "not clearly better" in found.reasons[0]


def test_the_same_answers_are_not_better() -> None:
    truth = np.arange(90) % 3
    same = answers(truth, [0.7] * 3, seed=1)
    found = compare(same, same, truth, [str(number) for number in truth], labels=LABELS, settings=SETTINGS)
    assert not found.promoted
    assert (found.gain, found.gain_low, found.gain_high) == (0, 0, 0)


def test_a_challenger_that_is_much_worse_for_one_label_is_not_promoted() -> None:
    found = verdict([0.5, 0.5, 0.8], [0.95, 0.95, 0.6])
    assert found.gain_low is not None
    assert found.gain_low > 0
    assert not found.promoted
    assert found.reasons == (found.reasons[0],)
    assert found.reasons[0].startswith("japan loses ")
    assert "points of recall, more than 5.0" in found.reasons[0]


def test_the_allowed_loss_of_a_label_is_a_setting() -> None:
    assert verdict([0.5, 0.5, 0.8], [0.95, 0.95, 0.6], max_class_loss=0.5).promoted


def test_a_higher_confidence_needs_a_larger_gain() -> None:
    before, after = [0.7] * 3, [0.72] * 3
    assert verdict(before, after, confidence=0.6).promoted
    assert not verdict(before, after, confidence=0.9999).promoted


def test_a_label_with_few_members_prevents_a_promotion() -> None:
    truth = np.arange(300) % 3
    before, after = answers(truth, [0.5] * 3, seed=1), answers(truth, [0.9] * 3, seed=2)
    members = [str(number % 3 if number % 3 < 2 else number) for number in range(300)]  # japan alone has many
    found = compare(before, after, truth, members, labels=LABELS, settings=SETTINGS)
    assert not found.promoted
    assert found.reasons == (
        "too few members of brazil in the holdout: 1, at least 3 are needed",
        "too few members of china in the holdout: 1, at least 3 are needed",
    )


def test_an_answer_outside_the_labels_is_wrong() -> None:
    truth = np.arange(90) % 3
    elsewhere = np.where(truth == 2, 3, truth)
    found = compare(elsewhere, truth, truth, [str(n) for n in range(90)], labels=LABELS, settings=SETTINGS)
    assert found.class_gains == {"brazil": 0.0, "china": 0.0, "japan": 1.0}


def test_a_verdict_is_plain_json() -> None:
    found = verdict([0.6] * 3, [0.8] * 3)
    assert json.loads(json.dumps(found.as_json()))["reasons"] == list(found.reasons)


def test_equal_challengers_are_rarely_promoted_and_better_ones_usually() -> None:
    rng = np.random.default_rng(0)
    equal = [simulate(rng, gain=0.0, n_photos=900, settings=SETTINGS).promoted for _ in range(100)]
    better = [simulate(rng, gain=0.08, n_photos=900, settings=SETTINGS).promoted for _ in range(30)]
    assert sum(equal) <= 8
    assert sum(better) >= 24
