"""Checks the packages of a lock file for known advisories, and says so if no service answered.

pip-audit reports success if it found no advisory, even if its service has none at all, like some package indexes. This
script tells the two apart. It checks one package first, so without such a service it makes one call and not a hundred.

    python -m tests.advisories requirements.lock              # exit status 1: there is an advisory
    python -m tests.advisories --must-answer requirements.lock  # ... or no service answered
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

PIP_AUDIT = (sys.executable, "-m", "pip_audit")
CONNECT_S = 5  # seconds that pip-audit waits for one answer
TOTAL_S = 300


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of pip-audit.

    Attributes:
        n_asked: packages that the service knows.
        n_skipped: packages that it does not know.
        known: a line for each advisory.
        problem: why no service answered; empty if one did.
    """

    n_asked: int = 0
    n_skipped: int = 0
    known: tuple[str, ...] = ()
    problem: str = ""


def ask(lock: Path, command: tuple[str, ...] = PIP_AUDIT) -> Verdict:
    """Checks each package of a lock file with hashes."""
    options = ["--format=json", "--progress-spinner=off", f"--timeout={CONNECT_S}", "--require-hashes", "--disable-pip"]
    try:
        done = subprocess.run(
            [*command, *options, "--requirement", str(lock)], capture_output=True, text=True, timeout=TOTAL_S
        )
        packages = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return Verdict(problem=f"no answer within {TOTAL_S} s")
    except (ValueError, KeyError):
        last = (done.stderr.strip() or "pip-audit said nothing").splitlines()[-1]
        return Verdict(problem=last[:200])
    skipped = [package for package in packages if "skip_reason" in package]
    known = [
        f"{package['name']} {package['version']}: {each['id']}, mended in {', '.join(each['fix_versions']) or 'none'}"
        for package in packages
        for each in package.get("vulns", ())
    ]
    if packages and len(skipped) == len(packages):
        return Verdict(n_skipped=len(skipped), problem=str(skipped[0]["skip_reason"]))
    return Verdict(n_asked=len(packages) - len(skipped), n_skipped=len(skipped), known=tuple(known))


def ask_gently(lock: Path, command: tuple[str, ...] = PIP_AUDIT) -> Verdict:
    """Checks one package first; the others only if the service knows that one."""
    first = re.match(r"\S.*\n(?:[ \t].*\n)*", lock.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder) / "first.lock"
        alone.write_text(first[0] if first else "", encoding="utf-8")
        verdict = ask(alone, command)
    return verdict if verdict.problem else ask(lock, command)


def main(arguments: list[str], command: tuple[str, ...] = PIP_AUDIT) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Whether an advisory is known against a locked package.")
    parser.add_argument("lock", type=Path)
    parser.add_argument("--must-answer", action="store_true", help="it is a failure when nobody could be asked")
    options = parser.parse_args(arguments)
    verdict = ask_gently(options.lock, command)
    if verdict.problem:
        print(f"advisories: NOT CHECKED, as nobody could be asked: {verdict.problem}")
        return int(options.must_answer)
    for line in verdict.known:
        print(f"advisories: {line}")
    unknown = f", {verdict.n_skipped} packages that nobody knows about" if verdict.n_skipped else ""
    print(f"advisories: {len(verdict.known)} known against {verdict.n_asked} packages{unknown}")
    return int(bool(verdict.known))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
