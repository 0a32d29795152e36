"""The benchmark `heat` blurs what a map shows, and nothing else."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks import heat
from benchmarks.pictures import gather_pictures, real_weights
from tests.trainer.collection import paint_photos
from trainer.errors import ConfigError

WEIGHTS = Path(real_weights())
PICTURES = Path(os.environ.get("DOKOCOS_TEST_PICTURES", "/usr/share/tuxpaint/stamps"))


def test_only_the_hottest_fifth_is_blurred() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=np.uint8)[:50]
    heatmap = np.zeros((10, 10), dtype=np.float32)
    heatmap[:, :2] = 1
    changed = (heat._blur(image, heatmap) != image).any(axis=-1)
    assert changed[:, :9].mean() > 0.95
    assert not changed[:, 11:].any()
    assert changed.mean() <= heat.SHARE


@pytest.mark.slow
def test_every_kind_of_map_is_judged_on_photos_that_were_not_learned_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.vgg16.backbone.SIDE_PX", 64)  # a small VGG16, for speed
    monkeypatch.setattr(heat, "gather_pictures", partial(gather_pictures, precision="float32"))
    paint_photos(tmp_path / "pictures", per_label=16)
    found = heat.run(
        quick=True, work_dir=tmp_path, say=lambda _: None, pictures=tmp_path / "pictures", weights="random"
    )
    assert found.figures["pictures"] == heat.N_QUICK
    assert {goal.figure for goal in found.goals} <= set(found.figures)
    for kind in ("all_layers", "last_layer", "random"):
        fall = found.figures[f"{kind}_fall"]
        assert isinstance(fall, float)
        assert -1 <= fall <= 1


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.exists(), reason="no VGG16 weights; set DOKOCOS_TEST_WEIGHTS to a file")
@pytest.mark.skipif(
    not PICTURES.exists(), reason="no pictures; install tuxpaint-stamps-default, or set DOKOCOS_TEST_PICTURES"
)
def test_with_imagenet_weights_all_layers_show_more_than_the_last(tmp_path: Path) -> None:
    for label in ("animals", "food", "plants", "town"):
        for path in sorted((PICTURES / label).rglob("*.png"))[:24]:
            (tmp_path / "pictures" / label).mkdir(parents=True, exist_ok=True)
            (tmp_path / "pictures" / label / path.name).write_bytes(path.read_bytes())
    found = heat.run(
        quick=True, work_dir=tmp_path, say=lambda _: None, pictures=tmp_path / "pictures", weights=str(WEIGHTS)
    )
    falls = {kind: float(str(found.figures[f"{kind}_fall"])) for kind in ("all_layers", "last_layer", "random")}
    assert falls["all_layers"] > falls["last_layer"]
    assert falls["all_layers"] > 2 * falls["random"]


def test_the_heat_benchmark_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--pictures FOLDER"):
        heat.run(quick=True, work_dir=tmp_path, say=lambda _: None)
