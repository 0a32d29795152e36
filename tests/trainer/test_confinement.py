"""A confined process has access to nothing, and the memory of its parent is hidden from other processes."""

from __future__ import annotations

import json
import logging
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import hostile, intruder
from trainer.config import ImageSettings
from trainer.errors import ImageError
from trainer.photos import decode_process
from trainer.photos.decode import Decoder
from trainer.photos.decode_process import ROOT

LIMITS = ImageSettings()
SECRET = "t0ken-in-the-environment"  # pragma: allowlist secret
NOBODY = 65534


@pytest.fixture(scope="module", autouse=True)
def _confinable() -> None:
    with Decoder(LIMITS, n_children=1) as decoder:
        if lacks := decoder.lacks():
            pytest.skip(f"this system lacks: {'; '.join(lacks)}")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The targets of `tests.intruder.attempts`; the parent is the test process."""
    (tmp_path / "temporary").mkdir()
    for name in ("token", "database"):
        (tmp_path / name).write_text(SECRET)
        (tmp_path / name).chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield {
            "token": str(tmp_path / "token"),
            "database": str(tmp_path / "database"),
            "data_dir": str(tmp_path),
            "temporary": str(tmp_path / "temporary"),
            "parent": os.getpid(),
            "port": server.getsockname()[1],
            "secret": SECRET,
        }


@pytest.fixture
def bystander() -> Iterator[int]:
    """A process that stands in for the bot, where it could be harmed."""
    with subprocess.Popen(["sleep", "600"], env={"TOKEN": SECRET}) as process:  # noqa: S607
        yield process.pid
        process.kill()


def test_an_intruder_gets_nothing(
    home: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOKOCOS_MASTODON__ACCESS_TOKEN", SECRET)
    before = sorted(Path(home["data_dir"]).rglob("*"))
    with intruder.taken_over() as decoder:
        got, n_tried = intruder.ask(decoder, home)
        assert got == []
        assert n_tried > 60
        assert intruder.ask(decoder, home) == ([], n_tried)  # it lives on, and is asked again
    assert Path(home["token"]).read_text() == SECRET
    assert sorted(Path(home["data_dir"]).rglob("*")) == before
    assert capfd.readouterr() == ("", "")


def test_an_intruder_beside_the_detector_of_figures_gets_nothing_either(home: dict[str, Any]) -> None:
    """OpenCV has loaded a hundred libraries by then, which must leave nothing open."""
    with intruder.taken_over(limits=ImageSettings(crop="figure")) as decoder:
        got, n_tried = intruder.ask(decoder, home)
    assert got == []
    assert n_tried > 60


def test_without_confinement_an_intruder_gets_almost_everything(home: dict[str, Any], bystander: int) -> None:
    """Otherwise the test above would prove nothing."""
    with intruder.taken_over(intruder.UNCONFINED) as decoder:
        got, n_tried = intruder.ask(decoder, home | {"parent": bystander})
    assert len(got) > n_tried * 2 / 3
    assert {
        "read the token", "read the database", "read the parent's environment", "look into data_dir", "list the root",
        "write to data_dir", "write to the temporary folder", "connect to loopback", "make a pair of sockets",
        "signal the parent", "tgkill the parent", "fork", "clone", "run a program", "run executable memory",
        "memfd_create", "copy a descriptor", "descriptors that are none of its business",
    } <= set(got)  # fmt: skip


@pytest.mark.parametrize("lacks", ["Landlock", "seccomp"])
def test_if_the_kernel_lacks_one_protection_the_other_works_and_one_warning_is_logged(
    lacks: str, home: dict[str, Any], bystander: int, caplog: pytest.LogCaptureFixture
) -> None:
    decode_process._tell_once.cache_clear()
    with caplog.at_level(logging.WARNING), intruder.taken_over(intruder.LACKS, lacks.lower()) as decoder:
        got, _ = intruder.ask(decoder, home | {"parent": bystander})
        assert decoder.lacks() == (f"{lacks} (not here)",)
        decoder._children[0].discard()
        intruder.ask(decoder, home | {"parent": bystander})
    assert not {name for name in got if name.startswith(("read", "write", "connect", "look", "list", "signal"))}
    assert ("fork" in got) == (lacks == "seccomp")
    assert caplog.text.count("this system lacks") == 1
    decode_process._tell_once.cache_clear()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only there do calls have a second set of numbers")
def test_a_call_by_another_number_ends_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import ctypes; from trainer.photos import decode_child\n"
        "call = ctypes.CDLL(None).syscall\n"
        "decode_child.images.prepare = lambda *_, **__: call(0x40000000 | 39)\n"
        "decode_child._main()"
    )
    monkeypatch.setattr(decode_process, "COMMAND", (sys.executable, "-c", code))
    with Decoder(LIMITS, n_children=1) as decoder, pytest.raises(ImageError, match="exit status -31"):  # SIGSYS
        decoder.prepare(hostile.encoded("PNG"))


def test_threads_and_abort_work_in_a_confined_process() -> None:
    """libde265 decodes in threads; and libraries call `abort` when memory is short, which must be recognised."""
    code = (
        "import os, sys, threading; from trainer.confinement import confine\n"
        "assert confine(memory_bytes=2**30, keep=[1, 2]) == ()\n"
        "thread = threading.Thread(target=print, args=('hello',)); thread.start(); thread.join()\n"
        "sys.stdout.flush(); os.abort()"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.returncode) == ("hello\n", -6)


HIDER = """
import os, sys
from trainer import confinement
if os.geteuid() == 0:
    os.setgid({nobody}); os.setuid({nobody})
    confinement._LIBC.prctl(confinement.PR_SET_DUMPABLE, 1, 0, 0, 0)  # as any program that was started by that user
if sys.argv[1] == "hide":
    confinement.hide_memory()
print(flush=True); sys.stdin.read()
"""
READER = """
import json, os, sys
if os.geteuid() == 0:
    os.setgid({nobody}); os.setuid({nobody})
got = []
for name in ("environ", "mem", "maps"):
    try:
        with open(f"/proc/{{sys.argv[1]}}/{{name}}", "rb"):
            got.append(name)
    except OSError:
        pass
print(json.dumps(got))
"""


@pytest.mark.parametrize(("how", "expected"), [("hide", []), ("show", ["environ", "mem", "maps"])])
def test_hidden_memory_is_closed_to_other_processes_of_the_same_user(how: str, expected: list[str]) -> None:
    command = [sys.executable, "-c", HIDER.format(nobody=NOBODY), how]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as hider:
        assert hider.stdout is not None
        hider.stdout.readline()
        command = [sys.executable, "-c", READER.format(nobody=NOBODY), str(hider.pid)]
        got = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        hider.communicate()
    assert json.loads(got) == expected
