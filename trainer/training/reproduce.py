"""Trains a version again from its own photos, seed and settings, and compares the result bit by bit.

The work is done in a scratch folder; versions and champion are unchanged. Features are those of the cache, where it has
them. The report's pages and the comparison with a champion of that time are not compared.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Collection
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trainer.config import Settings
from trainer.errors import ModelError
from trainer.photos.decode import Decoder
from trainer.photos.manifest import Photo
from trainer.registry.registry import FACTS, HELD_OUT, METRICS, PHOTOS, Registry, Version
from trainer.training.baselines import baselines
from trainer.training.comparison import learned_photos
from trainer.training.fitting import Trained, fit_and_evaluate
from trainer.training.train import describe_libraries, facts_of, figures_of, write_arrays
from trainer.training.training_data import TrainingData, Watcher, read_photos
from trainer.vgg16.precision import describe_machine
from trainer.vgg16.weights import fingerprint, load_weights

WEIGHTS = "VGG16's weights"
NOT_COMPARED = frozenset({"created_at", "decided_at", "libraries", "machine", "settings"})  # of version.json


@dataclass(frozen=True, slots=True)
class Reproduction:
    """The result of training a version again.

    Attributes:
        compared: names of files, in the order in which they depend on each other.
        differing: those that are not the same.
        changes: what is not as it was when the version was trained, in words.
    """

    name: str
    compared: tuple[str, ...]
    differing: tuple[str, ...]
    changes: tuple[str, ...]

    def describe(self) -> str:
        """The result in lines."""
        if not self.differing:
            first = f"{self.name}: same bits ({', '.join(self.compared)})"
            return "\n".join([first, *(f"  and yet: {change}" for change in self.changes)])
        changes = self.changes or (
            "nothing that a version records; docs/ADMIN.md (“The same bits again”) says what it does not record",
        )
        lines = [f"  may have changed it: {change}" for change in changes]
        return "\n".join([f"{self.name}: {self.differing[0]} differs", *lines])


def reproduce(name: str, settings: Settings, watcher: Watcher) -> Reproduction:
    """Train a version again.

    Args:
        settings: only `data_dir`, `log` and `bucket` are used; all others are the version's own.

    Raises:
        ModelError: there is no such version, or it is damaged, or today's settings lack one of its own.
        DatasetError: too few of its photos are left.
        StorageError: the disk is full.
    """
    version = Registry(settings.data_dir).load(name)
    own = _settings(version, settings)
    learned, held_out = learned_photos(version), _listed(version, HELD_OUT)
    watcher.step("photos")
    photos = _photos(version, own, learned | held_out)
    here = (learned | held_out) & {photo.sha256 for photo in photos}
    gone = (version.facts.n_photos if held_out else len(learned)) - len(here)
    changes = [f"{gone} of its {version.facts.n_photos} photos are gone"] if gone else []
    changes += _changes(version.facts.libraries, describe_libraries())
    changes += _changes(version.facts.machine, describe_machine(with_keras="engine" in version.facts.machine))
    if gone:
        return Reproduction(name, (PHOTOS,), (PHOTOS,), tuple(changes))
    if fingerprint(load_weights(own.features)) != version.facts.fingerprint:
        changes.insert(0, f"{own.features.weights} now holds other weights of VGG16")
        return Reproduction(name, (WEIGHTS,), (WEIGHTS,), tuple(changes))
    training_data = TrainingData.gather(
        own, watcher, photos=photos, labels=version.facts.labels, decided_at=_decided_at(version)
    )
    with tempfile.TemporaryDirectory(prefix="dokocos-reproduce-") as folder:
        scratch = own.model_copy(update={"data_dir": Path(folder, "data")})
        with closing(Decoder.in_bulk(own.images, n_children=1)) as decoder:
            simpler = baselines(training_data.dataset, own, decoder, progress=watcher.update)
        trained = fit_and_evaluate(training_data, scratch, watcher, baselines=simpler)
        watcher.step("comparison")
        written = Path(folder, "version")
        write_arrays(written, training_data, trained)
        same = _same_files(version, written) | {
            FACTS: _same_facts(version, training_data, trained, scratch),
            METRICS: _same_figures(version, trained),
        }
    n_photos = len(training_data.dataset.items)
    if n_photos != version.facts.n_photos:
        changes.insert(0, f"it had {version.facts.n_photos} photos, holdout included; now there are {n_photos}")
    return Reproduction(name, tuple(same), tuple(file for file, is_same in same.items() if not is_same), tuple(changes))


def _settings(version: Version, settings: Settings) -> Settings:
    """The version's own settings, in the precision that was chosen then."""
    try:
        here = {"data_dir": settings.data_dir, "log": settings.log, "bucket": settings.bucket}
        own = Settings.model_validate({**version.facts.settings, **here})
    except ValidationError as error:
        places = ", ".join(".".join(map(str, detail["loc"])) for detail in error.errors())
        raise ModelError(
            f"{version.name}: this dokocos does not know its settings ({places}); use the one of then"
        ) from (error)
    features = own.features.model_copy(update={"precision": version.facts.precision})
    return own.model_copy(update={"features": features})


