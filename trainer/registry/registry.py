"""Finished versions on disk, and the history of champions.

A version is one folder, written beside its place and moved there whole; SHA256SUMS holds it together, and nothing is
loaded from a folder that does not match it. registry.json tells the champion and its history; it changes in one step,
under a lock. A champion that is missing or damaged is replaced by the one before it, loudly.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from trainer.errors import ModelError, StorageError
from trainer.files import storage_error, sync_folder, write_file
from trainer.lock import only_one
from trainer.vgg16.weights import Convolution, load_block5

logger = logging.getLogger(__name__)

Json = dict[str, Any]
# Each entry takes a file's content one format version further; entries are only ever added.
VERSION_MIGRATIONS: tuple[Callable[[Json], Json], ...] = (
    lambda facts: {**facts, "tuned": None},  # before block5 could be fine-tuned
)
REGISTRY_MIGRATIONS: tuple[Callable[[Json], Json], ...] = ()
SUMS = "SHA256SUMS"
FACTS = "version.json"
METRICS = "metrics.json"
NAME = re.compile(r"\d{4}-\d{2}-\d{2}-\d+")
BLOCK5 = "block5.npz"
UNFINISHED = ".unfinished-"
LOCK = "registry.lock"

Precision = Literal["float32", "bfloat16"]
Kind = Literal["promotion", "rollback", "fallback"]


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """The facts of a version, enough to serve it and to train it again.

    Attributes:
        labels: in the order of the scores.
        weights: of the backbone: "imagenet", "random" or the path of a file; `weights_seed` for random ones.
        fingerprint: SHA-256 over the backbone's weights.
        layers: whose pooled outputs the head sees, in order.
        view: the view that photos are judged by.
        precision: that the features were computed in.
        threshold: the best score below which the answer is "not sure".
        temperature: of the head's softmax; inside the head already, as the rest of its calibration is.
        n_photos: learned from, all splits; `photos.txt` lists those of train and validation.
        created_at: ISO 8601, UTC.
        libraries: name -> version.
        settings: of the trainer, whole.
        tuned: SHA-256 over block5's weights where they were fine-tuned: block5.npz holds them; None where VGG16's own
            serve. `fingerprint` is of VGG16's own either way.
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


@dataclass(frozen=True, slots=True)
class Version:
    """A finished version whose files match their recorded hashes.

    Attributes:
        name: like "2026-11-23-1"; names sort by time when compared by `version_order`.
        metrics: the report's figures, as JSON holds them.
    """

    name: str
    folder: Path
    facts: VersionFacts
    metrics: Json

    def block5(self) -> dict[str, Convolution] | None:
        """The weights that take the place of VGG16's own in block5; None where they were left. Raises ModelError."""
        return load_block5(self.folder / BLOCK5) if self.facts.tuned else None


@dataclass(frozen=True, slots=True)
class Reign:
    """A period in which one version served.

    Attributes:
        since, until: ISO 8601, UTC; `until` is None for the one that serves now.
        reason: why it came to serve.
        kind: whether it took over from the one before, or came back because that one was rolled back or is damaged.
    """

    version: str
    since: str
    until: str | None
    reason: str
    kind: Kind = "promotion"


def version_order(name: str) -> tuple[str, int]:
    """Sorts names as they came: the tenth of a day after the ninth."""
    day, _, number = name.rpartition("-")
    return day, int(number)


