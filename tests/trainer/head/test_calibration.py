"""Scores are calibrated, and the threshold reaches the target precision."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.head.calibration import (
    Calibration,
    Floats,
    Indexes,
    choose_label_thresholds,
    choose_threshold,
    coverage_curve,
    expected_calibration_error,
    fit_calibration,
    lower_bounds,
    reliability,
)
from trainer.head.head import Head, softmax


def honest(n: int, *, seed: int = 0, spread: float = 2.0) -> tuple[Floats, Indexes]:
    """Logits, and labels drawn from their probabilities."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (n, 3)).astype(np.float32)
    labels = (logits + rng.gumbel(size=(n, 3))).argmax(axis=1)
    return logits, labels


def mislabelled(n: int, *, seed: int = 0) -> tuple[Floats, Indexes]:
    """Like `honest` with clear logits, but 15% of the labels are random."""
    logits, labels = honest(n, seed=seed, spread=6.0)
    rng = np.random.default_rng(seed + 1000)
    return logits, np.where(rng.random(n) < 0.15, rng.integers(0, 3, n), labels)


def compute_scores(logits: Floats, calibration: Calibration) -> Floats:
    """The calibrated scores of logits."""
    n_classes = logits.shape[1]
    nothing, one = np.zeros(n_classes, dtype=np.float32), np.ones(n_classes, dtype=np.float32)
    unchanged = (np.eye(n_classes, dtype=np.float32), nothing)
    return Head(tuple("abc"[:n_classes]), nothing, one, (unchanged,)).calibrated(calibration).scores(logits)


@st.composite
def judged(draw: Any) -> tuple[Floats, Indexes]:
    n = draw(st.integers(1, 60))
    logits, _ = honest(n, seed=draw(st.integers(0, 1000)))
    return softmax(logits), np.array(draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))


@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
def test_the_temperature_corrects_logits_that_are_too_large_or_too_small(factor: float) -> None:
    logits, labels = honest(4000)
    assert fit_calibration(factor * logits, labels).temperature == pytest.approx(factor, rel=0.1)


def test_calibration_corrects_overconfident_scores() -> None:
    logits, labels = honest(4000)
    unseen, unseen_labels = honest(4000, seed=1)
    calibration = fit_calibration(5 * logits, labels)
    assert expected_calibration_error(softmax(5 * unseen), unseen_labels) > 0.1
    assert expected_calibration_error(compute_scores(5 * unseen, calibration), unseen_labels) < 0.03


def test_mislabelled_photos_do_not_make_all_other_scores_too_low() -> None:
    logits, labels = mislabelled(4000)
    unseen, unseen_labels = mislabelled(4000, seed=1)
    calibration = fit_calibration(logits, labels)
    assert calibration.doubt == pytest.approx(0.15, abs=0.04)
    assert expected_calibration_error(compute_scores(unseen, calibration), unseen_labels) < 0.02
    without_doubt = min(
        expected_calibration_error(softmax(unseen / np.float32(temperature)), unseen_labels)
        for temperature in np.geomspace(0.2, 5, 40)
    )
    assert without_doubt > 0.03  # whatever the temperature


def test_the_doubt_is_zero_if_labels_follow_the_logits() -> None:
    assert fit_calibration(*honest(4000)).doubt < 0.02


def test_huge_logits_can_be_calibrated_too() -> None:
    calibration = fit_calibration(np.array([[1e30, 0], [0, 1e30]], dtype=np.float32), np.array([0, 1]))
    assert np.isfinite(calibration.temperature)
    assert 0 <= calibration.doubt < 1


def test_the_error_is_the_weighted_distance_between_score_and_accuracy() -> None:
    scores = np.array([[0.95, 0.05], [0.95, 0.05], [0.65, 0.35], [0.65, 0.35]], dtype=np.float32)
    labels = np.array([0, 0, 0, 1])  # two of two right at 0.95, one of two at 0.65
    assert expected_calibration_error(scores, labels) == pytest.approx(0.5 * 0.05 + 0.5 * 0.15)
    assert [(part.n_photos, part.accuracy) for part in reliability(scores, labels)] == [(2, 0.5), (2, 1.0)]


@given(judged())
@settings(deadline=None)
def test_the_calibration_error_lies_between_zero_and_one(given_scores: tuple[Floats, Indexes]) -> None:
    assert 0 <= expected_calibration_error(*given_scores) <= 1


