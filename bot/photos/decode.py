"""Photos are decoded in processes of their own, with a memory limit and a deadline: no file can take the bot down.

A child (`decode_child`) that hangs is killed, one that ended is started anew, and every photo gets its answer. A child
has no token in its environment, and hands back pixels and words: nothing is pickled, so one that a photo has taken over
can do no more than answer wrongly.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from bot.photos.decode_child import OUT_OF_MEMORY, receive, send
from trainer.config import VIEWS, ImageSettings
from trainer.errors import ImageError, ProjectError
from trainer.photos import images

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
N_CHILDREN = 2
START_TIMEOUT_S = 60.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024
# All that a child inherits; above all, no access token.
INHERITED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR")
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}


class Decoder:
    """A small pool of decoding processes; several threads may use it at once.

    Args:
        limits: what counts as a photo.
        memory_bytes: what one child may hold in heap and private mappings; kept on Linux, ignored elsewhere.
        deadline_s: seconds for one photo; a child that takes longer is killed and replaced.
    """

    def __init__(self, limits: ImageSettings, *, memory_bytes: int, deadline_s: float) -> None:
        self._limits = limits
        set_up = {"limits": limits.model_dump(), "memory_bytes": memory_bytes, "deadline_s": deadline_s}
        self._children = [_Child(set_up, deadline_s) for _ in range(N_CHILDREN)]
        self._idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()
        for child in self._children:
            self._idle.put(child)

    def start(self) -> None:
        """Start the children, without waiting: the first photo waits until one is there.

        Raises:
            ProjectError: no process could be started.
        """
        for child in self._children:
            child.start()

    def pids(self) -> list[int]:
        """The children's process ids, for whoever watches their memory."""
        return [pid for child in self._children if (pid := child.pid()) is not None]

    def close(self) -> None:
        """Kill the children; a photo that one of them is at ends in a `ProjectError`, to be tried another time."""
        for child in self._children:
            child.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def prepare(self, data: bytes, view: str = "whole", *, side_px: int = 224) -> images.Pixels:
        """One view of a photo, by `trainer.photos.images.prepare` in a child.

        Returns:
            (side_px, side_px, 3) uint8.

        Raises:
            ImageError: with the reasons of `trainer.photos.images`, and "too_slow" when the deadline passed;
                "too_heavy" also when a child was killed for its memory, "damaged" also when it crashed, twice.
            ProjectError: no child could be started, or the decoder is closed; another time may do.
            ValueError: an unknown view.
        """
        if view not in VIEWS:
            raise ValueError(f"{view!r} is no view; known: {', '.join(VIEWS)}")
        return self._ask({"do": "prepare", "view": view, "side_px": side_px}, data)

    def thumbnail(self, data: bytes, *, max_width: int, max_height: int) -> images.Pixels:
        """The whole photo in its own proportions, by `trainer.photos.images.thumbnail` in a child; raises as `prepare`.

        Returns:
            (h, w, 3) uint8, h <= max_height, w <= max_width.
        """
        return self._ask({"do": "thumbnail", "max_width": max_width, "max_height": max_height}, data)

    def _ask(self, request: Mapping[str, Any], data: bytes) -> images.Pixels:
        images.check_bytes(data, self._limits)  # what can be refused unopened goes no further
        child = self._idle.get()
        try:
            try:
                answer, body = child.ask(request, data)
            except _ChildDiedError:  # perhaps killed by somebody else; a photo that crashes the decoder does so again
                answer, body = child.ask(request, data)
        except _ChildDiedError as error:
            logger.warning("decoder crashed twice exit_status=%d bytes=%d", error.exit_status, len(data))
            raise ImageError(f"{error} over the photo; save it anew", reason=error.reason) from error
        finally:
            self._idle.put(child)
        if "reason" in answer:
            raise ImageError(str(answer["message"]), reason=str(answer["reason"]))
        try:
            return np.frombuffer(body, np.uint8).reshape(answer["shape"]).copy()
        except (KeyError, TypeError, ValueError) as error:
            raise ImageError(
                f"the decoder answered nonsense: {answer}; save the photo anew", reason="damaged"
            ) from error


