"""Takes a version from the machine that trains to another that answers, as one signed file.

What stays behind: pictures of photos and, unless they are asked for, the hashes of photos. What arrives is checked
before anything is written: who signed it, whether it is a version, and whether it runs here.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from trainer.config import Settings
from trainer.errors import DatasetError, ModelError, StorageError
from trainer.evaluation.promotion import Verdict
from trainer.files import read_file, write_file
from trainer.head import head, novelty
from trainer.photos import manifest
from trainer.quoting import escaped, quoted
from trainer.registry.archive import pack, unpack
from trainer.registry.registry import (
    BLOCK5,
    FACTS,
    HELD_OUT,
    METRICS,
    PHOTOS,
    REPORT,
    Registry,
    Version,
    VersionFacts,
    parse,
)
from trainer.registry.serving import Classifier
from trainer.registry.signature import sign, verify
from trainer.training.comparison import compare_versions, learned_photos
from trainer.training.report import without_pictures
from trainer.training.training_data import Watcher, read_photos, sort_photos
from trainer.vgg16 import int8

logger = logging.getLogger(__name__)

ENDING = ".dokocos"
LEARNED = (head.FILE_NAME, novelty.FILE_NAME, BLOCK5, int8.FILE_NAME)  # what a version answers with
LISTS = (PHOTOS, HELD_OUT)
KNOWN = (FACTS, METRICS, REPORT, *LEARNED, *LISTS)
MAX_BYTES = 256 * 1024 * 1024  # three times what the largest version takes


@dataclass(frozen=True, slots=True)
class Arrived(Version):
    """A version from a file, in memory; the file's signature was checked, and it runs here.

    Attributes:
        files: name -> content.
    """

    files: Mapping[str, bytes] = field(repr=False, compare=False)

    def read(self, name: str) -> bytes:
        """The content of a file. Raises ModelError."""
        if name not in self.files:
            raise ModelError(f"{self.folder / name}: is missing")
        return self.files[name]

    def write(self, folder: Path) -> None:
        """Write the files into a folder of the registry, all but facts and figures. Raises StorageError."""
        for name, content in self.files.items():
            if name not in (FACTS, METRICS):
                write_file(folder / name, lambda out, content=content: out.write(content))  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a version that arrived.

    Attributes:
        version: as it is called here.
        is_new: it was not here before.
        verdict: None for a version that has served here before.
    """

    version: Version
    is_new: bool
    verdict: Verdict | None


def export(name: str, settings: Settings, target: Path | None = None, *, photo_lists: bool = False) -> Path:
    """Write a version into one signed file; the same version gives the same bytes.

    Args:
        name: of the version; "champion" stands for the champion's.
        target: of the file, or a folder for it; None: the working directory. An earlier file is replaced.
        photo_lists: take the SHA-256 of its photos along, which a machine with photos of its own needs to compare it.

    Returns:
        the file's path.

    Raises:
        ModelError: there is no such version, or it is damaged.
        StorageError: there is no key, or the file cannot be written.
    """
    registry = Registry(settings.data_dir)
    version = registry.champion() if name == "champion" else registry.load(name)
    if version is None:
        raise ModelError("there is no champion yet; run `python -m trainer train`")
    files = {file: version.read(file) for file in KNOWN if file in version.sums and (photo_lists or file not in LISTS)}
    if REPORT in files:
        files[REPORT] = without_pictures(files[REPORT].decode()).encode()
    signed = sign(
        pack(version.name, files),
        _comment(version.name),
        key_file=key_file(settings),
        password_file=settings.exchange.password_file,
    )
    path = target or Path()
    path = path / f"{version.name}{ENDING}" if path.is_dir() else path
    write_file(path, lambda out: out.write(signed))
    logger.info("version exported name=%s file=%s bytes=%d", version.name, path, len(signed))
    return path


def receive(file: Path, settings: Settings) -> Arrived:
    """Read a file of `export`, and run the version once; nothing is written.

    Args:
        settings: `exchange.trusted_keys` says whose files are accepted; `features.weights` names the weights of VGG16
            here, which must be those it was trained on. An int8 version brings its own.

    Raises:
        ModelError: it is not signed by a trusted key, is damaged, or cannot run here.
        StorageError: the file cannot be read.
    """
    try:
        signed = read_file(file.resolve(), max_bytes=MAX_BYTES)
    except OSError as error:
        raise StorageError(f"{file}: cannot be read: {error.strerror or error}; nothing was imported") from error
    comment, data = verify(signed, settings.exchange.trusted_keys, what=str(file))
    name, files = unpack(data, KNOWN, what=str(file))
    if comment != _comment(name):  # whoever signs other things too did not mean this
        raise ModelError(f"{file}: was signed as {quoted(comment)}, not as a version; nothing was imported")
    sums = {each: frozenset({hashlib.sha256(content).hexdigest()}) for each, content in files.items()}
    arrived = Arrived(name, file, *_parse(files, file), sums, files)
    if arrived.facts.quantised is None:
        own = settings.features
        arrived = replace(arrived, facts=replace(arrived.facts, weights=own.weights, weights_seed=own.weights_seed))
    try:
        Classifier.of(arrived)
    except ImportError as error:
        raise ModelError(
            f"{file}: is not int8, and {error.name}, which runs it, is not installed here; nothing was imported. "
            "docs/TWO_MACHINES.md says how to train an int8 version"
        ) from error
    except (ModelError, ValueError) as error:
        raise ModelError(f"{file}: cannot run here, so nothing was imported: {error}") from error
    return arrived


