"""Features equal those of Keras' VGG16, are bit-identical in any batch, and are computed once."""

import hashlib
import io
import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from keras.src.backend.config import keras_home
from PIL import Image

from tests.fakes import FakeDecoder
from trainer.config import FeatureSettings, ImageSettings
from trainer.errors import ImageError, ModelError
from trainer.photos.decode import Decoder
from trainer.photos.images import load_rgb, view
from trainer.vgg16 import precision as precision_module
from trainer.vgg16 import weights as weights_module
from trainer.vgg16.backbone import Backbone, choose_batch_size
from trainer.vgg16.backend import backend_name, keras_folder, load_keras
from trainer.vgg16.cache import FeatureCache
from trainer.vgg16.engines.local import LocalEngine
from trainer.vgg16.features import Computed, compute_features
from trainer.vgg16.precision import choose_precision, compare_rates, engines_key, measure
from trainer.vgg16.weights import CONVOLUTIONS, Convolution, kernel_shape, load_weights

SIDE_PX = 64
LIMITS = ImageSettings()
SETTINGS = FeatureSettings(weights="random", layers=("block4_conv3", "block5_conv3"), views=("whole", "mirror"))


@dataclass(frozen=True)
class Photo:
    sha256: str
    path: Path


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load(SETTINGS, precision="float32", side_px=SIDE_PX)


@pytest.fixture(scope="module")
def weights() -> dict[str, Convolution]:
    return load_weights(SETTINGS)


def noise(n: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (n, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)


def save_photos(folder: Path, n: int) -> list[Photo]:
    rng = np.random.default_rng(n)
    photos = []
    for number in range(n):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (90, 60, 3), dtype=np.uint8)).save(out, "JPEG")
        path = folder / f"{number}.jpg"
        path.write_bytes(out.getvalue())
        photos.append(Photo(hashlib.sha256(out.getvalue()).hexdigest(), path))
    return photos


def open_cache(folder: Path, backbone: Backbone, views: Sequence[str] = SETTINGS.views) -> FeatureCache:
    return FeatureCache(folder / backbone.key, views=views, n_features=backbone.n_features)


def compute(photos: list[Photo], backbone: Backbone, cache: FeatureCache, **options: Any) -> Computed:
    engine = LocalEngine(backbone, FakeDecoder(LIMITS), batch_size=4)
    return compute_features(photos, engine=engine, cache=cache, **options)


def test_features_equal_the_average_of_keras_vgg16(backbone: Backbone, weights: dict[str, Convolution]) -> None:
    keras = load_keras()
    reference = keras.applications.VGG16(include_top=False, weights=None, input_shape=(SIDE_PX, SIDE_PX, 3))
    for name, arrays in weights.items():
        reference.get_layer(name).set_weights(arrays)
    images = noise(3)
    pixels = keras.applications.vgg16.preprocess_input(images.astype(np.float32))
    outputs = [reference.get_layer(name).output for name in SETTINGS.layers]
    maps = [np.asarray(part) for part in keras.Model(reference.input, outputs)(pixels)]

    extracted = backbone.extract(images, batch_size=4, with_maps=True)

    pooled = np.concatenate([part.mean(axis=(1, 2)) for part in maps], axis=1)
    np.testing.assert_allclose(extracted.features, pooled, rtol=1e-3, atol=1e-3 * pooled.max())
    assert extracted.layer_maps is not None
    for mine, expected in zip(extracted.layer_maps, maps, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-3, atol=1e-3 * expected.max())
        assert extracted.features.dtype == mine.dtype == np.float32


def test_all_13_convolutions_exist_and_only_the_needed_ones_run() -> None:
    assert len(CONVOLUTIONS) == 13
    shallow = Backbone.load(
        FeatureSettings(weights="random", layers=("block1_conv1",)), precision="float32", side_px=SIDE_PX
    )
    extracted = shallow.extract(noise(1), with_maps=True)
    assert shallow.n_features == 64
    assert extracted.layer_maps is not None
    assert [layer_map.shape for layer_map in extracted.layer_maps] == [(1, SIDE_PX, SIDE_PX, 64)]


