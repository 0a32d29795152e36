"""A Chromium for pages, found on this machine and started so that it asks nobody anything; also for tests and docs."""

from __future__ import annotations

import shutil

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking")  # its options


def find_browser() -> str | None:
    """The path of the first of `BROWSERS` that is installed."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)