def take_in(arrived: Arrived, settings: Settings, watcher: Watcher, *, promote: bool = False) -> Outcome:
    """Register a version, and make it the champion if it is better. After a crash, the same call finishes the work.

    A version that has served here before is left as it is, so that a rollback lasts.

    Args:
        promote: make it the champion without comparing.

    Raises:
        ModelError: it must be compared, but lacks the list of its photos; or the registry cannot be read.
        StorageError: the disk is full; nothing was changed.
    """
    registry = Registry(settings.data_dir)
    served = {reign.version for reign in registry.history()}
    here = _find_same(arrived, registry)
    if here is not None and here.name in served and not promote:
        return Outcome(here, is_new=False, verdict=None)
    verdict = Verdict(True, ("promoted by hand",)) if promote else _judge(arrived, registry, settings, watcher)
    version = here or registry.add(arrived.facts, arrived.metrics, arrived.write, name=arrived.name)
    if verdict.promoted:
        registry.promote(version.name, reason=f"imported; {verdict.reasons[0]}")
    logger.info("imported version=%s new=%s promoted=%s", version.name, here is None, verdict.promoted)
    return Outcome(version, is_new=here is None, verdict=verdict)


def key_file(settings: Settings) -> Path:
    """Where the secret key of this machine is."""
    return settings.exchange.key_file or settings.data_dir / "signing.key"


def _comment(name: str) -> str:
    """What is signed beside the archive."""
    return f"dokocos version {name}"


def _parse(files: Mapping[str, bytes], file: Path) -> tuple[VersionFacts, dict[str, object]]:
    for name in (FACTS, METRICS, head.FILE_NAME):
        if name not in files:
            raise ModelError(f"{file}: lacks {name}; nothing was imported. Export it again")
    facts, metrics = parse(files[FACTS], files[METRICS], file)
    try:
        if datetime.fromisoformat(facts.created_at).tzinfo is None:
            raise ValueError("no time zone")
    except ValueError as error:
        raise ModelError(f"{file}: {FACTS} does not say when it was made ({error}); nothing was imported") from error
    return facts, metrics


def _find_same(arrived: Arrived, registry: Registry) -> Version | None:
    """The same version, if it is here already: under whatever name, with or without the lists of its photos."""

    def essence(version: Version) -> tuple[object, ...]:
        facts = replace(version.facts, weights="", weights_seed=0)
        return (facts, *(version.sums.get(name) for name in LEARNED))

    for name in registry.names():
        try:
            version = registry.load(name)
        except ModelError as error:
            logger.warning("version damaged name=%s reason=%s", name, error)
            continue
        if essence(version) == essence(arrived):
            return version
    return None


def _judge(arrived: Arrived, registry: Registry, settings: Settings, watcher: Watcher) -> Verdict:
    """Whether a version becomes the champion.

    With enough photos here, the gate of a training decides. Without, the verdict of the machine that trained it counts,
    unless the champion here is newer.

    Raises:
        ModelError: it must be compared, but lacks the list of its photos.
        StorageError: the disk is full.
    """
    try:
        champion = registry.champion()
    except ModelError as error:
        return Verdict(True, (f"there is no champion to compare with: {error}",))
    if champion is None:
        return Verdict(True, ("it is the first version here",))
    watcher.step("photos")
    try:
        if not (settings.data_dir / manifest.FILE_NAME).exists():
            raise DatasetError("there are no photos here")
        dataset = sort_photos(read_photos(settings), settings)
    except DatasetError as error:
        return _verdict_of_origin(arrived, champion, str(error))
    learned_photos(arrived)
    watcher.step("comparison")
    try:
        return compare_versions(champion, arrived, dataset, settings, watcher)
    except ModelError as error:
        logger.warning("champion not compared name=%s reason=%s", champion.name, error)
        return Verdict(False, (f"it cannot be compared with the champion: {error}; promote by hand",))


def _verdict_of_origin(arrived: Arrived, champion: Version, why: str) -> Verdict:
    """What the machine that trained a version found, where it cannot be compared."""
    made, before = (datetime.fromisoformat(each.facts.created_at) for each in (arrived, champion))
    if made <= before:
        return Verdict(False, (f"it is older than the champion, and cannot be compared: {why}; promote by hand",))
    found = arrived.metrics.get("verdict", {})
    reason = escaped(str(found["reasons"][0])) if found.get("reasons") else "no reason is given"
    if found.get("promoted"):
        return Verdict(True, (f"it was promoted where it was trained ({reason}); it cannot be compared here: {why}",))
    return Verdict(False, (f"it was not promoted where it was trained: {reason}; promote by hand",))
