"""What the docs name exists, what exists is in the docs, and commands marked runnable work.

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
GUIDES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
PLACES = ("compose.yaml", "compose.gpu.yaml", "config.yaml", "Dockerfile", "deploy/dokocos.service", "Makefile")
SAYING = [*GUIDES, *(ROOT / name for name in PLACES), *ROOT.glob(".github/**/*.yml")]
MARK = "\n<!-- runnable -->\n"  # on a line of its own
MARKED = [str(path.relative_to(ROOT)) for path in GUIDES if MARK in path.read_text("utf-8")]
RUNNABLE = re.compile(rf"{MARK}\n*((?:    .*\n)+)")
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
COMMANDS = {
    program: typer.main.get_group(module.app).commands
    for program, module in (("bot", bot.__main__), ("trainer", trainer.__main__))
}
NAMED = re.compile(r"(?:python -m|\bdokocos|--rm bot) (bot|trainer) +([a-z-][^\n`#|&]*)")
PACKAGES = ("bot", "trainer", "sandbox")
LINK = re.compile(r"\]\(([^)#:]+)\)")
PATH = re.compile(r"`([\w-]+/[\w./-]*)`")
SETTING_OR_MODULE = re.compile(rf"`((?:{'|'.join(Settings.model_fields)})(?:\.\w+)+)`")
IN_DATA_DIR = re.compile(r"(data|data_dir|images|features|contributions)/|bot\.sqlite3$")


def lines(name: str) -> list[str]:
    """The shell lines of a document that are marked runnable, without comments."""
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = RUNNABLE.findall(text)
    assert len(blocks) == text.count(MARK), f"{name}: no indented block follows a mark"
    return [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def is_setting(keys: list[str]) -> bool:
    settings: object = Settings()
    for key in keys:
        if not hasattr(settings, key):
            return False
        settings = getattr(settings, key)
    return True


def test_readme_and_installation_mark_lines_as_runnable() -> None:
    assert {"README.md", "docs/INSTALL.md"} <= set(MARKED)


@pytest.mark.slow
@pytest.mark.parametrize("name", MARKED)
def test_every_line_that_is_marked_runnable_runs(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes((ROOT / "config.yaml").read_bytes())
    paint_photos(tmp_path / "dogs", per_label=12, labels=("akita", "beagle", "shiba"))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DOKOCOS_")}
    environment = kept | QUICK | {"PATH": path, "PYTHONPATH": str(ROOT)}
    for line in lines(name):
        ended = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True)  # noqa: S607
        assert ended.returncode == 0, f"{name}: {line}\n{ended.stdout}{ended.stderr}"


@pytest.mark.parametrize("program", COMMANDS)
def test_the_readme_lists_every_command(program: str) -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## The commands\n")[1].split("\n## ")[0]
    rows = [row for row in table.splitlines() if row.startswith(f"| `python -m {program} ")]
    named = {word for row in rows for code in re.findall(r"`([^`]*)`", row) for word in code.split()}
    assert COMMANDS[program].keys() - named == set()


@pytest.mark.parametrize("program", COMMANDS)
def test_help_explains_every_command_and_option(program: str) -> None:
    for name, command in COMMANDS[program].items():
        assert command.help, f"{program} {name} has no help"
        for option in command.params:
            assert getattr(option, "help", None), f"{program} {name}: {option.name} has no help"


def test_every_command_and_option_in_docs_messages_and_replies_exists() -> None:
    found = [
        (path, *match)
        for path in [*SAYING, *(path for name in PACKAGES for path in (ROOT / name).rglob("*.[pyj]*"))]
        if path.suffix != ".pyc"
        for match in NAMED.findall(path.read_text(encoding="utf-8"))
    ]
    assert len(found) > 40
    for path, program, rest in found:
        name, *words = rest.split()
        known = {"--help"}
        if name not in known:
            assert name in COMMANDS[program], f"{path}: python -m {program} {name}: no such command"
            known |= {
                option for each in COMMANDS[program][name].params for option in (*each.opts, *each.secondary_opts)
            }
        assert {word for word in words if word.startswith("--")} <= known, f"{path}: {program} {rest}"


def test_every_environment_variable_in_the_docs_is_a_setting() -> None:
    named = {name for path in SAYING for name in re.findall(r"\bDOKOCOS_[A-Z0-9_]*[A-Z0-9]\b", path.read_text("utf-8"))}
    assert len(named) > 4
    assert {name for name in named if not is_setting(name.removeprefix("DOKOCOS_").lower().split("__"))} == set()


@pytest.mark.parametrize("guide", [path for path in GUIDES if path.name != "CHANGELOG.md"], ids=lambda path: path.name)
def test_every_link_path_and_setting_in_a_guide_exists(guide: Path) -> None:
    """Paths may begin in a package, as in docs/ARCHITECTURE.md; the changelog may name what is gone."""
    text = guide.read_text(encoding="utf-8")
    assert [link for link in LINK.findall(text) if not (guide.parent / link).exists()] == []
    for name in [*PATH.findall(text), *SETTING_OR_MODULE.findall(text)]:
        path = name if "/" in name else name.replace(".", "/")
        places = [ROOT / path, *(ROOT / package / path for package in PACKAGES)]
        known = IN_DATA_DIR.match(name) or is_setting(name.split("."))
        assert known or any(place.exists() or Path(f"{place}.py").exists() for place in places), (
            f"{name}: no such thing"
        )


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE)
    assert len(targets) > 8
    assert sorted(re.findall(r"^# make ([\w-]+) ", makefile, re.MULTILINE)) == sorted(targets)
