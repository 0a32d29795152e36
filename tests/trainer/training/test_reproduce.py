"""A version is trained again to the same bits, or what differs is named, with what may have changed it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.trainer.collection import Silent, gather, paint_photos, settings_for
from trainer.__main__ import app
from trainer.config import Settings
from trainer.errors import ModelError
from trainer.head.head import FILE_NAME as HEAD
from trainer.photos.manifest import FILE_NAME, Manifest
from trainer.registry.registry import HELD_OUT, METRICS, PHOTOS, Registry, Version
from trainer.training.reproduce import WEIGHTS, Reproduction, reproduce
from trainer.training.train import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A data folder with one version; not modified."""
    folder = tmp_path_factory.mktemp("photos")
    paint_photos(folder)
    settings = settings_for(folder, tmp_path_factory.mktemp("data"))
    gather(settings)
    train(settings, Silent())
    return settings


@pytest.fixture
def settings(trained: Settings, tmp_path: Path) -> Settings:
    """A copy of that data folder."""
    shutil.copytree(trained.data_dir, tmp_path / "data")
    return trained.model_copy(update={"data_dir": tmp_path / "data"})


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in (".lock", ".jsonl")
    }


def again(settings: Settings) -> Reproduction:
    name = Registry(settings.data_dir).champion_name()
    assert name is not None
    return reproduce(name, settings, Silent())


def with_champion(place: Settings, change: Callable[[Path], object] = lambda _: None, **facts: Any) -> Version:
    """Replace the champion by a copy with other facts or files."""
    registry = Registry(place.data_dir)
    champion = registry.champion()
    assert champion is not None

    def write(folder: Path) -> None:
        for path in champion.folder.iterdir():
            if path.suffix in (".npz", ".txt"):
                shutil.copy(path, folder / path.name)
        change(folder)

    changed = registry.add(replace(champion.facts, **facts), champion.metrics, write)
    return registry.promote(changed.name, reason="test")


def test_an_unchanged_version_has_the_same_bits_and_nothing_is_written(settings: Settings) -> None:
    before = contents(settings.data_dir)
    found = again(settings)
    assert (found.differing, found.changes) == ((), ())
    same = "same bits (photos.txt, holdout.txt, head.npz, novelty.npz, version.json, metrics.json)"
    assert found.describe() == f"{found.name}: {same}"
    assert contents(settings.data_dir) == before


def test_the_settings_of_today_do_not_matter(settings: Settings) -> None:
    head = settings.head.model_copy(update={"l2": 10.0, "seed": 5})
    features = settings.features.model_copy(update={"layers": ("block2_conv1",)})
    assert again(settings.model_copy(update={"head": head, "features": features})).differing == ()


def test_photos_and_labels_that_came_later_do_not_matter(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    shutil.copytree(settings.source.folder.path, folder)
    paint_photos(folder, per_label=8, seed=1)
    paint_photos(folder, per_label=2, seed=2, labels=("korea",))
    registry = Registry(settings.data_dir)
    champion = registry.champion()
    assert champion is not None
    later = settings.model_copy(
        update={"source": settings.source.model_copy(update={"folder": type(settings.source.folder)(path=folder)})}
    )
    gather(later)
    with Manifest(settings.data_dir / FILE_NAME) as manifest:
        assert len(list(manifest.photos("folder"))) > champion.facts.n_photos
    assert again(later).differing == ()


def test_another_penalty_is_told_by_the_first_file_that_differs(settings: Settings) -> None:
    champion = Registry(settings.data_dir).champion()
    assert champion is not None
    changed = {**champion.facts.settings, "head": {**champion.facts.settings["head"], "l2": 0.5}}
    with_champion(settings, settings=changed)
    found = again(settings)
    assert found.differing[0] == HEAD
    assert METRICS in found.differing
    assert PHOTOS not in found.differing
    assert f"{HEAD} differs" in found.describe()
    assert "nothing that a version records" in found.describe()


def test_another_seed_is_told(settings: Settings) -> None:
    with_champion(settings, seed=1)
    assert again(settings).differing == ("version.json",)


def test_other_libraries_and_machines_are_told_as_what_may_have_changed_it(settings: Settings) -> None:
    champion = Registry(settings.data_dir).champion()
    assert champion is not None
    assert {"processor", "engine", "device", "cores"} <= champion.facts.machine.keys()
    libraries, machine = {**champion.facts.libraries, "numpy": "1.0"}, {**champion.facts.machine, "device": "gpu:0"}
    with_champion(settings, libraries=libraries, machine=machine)
    found = again(settings)
    assert found.differing == ()
    assert "and yet: numpy: 1.0 then" in found.describe()
    with_champion(settings, lambda folder: (folder / HEAD).write_bytes(b"another head"))
    described = again(settings).describe()
    assert f"{HEAD} differs" in described
    assert "may have changed it: numpy: 1.0 then" in described
    assert "may have changed it: device: gpu:0 then" in described


def test_photos_that_are_gone_are_counted(settings: Settings) -> None:
    champion = Registry(settings.data_dir).champion()
    assert champion is not None
    learned = set((champion.folder / PHOTOS).read_text().split())
    with Manifest(settings.data_dir / FILE_NAME) as manifest:
        for photo in [photo for photo in manifest.photos("folder") if photo.sha256 in learned][:2]:
            manifest.forget("folder", "photo", photo.photo_id, now=photo.fetched_at)
    found = again(settings)
    assert found.differing == (PHOTOS,)
    assert "2 of its 72 photos are gone" in found.describe()


def test_held_out_photos_that_are_gone_are_counted(settings: Settings) -> None:
    champion = Registry(settings.data_dir).champion()
    assert champion is not None
    learned = set((champion.folder / PHOTOS).read_text().split())
    with Manifest(settings.data_dir / FILE_NAME) as manifest:
        photo = next(photo for photo in manifest.photos("folder") if photo.sha256 not in learned)
        manifest.forget("folder", "photo", photo.photo_id, now=photo.fetched_at)
    found = again(settings)
    assert found.differing == (PHOTOS,)
    assert "1 of its 72 photos are gone" in found.describe()
    with_champion(settings, lambda folder: (folder / HELD_OUT).unlink())  # as versions of before have none
    assert "it had 72 photos, holdout included; now there are 71" in again(settings).describe()


def test_other_weights_of_vgg16_are_told_before_anything_is_computed(settings: Settings) -> None:
    with_champion(settings, fingerprint="0" * 64)
    found = again(settings)
    assert found.differing == (WEIGHTS,)
    assert "now holds other weights" in found.describe()


def test_settings_that_this_dokocos_does_not_know_are_named(settings: Settings) -> None:
    champion = Registry(settings.data_dir).champion()
    assert champion is not None
    with_champion(settings, settings={**champion.facts.settings, "head": {"magic": 1}})
    with pytest.raises(ModelError, match=r"does not know its settings \(head\.magic\)"):
        again(settings)


def test_the_exit_status_says_whether_the_bits_are_the_same(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOKOCOS_DATA_DIR", str(settings.data_dir))
    monkeypatch.chdir(tmp_path)
    name = Registry(settings.data_dir).champion_name()
    outcome = CliRunner().invoke(app, ["reproduce", str(name)])
    assert (outcome.exit_code, "same bits" in outcome.output) == (0, True), outcome.output
    changed = with_champion(settings, lambda folder: (folder / HEAD).write_bytes(b"another head"))
    outcome = CliRunner().invoke(app, ["reproduce", changed.name])
    assert (outcome.exit_code, f"{HEAD} differs" in outcome.output) == (1, True)
