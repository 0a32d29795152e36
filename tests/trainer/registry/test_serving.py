"""The champion gives the same scores as in training, and shows what decided."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.config import FeatureSettings, Settings
from trainer.errors import ModelError
from trainer.head.head import Head
from trainer.registry.registry import Registry, VersionFacts
from trainer.registry.serving import Classifier
from trainer.vgg16.backbone import Backbone
from trainer.vgg16.backend import load_keras

LABELS = ("brazil", "china", "japan")
FEATURES = FeatureSettings(weights="random", layers=("block1_pool", "block2_pool"))  # fast at 224 px


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load(FEATURES, precision="float32")


def some_head(n_features: int, labels: tuple[str, ...] = LABELS) -> Head:
    rng = np.random.default_rng(3)

    def layer(n_in: int, n_out: int) -> tuple[Any, Any]:
        kernel = rng.normal(0, n_in**-0.5, (n_in, n_out)).astype(np.float32)
        return kernel, rng.normal(0, 0.1, n_out).astype(np.float32)

    return Head(
        labels=labels,
        mean=rng.random(n_features, dtype=np.float32),
        scale=np.full(n_features, 20, dtype=np.float32),
        layers=(layer(n_features, 16), layer(16, len(labels))),
        temperature=1.5,
    )


def facts_of(backbone: Backbone) -> VersionFacts:
    return VersionFacts(
        labels=LABELS,
        weights=FEATURES.weights,
        weights_seed=FEATURES.weights_seed,
        fingerprint=backbone.fingerprint,
        layers=tuple(FEATURES.layers),
        view="whole",
        precision="float32",
        threshold=0.6,
        temperature=1.5,
        seed=0,
        n_photos=10,
        created_at="2026-01-01T00:00:00+00:00",
        libraries={},
        settings={},
        tuned=None,
    )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


@pytest.fixture
def register(settings: Settings, backbone: Backbone) -> Callable[..., str]:
    """Add and promote a version, optionally with other facts."""

    def add(head: Head | None = None, **differing: Any) -> str:
        registry = Registry(settings.data_dir)
        saved = head or some_head(backbone.n_features)
        version = registry.add(replace(facts_of(backbone), **differing), {}, saved.save)
        registry.promote(version.name, reason="test")
        return version.name

    return add


def noise(n: int) -> Any:
    return np.random.default_rng(n).integers(0, 256, (n, 224, 224, 3), dtype=np.uint8)


def test_the_champion_gives_the_heads_scores_for_the_backbones_features(
    settings: Settings, register: Callable[..., str], backbone: Backbone
) -> None:
    name = register()
    classifier = Classifier.load(settings)
    images = noise(3)
    answers = classifier.predict(images)
    expected = some_head(backbone.n_features).scores(backbone.extract(images, batch_size=4).features)
    np.testing.assert_allclose(np.stack([one.scores for one in answers]), expected, atol=1e-4)
    assert (classifier.version, classifier.labels, classifier.view, classifier.thresholds) == (
        name,
        LABELS,
        "whole",
        (0.6, 0.6, 0.6),
    )
    assert all(one.heatmap.shape == (112, 112) and one.heatmap.dtype == np.float32 for one in answers)
    assert all(one.heatmap.min() >= 0 and one.heatmap.max() in (0, 1) for one in answers)
    assert classifier.predict(noise(0)) == []


def test_a_version_can_be_loaded_by_name(settings: Settings, register: Callable[..., str]) -> None:
    first = register()
    register()
    assert Classifier.load(settings, first).version == first


def test_the_heat_map_shows_the_half_of_the_photo_that_decided(
    settings: Settings, register: Callable[..., str], backbone: Backbone
) -> None:
    """A head that takes any response of the network for japan."""
    kernel = np.zeros((backbone.n_features, len(LABELS)), dtype=np.float32)
    kernel[:, 2] = 1
    mean, scale = np.full((2, backbone.n_features), 20, dtype=np.float32)
    register(Head(LABELS, mean, scale, ((kernel, np.zeros(len(LABELS), dtype=np.float32)),)))
    photos = np.full((2, 224, 224, 3), 124, dtype=np.uint8)  # about ImageNet's mean: the network hardly responds
    photos[0, :, :112] = noise(1)[0, :, :112]
    photos[1, 112:] = noise(1)[0, 112:]
    left, below = (one.heatmap for one in Classifier.load(settings).predict(photos))
    assert left[:, :48].mean() > 5 * left[:, 64:].mean()
    assert below[64:].mean() > 5 * below[:48].mean()


def test_without_a_version_the_message_says_how_to_get_one(settings: Settings) -> None:
    with pytest.raises(ModelError, match="python -m trainer train"):
        Classifier.load(settings)


def test_a_new_champion_on_the_same_backbone_shares_it(settings: Settings, register: Callable[..., str]) -> None:
    register()
    before = Classifier.load(settings)
    register(threshold=0.7, thresholds=(0.7, 0.8, 0.9))
    after = Classifier.load(settings)
    assert after.thresholds == (0.7, 0.8, 0.9)
    assert after._backbone is before._backbone


def test_other_weights_than_the_version_was_trained_on_are_refused(
    settings: Settings, register: Callable[..., str]
) -> None:
    register(fingerprint="0" * 64)
    with pytest.raises(ModelError, match="restore the old file, or train again"):
        Classifier.load(settings)


def test_a_head_that_does_not_fit_its_version_is_refused(
    settings: Settings, register: Callable[..., str], backbone: Backbone
) -> None:
    register(some_head(backbone.n_features, labels=LABELS[:2]))
    with pytest.raises(ModelError, match="2 labels"):
        Classifier.load(settings)


def test_after_loading_no_batch_size_compiles_again(settings: Settings, register: Callable[..., str]) -> None:
    register()
    classifier = Classifier.load(settings)
    assert isinstance(classifier._backbone, Backbone)
    function = classifier._backbone._models["layers"].predict_function
    if load_keras().config.backend() != "tensorflow":
        pytest.skip("only TensorFlow compiles by shape here")
    before = function.experimental_get_tracing_count()
    for n in (1, 2, 3, 5, 8, 9):
        assert len(classifier.predict(noise(n))) == n
    assert function.experimental_get_tracing_count() == before


def test_importing_serving_loads_no_tensorflow() -> None:
    code = (
        "import sys, trainer.registry.serving; print([name for name in ('keras', 'tensorflow') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