class _ChildDiedError(Exception):
    """A child ended by itself, or by somebody else's hand, while it was at a photo."""

    def __init__(self, exit_status: int) -> None:
        super().__init__(f"the decoder ended with exit status {exit_status}")
        self.exit_status = exit_status
        out_of_memory = (OUT_OF_MEMORY, -signal.SIGKILL, -signal.SIGABRT)
        self.reason = "too_heavy" if exit_status in out_of_memory else "damaged"


class _Child:
    """One decoding process, started again when it has ended; one thread at a time asks, any may close."""

    def __init__(self, set_up: Mapping[str, Any], deadline_s: float) -> None:
        self._set_up = set_up
        self._deadline_s = deadline_s
        self._process: subprocess.Popen[bytes] | None = None
        self._is_set_up = False
        self._is_closed = False
        self._lock = threading.Lock()  # so that nothing is started after `close`

    def start(self) -> None:
        """Start a process unless one is running; returns before it is ready."""
        with self._lock:
            if self._is_closed:
                raise ProjectError("the decoder is closed; start the bot again")
            if self._process is not None:
                if self._process.poll() is None:
                    return
                _end(self._process)
            self._process, self._is_set_up = _spawn(), False

    def pid(self) -> int | None:
        with self._lock:
            return None if self._process is None else self._process.pid

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            if self._process is not None:
                _end(self._process)

    def ask(self, request: Mapping[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        """One photo, one answer; a process that ends over it is replaced before this raises.

        Raises:
            ImageError: "too_slow".
            _ChildDiedError: the process ended.
            ProjectError: none can be started.
        """
        self.start()
        process = self._process
        assert process is not None  # noqa: S101
        self._set_up_once(process)
        try:
            return _exchange(process, request, data, self._deadline_s)
        except TimeoutError as error:
            self._replace()
            logger.warning("decoder stopped reason=too_slow bytes=%d deadline_s=%g", len(data), self._deadline_s)
            message = f"decoding the photo ({len(data):,} bytes) took more than {self._deadline_s:g} s; save it smaller"
            raise ImageError(message, reason="too_slow") from error
        except _ChildDiedError:
            self._replace()
            raise

    def _set_up_once(self, process: subprocess.Popen[bytes]) -> None:
        if self._is_set_up:
            return
        try:
            _exchange(process, self._set_up, b"", START_TIMEOUT_S)
        except (TimeoutError, _ChildDiedError) as error:
            why = f"run `python -m bot.photos.decode_child </dev/null` in {ROOT} to see why"
            raise ProjectError(f"the decoder does not start: {error}; {why}") from error
        self._is_set_up = True

    def _replace(self) -> None:
        with contextlib.suppress(ProjectError):  # no process to be had now: the next photo tries again, and says so
            self.start()


def _spawn() -> subprocess.Popen[bytes]:
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ} | ONE_THREAD
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "bot.photos.decode_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the bot, which then closes its children
        )
    except OSError as error:
        raise ProjectError(f"no process for decoding could be started: {error}; is there memory left?") from error


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a child; it holds nothing that would be lost."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):  # what it did not read any more cannot be flushed
            if pipe is not None:
                pipe.close()


def _exchange(
    process: subprocess.Popen[bytes], request: Mapping[str, Any], body: bytes, deadline_s: float
) -> tuple[dict[str, Any], bytes]:
    """Send a frame and receive one.

    The deadline is kept by killing the process: whatever we wait for, writing or reading, then ends.

    Raises:
        TimeoutError: the deadline passed.
        _ChildDiedError: the process ended before it.
    """
    is_late = threading.Event()

    def stop() -> None:
        is_late.set()
        process.kill()

    assert process.stdin is not None  # noqa: S101
    assert process.stdout is not None  # noqa: S101
    timer = threading.Timer(deadline_s, stop)
    timer.start()
    try:
        send(process.stdin, request, body)
        return receive(process.stdout, max_bytes=MAX_ANSWER_BYTES)
    except (OSError, EOFError, ValueError) as error:
        process.kill()  # one that broke off a frame, or sent no frame, is no use any more
        exit_status = process.wait()
        if is_late.is_set():
            raise TimeoutError(f"no answer within {deadline_s:g} s") from error
        raise _ChildDiedError(exit_status) from error
    finally:
        timer.cancel()
        timer.join()
        if is_late.is_set():  # perhaps only just after the answer; the next photo must not meet a dying process
            process.wait()
