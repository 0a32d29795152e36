"""Runs the trainer's commands as child processes: low priority, few threads, a memory limit; their crash is a report.

A training needs more memory and time than an answer, and may die of it; in a process of its own it dies alone.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bot.config import ScheduleSettings
from trainer.errors import ProjectError

logger = logging.getLogger(__name__)

HOUR_S = 3600.0
# Which of the libraries below reads which is theirs to know.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
STDERR_TAIL = 400  # characters of a failed child's output that are told
OOM_SCORE_ADJ = "1000"  # where memory runs out all the same, the kernel ends the child and not the bot
STOP_S = 2.0  # a child that was asked to end is given so long; all it does can be taken up again


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child process ended.

    Attributes:
        status: its exit status; negative: the signal that killed it.
        last_line: the last line of its output.
        stderr_tail: the end of what it wrote to standard error.
    """

    status: int
    last_line: str
    stderr_tail: str

    @property
    def how(self) -> str:
        """The end in words."""
        if self.status < 0:
            return f"killed by {signal.Signals(-self.status).name}"
        return f"exit status {self.status}"

    @property
    def why(self) -> str:
        """Why it failed: its own message where it gave one, else how it ended and its last words."""
        _, found, message = self.stderr_tail.rpartition("error: ")
        if found and self.status > 0:
            return message.strip().rstrip(".")
        return f"{self.how}; {self.stderr_tail[-200:]}" if self.stderr_tail else self.how


class SubprocessStoppedError(ProjectError):
    """The child was ended because the bot is stopping."""


class Subprocesses:
    """Starts the trainer's commands and waits for them; several threads may do so.

    Args:
        log_dir: gets one file for each command, with what the last run of it said.
        config: the settings file that the bot was started with.
        environ: the children's environment; the bot's own without its token by default.
        command: what runs the trainer.
    """

    def __init__(
        self,
        settings: ScheduleSettings,
        log_dir: Path,
        *,
        config: Path | None = None,
        environ: Mapping[str, str] | None = None,
        command: Sequence[str] = (sys.executable, "-m", "trainer"),
    ) -> None:
        self._settings = settings
        self._log_dir = log_dir
        self._command = [*command, *(["--config", str(config)] if config else [])]
        self._environ = dict(os.environ if environ is None else environ)
        self._environ.pop("DOKOCOS_MASTODON__ACCESS_TOKEN", None)
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopping = False

    def run(self, *arguments: str) -> Ended:
        """One command of the trainer, from start to end.

        Raises:
            SubprocessStoppedError: `stop` was called.
            ProjectError: it cannot be started.
        """
        path = self._log_dir / f"{arguments[0]}.log"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w+", encoding="utf-8", errors="replace") as log:
                status, output = self._wait(self._start(arguments, log))
                log.seek(max(0, log.seek(0, os.SEEK_END) - 4 * STDERR_TAIL))
                stderr_tail = log.read()[-STDERR_TAIL:].strip()
        except OSError as error:
            raise ProjectError(f"trainer {arguments[0]}: cannot be run: {error}") from error
        if self._stopping:
            raise SubprocessStoppedError(f"trainer {arguments[0]}: stopped with the bot; the next run goes on")
        return Ended(status, "".join(output.strip().splitlines()[-1:]), stderr_tail)

    def stop(self) -> None:
        """End all children, and let none begin."""
        with self._lock:
            self._stopping = True
            running = list(self._running)
        for child in running:
            child.terminate()
        for child in running:
            try:
                child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()

    def _start(self, arguments: Sequence[str], log: Any) -> subprocess.Popen[str]:
        n_threads = self._settings.child_threads or max(1, (os.cpu_count() or 1) // 2)
        environ = self._environ | {name: str(n_threads) for name in THREAD_VARIABLES}
        with self._lock:
            if self._stopping:
                raise SubprocessStoppedError("the bot is stopping")
            child = subprocess.Popen(
                [*self._command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environ,
                text=True,
                errors="replace",
                # Ctrl-C is the bot's to hear. Not by a session of its own: Linux shares the processor out between
                # sessions first (autogroups, sched(7)), and niceness would count within the child's alone.
                process_group=0,
            )
            self._running.add(child)
        self._set_limits(child)
        logger.info("child started command=%s pid=%d threads=%d", " ".join(arguments), child.pid, n_threads)
        return child

    def _set_limits(self, child: subprocess.Popen[str]) -> None:
        """Priority and memory limit, before the child has loaded anything; what a system lacks is left out."""
        limit = self._settings.child_max_bytes
        try:
            process = psutil.Process(child.pid)
            process.nice(self._settings.child_niceness)
            if sys.platform == "linux":
                process.ionice(psutil.IOPRIO_CLASS_IDLE)
                process.rlimit(psutil.RLIMIT_DATA, (limit, limit))
                Path(f"/proc/{child.pid}/oom_score_adj").write_text(OOM_SCORE_ADJ, encoding="ascii")
        except (psutil.Error, OSError) as error:
            logger.warning("child not restrained pid=%d error=%s", child.pid, error)

    def _wait(self, child: subprocess.Popen[str]) -> tuple[int, str]:
        try:
            output, _ = child.communicate(timeout=self._settings.child_max_h * HOUR_S)
        except subprocess.TimeoutExpired:
            logger.warning("child stopped, as it took too long pid=%d", child.pid)
            child.kill()
            output, _ = child.communicate()
        finally:
            with self._lock:
                self._running.discard(child)
        return child.returncode, output
