"""Logging to standard error, as text or JSON.

The token is removed from all lines and tracebacks; whatever is not printable is escaped (`trainer.quoting`).
"""

from __future__ import annotations

import json
import logging
import sys
from collections import deque
from collections.abc import Collection
from datetime import UTC, datetime

from trainer.config import LogSettings
from trainer.quoting import LineFormatter, escaped

PLAIN = "%(asctime)s %(levelname)s %(name)s: %(message)s"
HIDDEN = "[secret]"
LINES_KEPT = 50
MAX_LINE = 300
# Libraries whose INFO lines are too many.
QUIET = ("apscheduler", "urllib3", "asyncio", "PIL", "tensorflow", "absl", "h5py")


class _Plain(LineFormatter):
    def __init__(self, secrets: Collection[str]) -> None:
        super().__init__(PLAIN)
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        return scrub(super().format(record), self._secrets)


class _Json(logging.Formatter):
    def __init__(self, secrets: Collection[str]) -> None:
        super().__init__()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        line = json.dumps(fields, ensure_ascii=False)
        # JSON's own escapes leave C1 controls, direction marks and lone surrogates as they are.
        printable = (char if char.isprintable() else json.dumps(char)[1:-1] for char in line)
        return scrub("".join(printable), self._secrets)


class LastLines(logging.Handler):
    """Keeps the last warnings and errors, for the `log` order."""

    def __init__(self, secrets: Collection[str]) -> None:
        super().__init__(logging.WARNING)
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._secrets = secrets

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a record; called by `logging`."""
        moment = datetime.fromtimestamp(record.created, UTC)
        line = f"{moment:%b %d %H:%M} {record.levelname} {record.name}: {record.getMessage()}"
        self._lines.append(scrub(escaped(line), self._secrets)[:MAX_LINE])

    def lines(self) -> list[str]:
        """The lines, oldest first."""
        return list(self._lines)


def set_up(settings: LogSettings, *, secrets: Collection[str] = ()) -> LastLines:
    """Sends all log lines to standard error; may be called again with other settings.

    Args:
        secrets: texts that are hidden in every line.

    Returns:
        The handler that keeps the last warnings and errors.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(secrets) if settings.format == "json" else _Plain(secrets))
    root = logging.getLogger()
    last_lines = next((each for each in root.handlers if isinstance(each, LastLines)), LastLines(secrets))
    root.handlers[:] = [handler, last_lines]
    root.setLevel(settings.level)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # its warnings name whole addresses
    logging.getLogger("apscheduler.executors").setLevel(logging.ERROR)  # `bot.admin.schedule` logs those warnings
    return last_lines


def scrub(text: str, secrets: Collection[str]) -> str:
    """Replaces every secret in a text."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, HIDDEN)
    return text
