"""Remembers which network computed features, so that whoever only reads cached ones need not load Keras."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from trainer.config import FeatureSettings
from trainer.errors import ModelError
from trainer.files import write_file
from trainer.vgg16.backbone import Extracted, Extractor, Pixels, Precision

logger = logging.getLogger(__name__)

FILE_NAME = "networks.json"  # beside the caches


@dataclass(frozen=True, slots=True)
class KnownNetwork:
    """An `Extractor` that is not loaded: it names its cache, and computes nothing."""

    layers: tuple[str, ...]
    precision: Precision
    fingerprint: str
    side_px: int
    n_features: int
    key: str

    def extract(self, images: Pixels, *, batch_size: int | None = None, with_maps: bool = False) -> Extracted:  # noqa: ARG002
        """Raises ModelError."""
        raise ModelError(f"the network {self.key} is not loaded")


def remember_network(
    network: Extractor, settings: FeatureSettings, features_dir: Path, *, only_keras: bool = False
) -> None:
    """Note the network that was loaded for these settings.

    Args:
        only_keras: as for `trainer.vgg16.load.load_network`.

    Raises:
        StorageError: the disk is full.
    """
    known = KnownNetwork(
        tuple(network.layers),
        network.precision,
        network.fingerprint,
        network.side_px,
        network.n_features,
        network.key,
    )
    path, wanted = features_dir / FILE_NAME, _describe(settings, only_keras)
    entries = _read(path)
    if wanted is not None and entries.get(wanted) != json.loads(json.dumps(asdict(known))):
        entries[wanted] = asdict(known)
        write_file(path, lambda file: file.write(json.dumps(entries, indent=2).encode()))


def recall_network(settings: FeatureSettings, features_dir: Path, *, only_keras: bool = False) -> KnownNetwork | None:
    """The network that was loaded for these settings last; None if none was, or the file of its weights has changed."""
    found = _read(features_dir / FILE_NAME).get(_describe(settings, only_keras) or "")
    if not isinstance(found, dict):
        return None
    try:
        return KnownNetwork(**{**found, "layers": tuple(found["layers"])})
    except (KeyError, TypeError):
        return None


def _describe(settings: FeatureSettings, only_keras: bool) -> str | None:
    """A digest of all that decides which network is loaded on a machine; None if the weights are missing."""
    file = None
    if settings.weights not in ("imagenet", "random"):
        try:
            state = Path(settings.weights).expanduser().stat()
        except OSError:
            return None
        file = (state.st_size, state.st_mtime_ns)
    wanted = (settings.weights, settings.weights_seed, settings.layers, settings.precision, only_keras, file)
    return hashlib.sha256(json.dumps(wanted).encode()).hexdigest()


def _read(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("networks not readable file=%s reason=%s; they are noted again", path, error)
        return {}
    return found if isinstance(found, dict) else {}
