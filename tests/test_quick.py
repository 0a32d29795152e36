"""`make quick` selects the tests for changed files, and stops in time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.quick import ALWAYS, ROOT, matching


def test_changed_code_selects_the_tests_of_its_folder() -> None:
    chosen = matching(["bot/storage/inbox.py", "docs/ADMIN.md", "trainer/photos/images.py"])
    assert chosen == [*ALWAYS, "tests/bot/storage", "tests/trainer/photos"]


def test_a_changed_test_comes_first() -> None:
    assert matching(["tests/bot/storage/test_store.py"])[0] == "tests/bot/storage/test_store.py"


def test_a_used_up_budget_ends_the_run_with_a_message(tmp_path: Path) -> None:
    (tmp_path / "test_many.py").write_text("def test_one(): pass\ndef test_two(): pass\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "--budget-s=0", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "the budget of 0 s is used up; `make test` runs the rest" in ended.stdout
