"""What was compared, and which network was used, is known to the next review."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.collection import Silent, gather, paint_photos, settings_for
from trainer.config import Settings
from trainer.review import reposts
from trainer.review.compared import FILE_NAME, Compared
from trainer.review.suspects import find_suspects
from trainer.training import training_data
from trainer.vgg16 import known
from trainer.vgg16.cache import remove_everywhere
from trainer.vgg16.load import load_network

ONE, OTHER, THIRD = ("1" * 64, "2" * 64, "a" * 64)


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A data folder that was reviewed once, not modified."""
    folder = tmp_path_factory.mktemp("photos")
    paint_photos(folder, per_label=12)
    settings = settings_for(folder, tmp_path_factory.mktemp("data"))
    gather(settings)
    find_suspects(settings, Silent())
    return settings


@pytest.fixture
def settings(looked: Settings, tmp_path: Path) -> Settings:
    shutil.copytree(looked.data_dir, tmp_path / "data")
    return looked.model_copy(update={"data_dir": tmp_path / "data"})


def test_pairs_are_known_in_any_order_and_those_of_photos_that_are_gone_are_left_out(tmp_path: Path) -> None:
    compared = Compared.load(tmp_path)
    compared.put(OTHER, ONE, 0.5)
    compared.put(THIRD, ONE, 0.25)
    compared.save({ONE, OTHER})
    again = Compared.load(tmp_path)
    assert again.find(ONE, OTHER) == again.find(OTHER, ONE) == 0.5
    assert again.find(ONE, THIRD) is None


@pytest.mark.parametrize("damage", [b"", b"PK", b"nothing"])
def test_a_damaged_file_means_that_nothing_is_known(tmp_path: Path, damage: bytes) -> None:
    compared = Compared.load(tmp_path)
    compared.put(ONE, OTHER, 0.5)
    compared.save({ONE, OTHER})
    (tmp_path / FILE_NAME).write_bytes(damage)
    assert Compared.load(tmp_path).find(ONE, OTHER) is None


def test_a_taken_down_photo_is_in_no_pair(settings: Settings) -> None:
    features = settings.data_dir / "features"
    assert (features / FILE_NAME).exists()
    remove_everywhere(features, [ONE])
    assert not (features / FILE_NAME).exists()


def test_a_second_review_loads_no_network_and_compares_nothing_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = find_suspects(settings, Silent())

    def fail(*_: object, **__: object) -> None:
        pytest.fail("computed again")

    monkeypatch.setattr(training_data, "load_network", fail)
    monkeypatch.setattr(reposts.Look, "at", fail)
    again = find_suspects(settings, Silent())
    assert again.suspects == first.suspects
    assert (again.examined.features == first.examined.features).all()


def test_a_review_with_new_photos_loads_the_network(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for shard in (settings.data_dir / "features").glob("vgg16-*/*.npy"):
        shard.unlink()
    loaded: list[object] = []

    def counted(*args: Any, **options: Any) -> Any:
        loaded.append(args)
        return load_network(*args, **options)

    monkeypatch.setattr(training_data, "load_network", counted)
    find_suspects(settings, Silent())
    assert loaded


def test_other_settings_or_other_weights_are_another_network(looked: Settings, tmp_path: Path) -> None:
    folder = looked.data_dir / "features"
    assert known.recall_network(looked.features, folder) is not None
    for change in ({"weights_seed": 1}, {"layers": ("block2_conv1",)}, {"weights": str(tmp_path / "gone.npz")}):
        assert known.recall_network(looked.features.model_copy(update=change), folder) is None
    weights = tmp_path / "weights.npz"
    weights.write_bytes(b"one")
    named = looked.features.model_copy(update={"weights": str(weights)})
    network = known.recall_network(looked.features, folder)
    assert network is not None
    known.remember_network(network, named, tmp_path)
    assert known.recall_network(named, tmp_path) == network
    weights.write_bytes(b"others")
    assert known.recall_network(named, tmp_path) is None
    (tmp_path / known.FILE_NAME).write_text("[")
    assert known.recall_network(named, tmp_path) is None
