"""Controls one decoding process: starts it, sends requests with a deadline, and replaces it when it has ended."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any

from trainer.errors import ImageError, ProjectError
from trainer.photos.decode_child import OUT_OF_MEMORY, frame, receive
from trainer.photos.figure import check_detector

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "trainer.photos.decode_child")
START_TIMEOUT_S = 60.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024
PIPE_BYTES = 1024 * 1024  # a photo, or its views, at once
# The only variables that a child inherits; no access token.
INHERITED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR")
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}


class ChildDiedError(Exception):
    """A child exited, or was killed from outside, while decoding a photo."""

    def __init__(self, exit_status: int) -> None:
        super().__init__(f"the decoder ended with exit status {exit_status}")
        self.exit_status = exit_status
        out_of_memory = (OUT_OF_MEMORY, -signal.SIGKILL, -signal.SIGABRT)
        self.reason = "too_heavy" if exit_status in out_of_memory else "damaged"


class Child:
    """One decoding process, restarted when it has ended; one thread at a time may ask, any thread may close."""

    def __init__(self, set_up: Mapping[str, Any], deadline_s: float) -> None:
        self._set_up = set_up
        self._deadline_s = deadline_s
        self._process: subprocess.Popen[bytes] | None = None
        self._lacks: tuple[str, ...] | None = None  # None: not set up yet
        self._is_closed = False
        self._lock = threading.Lock()  # prevents a start after `close`
        self._talking = threading.Lock()  # prevents closing a pipe while another thread reads from it

    def start(self) -> None:
        """Start a process unless one is running; returns before it is ready."""
        with self._lock:
            if self._is_closed:
                raise ProjectError("the decoder is closed; start the program again")
            if self._process is not None:
                if self._process.poll() is None:
                    return
                self._end(self._process)
            if self._set_up["detector"]:
                check_detector()
            self._process, self._lacks = _spawn(), None

    def pid(self) -> int | None:
        with self._lock:
            return None if self._process is None else self._process.pid

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            if self._process is not None:
                self._end(self._process)

    def ask(self, request: Mapping[str, Any], data: bytes) -> tuple[dict[str, Any], bytearray]:
        """Send a photo and return the answer; a process that ends is replaced before this raises.

        Raises:
            ImageError: "too_slow".
            ChildDiedError: the process ended.
            ProjectError: no process can be started.
        """
        self.set_up()
        try:
            return self._exchange(request, data, self._deadline_s)
        except TimeoutError as error:
            self._replace()
            logger.warning("decoder stopped reason=too_slow bytes=%d deadline_s=%g", len(data), self._deadline_s)
            message = f"decoding the photo ({len(data):,} bytes) took more than {self._deadline_s:g} s; save it smaller"
            raise ImageError(message, reason="too_slow") from error
        except ChildDiedError:
            self._replace()
            raise

    def equip(self) -> None:
        """Have a process with the detector of figures: replace one that was set up without it.

        Raises:
            ModelError: the detector is not installed.
            ProjectError: no process can be started.
        """
        if not self._set_up["detector"]:
            check_detector()
            self._set_up = {**self._set_up, "detector": True}
            self.discard()

    def set_up(self) -> tuple[str, ...]:
        """Ensure that a process is ready; returns the protections that this system lacks.

        Raises:
            ProjectError: no process can be started.
        """
        self.start()
        if self._lacks is None:
            try:
                answer, _ = self._exchange(self._set_up, b"", max(START_TIMEOUT_S, self._deadline_s))
            except (TimeoutError, ChildDiedError) as error:
                why = f"run `{' '.join(COMMAND[1:])} </dev/null` with Python in {ROOT} to see why"
                raise ProjectError(f"the decoder does not start: {error}; {why}") from error
            self._lacks = tuple(answer["missing"])
            _tell_once(self._lacks)
        return self._lacks

    def discard(self) -> None:
        """Kill the process and start a new one."""
        with self._lock:
            if self._process is not None:
                self._end(self._process)
        self._replace()

    def _replace(self) -> None:
        with contextlib.suppress(ProjectError):  # the next photo tries again and reports it
            self.start()

    def _exchange(self, request: Mapping[str, Any], body: bytes, deadline_s: float) -> tuple[dict[str, Any], bytearray]:
        """Send a frame and receive one; a process that violates the protocol is killed.

        Raises:
            TimeoutError: the deadline passed.
            ChildDiedError: the process ended before it.
        """
        process = self._process
        assert process is not None  # noqa: S101
        line = _Line(process, until=time.monotonic() + deadline_s)
        with self._talking:
            try:
                for part in frame(request, body):
                    line.write(part)
                return receive(line.read, max_bytes=MAX_ANSWER_BYTES)
            except TimeoutError:
                process.kill()
                process.wait()
                raise TimeoutError(f"no answer within {deadline_s:g} s") from None
            except (OSError, EOFError, ValueError) as error:
                process.kill()  # after an incomplete or invalid frame, it cannot be used any more
                raise ChildDiedError(process.wait()) from error

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a process; no data is lost, and a thread that waits for its answer gets an error."""
        process.kill()
        process.wait()
        with self._talking:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


class _Line:
    """The two pipes of a process, with a deadline; `TimeoutError` is raised only after it."""

    def __init__(self, process: subprocess.Popen[bytes], *, until: float) -> None:
        assert process.stdin is not None  # noqa: S101
        assert process.stdout is not None  # noqa: S101
        self._requests, self._answers = process.stdin, process.stdout
        self._until = until

    def write(self, data: bytes) -> None:
        """Write all data. Raises OSError when the process is gone."""
        rest = memoryview(data)
        while rest:
            self._wait_for(self._requests, select.POLLOUT)
            with contextlib.suppress(BlockingIOError):
                rest = rest[os.write(self._requests.fileno(), rest) :]

    def read(self, n_bytes: int) -> bytearray:
        """Read exactly `n_bytes`. Raises EOFError when the process is gone."""
        found = bytearray(n_bytes)
        rest = memoryview(found)
        while rest:
            self._wait_for(self._answers, select.POLLIN)
            n_read = os.readv(self._answers.fileno(), [rest])
            if not n_read:
                raise EOFError
            rest = rest[n_read:]
        return found

    def _wait_for(self, pipe: IO[bytes], event: int) -> None:
        poll = select.poll()
        poll.register(pipe, event)
        if not poll.poll(max(0.0, 1000 * (self._until - time.monotonic()))):
            raise TimeoutError


@cache
def _tell_once(lacks: tuple[str, ...]) -> None:
    if lacks:
        logger.warning(
            "photos are decoded in processes that are not fully confined; this system lacks: %s",
            "; ".join(lacks),
        )


def _spawn() -> subprocess.Popen[bytes]:
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ} | ONE_THREAD
    try:
        process = subprocess.Popen(
            COMMAND,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=environment,
            start_new_session=True,  # Ctrl-C goes to the parent, which then closes the children
        )
    except OSError as error:
        raise ProjectError(f"no decoding process could be started: {error}; check the free memory") from error
    assert process.stdin is not None  # noqa: S101
    assert process.stdout is not None  # noqa: S101
    os.set_blocking(process.stdin.fileno(), False)
    if sys.platform == "linux":
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):  # this user has many pipes: slower, but works
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return process
