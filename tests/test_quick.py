"""`make quick` selects the tests for changed files, and stops in time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.quick import ALWAYS, ROOT, changed, git, matching


def run(tests: Path, *, budget_s: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", f"--budget-s={budget_s}", str(tests)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository: two commits on `main`, three on `topic`, which is checked out."""
    git("init", "--quiet", "--initial-branch=main", root=tmp_path)
    for name in ("first", "second", "third", "fourth", "fifth"):
        if name == "third":
            git("checkout", "--quiet", "-b", "topic", root=tmp_path)
        (tmp_path / name).write_text(name)
        git("add", name, root=tmp_path)
        git("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", name, root=tmp_path)
    return tmp_path


def test_a_changed_file_selects_the_tests_of_its_folder() -> None:
    chosen = matching(["bot/reply/texts.yaml", "docs/ADMIN.md", "trainer/photos/images.py"])
    assert [path for path in chosen if "test_" not in path] == ["tests/bot/reply", "tests/trainer/photos"]
    assert chosen[: len(ALWAYS)] == list(ALWAYS)


def test_a_folder_without_tests_of_its_own_selects_those_of_the_folder_above() -> None:
    assert matching(["trainer/scrape/sites/site.py"])[-1] == "tests/trainer/scrape"
    assert matching(["sandbox/instance/routes/media.py"])[-1] == "tests/sandbox"


def test_a_module_beside_the_folders_selects_the_tests_beside_the_folders_first() -> None:
    chosen = matching(["bot/__main__.py"])
    assert chosen.index("tests/bot/test_cli.py") < chosen.index("tests/bot")


def test_a_changed_test_comes_first() -> None:
    assert matching(["tests/bot/storage/test_store.py"])[0] == "tests/bot/storage/test_store.py"


def test_a_change_is_all_that_a_branch_has_and_what_is_not_committed(repository: Path) -> None:
    (repository / "fünftens").write_text("new")
    (repository / "first").write_text("changed")
    assert changed(repository) == ["fifth", "first", "fourth", "third", "fünftens"]


def test_on_main_a_change_is_the_last_commit(repository: Path) -> None:
    git("checkout", "--quiet", "main", root=repository)
    assert changed(repository) == ["second"]


def test_without_a_branch_called_main_a_change_is_the_last_commit(repository: Path) -> None:
    git("branch", "-m", "main", "trunk", root=repository)
    assert changed(repository) == ["fifth"]


def test_without_a_repository_nobody_can_tell_what_changed(tmp_path: Path) -> None:
    assert changed(tmp_path) is None


def test_a_used_up_budget_leaves_tests_out_and_says_how_many(tmp_path: Path) -> None:
    (tmp_path / "test_many.py").write_text("def test_one(): assert 0\ndef test_two(): pass\n")
    ended = run(tmp_path, budget_s=0)
    assert "2 tests were left out, as 0 s are over; `make test` runs them" in ended.stdout
    assert ended.returncode == 0


def test_within_the_budget_a_failing_test_fails_the_run(tmp_path: Path) -> None:
    (tmp_path / "test_many.py").write_text("def test_one(): assert 0\ndef test_two(): pass\n")
    ended = run(tmp_path, budget_s=60)
    assert "left out" not in ended.stdout
    assert ended.returncode == 1
