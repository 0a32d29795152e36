"""A version travels as one signed file; what arrives is checked before it is written, and judged as a new one is."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer.collection import Silent, gather, paint_photos, settings_for
from trainer.config import Settings
from trainer.errors import ModelError, StorageError
from trainer.files import write_file
from trainer.head.head import FILE_NAME as HEAD
from trainer.head.head import Head
from trainer.registry.archive import pack, unpack
from trainer.registry.registry import FACTS, HELD_OUT, METRICS, PHOTOS, REPORT, UNFINISHED, Registry
from trainer.registry.serving import Classifier
from trainer.registry.signature import make_key, sign, verify
from trainer.training import exchange
from trainer.training.exchange import KNOWN, Outcome, export, key_file, receive, take_in
from trainer.training.report import LEFT_BEHIND
from trainer.training.train import evaluate_version, train

DAYS = (datetime(2026, 11, 23, tzinfo=UTC), datetime(2026, 11, 24, tzinfo=UTC))
FIRST, SECOND = "2026-11-23-1", "2026-11-24-1"


@pytest.fixture(scope="module")
def pc(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The machine that trains: two versions and a key; not modified."""
    folder = tmp_path_factory.mktemp("pc")
    paint_photos(folder / "photos", per_label=36)
    settings = settings_for(folder / "photos", folder / "data")
    gather(settings)
    for day in DAYS:
        train(settings, Silent(), now=lambda day=day: day)  # type: ignore[misc]
    public = make_key(key_file(settings))
    return settings.model_copy(update={"exchange": settings.exchange.model_copy(update={"trusted_keys": (public,)})})


@pytest.fixture
def server(pc: Settings, tmp_path: Path) -> Settings:
    """The machine that answers: it has no photos, and trusts the other's key."""
    return pc.model_copy(update={"data_dir": tmp_path / "server"})


@pytest.fixture
def with_photos(server: Settings) -> Settings:
    """The same, with photos of its own: all those of the other machine."""
    gather(server)
    return server


@pytest.fixture
def file(pc: Settings, tmp_path: Path) -> Path:
    return export(FIRST, pc, tmp_path / "sent.dokocos")


def run_import(file: Path, settings: Settings, *, promote: bool = False) -> Outcome:
    return take_in(receive(file, settings), settings, Silent(), promote=promote)


def content(file: Path, settings: Settings) -> dict[str, bytes]:
    return unpack(verify(file.read_bytes(), settings.exchange.trusted_keys, what="")[1], KNOWN, what="")[1]


def signed(pc: Settings, files: Mapping[str, bytes], *, name: str = FIRST, comment: str | None = None) -> bytes:
    return sign(pack(name, files), comment or f"dokocos version {name}", key_file=key_file(pc))


def changed(file: Path, pc: Settings, target: Path, **facts: Any) -> Path:
    """The version in a file with other facts, as a file with a good signature."""
    files = content(file, pc)
    files[FACTS] = json.dumps({**json.loads(files[FACTS]), **facts}).encode()
    target.write_bytes(signed(pc, files))
    return target


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def later(file: Path, pc: Settings, target: Path, *, worse: bool = False) -> Path:
    """The version in a file, made later; or a worse one, whose head takes each label for another."""
    files = content(file, pc)
    head = Head.parse(files[HEAD], target)
    if worse:
        kernel, bias = head.layers[-1]
        folder = target.parent / "head"
        replace(head, layers=((np.roll(kernel, 1, axis=1), np.roll(bias, 1)),)).save(folder)
        files[HEAD] = (folder / HEAD).read_bytes()
    facts = json.loads(files[FACTS]) | {"created_at": "2026-12-01T00:00:00+00:00"}
    files[FACTS] = json.dumps(facts).encode()
    target.write_bytes(signed(pc, files, name="2026-12-01-1"))
    return target


# Export


def test_a_version_travels_and_serves_as_it_did(pc: Settings, server: Settings, file: Path) -> None:
    outcome = run_import(file, server)
    assert (outcome.version.name, outcome.is_new) == (FIRST, True)
    assert outcome.verdict is not None
    assert outcome.verdict.reasons == ("it is the first version here",)
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    here, there = (Classifier.load(settings, FIRST).predict(images) for settings in (server, pc))
    assert all(np.array_equal(mine.scores, theirs.scores) for mine, theirs in zip(here, there, strict=True))
    assert Registry(server.data_dir).load(FIRST).metrics == Registry(pc.data_dir).load(FIRST).metrics


