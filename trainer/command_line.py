"""What all commands of `python -m trainer` share: settings, log lines and a console."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trainer.config import Settings, load_settings
from trainer.quoting import LineFormatter


class LogLines(logging.Handler):
    """Writes log lines to the current `sys.stderr`, which a progress bar replaces while it runs."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


Config = Annotated[Path | None, typer.Option("--config", help="Settings file (default: ./config.yaml).")]


def console(*, stderr: bool = False) -> Console:
    """A console that shows labels like [dogs] or :smile: unchanged, without markup or emoji."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def read_settings(config: Path | None) -> Settings:
    """Load the settings and set up logging."""
    settings = load_settings(Settings, config)
    handler = LogLines()
    handler.setFormatter(LineFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=settings.log.level, handlers=[handler])
    return settings