class Registry:
    """The versions in data_dir, safe for several processes."""

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
        """Read a version, every file checked against its recorded hash.

        Raises:
            ModelError: there is no such version, or a file of it is missing, changed or of a later format.
        """
        folder = self.folder / name
        if not NAME.fullmatch(name) or not folder.is_dir():
            known = ", ".join(self.names()) or "none yet; run `python -m trainer train`"
            raise ModelError(f"{name}: no such version; there are: {known}")
        _check_sums(folder)
        try:
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
            facts = _upgraded(facts, VERSION_MIGRATIONS, folder / FACTS)
            facts["labels"], facts["layers"] = tuple(facts["labels"]), tuple(facts["layers"])
            return Version(name=name, folder=folder, facts=VersionFacts(**facts), metrics=metrics)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ModelError(f"{folder}: cannot be read ({error}); promote another version, or train again") from error

    def add(self, facts: VersionFacts, metrics: Json, write: Callable[[Path], object]) -> Version:
        """Add a version: the files that `write` makes, facts and metrics; complete or not at all.

        Args:
            facts: into version.json.
            metrics: into metrics.json; JSON values only.
            write: is given the folder, and fills it.

        Raises:
            StorageError: the disk is full; no version was made.
        """
        with only_one(self._lock, "change of the registry", wait=True):
            name = self._next_name()
            beside = self.folder / f"{UNFINISHED}{name}"
            try:
                for leftover in self.folder.glob(f"{UNFINISHED}*"):
                    shutil.rmtree(leftover)
                beside.mkdir(parents=True)
                write(beside)
                _write_json(beside / FACTS, {"format": len(VERSION_MIGRATIONS) + 1, **asdict(facts)})
                _write_json(beside / METRICS, metrics)
                lines = [f"{_sha256(path)}  {path.relative_to(beside)}\n" for path in _files(beside)]
                write_file(beside / SUMS, lambda file: file.write("".join(lines).encode()))
                for path in _files(beside):
                    _sync_file(path)
                beside.replace(self.folder / name)
                sync_folder(self.folder)
            except OSError as error:
                raise storage_error(beside, error) from error
            finally:
                shutil.rmtree(beside, ignore_errors=True)
        logger.info("version saved name=%s", name)
        return self.load(name)

    def history(self) -> list[Reign]:
        """The champions in order, oldest first; the last one serves now.

        Raises:
            ModelError: registry.json cannot be read.
        """
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
            entries = _upgraded(content, REGISTRY_MIGRATIONS, self._file)
            return [Reign(**entry) for entry in entries["history"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ModelError(
                f"{self._file}: cannot be read ({error}); move it away and run `python -m trainer promote VERSION`"
            ) from error

    def champion_name(self) -> str | None:
        """The version that shall serve, unchecked; None while there is none. Raises ModelError as `history`."""
        history = self.history()
        return history[-1].version if history else None

    def champion(self) -> Version | None:
        """The version that serves: the champion or, where that is missing or damaged, the latest before it that is not.

        Such a change is logged as an error, and kept in the history where that can be written.

        Raises:
            ModelError: there were champions, and none of them is whole.
        """
        faults: dict[str, str] = {}
        for name in reversed(_succession(self.history())):
            try:
                version = self.load(name)
            except ModelError as error:
                faults[name] = str(error)
                logger.error("champion set aside name=%s reason=%s", name, error)
                continue
            if faults:
                logger.error("an earlier champion serves instead name=%s", name)
                self._note_fallback(version, faults)
            return version
        if faults:
            raise ModelError("no champion is whole: " + "; ".join(faults.values()))
        return None

    def promote(self, name: str, *, reason: str) -> Version:
        """Make a version the champion.

        Raises:
            ModelError: it is missing or damaged; the champion stays.
            StorageError: the disk is full; the champion stays.
        """
        version = self.load(name)
        with only_one(self._lock, "change of the registry", wait=True):
            self._enthrone(name, reason, "promotion")
        return version

    def rollback(self, *, reason: str = "rolled back by hand") -> Version:
        """Make the champion before this one the champion again; twice goes two back.

        Raises:
            ModelError: there is none, or it is damaged; the champion stays.
            StorageError: the disk is full; the champion stays.
        """
        with only_one(self._lock, "change of the registry", wait=True):
            succession = _succession(self.history())
            if len(succession) < 2:
                raise ModelError("there is no champion before this one; `python -m trainer models` shows the versions")
            version = self.load(succession[-2])
            self._enthrone(version.name, reason, "rollback")
        return version

    def _note_fallback(self, version: Version, faults: dict[str, str]) -> None:
        """Record a fallback in the history, unless another champion was made meanwhile."""
        try:
            with only_one(self._lock, "change of the registry", wait=True):
                if self.champion_name() in faults:
                    self._enthrone(version.name, "; ".join(faults.values()), "fallback")
        except StorageError as error:
            logger.error("the change of champion could not be kept reason=%s", error)

    def _enthrone(self, name: str, reason: str, kind: Kind) -> None:
        """Write the history on; the lock is held."""
        history = self.history()
        if history and history[-1].version == name:
            return
        now = self._now().isoformat(timespec="seconds")
        history = [replace(reign, until=reign.until or now) for reign in history]
        history.append(Reign(version=name, since=now, until=None, reason=reason, kind=kind))
        content = {"format": len(REGISTRY_MIGRATIONS) + 1, "history": [asdict(reign) for reign in history]}
        _write_json(self._file, content)
        logger.info("champion changed name=%s kind=%s reason=%s", name, kind, reason)

    def _next_name(self) -> str:
        day = self._now().strftime("%Y-%m-%d")
        known = {*self.names(), *(reign.version for reign in self._known_history())}
        numbers = [version_order(name)[1] for name in known if name.startswith(f"{day}-")]
        return f"{day}-{max(numbers, default=0) + 1}"

    def _known_history(self) -> list[Reign]:
        """The history; empty where it cannot be read, which is said when it matters."""
        try:
            return self.history()
        except ModelError:
            return []


def _succession(history: Sequence[Reign]) -> list[str]:
    """The champions that a rollback can return to; the last one serves."""
    trail: list[str] = []
    for reign in history:
        if reign.kind != "promotion" and reign.version in trail:
            del trail[trail.index(reign.version) + 1 :]
        else:
            trail = [name for name in trail if name != reign.version] + [reign.version]
    return trail


def _upgraded(content: Json, migrations: Sequence[Callable[[Json], Json]], file: Path) -> Json:
    """A file's content in today's format, without its format version. Raises ModelError for a later one."""
    number = content.pop("format")
    if number > len(migrations) + 1:
        raise ModelError(f"{file}: made by a later dokocos; update this one, or promote another version")
    for upgrade in migrations[number - 1 :]:
        content = upgrade(content)
    return content


def _check_sums(folder: Path) -> None:
    """Raises ModelError when the folder's files are not those that SHA256SUMS lists."""
    advice = "promote another version (`python -m trainer models` lists them), or train again"
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
        recorded = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        found = {str(path.relative_to(folder)): path for path in _files(folder)}
        for name in sorted(recorded.keys() | found.keys() - {SUMS}):
            if name not in found:
                raise ModelError(f"{folder / name}: is missing; {advice}")
            if name not in recorded or _sha256(found[name]) != recorded[name]:
                raise ModelError(f"{folder / name}: is not the file that was saved with this version; {advice}")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{folder / SUMS}: cannot be read ({error}); {advice}") from error


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _write_json(path: Path, content: Json) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
    write_file(path, lambda file: file.write(text.encode()))