def test_the_features_are_the_averages_of_the_layers_maps(backbone: Backbone) -> None:
    extracted = backbone.extract(noise(2), with_maps=True)
    assert extracted.layer_maps is not None
    averages = np.concatenate([layer_map.mean(axis=(1, 2)) for layer_map in extracted.layer_maps], axis=1)
    np.testing.assert_allclose(extracted.features, averages, rtol=1e-4)


def test_photos_decoded_in_confined_processes_have_bit_identical_features(backbone: Backbone, tmp_path: Path) -> None:
    photos = save_photos(tmp_path, 5)
    caches = [open_cache(tmp_path / name, backbone) for name in ("here", "elsewhere")]
    compute(photos, backbone, caches[0])
    with closing(Decoder.in_bulk(LIMITS, n_children=2)) as decoder:
        compute_features(photos, engine=LocalEngine(backbone, decoder, batch_size=4), cache=caches[1])
    here, elsewhere = (cache.load([photo.sha256 for photo in photos]) for cache in caches)
    assert np.array_equal(here, elsewhere)


def test_an_image_has_bit_identical_features_in_any_batch(backbone: Backbone) -> None:
    images = noise(11)
    together = backbone.extract(images, batch_size=4).features
    order = np.random.default_rng(1).permutation(len(images))
    assert np.array_equal(backbone.extract(images[order], batch_size=4).features, together[order])
    apart = [backbone.extract(images[i : i + 1], batch_size=4).features[0] for i in range(len(images))]
    assert np.array_equal(np.stack(apart), together)


def test_small_and_large_batches_differ_only_by_rounding(backbone: Backbone) -> None:
    images = noise(7)
    few, many = backbone.extract(images).features, backbone.extract(images, batch_size=16).features
    np.testing.assert_allclose(few, many, rtol=1e-4, atol=1e-4 * many.max())


def test_no_images_give_no_features(backbone: Backbone) -> None:
    assert backbone.extract(noise(0)).features.shape == (0, backbone.n_features)


def test_an_image_of_another_shape_is_refused(backbone: Backbone) -> None:
    with pytest.raises(ImageError, match=r"\(1, 32, 32, 3\) uint8"):
        backbone.extract(np.zeros((1, 32, 32, 3), dtype=np.uint8))
    with pytest.raises(ImageError, match="float32"):
        backbone.extract(noise(1).astype(np.float32))


def test_bfloat16_gives_nearly_the_same_features_and_does_not_affect_other_layers(backbone: Backbone) -> None:
    keras = load_keras()
    before = keras.config.dtype_policy().name
    half = Backbone.load(SETTINGS, precision="bfloat16", side_px=SIDE_PX)
    assert keras.config.dtype_policy().name == before
    exact, rounded = backbone.extract(noise(2)).features, half.extract(noise(2)).features
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 1e-5 < error < 0.03
    assert rounded.dtype == np.float32
    assert half.key != backbone.key


def test_random_weights_depend_only_on_the_seed_and_log_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    keras = load_keras()
    with caplog.at_level(logging.WARNING):
        first = load_weights(FeatureSettings(weights="random"))
    assert "not for real answers" in caplog.text
    keras.utils.set_random_seed(5)
    again = load_weights(FeatureSettings(weights="random"))
    other = load_weights(FeatureSettings(weights="random", weights_seed=1))
    assert all(np.array_equal(first[name][0], again[name][0]) for name in CONVOLUTIONS)
    assert not np.array_equal(first["block1_conv1"][0], other["block1_conv1"][0])


