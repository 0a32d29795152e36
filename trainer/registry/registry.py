"""Stores finished versions on disk, and the history of champions.

A version is one folder, written under a temporary name and then renamed. Its files are loaded only if they match its
SHA256SUMS. registry.json records the champion and the history; it is replaced atomically, under a lock. If the champion
is missing or damaged, the previous one serves instead, and this is logged as an error.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from trainer.errors import ModelError, StorageError
from trainer.files import storage_error, sync_folder, write_file
from trainer.head import head, novelty
from trainer.head.head import Head
from trainer.head.novelty import Novelty
from trainer.lock import only_one
from trainer.photos.views import crop_of
from trainer.registry.content import Sums, check_files, files_of, read_checked, sha256_of, sync_file
from trainer.registry.rewrite import SUMS
from trainer.vgg16.backbone import Precision
from trainer.vgg16.weights import Convolution, parse_block5

logger = logging.getLogger(__name__)

Json = dict[str, Any]
# Each entry migrates a file's content to the next format version. Never change an entry, only add new ones.
VERSION_MIGRATIONS: tuple[Callable[[Json], Json], ...] = (
    lambda facts: {**facts, "tuned": None},  # before block5 could be fine-tuned
    lambda facts: {**facts, "thresholds": ()},  # before labels had thresholds of their own
    lambda facts: {**facts, "quantised": None},  # before VGG16 could be quantised
    lambda facts: {**facts, "machine": {}},  # before a version could be trained again and compared
    lambda facts: {**facts, "decided_at": None},  # before photos were decided about
    lambda facts: facts,  # before views of the figure, which an older dokocos could not serve
)
REGISTRY_MIGRATIONS: tuple[Callable[[Json], Json], ...] = ()
FACTS = "version.json"
METRICS = "metrics.json"
NAME = re.compile(r"\d{4}-\d{2}-\d{2}-\d+")
BLOCK5 = "block5.npz"
PHOTOS = "photos.txt"  # of training and validation
HELD_OUT = "holdout.txt"
REPORT = "report.html"
UNFINISHED = ".unfinished-"
LOCK = "registry.lock"

Kind = Literal["promotion", "rollback", "fallback"]


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """The data needed to serve a version and to train it again.

    Attributes:
        labels: in the order of the scores.
        weights: of the backbone: "imagenet", "random" (with `weights_seed`) or the path of a file.
        fingerprint: SHA-256 over the backbone's weights.
        layers: their pooled outputs are the head's input, in this order.
        view: the view used for prediction; names the crop to the figure too (`trainer.photos.views`).
        precision: of the features' computation.
        threshold: if the best score is lower, the answer is "not sure".
        thresholds: those of the labels, in their order; empty if `threshold` is that of every label.
        temperature: of the head's softmax; for information, as the head stores its own calibration.
        n_photos: in all splits; `photos.txt` lists those of train and validation.
        created_at: ISO 8601, UTC.
        libraries: name -> version.
        machine: processor, engine, device and the like, each in words; empty in versions of before.
        settings: all settings of the trainer.
        tuned: SHA-256 over the fine-tuned weights of block5 (in block5.npz); None if block5 was not fine-tuned.
            `fingerprint` is always that of VGG16's own weights.
        decided_at: ISO 8601, UTC; what was decided later about photos was not known. None in versions of before.
        quantised: SHA-256 of the int8 network's file (vgg16-int8.npz); None in another precision.
    """

    labels: tuple[str, ...]
    weights: str
    weights_seed: int
    fingerprint: str
    layers: tuple[str, ...]
    view: str
    precision: Precision
    threshold: float
    temperature: float
    seed: int
    n_photos: int
    created_at: str
    libraries: dict[str, str]
    settings: Json
    tuned: str | None
    quantised: str | None = None
    machine: dict[str, str] = field(default_factory=dict)
    thresholds: tuple[float, ...] = ()
    decided_at: str | None = None

    @property
    def label_thresholds(self) -> tuple[float, ...]:
        """The threshold of each label."""
        return self.thresholds or (self.threshold,) * len(self.labels)

    @property
    def crop(self) -> str:
        """The crop of its photos: "none", or the name of a crop to the figure."""
        return crop_of(self.view)


@dataclass(frozen=True, slots=True)
class Version:
    """A finished version; its files match their hashes.

    Attributes:
        name: like "2026-11-23-1"; `version_order` sorts names by time.
        metrics: the report as JSON values.
        sums: name of a file -> the hashes it may have.
    """

    name: str
    folder: Path
    facts: VersionFacts
    metrics: Json
    sums: Sums = field(repr=False, compare=False)

    def read(self, name: str) -> bytes:
        """The content of a file, as it was when the version was loaded. Raises ModelError."""
        return read_checked(self.folder, name, self.sums)

    def block5(self) -> dict[str, Convolution] | None:
        """The fine-tuned weights of block5; None if it was not fine-tuned. Raises ModelError."""
        return parse_block5(self.read(BLOCK5), self.folder / BLOCK5) if self.facts.tuned else None

    def head(self) -> Head:
        """The head. Raises ModelError."""
        return Head.parse(self.read(head.FILE_NAME), self.folder / head.FILE_NAME)

    def novelty(self) -> Novelty | None:
        """What tells known photos; None for a version from before. Raises ModelError."""
        if novelty.FILE_NAME not in self.sums:
            return None
        return Novelty.parse(self.read(novelty.FILE_NAME), self.folder / novelty.FILE_NAME)


@dataclass(frozen=True, slots=True)
class Period:
    """A period in which one version was the champion.

    Attributes:
        since, until: ISO 8601, UTC; `until` is None for the current champion.
        reason: why it became the champion.
        kind: promoted, returned by a rollback, or returned because a later champion is damaged.
    """

    version: str
    since: str
    until: str | None
    reason: str
    kind: Kind = "promotion"


def version_order(name: str) -> tuple[str, int]:
    """Sort key for version names, oldest first: the tenth of a day comes after the ninth."""
    day, _, number = name.rpartition("-")
    return day, int(number)


class Registry:
    """The versions in data_dir; several processes may use it at the same time."""

    def __init__(self, data_dir: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.folder = data_dir / "versions"
        self._file = data_dir / "registry.json"
        self._lock = data_dir / LOCK
        self._now = now

    def names(self) -> list[str]:
        """All finished versions, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted((path.name for path in self.folder.iterdir() if NAME.fullmatch(path.name)), key=version_order)

    def load(self, name: str) -> Version:
        """Load a version and check every file against its hash.

        Raises:
            ModelError: there is no such version, or one of its files is missing, changed or in a newer format.
        """
        folder = self.folder / name
        if not NAME.fullmatch(name) or not folder.is_dir():
            known = ", ".join(self.names()) or "none yet; run `python -m trainer train`"
            raise ModelError(f"{name}: no such version; there are: {known}")
        sums = check_files(folder)
        facts, metrics = (read_checked(folder, file, sums) for file in (FACTS, METRICS))
        return Version(name, folder, *parse(facts, metrics, folder), sums)

    def add(
        self, facts: VersionFacts, metrics: Json, write: Callable[[Path], object], *, name: str | None = None
    ) -> Version:
        """Add a version atomically: facts, metrics and the files that `write` creates.

        Args:
            facts: saved as version.json.
            metrics: saved as metrics.json; JSON values only.
            write: called with the folder to write files into.
            name: what it is called, or a free name of the same day; None: a name of today.

        Raises:
            StorageError: the disk is full; no version was added.
        """
        with only_one(self._lock, "change of the registry", wait=True):
            name = self._free_name(name)
            temporary = self.folder / f"{UNFINISHED}{name}"
            try:
                for leftover in self.folder.glob(f"{UNFINISHED}*"):
                    shutil.rmtree(leftover)
                temporary.mkdir(parents=True)
                write(temporary)
                _write_json(temporary / FACTS, {"format": len(VERSION_MIGRATIONS) + 1, **asdict(facts)})
                _write_json(temporary / METRICS, metrics)
                lines = [f"{sha256_of(path)}  {path.relative_to(temporary)}\n" for path in files_of(temporary)]
                write_file(temporary / SUMS, lambda file: file.write("".join(lines).encode()))
                for path in files_of(temporary):
                    sync_file(path)
                temporary.replace(self.folder / name)
                sync_folder(self.folder)
            except OSError as error:
                raise storage_error(temporary, error) from error
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        logger.info("version saved name=%s", name)
        return self.load(name)

    def history(self) -> list[Period]:
        """All champions, oldest first; the last one is the current champion.

        Raises:
            ModelError: registry.json cannot be read.
        """
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
            entries = _upgraded(content, REGISTRY_MIGRATIONS, self._file)
            return [Period(**entry) for entry in entries["history"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ModelError(
                f"{self._file}: cannot be read ({error}); move it away and run `python -m trainer promote VERSION`"
            ) from error

    def champion_name(self) -> str | None:
        """The champion's name, without checking its files; None if there is none. Raises ModelError as `history`."""
        history = self.history()
        return history[-1].version if history else None

    def champion(self) -> Version | None:
        """Load the champion; if it is missing or damaged, the latest intact champion before it.

        A fallback is logged as an error and recorded in the history, if that can be written.

        Raises:
            ModelError: all champions are missing or damaged.
        """
        faults: dict[str, str] = {}
        for name in reversed(_succession(self.history())):
            try:
                version = self.load(name)
            except ModelError as error:
                faults[name] = str(error)
                logger.error("champion not loadable name=%s reason=%s", name, error)
                continue
            if faults:
                logger.error("an earlier champion serves instead name=%s", name)
                self._record_fallback(version, faults)
            return version
        if faults:
            raise ModelError("all champions are missing or damaged: " + "; ".join(faults.values()))
        return None

    def promote(self, name: str, *, reason: str) -> Version:
        """Make a version the champion.

        Raises:
            ModelError: it is missing or damaged; the champion is unchanged.
            StorageError: the disk is full; the champion is unchanged.
        """
        version = self.load(name)
        with only_one(self._lock, "change of the registry", wait=True):
            self._set_champion(name, reason, "promotion")
        return version

    def rollback(self, *, reason: str = "rolled back by hand") -> Version:
        """Make the previous champion the champion again; a second call goes back one more.

        Raises:
            ModelError: there is none, or it is damaged; the champion is unchanged.
            StorageError: the disk is full; the champion is unchanged.
        """
        with only_one(self._lock, "change of the registry", wait=True):
            succession = _succession(self.history())
            if len(succession) < 2:
                raise ModelError("there is no previous champion; `python -m trainer models` lists the versions")
            version = self.load(succession[-2])
            self._set_champion(version.name, reason, "rollback")
        return version

    def _record_fallback(self, version: Version, faults: dict[str, str]) -> None:
        """Record a fallback in the history, unless the champion has changed since."""
        try:
            with only_one(self._lock, "change of the registry", wait=True):
                if self.champion_name() in faults:
                    self._set_champion(version.name, "; ".join(faults.values()), "fallback")
        except StorageError as error:
            logger.error("the change of champion could not be recorded reason=%s", error)

    def _set_champion(self, name: str, reason: str, kind: Kind) -> None:
        """Append a champion to the history; the caller holds the lock."""
        history = self.history()
        if history and history[-1].version == name:
            return
        now = self._now().isoformat(timespec="seconds")
        history = [replace(reign, until=reign.until or now) for reign in history]
        history.append(Period(version=name, since=now, until=None, reason=reason, kind=kind))
        content = {"format": len(REGISTRY_MIGRATIONS) + 1, "history": [asdict(reign) for reign in history]}
        _write_json(self._file, content)
        logger.info("champion changed name=%s kind=%s reason=%s", name, kind, reason)

    def _free_name(self, wanted: str | None) -> str:
        known = {*self.names(), *(reign.version for reign in self._known_history())}
        if wanted is not None and wanted not in known:
            return wanted
        day = version_order(wanted)[0] if wanted else self._now().strftime("%Y-%m-%d")
        numbers = [version_order(name)[1] for name in known if name.startswith(f"{day}-")]
        return f"{day}-{max(numbers, default=0) + 1}"

    def _known_history(self) -> list[Period]:
        """The history; empty if it cannot be read (the methods that need it raise the error)."""
        try:
            return self.history()
        except ModelError:
            return []


def parse(facts: bytes, metrics: bytes, folder: Path) -> tuple[VersionFacts, Json]:
    """The content of version.json and metrics.json, in any format up to the current one.

    Args:
        folder: of the version, for messages.

    Raises:
        ModelError: one of them is damaged, or in a newer format.
    """
    try:
        content = _upgraded(json.loads(facts), VERSION_MIGRATIONS, folder / FACTS)
        content |= {name: tuple(content[name]) for name in ("labels", "layers", "thresholds")}
        found = VersionFacts(**content)
        if not all(map(math.isfinite, (found.threshold, found.temperature, *found.thresholds))):
            raise ValueError("a threshold or the temperature is not finite")
        return found, json.loads(metrics)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"{folder}: cannot be read ({error}); promote another version, or train again") from error


def _succession(history: Sequence[Period]) -> list[str]:
    """The stack of champions for rollbacks; the last one is the current champion."""
    trail: list[str] = []
    for reign in history:
        if reign.kind != "promotion" and reign.version in trail:
            del trail[trail.index(reign.version) + 1 :]
        else:
            trail = [name for name in trail if name != reign.version] + [reign.version]
    return trail


def _upgraded(content: Json, migrations: Sequence[Callable[[Json], Json]], file: Path) -> Json:
    """Migrate a file's content to the current format. Raises ModelError for a newer one."""
    number = content.pop("format")
    if number > len(migrations) + 1:
        raise ModelError(f"{file}: made by a newer dokocos; update this one, or promote another version")
    for upgrade in migrations[number - 1 :]:
        content = upgrade(content)
    return content


def _write_json(path: Path, content: Json) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
    write_file(path, lambda file: file.write(text.encode()))
