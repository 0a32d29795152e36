"""The benchmark `gpu` runs in small on a CPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu, reference
from benchmarks.result import Figure
from trainer.config import FeatureSettings
from trainer.vgg16.backbone import Backbone
from trainer.vgg16.weights import load_weights, save_weights


def number(figure: Figure) -> float:
    assert isinstance(figure, int | float)
    return float(figure)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_everything_is_measured_in_small_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.vgg16.backbone.SIDE_PX", 64)  # a small VGG16, for speed; the reference is whole
    found = gpu.run(quick=True, work_dir=tmp_path, say=lambda _: None, weights="random")
    figures = found.figures
    assert figures["weights"] == "VGG16 with seeded random weights"
    assert figures["precision"] == "bfloat16"
    assert figures["reference_epochs"] == 1
    for name in (
        "images_per_s",
        "ceiling_images_per_s",
        "images_per_s_from_files_with_maps",
        "head_s",
        "fine_tuning_s",
    ):
        assert number(figures[name]) > 0
    for name in ("balanced_accuracy", "fine_tuned_balanced_accuracy", "reference_balanced_accuracy"):
        assert 0 <= number(figures[name]) <= 1
    assert number(figures["share_of_ceiling"]) == pytest.approx(
        number(figures["images_per_s"]) / number(figures["ceiling_images_per_s"])
    )
    assert found.goals == ()
    assert "no GPU" in str(figures["note"])


def test_the_ceiling_and_the_network_are_timed() -> None:
    assert gpu.products_per_s(64, 0.01) > 0
    settings = FeatureSettings(weights="random", layers=("block1_conv1",))
    assert gpu.images_per_s(Backbone.load(settings, precision="float32", side_px=32), 2, 0.01) > 0


def test_the_first_backend_that_is_installed_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "jax" or None)
    assert gpu.choose_backend() == "jax"
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert gpu.choose_backend() == "torch"


def test_the_reference_reads_pictures_by_the_same_class_without_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = reference.image_data_generator()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert reference.image_data_generator() is usual


def test_weights_in_half_precision_are_read_and_told(tmp_path: Path) -> None:
    whole = load_weights(FeatureSettings(weights="random"))
    half = {name: tuple(array.astype(np.float16) for array in arrays) for name, arrays in whole.items()}
    save_weights(tmp_path / "half.npz", half)  # type: ignore[arg-type]
    save_weights(tmp_path / "whole.npz", whole)
    assert gpu._is_half(str(tmp_path / "half.npz"))
    assert not gpu._is_half(str(tmp_path / "whole.npz"))
    assert not gpu._is_half("imagenet")
    read = load_weights(FeatureSettings(weights=str(tmp_path / "half.npz")))
    np.testing.assert_allclose(read["block1_conv1"][0], whole["block1_conv1"][0], rtol=1e-3, atol=1e-4)