def test_the_same_version_gives_the_same_bytes(pc: Settings, file: Path, tmp_path: Path) -> None:
    assert export(FIRST, pc, tmp_path / "again").read_bytes() == file.read_bytes()


def test_a_version_that_travelled_on_gives_the_same_bytes(pc: Settings, server: Settings, file: Path) -> None:
    run_import(file, server)
    shutil.copy(key_file(pc), key_file(server))
    assert export(FIRST, server, file.with_name("on")).read_bytes() == file.read_bytes()


def test_no_photo_and_no_hash_of_one_travels_unless_asked_for(pc: Settings, file: Path, tmp_path: Path) -> None:
    page = (pc.data_dir / "versions" / FIRST / REPORT).read_text()
    shown = re.findall(r'data-photo="(\w{64})"', page)
    files = content(file, pc)
    assert len(shown) > 10
    assert files.keys() & {PHOTOS, HELD_OUT} == set()
    assert files[REPORT].decode().count(LEFT_BEHIND) == len(shown)
    assert b"data:image" not in file.read_bytes()
    for listed in (PHOTOS, HELD_OUT):
        for sha256 in (pc.data_dir / "versions" / FIRST / listed).read_text().split():
            assert sha256.encode() not in file.read_bytes()
    with_lists = content(export(FIRST, pc, tmp_path / "lists", photo_lists=True), pc)
    assert with_lists[PHOTOS] == (pc.data_dir / "versions" / FIRST / PHOTOS).read_bytes()
    assert b"data:image" not in with_lists[REPORT]


def test_the_settings_of_the_exchange_are_in_no_version(pc: Settings) -> None:
    assert "exchange" not in Registry(pc.data_dir).load(FIRST).facts.settings


def test_the_champion_can_be_exported_into_a_folder(pc: Settings, tmp_path: Path) -> None:
    champion = Registry(pc.data_dir).champion_name()
    assert export("champion", pc, tmp_path) == tmp_path / f"{champion}.dokocos"
    with pytest.raises(ModelError, match="no such version"):
        export("2020-01-01-1", pc, tmp_path)


