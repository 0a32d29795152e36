"""The trainer's child processes: limited, without the token, and reported if they crash."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from bot.admin.subprocesses import Subprocesses, SubprocessStoppedError
from bot.config import ScheduleSettings
from tests.bot.conftest import until
from trainer.errors import ProjectError

MIB = 1024 * 1024


def subprocesses(tmp_path: Path, script: str, **settings: float) -> Subprocesses:
    """Returns subprocesses that run a script instead of the trainer."""
    command = (sys.executable, "-c", script)
    return Subprocesses(ScheduleSettings.model_validate(settings), tmp_path / "log", command=command)


def test_the_last_line_of_a_childs_output_is_kept(tmp_path: Path) -> None:
    ended = subprocesses(tmp_path, "print('a table')\nprint('v2 is the champion now')").run("promote", "v2")
    assert (ended.status, ended.last_line) == (0, "v2 is the champion now")
    assert subprocesses(tmp_path, "").run("promote").last_line == ""


def test_a_childs_own_error_message_says_why_it_failed(tmp_path: Path) -> None:
    script = "import sys\nsys.exit('INFO trainer: loading\\nerror: no photos yet; scrape first')"
    assert subprocesses(tmp_path, script).run("train").why == "no photos yet; scrape first"
    assert subprocesses(tmp_path, "import sys\nsys.exit(5)").run("train").why == "exit status 5"


def test_a_crash_is_reported_with_the_end_of_standard_error(tmp_path: Path) -> None:
    script = "import os, sys\nprint('x' * 5000, 'error: no photos yet', file=sys.stderr, flush=True)\nos.abort()"
    ended = subprocesses(tmp_path, script).run("train")
    assert ended.how == "killed by SIGABRT"
    assert ended.stderr_tail.endswith("error: no photos yet")
    assert len(ended.stderr_tail) <= 400


def test_a_child_has_low_priority_and_few_threads(tmp_path: Path) -> None:
    script = (
        "import os, time\n"
        "while os.nice(0) < 15: time.sleep(0.01)\n"  # it may start before its parent has lowered its priority
        "print(os.nice(0), os.environ['TF_NUM_INTRAOP_THREADS'])"
    )
    assert subprocesses(tmp_path, script, child_niceness=15, child_threads=3).run("train").last_line == "15 3"


def test_a_childs_low_priority_applies_relative_to_the_bot(tmp_path: Path) -> None:
    """Linux divides the processor between sessions first, each with normal priority."""
    script = "import os\nprint(os.getsid(0), os.getpgid(0) == os.getpid())"
    assert subprocesses(tmp_path, script).run("train").last_line == f"{os.getsid(0)} True"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which process goes first")
def test_if_memory_runs_out_the_child_is_killed_first(tmp_path: Path) -> None:
    script = (
        "import pathlib, time\n"
        "own = pathlib.Path('/proc/self/oom_score_adj')\n"
        "before = time.monotonic() + 10\n"
        "while int(own.read_text()) < 1000 and time.monotonic() < before: time.sleep(0.01)\n"
        "print(own.read_text().strip())"
    )
    assert subprocesses(tmp_path, script).run("train").last_line == "1000"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of another process")
def test_a_child_that_takes_too_much_memory_fails_alone(tmp_path: Path) -> None:
    script = (
        "import resource, time\n"
        "while resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY: time.sleep(0.01)\n"
        f"b = bytearray({600 * MIB})"
    )
    ended = subprocesses(tmp_path, script, child_max_bytes=512 * MIB).run("train")
    assert ended.status == 1
    assert "MemoryError" in ended.stderr_tail


@pytest.mark.parametrize(
    "name", ["DOKOCOS_MASTODON__ACCESS_TOKEN", "DOKOCOS_Mastodon__access_token", "DOKOCOS_MASTODON"]
)
def test_a_child_never_sees_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "s3cret")
    script = "import os\nprint('s3cret' in str(os.environ))"
    assert subprocesses(tmp_path, script).run("train").last_line == "False"


def test_a_stop_ends_the_child_and_starts_no_other(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    script = f"import os, pathlib, time\npathlib.Path({str(mark)!r}).write_text(str(os.getpid()))\ntime.sleep(600)"
    subject = subprocesses(tmp_path, script)
    stopped: list[Exception] = []

    def run() -> None:
        try:
            subject.run("train")
        except ProjectError as error:
            stopped.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    pid = until(lambda: mark.exists() and mark.read_text())
    subject.stop()
    thread.join()
    assert isinstance(stopped[0], SubprocessStoppedError)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
    with pytest.raises(SubprocessStoppedError):
        subject.run("train")


def test_a_child_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    ended = subprocesses(tmp_path, "import time\ntime.sleep(600)", child_max_h=0.0001).run("train")
    assert ended.how == "killed by SIGKILL"


def test_a_command_that_cannot_be_started_is_a_clear_error(tmp_path: Path) -> None:
    subject = Subprocesses(ScheduleSettings(), tmp_path / "log", command=[str(tmp_path / "missing")])
    with pytest.raises(ProjectError, match="trainer scrape: cannot be run"):
        subject.run("scrape")
