"""Versions are saved atomically; the champion is always a version with intact files."""

import errno
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import ModelError, StorageError
from trainer.registry import content
from trainer.registry import registry as registry_module
from trainer.registry.registry import FACTS, UNFINISHED, Period, Registry, VersionFacts, version_order
from trainer.registry.rewrite import SUMS

START = datetime(2026, 11, 23, 21, 0, tzinfo=UTC)
FACTS_OF_ALL = VersionFacts(
    labels=("brazil", "china", "japan"),
    weights="random",
    weights_seed=0,
    fingerprint="f" * 64,
    layers=("block4_conv3", "block5_conv3"),
    view="whole",
    precision="float32",
    threshold=0.6,
    temperature=1.2,
    seed=0,
    n_photos=192,
    created_at=START.isoformat(),
    libraries={"python": "3.11.9"},
    settings={"head": {"seed": 0}},
    tuned=None,
)


def fill(folder: Path) -> None:
    (folder / "head.npz").write_bytes(b"arrays")
    (folder / "photos.txt").write_text("a\nb\n")


def clock() -> Callable[[], datetime]:
    times = iter(START + timedelta(minutes=n) for n in range(10_000))
    return lambda: next(times)


def add(registry: Registry, n: int = 1) -> list[str]:
    return [registry.add(FACTS_OF_ALL, {"n": n}, fill).name for _ in range(n)]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path, now=clock())


def test_an_added_version_loads_unchanged(registry: Registry) -> None:
    (name,) = add(registry)
    version = registry.load(name)
    assert (version.name, version.facts, version.metrics) == ("2026-11-23-1", FACTS_OF_ALL, {"n": 1})
    assert (version.folder / "photos.txt").read_text() == "a\nb\n"


def test_names_are_unique_and_sort_by_time(registry: Registry) -> None:
    names = add(registry, 11)
    assert names[0] == "2026-11-23-1"
    assert names[-1] == "2026-11-23-11"
    assert registry.names() == names == sorted(names, key=version_order)


def test_the_name_of_a_deleted_champion_is_not_reused(registry: Registry) -> None:
    (name,) = add(registry)
    registry.promote(name, reason="first")
    for path in sorted((registry.folder / name).iterdir()):
        path.unlink()
    (registry.folder / name).rmdir()
    assert add(registry) == ["2026-11-23-2"]


def test_a_failed_save_of_a_version_leaves_no_files(registry: Registry) -> None:
    def full(folder: Path) -> None:
        fill(folder)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match="the disk is full"):
        registry.add(FACTS_OF_ALL, {}, full)
    assert list(registry.folder.iterdir()) == []
    assert registry.names() == []


def test_a_save_that_is_killed_leaves_no_version_and_the_next_save_cleans_up(
    tmp_path: Path, registry: Registry
) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from tests.trainer.registry.test_registry import FACTS_OF_ALL, fill\n"
        "from trainer.registry.registry import Registry\n"
        "def slow(folder):\n"
        "    fill(folder); print('writing', flush=True); time.sleep(60)\n"
        "Registry(Path(sys.argv[1])).add(FACTS_OF_ALL, {}, slow)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        os.kill(process.pid, signal.SIGKILL)
    assert [path.name.startswith(UNFINISHED) for path in registry.folder.iterdir()] == [True]
    assert registry.names() == []
    (name,) = add(registry)
    assert [path.name for path in registry.folder.iterdir()] == [name]


@pytest.mark.parametrize("damage", ["change", "truncate", "delete", "add"])
@pytest.mark.parametrize("file", ["head.npz", FACTS, "metrics.json"])
def test_a_version_with_changed_files_is_not_loaded(registry: Registry, damage: str, file: str) -> None:
    (name,) = add(registry)
    path = registry.folder / name / file
    if damage == "change":
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    elif damage == "truncate":
        path.write_bytes(b"")
    elif damage == "delete":
        path.unlink()
    else:
        path = path.with_name("more.npz")
        path.write_bytes(b"")
    with pytest.raises(ModelError, match=path.name):
        registry.load(name)


@pytest.mark.parametrize("name", ["2026-11-23-9", "../versions", "", ".unfinished-2026-11-23-1", "registry.json"])
def test_an_unknown_version_is_an_error_that_lists_the_versions(registry: Registry, name: str) -> None:
    add(registry, 2)
    with pytest.raises(ModelError, match="no such version; there are: 2026-11-23-1, 2026-11-23-2"):
        registry.load(name)


def test_an_empty_registry_has_no_champion(registry: Registry) -> None:
    assert registry.champion() is None
    assert registry.champion_name() is None
    assert registry.names() == []


def test_the_history_has_versions_times_and_reasons(registry: Registry) -> None:
    first, second = add(registry, 2)
    registry.promote(first, reason="it is the first")
    registry.promote(second, reason="better")
    registry.promote(second, reason="again")
    assert registry.history() == [
        Period(first, "2026-11-23T21:02:00+00:00", "2026-11-23T21:03:00+00:00", "it is the first"),
        Period(second, "2026-11-23T21:03:00+00:00", None, "better"),
    ]


