"""Finished versions on disk, and which of them serves.

A version is one folder, written beside its place and moved there whole; SHA256SUMS holds it together, and nothing is
loaded from a folder that does not match it. registry.json tells the champion and its history; it changes in one step.
A champion that is missing or damaged is replaced by the one before it, loudly.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from trainer.errors import ModelError
from trainer.files import storage_error, sync_folder, write_file

logger = logging.getLogger(__name__)

FORMAT = 1
SUMS = "SHA256SUMS"
FACTS = "version.json"
METRICS = "metrics.json"
NAME = re.compile(r"\d{4}-\d{2}-\d{2}-\d+")
UNFINISHED = ".unfinished-"

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """What a version is made of: enough to serve it, and to make it again.

    Attributes:
        labels: in the order of the scores.
        weights: of the backbone: "imagenet", "random" or the path of a file; `weights_seed` for random ones.
        fingerprint: SHA-256 over the backbone's weights.
        layers: whose pooled outputs the head sees, in order.
        view: the view that photos are judged by.
        precision: that the features were computed in.
        threshold: the best score below which the answer is "not sure".
        temperature: of the head's softmax; already inside the head.
        n_photos: learned from, all splits; `photos.txt` lists those of train and validation.
        created_at: ISO 8601, UTC.
        libraries: name -> version.
        settings: of the trainer, whole.
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
    settings: dict[str, Any]


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
    metrics: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reign:
    """A time in which one version served.

    Attributes:
        since, until: ISO 8601, UTC; `until` is None for the one that serves now.
        reason: why it came to serve.
    """

    version: str
    since: str
    until: str | None
    reason: str


def version_order(name: str) -> tuple[str, int]:
    """Sorts names as they came: the tenth of a day after the ninth."""
    day, _, number = name.rpartition("-")
    return day, int(number)


class Registry:
    """The versions in data_dir. Only the training process writes; any number of processes read."""

    def __init__(self, data_dir: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.folder = data_dir / "versions"
        self._file = data_dir / "registry.json"
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
            if facts.pop("format") > FORMAT:
                raise ModelError(f"{folder}: made by a later dokocos; update this one, or promote another version")
            facts["labels"], facts["layers"] = tuple(facts["labels"]), tuple(facts["layers"])
            return Version(name=name, folder=folder, facts=VersionFacts(**facts), metrics=metrics)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ModelError(f"{folder}: cannot be read ({error}); promote another version, or train anew") from error

    def add(self, facts: VersionFacts, metrics: dict[str, Any], write: Callable[[Path], object]) -> Version:
        """Make a version of what `write` puts into a folder, together with facts and metrics; whole or not at all.

        Args:
            facts: into version.json.
            metrics: into metrics.json; JSON values only.
            write: is given the folder, and fills it.

        Raises:
            StorageError: the disk is full; no version was made.
        """
        name = self._next_name()
        beside = self.folder / f"{UNFINISHED}{name}"
        try:
            for leftover in self.folder.glob(f"{UNFINISHED}*"):
                shutil.rmtree(leftover)
            beside.mkdir(parents=True)
            write(beside)
            _write_json(beside / FACTS, {"format": FORMAT, **asdict(facts)})
            _write_json(beside / METRICS, metrics)
            lines = [f"{_sha256(path)}  {path.relative_to(beside)}\n" for path in _files(beside)]
            write_file(beside / SUMS, lambda file: file.write("".join(lines).encode()))
            for path in _files(beside):
                _sync_file(path)
            beside.replace(self.folder / name)
            sync_folder(self.folder)
        except OSError as error:
            shutil.rmtree(beside, ignore_errors=True)
            raise storage_error(beside, error) from error
        logger.info("version saved name=%s", name)
        return self.load(name)

    def history(self) -> list[Reign]:
        """Who served when, oldest first; the last one serves now.

        Raises:
            ModelError: registry.json cannot be read.
        """
        try:
            entries = json.loads(self._file.read_text(encoding="utf-8"))
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

        Raises:
            ModelError: there were champions, and none of them is whole.
        """
        served = [reign.version for reign in reversed(self.history())]
        faults = []
        for name in dict.fromkeys(served):
            try:
                version = self.load(name)
            except ModelError as error:
                faults.append(str(error))
                logger.error("champion set aside name=%s reason=%s", name, error)
                continue
            if faults:
                logger.error("an earlier champion serves instead name=%s", name)
            return version
        if faults:
            raise ModelError("no champion is whole: " + "; ".join(faults))
        return None

    def promote(self, name: str, *, reason: str) -> Version:
        """Make a version the champion.

        Raises:
            ModelError: it is missing or damaged; the champion stays.
            StorageError: the disk is full; the champion stays.
        """
        version = self.load(name)
        now = self._now().isoformat(timespec="seconds")
        history = self.history()
        if history and history[-1].version == name:
            return version
        if history:
            history[-1] = replace(history[-1], until=now)
        history.append(Reign(version=name, since=now, until=None, reason=reason))
        _write_json(self._file, {"format": FORMAT, "history": [asdict(reign) for reign in history]})
        logger.info("version promoted name=%s reason=%s", name, reason)
        return version

    def rollback(self, *, reason: str = "rolled back by hand") -> Version:
        """Make the champion before this one the champion again; twice goes two back.

        Raises:
            ModelError: there is none.
        """
        history = self.history()
        trail: list[str] = []  # as a browser's "back" does: a rollback takes the last step off the trail
        for reign in history:
            if len(trail) > 1 and reign.version == trail[-2] and reign.reason == reason:
                trail.pop()
            else:
                trail.append(reign.version)
        if len(trail) < 2:
            raise ModelError("there is no champion before this one; `python -m trainer models` shows the versions")
        return self.promote(trail[-2], reason=reason)

    def _next_name(self) -> str:
        day = self._now().strftime("%Y-%m-%d")
        numbers = [version_order(name)[1] for name in self.names() if name.startswith(f"{day}-")]
        return f"{day}-{max(numbers, default=0) + 1}"


def _check_sums(folder: Path) -> None:
    """Raises ModelError when the folder's files are not those that SHA256SUMS lists."""
    advice = "promote another version (`python -m trainer models` lists them), or train anew"
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


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
    write_file(path, lambda file: file.write(text.encode()))
