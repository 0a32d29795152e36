"""The check for advisories reports what it found, and also that it could not check."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.advisories import main

LOCK = "one==1.0 \\\n    --hash=sha256:00\n    # via two\ntwo==2.0 \\\n    --hash=sha256:00\n"
CLEAN: dict[str, Any] = {"vulns": []}
UNKNOWN = {"skip_reason": "Dependency not found on PyPI"}
KNOWN = {"vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]}


class Auditor:
    """A fake of pip-audit with given answers; records how many packages it was asked about."""

    def __init__(self, folder: Path, **answers: dict[str, Any]) -> None:
        self.lock = folder / "requirements.lock"
        self.lock.write_text(LOCK)
        self._asked = folder / "asked"
        code = (
            "import json, pathlib, re, sys\n"
            f"answers = json.loads({json.dumps(answers)!r})\n"
            "names = re.findall(r'^(\\w+)==', pathlib.Path(sys.argv[-1]).read_text(), re.MULTILINE)\n"
            f"pathlib.Path({str(self._asked)!r}).open('a').write(f'{{len(names)}} ')\n"
            "found = [{'name': name, 'version': '1'} | answers[name] for name in names]\n"
            "print(json.dumps({'dependencies': found}))\n"
        )
        self.command = (sys.executable, "-c", code)

    @property
    def asked(self) -> str:
        return self._asked.read_text().strip()


@pytest.mark.parametrize(
    ("answers", "status", "said"),
    [
        ({"one": CLEAN, "two": CLEAN}, 0, "advisories: 0 known against 2 packages"),
        ({"one": CLEAN, "two": UNKNOWN}, 0, "0 known against 1 packages, 1 packages that nobody knows about"),
        ({"one": CLEAN, "two": KNOWN}, 1, "advisories: two 1: PYSEC-1, mended in 2.1"),
        ({"one": KNOWN, "two": CLEAN}, 1, "advisories: 1 known against 2 packages"),
    ],
)
def test_known_advisories_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answers: dict[str, Any], status: int, said: str
) -> None:
    auditor = Auditor(tmp_path, **answers)
    assert main([str(auditor.lock)], auditor.command) == status
    assert said in capsys.readouterr().out
    assert auditor.asked == "1 2"


@pytest.mark.parametrize("must_answer", [False, True])
def test_an_index_without_advisories_does_not_count_as_no_advisory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], must_answer: bool
) -> None:
    auditor = Auditor(tmp_path, one=UNKNOWN, two=UNKNOWN)
    options = ["--must-answer"] if must_answer else []
    assert main([*options, str(auditor.lock)], auditor.command) == int(must_answer)
    assert "NOT CHECKED, as nobody could be asked: Dependency not found on PyPI" in capsys.readouterr().out
    assert auditor.asked == "1"


@pytest.mark.parametrize("code", ["raise SystemExit('no route to host')", "print('half a')", "pass"])
def test_a_failing_auditor_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str], code: str) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(LOCK)
    command = (sys.executable, "-c", code)
    assert main([str(lock)], command) == 0
    assert main(["--must-answer", str(lock)], command) == 1
    said = capsys.readouterr().out
    assert said.count("NOT CHECKED") == 2
    assert ("no route to host" in said) == ("route" in code)
