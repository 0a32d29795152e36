"""The int8 network computes nearly the features of float32, and the same bits in any batch."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.collection import Silent, gather, paint_photos, settings_for
from trainer.config import FeatureSettings
from trainer.errors import ImageError, ModelError
from trainer.registry import serving
from trainer.training.comparison import compare_with_champion
from trainer.training.train import Outcome, train
from trainer.vgg16 import int8, load
from trainer.vgg16.backbone import Backbone, Pixels, Precision
from trainer.vgg16.backend import load_keras
from trainer.vgg16.int8 import Int8Backbone
from trainer.vgg16.load import load_network, relative_distance
from trainer.vgg16.quantise import quantise
from trainer.vgg16.weights import load_weights

pytest.importorskip("nncf", reason="the extra `int8` is not installed")
if load_keras().config.backend() != "tensorflow":
    pytest.skip("OpenVINO converts Keras' VGG16 from TensorFlow alone", allow_module_level=True)

SETTINGS = FeatureSettings(weights="random", layers=("block1_conv2", "block2_conv2"), precision="int8")
QUICK = FeatureSettings(weights="random", layers=("block1_conv1",), precision="int8")  # at 224 pixels
SIDE_PX = 32


def photos(n: int, side_px: int = SIDE_PX) -> Pixels:
    """Block noise, so that layers see edges."""
    blocks = np.random.default_rng(0).integers(0, 256, (n, side_px // 8, side_px // 8, 3), dtype=np.uint8)
    return blocks.repeat(8, axis=1).repeat(8, axis=2)


def quantised(path: Path) -> Int8Backbone:
    done: list[tuple[int, int]] = []
    weights = load_weights(SETTINGS)
    quantise(path, weights, photos(24), settings=SETTINGS, progress=lambda *numbers: done.append(numbers))
    assert done[-1] == (24, 24)
    return Int8Backbone(path)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Int8Backbone:
    return quantised(tmp_path_factory.mktemp("int8") / "network.npz")


def test_features_and_maps_are_close_to_float32(network: Int8Backbone) -> None:
    exact = Backbone.load(SETTINGS, precision="float32", side_px=SIDE_PX)
    assert network.n_features == exact.n_features
    assert network.fingerprint == exact.fingerprint
    images = photos(30)[24:]
    found, expected = network.extract(images, with_maps=True), exact.extract(images, with_maps=True)
    assert relative_distance(found.features, expected.features) < 0.03
    assert found.layer_maps is not None
    assert expected.layer_maps is not None
    for mine, theirs in zip(found.layer_maps, expected.layer_maps, strict=True):
        assert mine.shape == theirs.shape
        assert np.corrcoef(mine.ravel(), theirs.ravel())[0, 1] > 0.99


def test_features_are_the_same_bits_in_any_batch(network: Int8Backbone) -> None:
    images = photos(9)
    alone = np.concatenate([network.extract(image[None]).features for image in images])
    for batch_size in (None, 2, 8, 16):
        assert np.array_equal(network.extract(images, batch_size=batch_size).features, alone)
    assert np.array_equal(network.extract(images[::-1].copy()).features[::-1], alone)
    assert np.array_equal(network.extract(images, with_maps=True).features, alone)
    assert network.extract(images[:0], with_maps=True).features.shape == (0, network.n_features)


@pytest.mark.parametrize("n_threads", ["1", "2"])
def test_features_are_the_same_bits_with_any_number_of_threads(
    network: Int8Backbone, n_threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", n_threads)  # as the bot limits its trainings
    images = photos(5)
    assert np.array_equal(Int8Backbone(network.path).extract(images).features, network.extract(images).features)


def test_the_same_photos_give_the_same_file_and_print_nothing(
    network: Int8Backbone, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    again = quantised(tmp_path / "again.npz")
    assert capfd.readouterr() == ("", "")
    assert again.path.read_bytes() == network.path.read_bytes()
    assert again.key == network.key
    assert network.sha256[:16] in network.key


def test_other_images_are_refused(network: Int8Backbone) -> None:
    with pytest.raises(ImageError, match="uint8"):
        network.extract(photos(1, side_px=64))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"no archive"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "network.npz"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"network\.npz: cannot be run as an int8 network"):
        Int8Backbone(path)
    with pytest.raises(ModelError, match=r"missing\.npz"):
        Int8Backbone(tmp_path / "missing.npz")


def test_a_graph_that_is_not_one_is_an_error(network: Int8Backbone, tmp_path: Path) -> None:
    path = tmp_path / "network.npz"
    int8.save_network(path, b"<net/>", b"", fingerprint="0" * 64, layers=network.layers, side_px=SIDE_PX)
    with pytest.raises(ModelError, match="cannot be run"):
        Int8Backbone(path)


def test_the_network_is_quantised_once_and_again_if_its_file_is_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    n_decoded = []

    def samples() -> Pixels:
        n_decoded.append(1)
        return photos(10, side_px=224)

    first = load_network(QUICK, tmp_path, samples)
    assert first.precision == "int8"
    assert load_network(QUICK, tmp_path, samples).key == first.key
    assert len(n_decoded) == 1
    (file,) = (tmp_path / "features").glob("*.npz")
    file.write_bytes(file.read_bytes()[:1000])
    assert load_network(QUICK, tmp_path, samples).key == first.key
    assert "int8 network made again" in caplog.text


@pytest.mark.parametrize(
    ("rates", "limit", "expected"),
    [
        ({"float32": 5.0, "int8": 9.0}, 0.03, "int8"),
        ({"float32": 5.0, "int8": 5.2}, 0.03, "float32"),  # no gain worth the rounding, as without VNNI
        ({"float32": 5.0, "int8": 9.0}, 0.0, "float32"),  # too far from float32
    ],
)
def test_auto_takes_int8_if_it_is_faster_and_close_to_float32(
    rates: dict[Precision, float],
    limit: float,
    expected: Precision,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    auto = QUICK.model_copy(update={"precision": "auto"})
    monkeypatch.setattr(load, "choose_precision", lambda *_: "float32")
    monkeypatch.setattr(load, "compare_rates", lambda *_, **__: rates)
    monkeypatch.setattr(load, "MAX_DISTANCE", limit)
    assert load_network(auto, tmp_path, lambda: photos(10, side_px=224)).precision == expected
    monkeypatch.delattr(load, "compare_rates")  # measured once
    if expected == "int8":
        monkeypatch.delattr(load, "choose_precision")  # Keras is not asked either
    assert load_network(auto, tmp_path, lambda: photos(10, side_px=224)).precision == expected
    (entry,) = json.loads((tmp_path / "precision.json").read_text(encoding="utf-8")).values()
    assert entry["precision"] == expected
    assert entry["images_per_s"] == rates
    assert 0 < entry["distance"] < 0.03


def test_without_openvino_keras_computes_the_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(int8, "is_installed", lambda **_: False)
    monkeypatch.setattr(load, "choose_precision", lambda *_: "float32")
    assert load_network(QUICK, tmp_path, lambda: photos(0)).precision == "float32"
    assert "int8 needs OpenVINO" in caplog.text
    caplog.clear()
    auto = QUICK.model_copy(update={"precision": "auto"})
    assert load_network(auto, tmp_path, lambda: photos(0)).precision == "float32"
    assert "int8" not in caplog.text


def test_fine_tuning_uses_keras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "choose_precision", lambda *_: "float32")
    assert load_network(QUICK, tmp_path, lambda: photos(0), only_keras=True).precision == "float32"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("trained")
    paint_photos(folder / "photos")
    settings = settings_for(folder / "photos", folder / "data", features={"precision": "int8"})
    gather(settings)
    return train(settings, Silent())


def test_a_version_carries_its_network_and_its_hash(trained: Outcome) -> None:
    facts, backbone = trained.version.facts, trained.training_data.backbone
    assert isinstance(backbone, Int8Backbone)
    assert (facts.precision, facts.quantised) == ("int8", backbone.sha256)
    assert (trained.version.folder / int8.FILE_NAME).read_bytes() == backbone.path.read_bytes()
    report = (trained.version.folder / "report.html").read_text(encoding="utf-8")
    assert backbone.sha256[:16] in report
    assert {"openvino", "nncf"} <= facts.libraries.keys()


def test_an_int8_champion_can_be_compared_with(trained: Outcome) -> None:
    folder = trained.version.folder.parent.parent
    settings = settings_for(folder.parent / "photos", folder, features={"precision": "int8"})
    verdict = compare_with_champion(trained.version, trained.trained, trained.training_data, settings, Silent())
    assert "trained on too many photos" not in verdict.reasons[0]


def test_serving_int8_imports_no_keras_and_opens_no_socket(trained: Outcome) -> None:
    folder = trained.version.folder.parent.parent
    code = f"""