def write_h5(path: Path, weights: dict[str, Convolution], *, names: str, top: bool = False) -> None:
    """Write a weights file like Keras 1 ("block1_conv1_W_1:0"), Keras 2 ("kernel:0") or Keras 3 (numbered layers)."""
    with h5py.File(path, "w") as file:
        for position, (layer, (kernel, bias)) in enumerate(weights.items()):
            counted = "conv2d" if position == 0 else f"conv2d_{position}"
            kernel_name, bias_name = {
                "keras1": (f"{layer}/{layer}_W_1:0", f"{layer}/{layer}_b_1:0"),
                "keras2": (f"{layer}/{layer}/kernel:0", f"{layer}/{layer}/bias:0"),
                "keras3": (f"layers/{counted}/vars/0", f"layers/{counted}/vars/1"),
            }[names]
            file[kernel_name], file[bias_name] = kernel, bias
        if top:
            file["fc1/fc1_W_1:0"], file["fc1/fc1_b_1:0"] = np.zeros((8, 4)), np.zeros(4)
            file["layers/dense/vars/1"] = np.zeros(4)


@pytest.mark.parametrize(("names", "top"), [("keras1", False), ("keras1", True), ("keras2", False), ("keras3", True)])
def test_weights_files_of_every_keras_are_read(
    names: str, top: bool, weights: dict[str, Convolution], tmp_path: Path
) -> None:
    write_h5(tmp_path / "weights.h5", weights, names=names, top=top)
    loaded = load_weights(FeatureSettings(weights=str(tmp_path / "weights.h5")))
    assert all(np.array_equal(a, b) for name in CONVOLUTIONS for a, b in zip(loaded[name], weights[name], strict=True))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras 3.15 on NumPy 2
def test_weights_that_keras_saved_itself_are_read(weights: dict[str, Convolution], tmp_path: Path) -> None:
    keras = load_keras()
    model = keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))
    for name, pair in weights.items():
        model.get_layer(name).set_weights(pair)
    model.save_weights(tmp_path / "vgg16.weights.h5")
    arrays: dict[str, Any] = {f"{name}/kernel": kernel for name, (kernel, _) in weights.items()}
    arrays |= {f"{name}/bias": bias for name, (_, bias) in weights.items()}
    np.savez(tmp_path / "vgg16.npz", **arrays)
    for file in ("vgg16.weights.h5", "vgg16.npz"):
        settings = FeatureSettings(weights=str(tmp_path / file), layers=SETTINGS.layers)
        loaded = Backbone.load(settings, precision="float32", side_px=SIDE_PX)
        assert loaded.key == Backbone.load(SETTINGS, precision="float32", side_px=SIDE_PX).key


def test_a_file_of_another_network_is_refused(weights: dict[str, Convolution], tmp_path: Path) -> None:
    wrong = dict(weights)
    wrong["block3_conv2"] = (np.zeros((3, 3, 256, 128), dtype=np.float32), np.zeros(128, dtype=np.float32))
    write_h5(tmp_path / "wrong.h5", wrong, names="keras2")
    (tmp_path / "text.h5").write_text("not found")
    (tmp_path / "text.npz").write_text("not found")
    objects: dict[str, Any] = {"block1_conv1/kernel": np.array([{}], dtype=object)}
    np.savez(tmp_path / "pickle.npz", **objects)
    for name, said in {
        "wrong.h5": "block3_conv2.*128",
        "text.h5": "cannot be read",
        "text.npz": "cannot be read",
        "pickle.npz": "cannot be read",
        "none.h5": "no such file",
    }.items():
        with pytest.raises(ModelError, match=said):
            load_weights(FeatureSettings(weights=str(tmp_path / name)))


def test_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("trainer.vgg16.weights.URL", "http://127.0.0.1:9/vgg16.h5")
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(tmp_path), raising=True)
    with pytest.raises(ModelError, match=r"set features\.weights to the file's path"):
        load_weights(FeatureSettings(weights="imagenet"))


def test_what_keras_has_downloaded_is_read_without_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delattr("trainer.vgg16.weights.load_keras")
    file = tmp_path / "models" / weights_module.FILE_NAME
    file.parent.mkdir()
    file.write_bytes(b"some weights")
    monkeypatch.setattr(weights_module, "MD5", hashlib.md5(b"some weights", usedforsecurity=False).hexdigest())
    with pytest.raises(ModelError, match=re.escape(f"{file}: cannot be read")):
        load_weights(FeatureSettings(weights="imagenet"))
    file.write_bytes(b"cut off")
    with pytest.raises(NameError, match="load_keras"):  # to be downloaded again
        load_weights(FeatureSettings(weights="imagenet"))