def _listed(version: Version, name: str) -> set[str]:
    """SHA-256 of the photos that one of the version's files lists; empty without the file, as versions once were."""
    path = version.folder / name
    return set(path.read_text(encoding="utf-8").split()) if path.exists() else set()


def _photos(version: Version, own: Settings, used: Collection[str]) -> list[Photo]:
    """The photos that were stored when the version was trained, in the order of admission.

    Those that were not used are among them: as near-duplicates they may count in the splits of others.
    """
    labels, created_at = version.facts.labels, datetime.fromisoformat(version.facts.created_at)
    return [
        photo
        for photo in read_photos(own)
        if photo.label in labels and (photo.sha256 in used or photo.fetched_at <= created_at)
    ]


def _decided_at(version: Version) -> datetime:
    """Up to when decisions counted in it; there were none before versions recorded that."""
    return datetime.fromisoformat(version.facts.decided_at or version.facts.created_at)


def _changes(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """What differs; nothing if the version recorded nothing."""
    if not before:
        return []
    return [
        f"{name}: {before.get(name, 'none')} then, {now.get(name, 'none')} now"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def _same_files(version: Version, written: Path) -> dict[str, bool]:
    """For each file of arrays or photos that either has: whether they are the same."""
    found = {path.name for path in written.iterdir()}
    expected = {path.name for path in version.folder.iterdir() if path.suffix == ".npz"} | {PHOTOS}
    if (version.folder / HELD_OUT).exists():
        expected.add(HELD_OUT)
    else:
        found.discard(HELD_OUT)
    order = (PHOTOS, HELD_OUT, "vgg16-int8.npz", "block5.npz", "head.npz")
    names = sorted(found | expected, key=lambda name: (order.index(name) if name in order else len(order), name))
    return {name: _sha256(written / name) == _sha256(version.folder / name) for name in names}


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def _same_facts(version: Version, training_data: TrainingData, trained: Trained, settings: Settings) -> bool:
    created_at = datetime.fromisoformat(version.facts.created_at)
    now, before = (asdict(each) for each in (facts_of(training_data, trained, settings, created_at), version.facts))
    return _as_json({key: now[key] for key in now.keys() - NOT_COMPARED}) == _as_json(
        {key: before[key] for key in before.keys() - NOT_COMPARED}
    )


def _same_figures(version: Version, trained: Trained) -> bool:
    """Whether the figures that both have are the same."""
    now, before = _as_json(figures_of(trained)), version.metrics
    return all(now[key] == before[key] for key in now.keys() & before.keys())


def _as_json(content: dict[str, Any]) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return loaded
