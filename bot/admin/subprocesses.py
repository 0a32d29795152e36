"""Runs the trainer's commands as child processes with low priority, few threads and a memory limit.

A training needs much memory and time and may crash; as a child process it does not take the bot down.
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

from bot.config import ScheduleSettings, without_token
from trainer.errors import ProjectError
from trainer.quoting import quoted

logger = logging.getLogger(__name__)

HOUR_S = 3600.0
# Each library reads one or more of these.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
STDERR_TAIL = 400  # characters of a child's standard error that are kept
OOM_SCORE_ADJ = "1000"  # if memory runs out, the kernel kills the child and not the bot
STOP_S = 2.0  # from SIGTERM to SIGKILL; the next run resumes the child's work


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child process ended.

    Attributes:
        status: its exit status; negative: the signal that killed it.
        last_line: the last line of its output.
        stderr_tail: the end of its standard error.
    """

    status: int
    last_line: str
    stderr_tail: str

    @property
    def how(self) -> str:
        """How it ended, in words."""
        if self.status < 0:
            return f"killed by {signal.Signals(-self.status).name}"
        return f"exit status {self.status}"

    @property
    def why(self) -> str:
        """Why it failed: its own error message if there is one, else how it ended and the end of its output."""
        _, found, message = self.stderr_tail.rpartition("error: ")
        if found and self.status > 0:
            return message.strip().rstrip(".")
        return f"{self.how}; {quoted(self.stderr_tail[-200:])}" if self.stderr_tail else self.how


class SubprocessStoppedError(ProjectError):
    """The child was terminated because the bot is stopping."""


class Subprocesses:
    """Runs the trainer's commands; usable from several threads.

    Args:
        log_dir: gets one file for each command, with the standard error of its last run.
        config: the settings file that the bot was started with.
        environ: the children's environment; by default the bot's own. The token is always removed.
        command: the command line that runs the trainer.
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
        self._environ = without_token(os.environ if environ is None else environ)
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopping = False

    def run(self, *arguments: str) -> Ended:
        """Runs one command of the trainer and waits for its end.

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
            raise SubprocessStoppedError(f"trainer {arguments[0]}: stopped with the bot; the next run resumes")
        return Ended(status, "".join(output.strip().splitlines()[-1:]), stderr_tail)

    def stop(self) -> None:
        """Ends all children and starts no more."""
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
                # Only the bot must receive Ctrl-C. A new session would do that too, but Linux divides the processor
                # between sessions first (autogroups, sched(7)), and niceness would only count within the child's.
                process_group=0,
            )
            self._running.add(child)
        self._set_limits(child)
        logger.info("child started command=%s pid=%d threads=%d", " ".join(arguments), child.pid, n_threads)
        return child

    def _set_limits(self, child: subprocess.Popen[str]) -> None:
        """Sets priority and memory limit before the child has loaded anything; skips what the system lacks."""
        limit = self._settings.child_max_bytes
        try:
            process = psutil.Process(child.pid)
            process.nice(self._settings.child_niceness)
            if sys.platform == "linux":
                process.ionice(psutil.IOPRIO_CLASS_IDLE)
                process.rlimit(psutil.RLIMIT_DATA, (limit, limit))
                Path(f"/proc/{child.pid}/oom_score_adj").write_text(OOM_SCORE_ADJ, encoding="ascii")
        except (psutil.Error, OSError) as error:
            logger.warning("child runs without limits pid=%d error=%s", child.pid, error)

    def _wait(self, child: subprocess.Popen[str]) -> tuple[int, str]:
        try:
            output, _ = child.communicate(timeout=self._settings.child_max_h * HOUR_S)
        except subprocess.TimeoutExpired:
            logger.warning("child killed, as it took too long pid=%d", child.pid)
            child.kill()
            output, _ = child.communicate()
        finally:
            with self._lock:
                self._running.discard(child)
        return child.returncode, output
