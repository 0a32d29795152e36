"""Runs dokocos in child processes that are stopped together with the sandbox."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from sandbox.gallery import Gallery

STOP_TIMEOUT_S = 15.0
TAIL_LINES = 20


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child process, with these settings of dokocos in place of the user's own.

    Args:
        settings: named as environment variables without the prefix, e.g. "BOT__PICTURES".
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DOKOCOS_")}
    return inherited | {f"DOKOCOS_{name}": value for name, value in settings.items()}


def source_settings(gallery: Gallery, url: str) -> dict[str, str]:
    """The settings for scraping a gallery that is served at `url`, without pauses, and for random VGG16 weights."""
    countries = {label: {"region": pair[0], "country": pair[1]} for label, pair in gallery.countries.items()}
    return {
        "WEB__ALLOW_PRIVATE_ADDRESSES": "true",
        "SOURCE__KIND": "worldcosplay",
        "SOURCE__WORLDCOSPLAY__BASE_URL": url,
        "SOURCE__WORLDCOSPLAY__IMAGE_HOSTS": "[127.0.0.1]",
        "SOURCE__WORLDCOSPLAY__COUNTRIES": json.dumps(countries),
        "SCRAPE__PAGE_PAUSE_S": "0",
        "SCRAPE__IMAGE_PAUSE_S": "0",
        "FEATURES__WEIGHTS": "random",
    }


def stop(process: subprocess.Popen[Any]) -> None:
    """Terminate a process and wait for its end; kill it if that takes too long."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


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
                env=environment,
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

    def __exit__(self, *_: object) -> None:
        stop(self._process)

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