def test_a_damaged_version_cannot_be_promoted(registry: Registry) -> None:
    first, second = add(registry, 2)
    registry.promote(first, reason="first")
    (registry.folder / second / "head.npz").write_bytes(b"")
    with pytest.raises(ModelError):
        registry.promote(second, reason="better")
    assert registry.champion_name() == first


def test_two_rollbacks_go_back_two_champions(registry: Registry) -> None:
    names = add(registry, 3)
    for name in names:
        registry.promote(name, reason="better")
    assert registry.rollback(reason="alice said so").name == names[1]
    assert registry.rollback(reason="bob said so").name == names[0]
    with pytest.raises(ModelError, match="no previous champion"):
        registry.rollback()
    assert registry.champion_name() == names[0]


def test_a_promotion_after_a_rollback_rolls_back_to_the_champion_before_it(registry: Registry) -> None:
    first, second, third = add(registry, 3)
    registry.promote(first, reason="first")
    registry.promote(second, reason="better")
    registry.rollback()
    registry.promote(third, reason="better")
    assert registry.rollback().name == first


@given(st.lists(st.sampled_from(["a", "b", "c", "back"]), max_size=12))
@settings(max_examples=60, deadline=None)
def test_repeated_rollbacks_end_at_a_first_champion(steps: list[str]) -> None:
    history: list[Period] = []
    for step in steps:
        succession = registry_module._succession(history)
        if step == "back" and len(succession) > 1:
            history.append(Period(succession[-2], "", "", "", kind="rollback"))
            assert registry_module._succession(history) == succession[:-1]
        elif step != "back":
            history.append(Period(step, "", "", ""))
            assert registry_module._succession(history)[-1] == step
    succession = registry_module._succession(history)
    assert len(set(succession)) == len(succession)


