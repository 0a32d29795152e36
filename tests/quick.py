"""Runs the tests that matter for a change, for about a minute at most: `make quick`.

They are those in the folders of changed files, and those that check the whole tree. Changed are files that differ from
where this branch left `main` (on `main` itself: from the previous commit), committed or not. Changed tests come first.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALWAYS = tuple(f"tests/test_{name}.py" for name in ("architecture", "config", "docs", "deploy"))
BUDGET_S = 45


def git(*arguments: str, root: Path) -> list[str]:
    """The lines that git answers. Raises OSError without git, CalledProcessError if git refuses."""
    command = ["git", "-c", "core.quotePath=false", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()


def changed(root: Path = ROOT) -> list[str] | None:
    """Paths of the files that the change is made of, new ones included; None if git cannot tell."""
    try:
        head = git("rev-parse", "HEAD", root=root)
        try:
            since = git("merge-base", "HEAD", "main", root=root)
        except subprocess.CalledProcessError:  # no branch of this name
            since = head
        start = "HEAD~1" if since == head else since[0]
        return [
            *git("diff", "--name-only", start, root=root),
            *git("ls-files", "--others", "--exclude-standard", root=root),
        ]
    except (OSError, subprocess.CalledProcessError):
        return None


def matching(paths: list[str]) -> list[str]:
    """The tests to run for these files: changed tests, tests of the whole tree, the folders of changed files."""
    tests = [path for path in paths if Path(path).name.startswith("test_") and (ROOT / path).exists()]
    folders = []
    for path in paths:
        folder = (Path() if path.startswith("tests/") else Path("tests")) / Path(path).parent
        while not (ROOT / folder).is_dir():
            folder = folder.parent  # tests/trainer/scrape for trainer/scrape/sites
        if folder != Path("tests"):
            beside = sorted((ROOT / folder).glob("test_*.py"))  # before those in folders below
            folders += [*(str(test.relative_to(ROOT)) for test in beside), str(folder)]
    return list(dict.fromkeys([*tests, *ALWAYS, *folders]))


def main() -> int:
    """Runs pytest; returns its exit status."""
    paths = changed()
    if paths is None:
        print("git cannot tell which files have changed; running only the tests of the whole tree")
    return pytest.main(["-q", "-m", "not slow", f"--budget-s={BUDGET_S}", *matching(paths or [])])


if __name__ == "__main__":
    sys.exit(main())