def test_the_folder_of_keras_is_known_without_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert keras_folder() == Path(keras_home())
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert keras_folder() == tmp_path


def test_the_backend_is_known_before_keras_is_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert backend_name() == load_keras().config.backend()
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert backend_name() == "tensorflow"
    (tmp_path / "keras.json").write_text('{"backend": "torch"}', encoding="utf-8")
    assert backend_name() == "torch"
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert backend_name() == "jax"
    assert "keras" not in sys.modules


def test_shapes_follow_configuration_d() -> None:
    n_weights = sum(int(np.prod(kernel_shape(name))) + kernel_shape(name)[3] for name in CONVOLUTIONS)
    assert n_weights == 14_714_688  # as Model.summary() and the paper's table have it


def test_each_photo_is_computed_only_once(backbone: Backbone, tmp_path: Path) -> None:
    photos = save_photos(tmp_path, 5)
    first = compute([*photos[:3], photos[0]], backbone, open_cache(tmp_path, backbone))
    second = compute(photos, backbone, open_cache(tmp_path, backbone))
    third = compute(photos, backbone, open_cache(tmp_path, backbone))
    assert (first.n_photos, second.n_photos, third.n_photos) == (3, 2, 0)


def test_cached_features_equal_those_of_serving(backbone: Backbone, tmp_path: Path) -> None:
    photos = save_photos(tmp_path, 3)
    cache = open_cache(tmp_path, backbone)
    compute(photos, backbone, cache)
    for number, name in enumerate(SETTINGS.views):
        seen = [view(load_rgb(photo.path.read_bytes(), LIMITS), name, side_px=SIDE_PX) for photo in photos]
        expected = backbone.extract(np.stack(seen), batch_size=4).features
        assert np.array_equal(cache.load([photo.sha256 for photo in photos])[:, number], expected)


def test_an_interrupted_run_gives_bit_identical_features(backbone: Backbone, tmp_path: Path) -> None:
    photos = save_photos(tmp_path, 9)
    whole = open_cache(tmp_path / "whole", backbone)
    compute(photos, backbone, whole)

    def stop(done: int, _: int) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    clock = iter(range(0, 1000, 10))  # each batch is stored immediately
    with pytest.raises(KeyboardInterrupt):
        compute(photos, backbone, open_cache(tmp_path / "cut", backbone), progress=stop, clock=lambda: next(clock))
    resumed = open_cache(tmp_path / "cut", backbone)
    assert 0 < len(resumed.missing(photo.sha256 for photo in photos)) < 9
    compute(photos, backbone, resumed)
    sha256s = [photo.sha256 for photo in photos]
    assert np.array_equal(resumed.load(sha256s), whole.load(sha256s))


def test_unreadable_photos_are_reported_and_skipped(backbone: Backbone, tmp_path: Path) -> None:
    photos = save_photos(tmp_path, 4)
    photos[0].path.write_bytes(photos[1].path.read_bytes())
    photos[2].path.unlink()
    page = b"<html>404</html>"
    (tmp_path / "page.jpg").write_bytes(page)
    photos.append(Photo(hashlib.sha256(page).hexdigest(), tmp_path / "page.jpg"))
    cache = open_cache(tmp_path, backbone)
    computed = compute(photos, backbone, cache)
    assert computed.n_photos == 2
    assert [refused.path for refused in computed.refused] == [photos[0].path, photos[2].path, photos[4].path]
    assert "SHA-256" in computed.refused[0].reason
    assert cache.missing([photos[1].sha256, photos[3].sha256]) == []


def test_a_new_view_is_the_only_one_computed(backbone: Backbone, tmp_path: Path) -> None:
    photos = save_photos(tmp_path, 2)
    compute(photos, backbone, open_cache(tmp_path, backbone))
    cache = open_cache(tmp_path, backbone, views=("whole", "mirror", "top"))
    before = len(cache)
    compute(photos, backbone, cache)
    assert len(cache) == before + 2


