"""What the bot is put up with: the unit lets it do little, the images are pinned, the list of packages is whole."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import distributions, version
from pathlib import Path

import pytest
import yaml

from tests.sbom import normalised

ROOT = Path(__file__).parent.parent
UNIT = ROOT / "deploy" / "dokocos.service"
SYSTEMD = shutil.which("systemd-analyze")
with_systemd = pytest.mark.skipif(SYSTEMD is None, reason="systemd-analyze is not installed")


@with_systemd
def test_the_unit_exposes_no_more_than_two_of_ten() -> None:
    command = [str(SYSTEMD), "security", "--offline=yes", "--no-pager", "--threshold=20", str(UNIT)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unrecognized option" in told.stderr:
        pytest.skip("this systemd cannot look at a file (before 250)")
    assert told.returncode == 0, told.stdout + told.stderr


@with_systemd
def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text(encoding="utf-8").replace("/srv/dokocos/.venv/bin/python", sys.executable))
    told = subprocess.run([str(SYSTEMD), "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    assert unit.name not in told.stdout + told.stderr


def test_the_unit_leaves_a_decoder_the_calls_by_which_it_shuts_itself_in() -> None:
    """They are in no group of systemd 252, and without them photos were decoded in the open."""
    allowed = re.search(r"^SystemCallFilter=@system-service (.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)
    assert allowed is not None
    assert set(allowed[1].split()) == {"seccomp", "landlock_create_ruleset", "landlock_restrict_self"}


def test_every_base_image_is_pinned_by_digest() -> None:
    bases = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert bases
    assert all(re.fullmatch(r"python:3\.13[\w.-]*@sha256:[0-9a-f]{64}", base) for base in bases)
    assert len(set(bases)) == 1


def test_the_gpu_variant_changes_the_same_service_and_takes_a_lock_file_that_is_sent_along() -> None:
    plain, gpu = (yaml.safe_load((ROOT / name).read_text("utf-8")) for name in ("compose.yaml", "compose.gpu.yaml"))
    assert plain["services"].keys() == gpu["services"].keys()
    lock = gpu["services"]["bot"]["build"]["args"]["LOCK"]
    assert (ROOT / lock).exists()
    assert f"!{lock}" in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()


HERE = sysconfig.get_path("purelib")  # Ray adds a folder of its own to the path of this process


def test_the_list_of_packages_names_all_and_which_of_them_only_developers_need() -> None:
    command = [sys.executable, "-m", "tests.sbom", "requirements-run.lock"]
    written = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert (written["bomFormat"], written["specVersion"]) == ("CycloneDX", "1.6")
    listed = {part["name"]: part for part in written["components"]}
    assert listed.keys() == {normalised(package.metadata["Name"]) for package in distributions(path=[HERE])}
    assert listed["pillow"]["purl"] == f"pkg:pypi/pillow@{version('pillow')}"
    assert listed["pillow"]["scope"] == "required"
    assert listed["pytest"]["scope"] == "excluded"
