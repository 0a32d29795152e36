"""Measures feature computation from photos to cache, compared with the engine alone and with plain Keras.

Four measurements alternate, so that changes in the machine's speed affect all:

- a direct product: one large matrix product in a float precision, by Keras or NumPy, the faster of both, divided by the
  operations of VGG16's convolutions for one image. It is no limit: other algorithms need fewer operations;
- the engine: the network in the chosen precision on prepared images, without decoding and storage;
- plain: `Model.predict`, float32, batch 32, in a process with TensorFlow's defaults, on prepared images;
- ours: `compute_features`, with decoding, preprocessing and storage.

The shares of the direct products are shown beside, because machines differ.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.home import prepared_photos
from benchmarks.result import Figure, Goal, Result
from trainer.config import FeatureSettings, ImageSettings
from trainer.photos.decode import Decoder
from trainer.vgg16.backbone import POLICIES, Precision, choose_batch_size
from trainer.vgg16.backend import load_keras
from trainer.vgg16.cache import FeatureCache
from trainer.vgg16.engines.local import LocalEngine
from trainer.vgg16.features import compute_features
from trainer.vgg16.load import load_network
from trainer.vgg16.precision import measure
from trainer.vgg16.weights import CONVOLUTIONS, kernel_shape

PLAIN_BATCH = 32
MATRIX_SIDE = 4096
SETTINGS = FeatureSettings(weights="random")


@dataclass(frozen=True, slots=True)
class DrawnPhoto:
    """A photo on disk."""

    sha256: str
    path: Path


def run(*, quick: bool, work_dir: Path, say: Callable[[str], None]) -> Result:
    """Run the benchmark; figures are medians over rounds.

    Args:
        quick: two rounds with few photos.
        work_dir: an empty folder for photos and caches.
        say: prints a line of progress.
    """
    n_rounds, n_photos = (2, 16) if quick else (5, 48)
    photos = draw_photos(work_dir, n_photos)
    backbone = load_network(SETTINGS, work_dir, prepared_photos)
    say(f"precision {backbone.precision}, chosen by measuring")
    batch_size = choose_batch_size(SETTINGS, backbone.precision)
    prepared = prepared_photos(batch_size)
    backbone.extract(prepared, batch_size=batch_size)
    rounds: list[dict[str, float]] = []
    with _plain_predict() as plain, closing(Decoder.in_bulk(ImageSettings())) as decoder:
        for _ in range(os.cpu_count() or 1):
            decoder.lacks()  # a second once, in a training of hours
        for number in range(n_rounds):
            cache = FeatureCache(work_dir / f"{number}", views=SETTINGS.views, n_features=backbone.n_features)
            products: dict[str, float] = {name: images_per_s_of_product(name) for name in POLICIES}
            plain_rate = plain()
            engine = batch_size / min(
                _seconds(lambda: backbone.extract(prepared, batch_size=batch_size)) for _ in range(2)
            )
            local = LocalEngine(backbone, decoder, batch_size=batch_size)
            computed = compute_features(photos, engine=local, cache=cache)
            ours = len(SETTINGS.views) * computed.n_photos / computed.took_s
            rounds.append({**products, "engine": engine, "plain": plain_rate, "ours": ours})
            say(f"{number + 1} of {n_rounds}: ours {ours:.2f}, engine {engine:.2f}, plain {plain_rate:.2f} images/s")
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rates = measure(SETTINGS)
    figures: dict[str, Figure] = {
        "images_per_s": statistics.median(one["ours"] for one in rounds),
        "engine_images_per_s": statistics.median(one["engine"] for one in rounds),
        "plain_predict_images_per_s": statistics.median(one["plain"] for one in rounds),
        "share_of_engine": statistics.median(one["ours"] / one["engine"] for one in rounds),
        "times_plain_predict": statistics.median(one["ours"] / one["plain"] for one in rounds),
        "precision": backbone.precision,
        "float32_product_images_per_s": statistics.median(one["float32"] for one in rounds),
        "bfloat16_product_images_per_s": statistics.median(one["bfloat16"] for one in rounds),
        "share_of_bfloat16_product": statistics.median(one["ours"] / one["bfloat16"] for one in rounds),
        "plain_share_of_float32_product": statistics.median(one["plain"] / one["float32"] for one in rounds),
        "float32_images_per_s_small_batch": rates["float32"],
        "bfloat16_images_per_s_small_batch": rates["bfloat16"],
        "batch_size": batch_size,
        "gflop_per_image": gflop_per_image(),
        "peak_memory_mb": peak_mb,
        "has_avx512_bf16": _has_avx512_bf16(),
    }
    goals = [Goal("share_of_engine", at_least=0.9)]
    if backbone.precision == "int8":
        goals.append(Goal("times_plain_predict", at_least=3.4))
    return Result(figures=figures, goals=tuple(goals))


def gflop_per_image(side_px: int = 224) -> float:
    """Multiplications and additions of the 13 convolutions for one image, in 10^9."""
    total = 0.0
    for name in CONVOLUTIONS:
        side = side_px // 2 ** (int(name[5]) - 1)  # block1 has the full image size, each later block half the side
        total += 2.0 * side * side * float(np.prod(kernel_shape(name)))
    return total / 1e9


def images_per_s_of_product(precision: Precision) -> float:
    """Images per second if VGG16 were one large matrix product; the faster of Keras and NumPy."""
    ops = load_keras().ops
    matrix = np.random.default_rng(0).random((MATRIX_SIDE, MATRIX_SIDE), dtype=np.float32)
    tensor = ops.cast(ops.convert_to_tensor(matrix), precision)
    ways: list[Callable[[], Any]] = [lambda: float(ops.sum(ops.matmul(tensor, tensor)[:1]))]
    if precision == "float32":
        ways.append(lambda: matrix @ matrix)
    best_s = min(_seconds(way) for way in ways for _ in range(3))
    return 2 * MATRIX_SIDE**3 / best_s / 1e9 / gflop_per_image()


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@contextmanager
def _plain_predict() -> Iterator[Callable[[], float]]:
    """Yield a function that measures images per second of one batch, in a separate process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    set_by_us = os.environ.pop("TF_ENABLE_ONEDNN_OPTS", None)
    process = context.Process(target=_serve_plain_predict, args=(theirs,), daemon=True)
    process.start()
    if set_by_us is not None:
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = set_by_us

    def ask() -> float:
        ours.send(True)
        return float(ours.recv())

    try:
        ask()  # the first call compiles
        yield ask
    finally:
        ours.send(False)
        process.join()


def _serve_plain_predict(connection: Connection) -> None:
    keras = load_keras(small_batches=True)  # keeps TensorFlow's default kernels
    model = keras.applications.VGG16(include_top=False, weights=None, input_shape=(224, 224, 3), pooling="avg")
    images = np.random.default_rng(0).random((PLAIN_BATCH, 224, 224, 3), dtype=np.float32) * 255
    while connection.recv():
        connection.send(PLAIN_BATCH / _seconds(lambda: model.predict(images, batch_size=PLAIN_BATCH, verbose=0)))


def draw_photos(folder: Path, n: int) -> list[DrawnPhoto]:
    """Draw JPEGs with the dimensions and file size of thumbnails."""
    rng = np.random.default_rng(0)
    photos = []
    for number in range(n):
        coarse = Image.fromarray(rng.integers(0, 256, (60, 35, 3), dtype=np.uint8))
        out = io.BytesIO()
        coarse.resize((350, 600), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
        path = folder / f"{number}.jpg"
        path.write_bytes(out.getvalue())
        photos.append(DrawnPhoto(hashlib.sha256(out.getvalue()).hexdigest(), path))
    return photos


def _has_avx512_bf16() -> bool:
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
