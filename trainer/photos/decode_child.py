"""The process that decodes photos: `python -m trainer.photos.decode_child`, with requests over standard streams.

Requests and answers are frames: the lengths of a JSON object and of a body, the object, the body. The first request
sets the process up, and `trainer.confinement` confines it; each request gets one answer. When the parent is gone, even
by `kill -9`, the process reads the end of its input and exits.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import struct
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import IO, Any, TypeVar

from trainer.config import ImageSettings
from trainer.confinement import confine
from trainer.errors import ImageError
from trainer.photos import images
from trainer.photos.figure import Detector

HEADER = struct.Struct(">II")  # bytes of the JSON object, bytes of the body
MAX_TEXT_BYTES = 64 * 1024  # of a frame's JSON object
MAX_WORDS = 4000  # characters of a message or a traceback
OUT_OF_MEMORY = 3  # exit status
_Bytes = TypeVar("_Bytes", bytes, bytearray)


def frame(about: Mapping[str, Any], body: bytes) -> tuple[bytes, bytes]:
    """Encode a frame, as two parts to write in order."""
    text = json.dumps(about).encode()
    return HEADER.pack(len(text), len(body)) + text, body


def receive(read: Callable[[int], _Bytes], *, max_bytes: int) -> tuple[dict[str, Any], _Bytes]:
    """Read the next frame.

    Args:
        read: returns exactly the given number of bytes; raises EOFError when the other side is gone.

    Raises:
        ValueError: the data is not a frame, or longer than `max_bytes`.
    """
    n_text, n_body = HEADER.unpack(read(HEADER.size))
    if n_text > MAX_TEXT_BYTES or n_text + n_body > max_bytes:
        raise ValueError(f"a frame of {n_text:,} + {n_body:,} bytes; at most {max_bytes:,} are taken")
    try:
        about, body = json.loads(read(n_text)), read(n_body)
    except RecursionError as error:
        raise ValueError("a frame nested too deeply") from error
    if not isinstance(about, dict):
        raise ValueError(f"a frame about {type(about).__name__}; it must be an object")
    return about, body


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Set up once, then answer requests until the parent is gone."""

    def read(n_bytes: int) -> bytes:
        found = requests.read(n_bytes)
        if len(found) < n_bytes:
            raise EOFError
        return found

    def send(about: Mapping[str, Any], body: bytes) -> None:
        for part in frame(about, body):
            answers.write(part)
        answers.flush()

    set_up, _ = receive(read, max_bytes=MAX_TEXT_BYTES)
    limits = ImageSettings(**set_up["limits"])
    images.load_decoders()
    find = Detector().find if set_up["detector"] else None  # imports OpenCV, which nothing else needs
    missing = confine(memory_bytes=set_up["memory_bytes"], keep=[1, 2, requests.fileno(), answers.fileno()])
    send({"missing": missing}, b"")
    while True:
        request, data = receive(read, max_bytes=limits.max_bytes + MAX_TEXT_BYTES)
        # The parent enforces the deadline. If it is killed, this alarm ends a hanging decoder.
        signal.setitimer(signal.ITIMER_REAL, 2 * set_up["deadline_s"])
        answer, body = _answer(request, data, limits, find)
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(answer, body)


def _answer(
    request: Mapping[str, Any], data: bytes, limits: ImageSettings, find: images.Find | None
) -> tuple[dict[str, Any], bytes]:
    options = {name: value for name, value in request.items() if name != "do"}
    try:
        if request["do"] == "prepare":
            return {}, images.prepare(data, limits, **options, find=find).tobytes()
        if request["do"] == "find_figures":
            assert find is not None  # noqa: S101 - the parent equips a child before it asks
            return asdict(images.find_figures(data, limits, find)), b""
        if request["do"] == "thumbnail":
            pixels = images.thumbnail(data, limits, **options)
            return {"size": pixels.shape[:2]}, pixels.tobytes()
        if request["do"] == "camera":
            return {"camera": images.camera(data, limits)}, b""
        measured = images.measure(data, limits)
        return {"size": (measured.height, measured.width)}, measured.brightness.tobytes()
    except ImageError as error:
        return {"reason": error.reason, "message": str(error)[:MAX_WORDS]}, b""
    except MemoryError:
        raise
    except Exception as error:
        return {"fault": "".join(traceback.format_exception(error))[-MAX_WORDS:]}, b""


def _main() -> None:
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # Prints, warnings and logs of libraries about untrusted files are discarded, and must not get into the answers. An
    # error before the first photo still goes to standard error.
    sys.stderr = os.fdopen(os.dup(2), "w")
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    warnings.simplefilter("ignore")
    logging.disable()
    try:
        _serve(requests, answers)
    except (EOFError, BrokenPipeError):
        pass  # the parent is gone
    except MemoryError:
        os._exit(OUT_OF_MEMORY)


if __name__ == "__main__":
    _main()
