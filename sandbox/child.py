"""Runs child processes that are stopped together with the sandbox."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

STOP_TIMEOUT_S = 15.0
TAIL_LINES = 20


class Child:
    """A child process `python -m ...`, stopped at the end of the context.

    Args:
        words: the arguments after `python -m`.
        environment: all of its environment variables.
        folder: its working directory.
        log: file for its output; None means this terminal. With a log, the child does not get the terminal's Ctrl-C:
            only this class stops it.
    """

    def __init__(self, *words: str, environment: Mapping[str, str], folder: Path, log: Path | None = None) -> None:
        self.command = " ".join(("python -m", *words))
        self._log = log
        output = None if log is None else log.open("wb")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *words],
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=output is not None,
            )
        finally:
            if output is not None:
                output.close()  # the child has its own copy

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.exit_status is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def exit_status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    def wait(self) -> int:
        """Wait until it exits; returns the exit status."""
        return self._process.wait()

    def last_lines(self) -> str:
        """The last lines of its log, indented; empty without a log."""
        text = "" if self._log is None else self._log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(f"  {line}" for line in text.splitlines()[-TAIL_LINES:])