@given(judged())
@settings(deadline=None)
def test_the_coverage_curve_has_precision_and_coverage_of_each_threshold(given_scores: tuple[Floats, Indexes]) -> None:
    scores, labels = given_scores
    right = scores.argmax(axis=1) == labels
    for threshold, precision, coverage in zip(*coverage_curve(scores, labels), strict=True):
        answered = scores.max(axis=1) >= threshold
        assert coverage == pytest.approx(answered.mean())
        assert precision == pytest.approx(right[answered].mean())


@given(judged(), st.floats(0.1, 0.99))
@settings(deadline=None)
def test_no_lower_threshold_reaches_the_target_precision(given_scores: tuple[Floats, Indexes], target: float) -> None:
    scores, labels = given_scores
    threshold = choose_threshold(scores, labels, target_precision=target)
    values, precisions, coverages = coverage_curve(scores, labels)
    bounds = lower_bounds(precisions, coverages * len(scores))
    if threshold.reached:
        assert threshold.lower_bound >= np.float32(target)
        assert not (bounds[values < threshold.value] >= target).any()
    assert threshold.lower_bound <= threshold.precision + 1e-6
    answered = scores.max(axis=1) >= threshold.value
    assert threshold.coverage == pytest.approx(answered.mean())


def test_a_few_right_answers_do_not_reach_a_target() -> None:
    scores = np.array([[0.99, 0.01]] * 3 + [[0.8, 0.2]] * 40, dtype=np.float32)
    labels = np.array([0] * 3 + [0, 1] * 20)  # three right answers are too few; of the others, half are wrong
    threshold = choose_threshold(scores, labels, target_precision=0.9)
    assert not threshold.reached
    assert threshold.value == pytest.approx(0.99)  # the best that is known
    assert threshold.precision == 1
    assert threshold.lower_bound == pytest.approx(3 / (3 + 1.2816**2))


def test_a_precision_that_validation_reaches_by_chance_is_seldom_taken_for_reached() -> None:
    rng = np.random.default_rng(0)
    n_reached = 0
    for _ in range(300):
        best = rng.uniform(0.5, 1, 60)
        labels = (rng.random(60) > 0.7).astype(np.int64)  # right in 70%, however sure it is
        scores = np.stack([best, 1 - best], axis=1).astype(np.float32)
        n_reached += choose_threshold(scores, labels, target_precision=0.8).reached
    assert n_reached < 0.2 * 300


def by_label(right: float, n: int, *, label: int, seed: int) -> tuple[Floats, Indexes]:
    """Answers with one label; this share of them is right from a score of 0.8 on, and half of them below."""
    rng = np.random.default_rng(seed)
    best = rng.uniform(0.5, 1, n)
    scores = np.stack([(1 - best) / 2] * 3, axis=1).astype(np.float32)
    scores[:, label] = best
    is_right = rng.random(n) < np.where(best >= 0.8, right, 0.5)
    return scores, np.where(is_right, label, (label + 1) % 3)


def label_thresholds(*parts: tuple[Floats, Indexes], shared: float = 0.6) -> tuple[float, ...]:
    scores, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return choose_label_thresholds(scores, labels, shared=shared, target_precision=0.8, min_answers=20)


def test_a_label_whose_answers_are_wrong_more_often_gets_a_higher_threshold_alone() -> None:
    found = label_thresholds(by_label(1.0, 400, label=0, seed=1), by_label(0.95, 400, label=1, seed=2))
    assert found[0] > 0.6  # half of the answers below 0.8 are wrong
    assert found[1] > found[0]
    assert found[2] == 0.6  # no answers


def test_a_label_has_no_threshold_of_its_own_below_the_shared_one_or_of_few_answers() -> None:
    sure = (np.array([[0.7, 0.2, 0.1]] * 40, dtype=np.float32), np.zeros(40, dtype=np.int64))
    assert label_thresholds(sure, by_label(0.0, 19, label=1, seed=0), shared=0.9) == (0.9, 0.9, 0.9)
    assert label_thresholds(sure, by_label(0.0, 60, label=1, seed=0), shared=0.5)[1] > 0.5


def test_if_all_answers_are_right_the_threshold_is_the_lowest_score() -> None:
    scores = np.array([[0.9, 0.1], [0.6, 0.4]] * 10, dtype=np.float32)
    threshold = choose_threshold(scores, np.zeros(20, dtype=np.int64), target_precision=0.8)
    assert threshold.value == pytest.approx(0.6)
    assert (threshold.coverage, threshold.reached) == (1.0, True)
