"""The fake and the real classifier have the same contract; the real one answers in the sandbox."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bot.config import Settings
from bot.photos.predict import Classifier, ServingLoader
from tests.bot.conftest import World, settle
from tests.fakes import FakeClassifier
from trainer.config import VIEWS, FeatureSettings
from trainer.head.head import Head
from trainer.registry.registry import Registry, VersionFacts
from trainer.vgg16.backbone import Backbone

LABELS = ("brazil", "china", "japan")
FEATURES = FeatureSettings(weights="random", layers=("block1_conv2", "block2_conv2"))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with one version: two blocks of VGG16 with random weights and a head that was never fitted."""
    folder = tmp_path_factory.mktemp("data")
    backbone = Backbone.load(FEATURES, precision="float32")
    rng = np.random.default_rng(0)
    kernel = rng.normal(0, 0.1, (backbone.n_features, len(LABELS))).astype(np.float32)
    head = Head(
        labels=LABELS,
        mean=np.zeros(backbone.n_features, np.float32),
        scale=np.full(backbone.n_features, 50, np.float32),
        layers=((kernel, np.zeros(len(LABELS), np.float32)),),
        temperature=1.0,
    )
    facts = VersionFacts(
        labels=LABELS,
        weights=FEATURES.weights,
        weights_seed=FEATURES.weights_seed,
        fingerprint=backbone.fingerprint,
        layers=tuple(FEATURES.layers),
        view="whole",
        precision="float32",
        threshold=0.5,
        temperature=1.0,
        seed=0,
        n_photos=0,
        created_at="2026-01-01T00:00:00+00:00",
        libraries={},
        settings={},
        tuned=None,
    )
    registry = Registry(folder)
    registry.promote(registry.add(facts, {}, head.save).name, reason="test")
    return folder


@pytest.fixture(scope="module")
def real(data_dir: Path) -> Classifier:
    return ServingLoader(Settings(data_dir=data_dir)).load()


@pytest.fixture(params=["fake", "real"])
def classifier(request: pytest.FixtureRequest) -> Classifier:
    return FakeClassifier() if request.param == "fake" else request.getfixturevalue("real")


def test_a_classifier_keeps_its_contract(classifier: Classifier) -> None:
    photos = np.random.default_rng(1).integers(0, 256, (3, 224, 224, 3)).astype(np.uint8)
    before = photos.copy()
    found = classifier.predict(photos)
    assert len(found) == 3
    assert (photos == before).all()
    assert tuple(classifier.labels) == LABELS
    assert classifier.view in VIEWS
    assert all(0 <= threshold <= 1 for threshold in classifier.thresholds)
    assert classifier.version
    for scored in found:
        assert scored.scores.shape == (len(LABELS),)
        assert scored.scores.dtype == np.float32
        assert float(scored.scores.sum()) == pytest.approx(1, abs=1e-4)
        assert scored.heatmap.ndim == 2
        assert scored.heatmap.dtype == np.float32
        assert 0 <= scored.heatmap.min() <= scored.heatmap.max() <= 1
    alone = classifier.predict(photos[1:2])
    assert np.allclose(alone[0].scores, found[1].scores, atol=1e-4)


def test_the_real_classifier_answers_in_the_sandbox(world: World, real: Classifier) -> None:
    world.loader.classifier = real  # type: ignore[assignment]
    with world.bot(bot={"pictures": True}) as bot:
        reply = world.answer(world.ask())
        settle(bot)
        (entry,) = bot.store.inbox.entries()
    assert entry.label in LABELS
    assert f"(version {real.version})" in reply.text
    assert len(reply.media) == 1


def test_the_stamp_changes_with_the_champion(data_dir: Path) -> None:
    loader = ServingLoader(Settings(data_dir=data_dir))
    before = loader.stamp()
    assert before is not None
    assert loader.stamp() == before
    file = data_dir / "registry.json"
    beside = data_dir / "registry.json.new"
    beside.write_bytes(file.read_bytes())
    beside.replace(file)  # as the registry does
    assert loader.stamp() != before
    assert ServingLoader(Settings(data_dir=data_dir / "nowhere")).stamp() is None