import sys, numpy as np
opened = []
sys.addaudithook(lambda event, _: opened.append(event) if event.startswith("socket.") else None)
from pathlib import Path
from trainer.config import Settings
from trainer.registry import serving
classifier = serving.Classifier.load(Settings(data_dir=Path({str(folder)!r})))
(scored,) = classifier.predict(np.zeros((1, 224, 224, 3), dtype=np.uint8))
assert abs(scored.scores.sum() - 1) < 1e-5
unwanted = {{"keras", "tensorflow", "nncf", "openvino_telemetry", "scipy", "sklearn"}}
print(opened, sorted(unwanted & sys.modules.keys()))
"""
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert outcome.stdout == "[] []\n", outcome.stderr


def test_training_again_imports_no_keras(trained: Outcome) -> None:
    """If no feature is missing, and with new photos too: Keras takes seconds to import."""
    folder = trained.version.folder.parent.parent
    code = f"""
import sys
from pathlib import Path
from tests.trainer.collection import Silent, settings_for
from trainer.training.train import train
from trainer.vgg16.precision import engines_key
folder = Path({str(folder)!r})
again = train(settings_for(folder.parent / "photos", folder, features={{"precision": "int8"}}), Silent())
assert again.version.facts.machine["cores"] and "openvino" in engines_key()
print(again.training_data.backbone.key, sorted({{"keras", "tensorflow", "nncf"}} & sys.modules.keys()))
"""
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert outcome.stdout == f"{trained.training_data.backbone.key} []\n", outcome.stderr


def test_a_changed_network_is_refused(trained: Outcome, tmp_path: Path) -> None:
    backbone = trained.training_data.backbone
    assert isinstance(backbone, Int8Backbone)
    path = tmp_path / "network.npz"
    path.write_bytes(backbone.path.read_bytes())
    copied = Int8Backbone(path)
    path.write_bytes(b"something else")
    with pytest.raises(ModelError, match="changed during the training"):
        copied.save(tmp_path)


def test_serving_and_training_give_the_same_scores(trained: Outcome) -> None:
    folder = trained.version.folder.parent.parent
    settings = settings_for(folder.parent / "photos", folder)
    classifier = serving.Classifier.load(settings)
    images = photos(3, side_px=224)
    features = trained.training_data.backbone.extract(images, batch_size=16).features
    found = np.array([scored.scores for scored in classifier.predict(images)])
    assert np.array_equal(found, trained.trained.head.scores(features))
