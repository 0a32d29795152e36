"""Programs that run beside the sandbox: started, watched, and stopped with it."""

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
    """`python -m ...` as a child process while the context lasts; at its end it is asked to stop, and waited for.

    Args:
        words: what follows `python -m`.
        environment: all of its environment variables.
        folder: its working folder.
        log: takes what it writes, in place of our own terminal. Such a child is kept apart from the terminal's Ctrl-C
            as well: it is stopped once, by us.
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
                output.close()  # the child has its own

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
        """None while it runs."""
        return self._process.poll()

    def wait(self) -> int:
        """Wait for its end; returns the exit status."""
        return self._process.wait()

    def last_lines(self) -> str:
        """The end of its log, indented; of a child without one, nothing."""
        text = "" if self._log is None else self._log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(f"  {line}" for line in text.splitlines()[-TAIL_LINES:])
