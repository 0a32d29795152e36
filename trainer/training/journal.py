"""Keeps a journal of runs: their steps, the machine's state, and how they ended.

A power failure leaves no error message, only a journal that stops. So each line is synced to disk at once, and the
machine's state is written every few seconds. A run without an end line has crashed; `crash_report` explains it. Each
line of journal.jsonl is a JSON object with the id of its run.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from trainer.errors import ProjectError, StorageError
from trainer.files import rewrite_lines, storage_error, write_file
from trainer.training.host_metrics import Reading, boot_id, read_machine

logger = logging.getLogger(__name__)

FILE_NAME = "journal.jsonl"
READ_EVERY_S = 5.0
KEEP_RUNS = 50  # older runs are deleted when a run starts
MAX_BYTES = 2_000_000  # ... if the file is larger than this


@dataclass(slots=True)
class Run:
    """A run according to the journal.

    Attributes:
        command: subcommand of `python -m trainer`.
        boot_id: of the machine during the run.
        gentle: whether it ran with --gentle.
        step: the last step that began.
        last_seen: time of the last line; aware datetime, UTC, as `started`.
        reading: the last reading.
        gpu_under_load: whether one of the last few readings showed a GPU under load.
        ended: how it ended, in a few words; None without an end line.
    """

    run_id: str
    command: str
    started: datetime
    boot_id: str
    gentle: bool
    last_seen: datetime
    step: str = "start"
    reading: Reading = field(default_factory=Reading)
    gpu_under_load: bool = False
    ended: str | None = None

    @property
    def lasted(self) -> timedelta:
        """Time from the first to the last line."""
        return self.last_seen - self.started


class Journal:
    """The journal in data_dir; only the process with the training lock writes to it."""

    def __init__(
        self,
        data_dir: Path,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        read: Callable[[], Reading] = read_machine,
        boot_id: Callable[[], str] = boot_id,
    ) -> None:
        self._file = data_dir / FILE_NAME
        self._now = now
        self._read = read
        self._boot_id = boot_id
        self._lock = threading.Lock()
        self._run_id = ""

    def runs(self) -> list[Run]:
        """All runs, oldest first; incomplete lines (after a power failure) are skipped.

        Raises:
            StorageError: the file cannot be read.
        """
        try:
            lines = self._file.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"{self._file}: cannot be read: {error.strerror}") from error
        runs: dict[str, Run] = {}
        for line in lines:
            try:
                _enter(runs, json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
        return list(runs.values())

    @contextmanager
    def run(self, command: str, *, gentle: bool = False, read_every_s: float = READ_EVERY_S) -> Iterator[None]:
        """Write the journal of a run while the context lasts; an exception is recorded and re-raised.

        Raises:
            StorageError: the disk is full.
        """
        self._prune()
        started = self._now()
        self._run_id = f"{started:%Y%m%dT%H%M%S.%f}-{os.getpid()}"
        self._write("start", command=command, boot_id=self._boot_id(), gentle=gentle, pid=os.getpid())
        stop = threading.Event()
        readings = threading.Thread(target=self._keep_reading, args=(stop, read_every_s), name="journal", daemon=True)
        readings.start()
        ended = "done"
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            ended = "interrupted"
            raise
        except ProjectError as error:
            ended = f"error: {error}"
            raise
        except BaseException as error:
            ended = f"crash: {type(error).__name__}: {error}"
            raise
        finally:
            stop.set()
            readings.join()
            self._end(ended)

    def step(self, name: str) -> None:
        """Record the start of a step. Raises StorageError."""
        self._write("step", name=name)

    def strike(self, words: re.Pattern[str]) -> None:
        """Remove how runs ended where that matches `words`, but for its kind ("error", "crash").

        Raises:
            StorageError: the file cannot be read or written.
        """

        def struck(line: str) -> str:
            try:
                entry = json.loads(line)
                ended = entry.get("ended")
            except (ValueError, AttributeError):  # cut off by a crash
                return "" if words.search(line) else line
            if not isinstance(ended, str) or not words.search(ended):
                return line
            kind, _, _ = ended.partition(":")
            entry["ended"] = f"{kind}: about a photo that was taken down"
            return json.dumps(entry, ensure_ascii=False) + "\n"

        rewrite_lines(self._file, struck)

    def _keep_reading(self, stop: threading.Event, every_s: float) -> None:
        """Write a reading every few seconds until `stop` is set; runs in a thread."""
        while True:
            try:
                self._write("reading", **asdict(self._read()))
            except StorageError as error:  # the training will fail with the same error
                logger.warning("reading not written reason=%s", error)
            if stop.wait(every_s):
                return

    def _end(self, ended: str) -> None:
        try:
            self._write("end", ended=ended)
        except StorageError as error:  # must not hide the error that ended the run
            logger.warning("end of the run not written reason=%s", error)

    def _write(self, event: str, **facts: Any) -> None:
        entry = {"run": self._run_id, "at": self._now().isoformat(), "event": event, **facts}
        line = json.dumps(entry, ensure_ascii=False) + "\n"
        with self._lock:
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with self._file.open("a", encoding="utf-8") as file:
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise storage_error(self._file, error) from error

    def _prune(self) -> None:
        """Delete the oldest runs of a large file, and end an incomplete last line."""
        try:
            content = self._file.read_bytes()
        except OSError:
            return
        lines = content.splitlines()
        if len(content) <= MAX_BYTES and content.endswith(b"\n"):
            return
        if len(content) > MAX_BYTES:
            kept = {run.run_id for run in self.runs()[-KEEP_RUNS:]}
            lines = [line for line in lines if _run_id_of(line) in kept]
        write_file(self._file, lambda file: file.writelines(line + b"\n" for line in lines))


def _enter(runs: dict[str, Run], entry: dict[str, Any]) -> None:
    """Update a run with one line of the journal. A malformed line raises ValueError, KeyError or similar."""
    event, at = entry["event"], datetime.fromisoformat(entry["at"])
    if event == "start":
        runs[entry["run"]] = Run(
            run_id=entry["run"],
            command=entry["command"],
            started=at,
            boot_id=entry["boot_id"],
            gentle=entry["gentle"],
            last_seen=at,
        )
        return
    run = runs[entry["run"]]
    run.last_seen = max(run.last_seen, at)
    if event == "step":
        run.step = entry["name"]
    elif event == "reading":
        run.reading = Reading.from_json({name: value for name, value in entry.items() if name not in ("run", "at")})
        run.gpu_under_load = run.gpu_under_load or run.reading.gpu_under_load
    elif event == "end":
        run.ended = entry["ended"]


def _run_id_of(line: bytes) -> str | None:
    try:
        return str(json.loads(line)["run"])
    except (ValueError, KeyError, TypeError):
        return None
