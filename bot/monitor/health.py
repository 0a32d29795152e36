"""Reports that the bot is alive: by a file that is touched at intervals, and to systemd's socket.

Source of the protocol: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

logger = logging.getLogger(__name__)

FILE_NAME = "health"
BEAT_EVERY_S = 20.0
# With an older heartbeat the bot hangs or is gone; loading a champion takes less.
STALE_AFTER_S = 120.0


class Heartbeat:
    """Sends heartbeats while the bot is alive.

    Args:
        is_alive: whether all necessary parts are running.
        environ: may contain systemd's NOTIFY_SOCKET.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        data_dir: Path,
        is_alive: Callable[[], bool],
        *,
        environ: Mapping[str, str] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path = data_dir / FILE_NAME
        self._is_alive = is_alive
        self._address = (os.environ if environ is None else environ).get("NOTIFY_SOCKET")
        self._now = now
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)

    def start(self) -> None:
        """Starts sending heartbeats."""
        self._thread.start()

    def stop(self) -> None:
        """Tells systemd that the bot stops on purpose, and stops the heartbeats."""
        self._stopping.set()
        self.notify("STOPPING=1")
        if self._thread.is_alive():
            self._thread.join()
        self._path.unlink(missing_ok=True)

    def beat(self) -> bool:
        """Sends one heartbeat; sends none and returns False if a part is not alive."""
        if not self._is_alive():
            logger.error("a part of the bot is not alive; no heartbeat")
            return False
        try:
            self._path.touch()
            os.utime(self._path, (self._now(), self._now()))
        except OSError as error:
            logger.warning("heartbeat not written file=%s error=%s", self._path, error)
        self.notify("WATCHDOG=1")
        return True

    def notify(self, state: str) -> None:
        """Sends a state such as READY=1 to systemd; does nothing if systemd did not start the bot."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.sendto(state.encode(), address)
        except OSError as error:
            logger.warning("systemd not notified state=%s error=%s", state, error)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.beat()
            self._stopping.wait(BEAT_EVERY_S)


def problem(data_dir: Path, *, now: float) -> str | None:
    """What is wrong with the bot that uses `data_dir`, by its heartbeat; None if it is alive."""
    path = data_dir / FILE_NAME
    try:
        age_s = now - path.stat().st_mtime
    except FileNotFoundError:
        return f"{path}: no heartbeat; the bot is not running"
    except OSError as error:
        return f"{path}: cannot be read: {error}"
    if age_s > STALE_AFTER_S:
        return f"the last heartbeat was {age_s:.0f} s ago; the bot hangs or was killed: restart it"
    return None
