"""The report has the standard metrics, and their intervals account for similar photos of a member."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score, precision_score, recall_score

from trainer.config import EvaluateSettings
from trainer.evaluation import evaluate as evaluate_module
from trainer.evaluation.evaluate import Figure, Report, balanced_accuracy, evaluate, member_tables, resample
from trainer.head.calibration import Indexes

LABELS = ("brazil", "china", "japan")
QUICK = EvaluateSettings(resamples=200)


def judge(class_indexes: Any, answers: Any, groups: Any = None, chosen: EvaluateSettings = QUICK) -> Report:
    class_indexes, answers = np.asarray(class_indexes), np.asarray(answers)
    scores = (np.eye(3)[answers] * 0.7 + 0.1).astype(np.float32)
    groups = [str(number) for number in range(len(answers))] if groups is None else groups
    return evaluate(scores, class_indexes, groups, labels=LABELS, threshold=0.5, settings=chosen)


def width(figure: Figure) -> float:
    assert figure.low is not None
    assert figure.high is not None
    return figure.high - figure.low


@st.composite
def answered(draw: Any) -> tuple[Indexes, Indexes]:
    n = draw(st.integers(3, 40))
    answers = st.lists(st.integers(0, 2), min_size=n, max_size=n)
    return np.array([0, 1, 2, *draw(answers)[3:]]), np.array(draw(answers))


@given(answered())
@settings(max_examples=40, deadline=None)
def test_metrics_equal_those_of_scikit_learn(given_answers: tuple[Indexes, Indexes]) -> None:
    truth, answers = given_answers
    report = judge(truth, answers)
    recalls = [one.recall.value for one in report.classes]
    np.testing.assert_allclose(
        np.array(recalls, dtype=float), recall_score(truth, answers, average=None, labels=[0, 1, 2])
    )
    for one, expected in zip(
        report.classes, precision_score(truth, answers, average=None, labels=[0, 1, 2], zero_division=0), strict=True
    ):
        assert (one.precision.value or 0) == pytest.approx(expected)
    assert report.balanced_accuracy.value == pytest.approx(balanced_accuracy_score(truth, answers))
    assert report.balanced_accuracy.value == pytest.approx(balanced_accuracy(truth, answers))
    assert report.macro_f1.value == pytest.approx(f1_score(truth, answers, average="macro", labels=[0, 1, 2]))
    assert report.accuracy.value == pytest.approx((truth == answers).mean())
    assert [list(row) for row in report.confusion] == confusion_matrix(truth, answers, labels=[0, 1, 2]).tolist()


@given(answered())
@settings(max_examples=20, deadline=None)
def test_every_interval_is_ordered_and_within_0_and_1(given_answers: tuple[Indexes, Indexes]) -> None:
    report = judge(*given_answers)
    figures = [report.balanced_accuracy, report.macro_f1, report.accuracy]
    for figure in (*figures, *(one.recall for one in report.classes)):
        assert figure.low is not None
        assert figure.high is not None
        assert 0 <= figure.low <= figure.high <= 1


def test_a_class_that_is_never_predicted_shows_in_the_report() -> None:
    report = judge([0] * 45 + [1] * 45 + [2] * 10, [0] * 45 + [1] * 45 + [0] * 10)
    assert report.accuracy.value == pytest.approx(0.9)
    assert report.classes[2].recall == Figure(0.0, 0.0, 0.0)
    assert report.classes[2].precision.value is None
    assert report.balanced_accuracy.value == pytest.approx(2 / 3)


def test_photos_of_few_members_have_wider_intervals() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(600) % 3
    member = np.arange(600) // 30 * 3 + truth  # 60 members, each with one label and ten photos
    lucky = rng.random(60)[member] < 0.7  # all photos of a member are right, or none
    answers = np.where(lucky, truth, (truth + 1) % 3)
    by_photo = judge(truth, answers)
    by_member = judge(truth, answers, [str(number) for number in member])
    assert width(by_member.balanced_accuracy) > 2 * width(by_photo.balanced_accuracy)
    assert by_member.n_members == 60


def test_intervals_contain_the_true_value_with_the_stated_confidence() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        truth = np.arange(150) % 3
        answers = np.where(rng.random(150) < 0.7, truth, (truth + 1) % 3)
        figure = judge(truth, answers).balanced_accuracy
        assert figure.low is not None
        assert figure.high is not None
        held += figure.low <= 0.7 <= figure.high
    assert held >= 88


def test_the_same_scores_give_the_same_report() -> None:
    truth, answers = np.arange(60) % 3, np.arange(60) % 2
    assert judge(truth, answers) == judge(truth, answers)


def test_the_bootstrap_is_stratified_by_label() -> None:
    truth = np.array([0] * 50 + [1] * 2 + [2] * 2)
    tables = member_tables(truth, truth, [str(number) for number in range(54)], n_classes=3)
    assert (resample(tables, n=300).sum(axis=2) == [50, 2, 2]).all()


def test_how_many_samples_are_drawn_at_once_changes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, answers = np.arange(60) % 3, np.arange(60) % 2
    tables = member_tables(truth, answers, [str(number // 2) for number in range(60)], n_classes=3)
    together = resample(tables, n=50)
    at_once: list[int] = []
    default_rng = np.random.default_rng

    class Counted:
        def __init__(self, seed: int) -> None:
            self.rng = default_rng(seed)

        def multinomial(self, n: int, shares: Any, *, size: int) -> Any:
            at_once.append(size * len(shares))
            return self.rng.multinomial(n, shares, size=size)

    monkeypatch.setattr(np.random, "default_rng", Counted)
    monkeypatch.setattr(evaluate_module, "CHUNK_DRAWS", 40)
    np.testing.assert_array_equal(resample(tables, n=50), together)
    assert max(at_once) <= 40


def test_a_score_below_the_threshold_is_no_answer() -> None:
    scores = np.array([[0.9, 0.1, 0.0], [0.4, 0.3, 0.3], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]], dtype=np.float32)
    report = evaluate(scores, np.array([0, 1, 0, 2]), list("abcd"), labels=LABELS, threshold=0.5, settings=QUICK)
    assert report.coverage == pytest.approx(0.75)
    assert report.answered_accuracy == pytest.approx(2 / 3)
    nothing = evaluate(scores, np.array([0, 1, 0, 2]), list("abcd"), labels=LABELS, threshold=0.99, settings=QUICK)
    assert (nothing.coverage, nothing.answered_accuracy) == (0, None)


def test_each_label_has_its_own_threshold_and_shows_what_became_of_it() -> None:
    scores = np.array([[0.9, 0.1, 0.0], [0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]], dtype=np.float32)
    report = evaluate(
        scores, np.array([0, 0, 0, 2]), list("abcd"), labels=LABELS, threshold=(0.8, 0.7, 0.9), settings=QUICK
    )
    assert [(one.n_answers, one.n_sure, one.sure_precision) for one in report.classes] == [
        (2, 1, 1),
        (1, 1, 0),
        (1, 0, None),
    ]
    assert (report.coverage, report.answered_accuracy) == (0.5, 0.5)


def test_a_report_is_plain_json() -> None:
    report = judge(np.arange(30) % 3, np.arange(30) % 2)
    stored = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert Figure(**stored["balanced_accuracy"]) == report.balanced_accuracy