def test_a_damaged_champion_is_replaced_by_the_previous_one_and_this_is_logged(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = add(registry, 2)
    registry.promote(first, reason="first")
    registry.promote(second, reason="better")
    (registry.folder / second / "head.npz").unlink()
    with caplog.at_level(logging.ERROR):
        champion = registry.champion()
    assert champion is not None
    assert champion.name == first
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    last = registry.history()[-1]
    assert (last.version, last.kind) == (first, "fallback")
    assert "head.npz: is missing" in last.reason


def test_a_rolled_back_champion_does_not_return_when_another_is_damaged(registry: Registry) -> None:
    first, second, third = add(registry, 3)
    for name in (first, second, third):
        registry.promote(name, reason="better")
    registry.rollback()
    (registry.folder / second / "head.npz").unlink()
    champion = registry.champion()
    assert champion is not None
    assert champion.name == first


def test_if_all_champions_are_damaged_the_error_names_each_fault(registry: Registry) -> None:
    first, second = add(registry, 2)
    for name in (first, second):
        registry.promote(name, reason="better")
        (registry.folder / name / "head.npz").unlink()
    with pytest.raises(ModelError, match=rf"all champions are missing or damaged: .*{second}.*; .*{first}"):
        registry.champion()


def test_the_previous_champion_serves_even_on_a_full_disk(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = add(registry, 2)
    registry.promote(first, reason="first")
    registry.promote(second, reason="better")
    (registry.folder / second / "head.npz").unlink()

    def full(*_: Any) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(registry_module, "write_file", full)
    champion = registry.champion()
    assert champion is not None
    assert champion.name == first
    assert registry.champion_name() == second


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": 1, "history": [{"version": 1}]}'])
def test_a_damaged_registry_file_says_what_to_do(registry: Registry, tmp_path: Path, content: str) -> None:
    (tmp_path / "registry.json").write_text(content)
    with pytest.raises(ModelError, match=r"registry\.json: cannot be read .* move it away and run"):
        registry.champion()


def test_changes_from_several_processes_at_once_are_all_kept(tmp_path: Path) -> None:
    names = add(Registry(tmp_path), 4)
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(Registry(tmp_path).promote, name, reason=name) for name in names]:
            future.result()
    history = Registry(tmp_path).history()
    assert sorted(reign.version for reign in history) == names
    assert [reign.until is None for reign in history] == [False, False, False, True]


def test_a_version_of_an_earlier_format_is_migrated(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    (name,) = add(registry)
    registry.promote(name, reason="first")
    migrations = (*registry_module.VERSION_MIGRATIONS, lambda facts: {**facts, "threshold": 0.9})
    monkeypatch.setattr(registry_module, "VERSION_MIGRATIONS", migrations)
    monkeypatch.setattr(
        registry_module,
        "REGISTRY_MIGRATIONS",
        (lambda content: {"history": [{**reign, "reason": "migrated"} for reign in content["history"]]},),
    )
    champion = registry.champion()
    assert champion is not None
    assert champion.facts.threshold == 0.9
    assert registry.history()[0].reason == "migrated"


def test_a_version_from_before_fine_tuning_uses_vgg16s_own_block5(registry: Registry) -> None:
    (name,) = add(registry)
    folder = registry.folder / name
    facts = json.loads((folder / FACTS).read_text())
    del facts["format"]
    del facts["tuned"]
    del facts["thresholds"]
    (folder / FACTS).write_text(json.dumps({"format": 1, **facts}))  # the old format
    lines = [line for line in (folder / SUMS).read_text().splitlines(keepends=True) if FACTS not in line]
    digest = hashlib.sha256((folder / FACTS).read_bytes()).hexdigest()
    (folder / SUMS).write_text("".join([*lines, f"{digest}  {FACTS}\n"]))
    version = registry.load(name)
    assert version.facts == FACTS_OF_ALL
    assert version.facts.tuned is None
    assert version.facts.label_thresholds == (0.6,) * len(version.facts.labels)
    assert version.block5() is None


def test_a_version_of_a_newer_format_is_refused_with_a_reason(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = (*registry_module.VERSION_MIGRATIONS, dict)
    monkeypatch.setattr(registry_module, "VERSION_MIGRATIONS", newer)
    (name,) = add(registry)
    assert json.loads((tmp_path / "versions" / name / FACTS).read_text())["format"] == len(newer) + 1
    monkeypatch.undo()
    with pytest.raises(ModelError, match="made by a newer dokocos"):
        registry.load(name)


def test_a_version_folder_that_is_a_link_is_refused(registry: Registry, tmp_path: Path) -> None:
    first, second = add(registry, 2)
    registry.promote(first, reason="test")
    registry.promote(second, reason="test")
    (registry.folder / second).rename(tmp_path / "elsewhere")
    (registry.folder / second).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="is a link"):
        registry.load(second)
    champion = registry.champion()
    assert champion is not None
    assert champion.name == first


@pytest.mark.parametrize("kind", ["link", "dangling", "folder", "pipe", "more"])
def test_a_file_that_is_a_link_a_pipe_or_not_recorded_is_refused(kind: str, registry: Registry, tmp_path: Path) -> None:
    (name,) = add(registry)
    file = registry.folder / name / "head.npz"
    (tmp_path / "same.npz").write_bytes(file.read_bytes())
    (tmp_path / "inside").mkdir()
    if kind != "more":
        file.unlink()
    if kind == "link":
        file.symlink_to(tmp_path / "same.npz")
    elif kind == "dangling":
        file.symlink_to(tmp_path / "none")
    elif kind == "folder":
        file.symlink_to(tmp_path / "inside")
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        (file.parent / "more").symlink_to(tmp_path / "inside")
    with pytest.raises(ModelError, match="is a link, or no file"):
        registry.load(name)


def test_a_file_that_is_swapped_after_its_check_is_not_used(registry: Registry) -> None:
    (name,) = add(registry)
    version = registry.load(name)
    assert version.read("head.npz") == b"arrays"
    (version.folder / "head.npz").write_bytes(b"others")
    with pytest.raises(ModelError, match="has changed since it was checked"):
        version.read("head.npz")
    (version.folder / "head.npz").unlink()
    (version.folder / "head.npz").symlink_to("photos.txt")
    with pytest.raises(ModelError, match="cannot be read"):
        version.read("head.npz")
    (version.folder / "another").write_bytes(b"arrays")  # the same content under another name
    with pytest.raises(ModelError, match="has changed since it was checked"):
        version.read("another")


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("fact", ["threshold", "temperature"])
def test_facts_that_are_not_finite_are_refused(word: str, fact: str, registry: Registry) -> None:
    (name,) = add(registry)
    folder = registry.folder / name
    old = (folder / FACTS).read_bytes()
    value = {"threshold": b"0.6", "temperature": b"1.2"}[fact]
    new = old.replace(f'"{fact}": '.encode() + value, f'"{fact}": {word}'.encode())
    assert new != old
    (folder / FACTS).write_bytes(new)
    sums = (folder / SUMS).read_text()
    (folder / SUMS).write_text(sums.replace(hashlib.sha256(old).hexdigest(), hashlib.sha256(new).hexdigest()))
    with pytest.raises(ModelError, match="not finite"):
        registry.load(name)


def test_a_sum_file_or_a_folder_of_any_size_is_refused(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    (name,) = add(registry)
    version = registry.load(name)
    monkeypatch.setattr(content, "MAX_FILE_BYTES", 3)
    with pytest.raises(ModelError, match="6 bytes, more than 3"):
        version.read("head.npz")
    with (registry.folder / name / SUMS).open("ab") as file:
        file.truncate(10**12)  # takes no room
    with pytest.raises(ModelError, match="more than"):
        registry.load(name)
