"""Log lines on standard error, plain or JSON; the token is in none of them, tracebacks included."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Collection
from datetime import UTC, datetime

from trainer.config import LogSettings

PLAIN = "%(asctime)s %(levelname)s %(name)s: %(message)s"
HIDDEN = "[secret]"
# Talkative libraries whose INFO is our DEBUG.
QUIET = ("apscheduler", "urllib3", "asyncio", "PIL", "tensorflow", "absl", "h5py")


class _Plain(logging.Formatter):
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
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return scrub(json.dumps(line, ensure_ascii=False), self._secrets)


def set_up(settings: LogSettings, *, secrets: Collection[str] = ()) -> None:
    """Send all log lines to standard error.

    Args:
        secrets: texts that are hidden wherever they turn up.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(secrets) if settings.format == "json" else _Plain(secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def scrub(text: str, secrets: Collection[str]) -> str:
    """The text with every secret hidden."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, HIDDEN)
    return text