def test_without_a_key_the_error_says_how_to_make_one(pc: Settings, tmp_path: Path) -> None:
    keyless = pc.model_copy(update={"exchange": pc.exchange.model_copy(update={"key_file": tmp_path / "none"})})
    with pytest.raises(StorageError, match="python -m trainer key"):
        export(FIRST, keyless, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_cannot_be_written_is_a_clear_error(pc: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/out: cannot be written"):
        export(FIRST, pc, tmp_path / "file" / "out")


# What is refused


def test_an_unsigned_or_altered_file_changes_nothing(server: Settings, file: Path) -> None:
    whole = file.read_bytes()
    for data, words in (
        (b"\n".join(whole.split(b"\n", 4)[4:]), "is not signed"),
        (whole[:-1], "was altered"),
        (whole[: len(whole) // 2], "was altered"),
        (whole + b"\n", "was altered"),
        (whole.replace(b"version.json", b"version.jsom", 1), "was altered"),
    ):
        file.write_bytes(data)
        with pytest.raises(ModelError, match=words):
            receive(file, server)
    assert not server.data_dir.exists()


def test_a_key_that_is_not_trusted_is_refused(server: Settings, file: Path, tmp_path: Path) -> None:
    other = server.exchange.model_copy(update={"trusted_keys": (make_key(tmp_path / "other"),)})
    with pytest.raises(ModelError, match=r"which exchange\.trusted_keys does not have"):
        receive(file, server.model_copy(update={"exchange": other}))


def test_what_was_signed_for_something_else_is_refused(pc: Settings, server: Settings, file: Path) -> None:
    file.write_bytes(signed(pc, content(file, pc), comment="my backup"))
    with pytest.raises(ModelError, match="was signed as “my backup”, not as a version"):
        receive(file, server)
    file.write_bytes(signed(pc, content(file, pc), comment=f"dokocos version {SECOND}"))
    with pytest.raises(ModelError, match="not as a version"):
        receive(file, server)


@pytest.mark.parametrize("name", [FACTS, METRICS, HEAD])
def test_a_version_that_lacks_a_file_is_refused(pc: Settings, server: Settings, file: Path, name: str) -> None:
    files = content(file, pc)
    del files[name]
    file.write_bytes(signed(pc, files))
    with pytest.raises(ModelError, match=f"lacks {name}"):
        receive(file, server)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"format": 99}, "made by a newer dokocos"),
        ({"labels": ["brazil", "china"]}, "the head has 3 labels"),
        ({"layers": ["block9_conv1"]}, "cannot run here"),
        ({"created_at": "yesterday"}, "does not say when it was made"),
        ({"created_at": "2026-11-23T00:00:00"}, "no time zone"),
        ({"quantised": "0" * 64, "precision": "int8"}, r"vgg16-int8\.npz: is missing"),
        ({"tuned": "0" * 64}, r"block5\.npz: is missing"),
        ({"threshold": float("nan")}, "not finite"),
    ],
)
def test_a_version_that_cannot_serve_here_is_refused(
    pc: Settings, server: Settings, file: Path, facts: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        receive(changed(file, pc, file.with_name("odd"), **facts), server)
    assert not server.data_dir.exists()


def test_a_head_that_unpacks_to_gigabytes_is_refused(pc: Settings, server: Settings, file: Path) -> None:
    from tests.trainer.test_arrays import archive, header

    files = content(file, pc)
    files[HEAD] = archive("mean.npy", header((2**28,), "<f4") + bytes(2**20), compressed=True)
    file.write_bytes(signed(pc, files))
    with pytest.raises(ModelError, match="cannot be read as a head"):
        receive(file, server)


def test_a_version_for_other_weights_is_refused(server: Settings, file: Path) -> None:
    other = server.features.model_copy(update={"weights_seed": 1})
    with pytest.raises(ModelError, match=r"cannot run here.* other VGG16 weights"):
        receive(file, server.model_copy(update={"features": other}))


def test_the_same_weights_may_have_another_name_here(
    pc: Settings, server: Settings, file: Path, tmp_path: Path
) -> None:
    from trainer.vgg16.weights import load_weights, save_weights

    save_weights(tmp_path / "vgg16.npz", load_weights(pc.features))
    features = server.features.model_copy(update={"weights": str(tmp_path / "vgg16.npz")})
    version = run_import(file, server.model_copy(update={"features": features})).version
    assert version.facts.weights == str(tmp_path / "vgg16.npz")
    assert Classifier.load(server).version == FIRST


def test_a_missing_a_too_large_and_no_file_at_all_are_clear_errors(
    server: Settings, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in ((tmp_path / "none", "No such file"), (tmp_path / "pipe", "is not a file"), (tmp_path, "not a")):
        with pytest.raises(StorageError, match=f"cannot be read: .*{words}"):
            receive(path, server)
    monkeypatch.setattr(exchange, "MAX_BYTES", 1000)
    with pytest.raises(StorageError, match="more than 1,000"):
        receive(file, server)


# Registering


def test_a_version_that_has_served_here_is_left_alone(server: Settings, file: Path) -> None:
    run_import(file, server)
    before = everything(server.data_dir)
    again = run_import(file, server)
    assert (again.version.name, again.is_new, again.verdict) == (FIRST, False, None)
    assert everything(server.data_dir) == before


def test_a_rollback_lasts_until_promoted_by_hand(server: Settings, pc: Settings, file: Path) -> None:
    newer = later(file, pc, file.with_name("newer"))
    run_import(file, server)
    run_import(newer, server)
    registry = Registry(server.data_dir)
    assert registry.champion_name() == "2026-12-01-1"
    registry.rollback()
    run_import(newer, server)
    assert registry.champion_name() == FIRST
    run_import(newer, server, promote=True)
    assert registry.champion_name() == "2026-12-01-1"
    assert registry.names() == [FIRST, "2026-12-01-1"]


def test_another_version_of_the_same_name_gets_a_name_of_that_day(
    pc: Settings, server: Settings, file: Path, tmp_path: Path
) -> None:
    run_import(file, server)
    other = changed(file, pc, tmp_path / "other", threshold=0.123)
    outcome = run_import(other, server)
    assert (outcome.version.name, outcome.is_new) == ("2026-11-23-2", True)
    again = run_import(other, server)
    assert (again.version.name, again.is_new) == ("2026-11-23-2", False)
    assert Registry(server.data_dir).load(FIRST).facts.threshold != 0.123


def test_an_import_that_was_killed_before_the_promotion_is_finished_by_the_next(
    server: Settings, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "promote", killed)
        with pytest.raises(KeyboardInterrupt):
            run_import(file, server)
    assert Registry(server.data_dir).champion_name() is None
    outcome = run_import(file, server)
    assert outcome.verdict is not None
    assert outcome.verdict.promoted
    assert Registry(server.data_dir).names() == [Registry(server.data_dir).champion_name()]


def test_a_full_disk_leaves_nothing(server: Settings, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, write: Callable[..., object]) -> None:
        if path.name == REPORT:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_file(path, write)

    monkeypatch.setattr(exchange, "write_file", full)
    with pytest.raises(StorageError, match="the disk is full"):
        run_import(file, server)
    assert Registry(server.data_dir).names() == []
    assert list((server.data_dir / "versions").iterdir()) == []


PROGRAM = """
import os, sys
from pathlib import Path
from trainer.config import Settings
from trainer.training import exchange
from tests.trainer.collection import Silent

write_file, n_files = exchange.write_file, int(sys.argv[3])
def killing(path, write):
    global n_files
    n_files -= 1
    if not n_files:
        os.kill(os.getpid(), 9)
    write_file(path, write)
exchange.write_file = killing
exchange.Classifier.of = lambda _: None  # which loads TensorFlow
settings = Settings.model_validate_json(Path(sys.argv[1]).read_text())
exchange.take_in(exchange.receive(Path(sys.argv[2]), settings), settings, Silent())
"""


def test_a_killed_import_leaves_nothing_half_and_the_next_one_succeeds(
    server: Settings, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "settings.json").write_text(server.model_dump_json())
    arguments = [sys.executable, "-c", PROGRAM, str(tmp_path / "settings.json"), str(file), "2"]
    assert subprocess.run(arguments, capture_output=True).returncode == -signal.SIGKILL
    assert [path.name for path in (server.data_dir / "versions").iterdir()] == [f"{UNFINISHED}{FIRST}"]
    assert Registry(server.data_dir).names() == []
    assert run_import(file, server).version.name == FIRST
    assert [path.name for path in (server.data_dir / "versions").iterdir()] == [FIRST]


# The gate


def test_without_photos_the_verdict_of_the_machine_that_trained_it_counts(
    pc: Settings, server: Settings, file: Path, tmp_path: Path
) -> None:
    run_import(file, server)
    second = run_import(export(SECOND, pc, tmp_path / "second"), server)
    assert second.verdict is not None
    assert not second.verdict.promoted
    assert second.verdict.reasons[0].startswith("it was not promoted where it was trained: not clearly better")
    newer = run_import(later(file, pc, tmp_path / "newer"), server)
    assert newer.verdict is not None
    assert newer.verdict.promoted
    assert newer.verdict.reasons[0].startswith("it was promoted where it was trained (it is the first version)")
    assert Registry(server.data_dir).history()[-1].reason.startswith("imported; it was promoted where it was trained")


def test_without_photos_an_older_version_does_not_replace_a_newer_one(
    pc: Settings, server: Settings, file: Path, tmp_path: Path
) -> None:
    run_import(later(file, pc, tmp_path / "newer"), server)
    older = run_import(file, server)
    assert older.verdict is not None
    assert not older.verdict.promoted
    assert "older than the champion" in older.verdict.reasons[0]
    assert Registry(server.data_dir).champion_name() == "2026-12-01-1"


def test_with_photos_the_gate_of_a_training_decides(pc: Settings, with_photos: Settings, tmp_path: Path) -> None:
    first = export(FIRST, pc, tmp_path / "first", photo_lists=True)
    worse = run_import(later(first, pc, tmp_path / "worse", worse=True), with_photos)
    assert worse.verdict is not None
    assert worse.verdict.promoted  # the first one here
    back = run_import(first, with_photos)
    assert back.verdict is not None
    assert back.verdict.promoted
    assert back.verdict.gain is not None
    assert back.verdict.gain > 0.2
    assert back.verdict.reasons[0].startswith("better: balanced accuracy")
    again = run_import(export(SECOND, pc, tmp_path / "second", photo_lists=True), with_photos)
    assert again.verdict is not None
    assert not again.verdict.promoted
    assert again.verdict.reasons[0].startswith("not clearly better")
    holdout = (pc.data_dir / "versions" / FIRST / HELD_OUT).read_text().split()
    assert again.verdict.n_photos == len(holdout)


def test_photos_that_either_version_has_learned_from_do_not_count(
    pc: Settings, with_photos: Settings, tmp_path: Path
) -> None:
    first = export(FIRST, pc, tmp_path / "first", photo_lists=True)
    run_import(first, with_photos)
    holdout = content(first, pc)[HELD_OUT].decode().split()
    files = content(export(SECOND, pc, tmp_path / "second", photo_lists=True), pc)
    files[PHOTOS] += f"{holdout[0]}\n".encode()
    first.write_bytes(signed(pc, files, name=SECOND))
    verdict = run_import(first, with_photos).verdict
    assert verdict is not None
    assert verdict.n_photos == len(holdout) - 1
    files[PHOTOS] += "".join(f"{sha256}\n" for sha256 in holdout).encode()
    files[FACTS] = files[FACTS].replace(b'"seed": 0', b'"seed": 1')
    first.write_bytes(signed(pc, files, name=SECOND))
    verdict = run_import(first, with_photos).verdict
    assert verdict is not None
    assert "trained on too many photos of the current holdout; promote by hand" in verdict.reasons[0]


def test_with_photos_a_version_without_lists_is_not_taken_in_unseen(
    pc: Settings, with_photos: Settings, file: Path, tmp_path: Path
) -> None:
    run_import(file, with_photos)
    second = export(SECOND, pc, tmp_path / "second")
    with pytest.raises(ModelError, match="export it with --photo-lists"):
        run_import(second, with_photos)
    assert Registry(with_photos.data_dir).names() == [FIRST]
    assert run_import(second, with_photos, promote=True).version.name == SECOND
    assert Registry(with_photos.data_dir).champion_name() == SECOND


def test_a_training_beside_a_champion_without_lists_ends_in_a_version(with_photos: Settings, file: Path) -> None:
    run_import(file, with_photos)
    verdict = train(with_photos, Silent(), now=lambda: DAYS[1]).verdict
    assert not verdict.promoted
    assert "export it with --photo-lists; promote by hand" in verdict.reasons[0]
    with pytest.raises(ModelError, match="--photo-lists"):
        evaluate_version(FIRST, with_photos, Silent())


def test_too_few_photos_are_as_good_as_none(pc: Settings, with_photos: Settings, file: Path, tmp_path: Path) -> None:
    few = with_photos.model_copy(update={"split": with_photos.split.model_copy(update={"min_photos_per_label": 1000})})
    run_import(file, few)
    verdict = run_import(later(file, pc, tmp_path / "newer"), few).verdict
    assert verdict is not None
    assert verdict.promoted
    assert "cannot be compared here: each label needs 1000 usable photos" in verdict.reasons[0]


def test_a_champion_that_cannot_run_is_not_replaced_without_a_hand(
    pc: Settings, with_photos: Settings, tmp_path: Path
) -> None:
    first = export(FIRST, pc, tmp_path / "first", photo_lists=True)
    outcome = run_import(first, with_photos)
    registry = Registry(with_photos.data_dir)
    gone = registry.add(replace(outcome.version.facts, weights="gone.npz"), {}, receive(first, with_photos).write)
    registry.promote(gone.name, reason="test")
    verdict = run_import(export(SECOND, pc, tmp_path / "second", photo_lists=True), with_photos).verdict
    assert verdict is not None
    assert not verdict.promoted
    assert "it cannot be compared with the champion: gone.npz" in verdict.reasons[0]


def test_a_damaged_version_here_is_no_hindrance(server: Settings, file: Path) -> None:
    run_import(file, server)
    (server.data_dir / "versions" / FIRST / HEAD).write_bytes(b"")
    outcome = run_import(file, server)
    assert (outcome.version.name, outcome.is_new) == ("2026-11-23-2", True)
    assert Registry(server.data_dir).champion_name() == "2026-11-23-2"


def test_hashes_here_are_those_of_the_file(pc: Settings, server: Settings, file: Path) -> None:
    arrived, files = receive(file, server), content(file, pc)
    assert arrived.sums == {name: frozenset({hashlib.sha256(data).hexdigest()}) for name, data in files.items()}