def test_progress_ends_at_all_photos(backbone: Backbone, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    compute(
        save_photos(tmp_path, 5),
        backbone,
        open_cache(tmp_path, backbone),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [total for _, total in seen] == [5] * len(seen)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (5, 5)


def test_the_precision_is_measured_once_and_then_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measured: list[FeatureSettings] = []

    def fast_bfloat16(settings: FeatureSettings) -> dict[str, float]:
        measured.append(settings)
        return {"float32": 4.0, "bfloat16": 9.0}

    monkeypatch.setattr(precision_module, "measure", fast_bfloat16)
    assert choose_precision(SETTINGS, tmp_path) == "bfloat16"
    monkeypatch.setattr(precision_module, "measure", lambda _: {"float32": 9.0, "bfloat16": 4.0})
    assert choose_precision(SETTINGS, tmp_path) == "bfloat16"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert choose_precision(SETTINGS, tmp_path) == "float32"
    assert len(measured) == 1
    known = json.loads((tmp_path / "precision.json").read_text(encoding="utf-8"))
    for damaged in ("{", "[]", json.dumps({machine: ["float32"] for machine in known})):
        (tmp_path / "precision.json").write_text(damaged, encoding="utf-8")
        assert choose_precision(SETTINGS, tmp_path) == "float32"


def test_a_configured_precision_is_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(precision_module, "measure")
    for precision in ("float32", "bfloat16"):
        assert choose_precision(SETTINGS.model_copy(update={"precision": precision}), tmp_path) == precision
    assert not list(tmp_path.iterdir())


def test_a_small_speed_up_does_not_choose_bfloat16(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(precision_module, "measure", lambda _: {"float32": 9.0, "bfloat16": 9.5})
    assert choose_precision(SETTINGS, tmp_path) == "float32"


def test_measuring_times_both_precisions() -> None:
    rates = measure(FeatureSettings(layers=("block1_pool",)))
    assert set(rates) == {"float32", "bfloat16"}
    assert all(rate > 0 for rate in rates.values())


def test_what_is_known_of_the_engines_is_the_same_once_keras_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    before = engines_key()
    load_keras()
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "1"
    assert engines_key() == before
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert engines_key() != before


class Engine:
    """An engine that takes some seconds for a batch, by a clock of the test's own."""

    def __init__(self, now: list[float], took_s: float, error: str = "") -> None:
        self._now, self._took_s, self._error = now, took_s, error

    def extract(self, images: object, *, batch_size: int) -> None:  # noqa: ARG002
        if self._error:
            raise RuntimeError(self._error)
        self._now[0] += self._took_s


def test_a_precision_that_the_machine_cannot_run_is_not_chosen(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    engines: Any = {"float32": Engine(now, 0.5), "bfloat16": Engine(now, 0.1, "no such primitive\ndetails")}
    rates = compare_rates(engines, batch_size=2, clock=lambda: now[0])
    assert rates == {"float32": 4.0, "bfloat16": 0.0}
    assert "name=bfloat16 reason=no such primitive" in caplog.text
    with pytest.raises(RuntimeError, match="out of order"):
        compare_rates({"float32": Engine(now, 0.5, "out of order")}, batch_size=2, clock=lambda: now[0])  # type: ignore[dict-item]


@pytest.mark.parametrize(("available", "expected"), [(64 * 2**30, 16), (2**30, 4), (2**27, 2)])
def test_the_batch_fits_the_memory(available: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.vgg16.backbone.on_gpu", lambda: False)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": available}))
    assert choose_batch_size(SETTINGS, "float32") == expected
    assert choose_batch_size(SETTINGS.model_copy(update={"batch_size": 5}), "float32") == 5


def test_a_graphics_card_counts_for_keras_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.vgg16.backbone.on_gpu", lambda: True)
    assert choose_batch_size(SETTINGS, "bfloat16") == 64
    assert choose_batch_size(SETTINGS, "int8") <= 16
