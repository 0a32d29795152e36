"""The benchmark `crop` compares the same photos, whole and cropped, and composes scenes of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmarks import crop
from benchmarks.scenes import SIZE, compose
from tests.faces import portrait
from tests.trainer.collection import paint_photos
from trainer.errors import ConfigError
from trainer.photos.figure import Detector

KINDS = ("dry", "water")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person, and places and things of two labels each."""
    folder = tmp_path_factory.mktemp("source")
    paint_photos(folder / "places", per_label=30, labels=KINDS)
    paint_photos(folder / "things", per_label=30, seed=1, labels=("food", "town"))
    (folder / "people").mkdir()
    portrait().save(folder / "people" / "hopper.png")
    return folder


def test_every_scene_has_a_person_a_place_and_a_thing_of_its_own(source: Path, tmp_path: Path) -> None:
    scenes = compose(source, tmp_path / "scenes", n=12)
    assert len(scenes.places) == 12
    assert set(scenes.places.values()) == set(KINDS)
    assert {name.split("/")[0] for name in scenes.places} == {"food", "town"}
    files = {name: (scenes.folder / name).read_bytes() for name in scenes.places}
    assert len(set(files.values())) == 12
    detector = Detector()
    for name in files:
        with Image.open(scenes.folder / name) as scene:
            assert scene.size == SIZE
            assert detector.find(scene.convert("RGB")).box is not None
    again = compose(source, tmp_path / "again", n=12)
    assert {name: (again.folder / name).read_bytes() for name in again.places} == files


@pytest.mark.slow
def test_scenes_are_measured_by_their_things_and_by_their_places(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.vgg16.backbone.SIDE_PX", 64)  # a small VGG16, for speed
    monkeypatch.setattr(crop, "N_SCENES_QUICK", 24)
    monkeypatch.setattr(crop, "N_HEATED_QUICK", 2)
    found = crop.run(quick=True, work_dir=tmp_path, say=lambda _: None, pictures=source, weights="random")
    figures = found.figures
    assert figures["pictures"] == 24
    assert float(str(figures["share_whole"])) <= 0.1
    assert {goal.figure for goal in found.goals} <= set(figures)
    for kind in ("things", "places"):
        assert 0 <= float(str(figures[f"{kind}_accuracy_whole"])) <= 1
        assert -100 <= float(str(figures[f"{kind}_points_gained"])) <= 100
        assert 0 < float(str(figures[f"{kind}_figure_share_of_photo"])) < 1


def test_the_crop_benchmark_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--pictures FOLDER"):
        crop.run(quick=True, work_dir=tmp_path, say=lambda _: None)
