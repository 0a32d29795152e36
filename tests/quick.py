"""Runs the tests that matter for a change, for at most a minute: `make quick`.

They are those in the folders of files changed since the previous commit, committed or not, and those that check the
whole tree. Files that were changed themselves come first.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALWAYS = ("tests/test_architecture.py", "tests/test_config.py")
BUDGET_S = 50


def changed() -> list[str]:
    """Files that differ from the previous commit, new ones included; none without git."""
    commands = (["diff", "--name-only", "HEAD~1"], ["ls-files", "--others", "--exclude-standard"])
    try:
        outputs = [
            subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=True).stdout  # noqa: S607
            for command in commands
        ]
    except (OSError, subprocess.CalledProcessError):
        return []
    return [line for output in outputs for line in output.splitlines()]


def matching(paths: list[str]) -> list[str]:
    """The tests to run for these files: changed tests, the folders of changed code, tests of the whole tree."""
    tests = [path for path in paths if Path(path).name.startswith("test_") and (ROOT / path).exists()]
    folders = []
    for path in paths:
        folder = Path(path).parent if path.startswith("tests/") else Path("tests") / Path(path).parent
        if path.endswith(".py") and (ROOT / folder).is_dir() and folder != Path("tests"):
            folders.append(str(folder))
    return list(dict.fromkeys([*tests, *ALWAYS, *folders]))


def main() -> int:
    """Runs pytest; returns its exit status."""
    chosen = matching(changed())
    print("running:", *chosen)
    return pytest.main(["-q", "-m", "not slow", f"--budget-s={BUDGET_S}", *chosen])


if __name__ == "__main__":
    sys.exit(main())
