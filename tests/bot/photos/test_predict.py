"""The predictor batches waiting photos, swaps versions without a pause, and one photo can fail alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from bot.photos.predict import Classifier, Photo, Predictor, ViewChangedError, prediction
from tests.bot.conftest import COLOURS, until
from tests.fakes import FakeClassifier, FakeLoader, FakeScored
from trainer.errors import ModelError, ProjectError


def plain(label: str) -> Photo:
    """A photo of one colour."""
    return np.full((224, 224, 3), COLOURS[label], np.uint8)


@contextmanager
def predictor(loader: FakeLoader, **options: Any) -> Iterator[Predictor]:
    made = Predictor(loader, **({"batch_size": 8, "watch_every_s": 0.02} | options))
    made.start()
    try:
        yield made
    finally:
        made.stop()


class Gated(FakeClassifier):
    """Works only while its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.started = threading.Event()

    def predict(self, photos: Photo) -> Sequence[FakeScored]:
        self.started.set()
        self.gate.wait()
        return super().predict(photos)


class Touchy(FakeClassifier):
    """Fails on any batch with a black photo."""

    def predict(self, photos: Photo) -> Sequence[FakeScored]:
        if any(not photo.any() for photo in photos):
            raise RuntimeError("black")
        return super().predict(photos)


def test_waiting_photos_are_classified_in_batches_of_the_given_size() -> None:
    classifier = Gated()
    with predictor(FakeLoader(classifier), batch_size=4) as made:
        first = made.submit(plain("japan"), view="whole")
        classifier.started.wait()
        others = [made.submit(plain("china"), view="whole") for _ in range(6)]
        classifier.gate.set()
        assert first.result(10).label == "japan"
        assert {other.result(10).label for other in others} == {"china"}
    assert classifier.batches == [1, 4, 2]


def test_each_photo_gets_its_own_scores_sorted() -> None:
    labels = ["japan", "brazil", "unsure", "china"]
    with predictor(FakeLoader()) as made:
        found = [future.result(10) for future in [made.submit(plain(label), view="whole") for label in labels]]
    assert [each.label for each in found if each.sure] == ["japan", "brazil", "china"]
    assert [each.sure for each in found] == [True, True, False, True]
    for each in found:
        assert [score for _, score in each.scores] == sorted((score for _, score in each.scores), reverse=True)
        assert sum(score for _, score in each.scores) == pytest.approx(1)


def test_one_failing_photo_does_not_fail_the_others() -> None:
    gated = Touchy()
    with predictor(FakeLoader(gated)) as made:
        photos = [plain("japan"), np.zeros((224, 224, 3), np.uint8), plain("china")]
        futures = [made.submit(photo, view="whole") for photo in photos]
        assert futures[0].result(10).label == "japan"
        assert futures[2].result(10).label == "china"
        with pytest.raises(RuntimeError, match="black"):
            futures[1].result(10)


def test_a_new_champion_takes_over_without_a_restart() -> None:
    loader = FakeLoader(FakeClassifier("v1"))
    with predictor(loader) as made:
        assert made.submit(plain("japan"), view="whole").result(10).version == "v1"
        loader.classifier = FakeClassifier("v2")
        until(lambda: made.submit(plain("japan"), view="whole").result(10).version == "v2")


def test_a_champion_that_cannot_be_loaded_leaves_the_old_one_serving(caplog: pytest.LogCaptureFixture) -> None:
    loader = FakeLoader(FakeClassifier("v1"))
    with predictor(loader) as made:
        made.wait_until_ready()
        loader.classifier = None
        until(lambda: "champion not loaded" in caplog.text)
        assert made.submit(plain("japan"), view="whole").result(10).version == "v1"
        until(lambda: loader.n_loads > 1)
    assert caplog.text.count("champion not loaded") == 1


def test_without_a_champion_it_raises_and_later_serves_a_new_one() -> None:
    loader = FakeLoader(None)
    with predictor(loader) as made:
        with pytest.raises(ModelError, match="no version yet"):
            made.wait_until_ready(10)
        with pytest.raises(ModelError):
            made.submit(plain("japan"), view="whole").result(10)
        loader.classifier = FakeClassifier("v1")
        until(lambda: made.has_tried.is_set() and loader.n_loads > 1)
        until(lambda: _version(made) == "v1")


def test_a_photo_prepared_for_another_view_is_rejected() -> None:
    with predictor(FakeLoader()) as made, pytest.raises(ViewChangedError):
        made.submit(plain("japan"), view="top").result(10)


def test_an_answer_is_sure_from_the_threshold_of_its_own_label() -> None:
    classifier = FakeClassifier()
    classifier.thresholds = (0.5, 0.9, 0.8)
    scores = ([0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8])
    found = [FakeScored(np.array(each), np.zeros((1, 1), np.float32)) for each in scores]
    assert [prediction(classifier, one).sure for one in found] == [True, False, True]


def test_a_stop_leaves_nobody_waiting() -> None:
    classifier = Gated()
    with predictor(FakeLoader(classifier), batch_size=1) as made:
        made.submit(plain("japan"), view="whole")
        classifier.started.wait()
        waiting = made.submit(plain("japan"), view="whole")
        made.stop()
        classifier.gate.set()
        with pytest.raises(ProjectError, match="stopping"):
            waiting.result(10)
        with pytest.raises(ProjectError, match="stopping"):
            made.submit(plain("japan"), view="whole").result(10)


def _version(made: Predictor) -> str | None:
    try:
        classifier: Classifier = made.wait_until_ready(0)
    except ModelError:
        return None
    return classifier.version
