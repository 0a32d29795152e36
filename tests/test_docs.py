"""The commands in README and docs/INSTALL.md work, and these documents list all commands.

A block after the comment `<!-- runnable -->` is run line by line, in a folder with config.yaml and pictures of three
labels; settings in the environment make that quick.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import bot.__main__
import trainer.__main__
from bot.config import Settings
from tests.trainer.collection import paint_photos

ROOT = Path(__file__).parent.parent
DOCS = ("README.md", "docs/INSTALL.md")
RUNNABLE = re.compile(r"<!-- runnable -->\n+((?:    .*\n)+)")
QUICK = {
    "DOKOCOS_SOURCE__KIND": "folder",
    "DOKOCOS_SOURCE__FOLDER__PATH": "dogs",
    "DOKOCOS_SPLIT__MIN_PHOTOS_PER_LABEL": "5",
    "DOKOCOS_FEATURES__WEIGHTS": "random",
    "DOKOCOS_FEATURES__LAYERS": "[block1_conv1]",
    "DOKOCOS_FEATURES__VIEWS": "[whole]",
    "DOKOCOS_FEATURES__PRECISION": "float32",
    "DOKOCOS_MASTODON__ACCESS_TOKEN": "a-token-that-no-server-knows",
}
# Named in docs/INSTALL.md and compose.yaml, and not settings of ours.
OTHERS = {"DOKOCOS_TEST_WEIGHTS"}


def lines(name: str) -> list[str]:
    """The shell lines of a document that are marked runnable, without comments."""
    blocks = RUNNABLE.findall((ROOT / name).read_text(encoding="utf-8"))
    return [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.slow
@pytest.mark.parametrize("name", DOCS)
def test_every_line_that_is_marked_runnable_runs(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes((ROOT / "config.yaml").read_bytes())
    paint_photos(tmp_path / "dogs", per_label=12, labels=("akita", "beagle", "shiba"))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | QUICK | {"PATH": path, "PYTHONPATH": str(ROOT)}
    assert lines(name), f"{name} marks no line as runnable"
    for line in lines(name):
        ended = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True)  # noqa: S607
        assert ended.returncode == 0, f"{name}: {line}\n{ended.stdout}{ended.stderr}"


@pytest.mark.parametrize(("program", "app"), [("bot", bot.__main__.app), ("trainer", trainer.__main__.app)])
def test_the_readme_lists_every_command(program: str, app: typer.Typer) -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## The commands\n")[1].split("\n## ")[0]
    rows = [row for row in table.splitlines() if row.startswith(f"| `python -m {program} ")]
    named = {word for row in rows for code in re.findall(r"`([^`]*)`", row) for word in code.split()}
    assert {command.callback.__name__ for command in app.registered_commands if command.callback} - named == set()


def test_every_environment_variable_in_the_docs_is_a_setting() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))]
    texts += [
        (ROOT / name).read_text(encoding="utf-8") for name in ("compose.yaml", "Dockerfile", "deploy/dokocos.service")
    ]
    named = {name for text in texts for name in re.findall(r"\bDOKOCOS_[A-Z0-9_]*[A-Z0-9]\b", text)}
    assert len(named) > 4
    for name in named - OTHERS:
        settings: object = Settings()
        for key in name.removeprefix("DOKOCOS_").lower().split("__"):
            assert hasattr(settings, key), f"{name}: no such setting"
            settings = getattr(settings, key)
