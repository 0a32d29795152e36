"""The process that decodes photos for the bot: `python -m bot.photos.decode_child`, asked over its standard streams.

Each way goes a frame: the lengths of a JSON object and of a body, the object, the body. The first one sets the process
up; each is answered by one. When the bot is gone, `kill -9` included, the process reads the end of its input and ends.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import struct
import sys
import warnings
from collections.abc import Mapping
from typing import IO, Any

from trainer.config import ImageSettings
from trainer.errors import ImageError
from trainer.photos import images

HEADER = struct.Struct(">II")  # bytes of the JSON object, bytes of the body
MAX_REQUEST_BYTES = 64 * 1024  # without the photo
OUT_OF_MEMORY = 3  # the exit status that says so


def send(stream: IO[bytes], about: Mapping[str, Any], body: bytes) -> None:
    """Write one frame."""
    text = json.dumps(about).encode()
    stream.write(HEADER.pack(len(text), len(body)) + text)
    stream.write(body)
    stream.flush()


def receive(stream: IO[bytes], *, max_bytes: int) -> tuple[dict[str, Any], bytes]:
    """The next frame.

    Raises:
        EOFError: the other side is gone.
        ValueError: what came is no frame, or one longer than `max_bytes`.
    """
    n_text, n_body = HEADER.unpack(_read(stream, HEADER.size))
    if n_text + n_body > max_bytes:
        raise ValueError(f"a frame of {n_text + n_body:,} bytes; at most {max_bytes:,} are taken")
    about, body = json.loads(_read(stream, n_text)), _read(stream, n_body)
    if not isinstance(about, dict):
        raise ValueError(f"a frame about {about!r}; it must be an object")
    return about, body


def _read(stream: IO[bytes], n_bytes: int) -> bytes:
    found = stream.read(n_bytes)
    if len(found) < n_bytes:
        raise EOFError
    return found


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """The child's life: set up once, then answer until the bot is gone."""
    set_up, _ = receive(requests, max_bytes=MAX_REQUEST_BYTES)
    limits = ImageSettings(**set_up["limits"])
    _confine(set_up["memory_bytes"])
    send(answers, {}, b"")
    while True:
        request, data = receive(requests, max_bytes=limits.max_bytes + MAX_REQUEST_BYTES)
        # The bot keeps the deadline. Should it be killed just now, this ends a decoder that hangs.
        signal.setitimer(signal.ITIMER_REAL, 2 * set_up["deadline_s"])
        answer, body = _answer(request, data, limits)
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(answers, answer, body)


def _answer(request: Mapping[str, Any], data: bytes, limits: ImageSettings) -> tuple[dict[str, Any], bytes]:
    try:
        if request["do"] == "prepare":
            (pixels,) = images.prepare(data, limits, [request["view"]], side_px=request["side_px"])
        else:
            pixels = images.thumbnail(data, limits, max_width=request["max_width"], max_height=request["max_height"])
    except ImageError as error:
        return {"reason": error.reason, "message": str(error)}, b""
    return {"shape": pixels.shape}, pixels.tobytes()


def _confine(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # RLIMIT_DATA covers private mappings since Linux 4.7, and spares shared libraries
        _, allowed = resource.getrlimit(resource.RLIMIT_DATA)
        limit = memory_bytes if allowed == resource.RLIM_INFINITY else min(memory_bytes, allowed)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _main() -> None:
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What the libraries print, warn and log about strangers' files goes nowhere, least of all into the answers; what
    # matters comes back as an error. A fault of ours still reaches the bot's standard error.
    sys.stderr = os.fdopen(os.dup(2), "w")
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    warnings.simplefilter("ignore")
    logging.disable()
    try:
        _serve(requests, answers)
    except (EOFError, BrokenPipeError):
        pass  # the bot is gone
    except MemoryError:
        sys.exit(OUT_OF_MEMORY)


if __name__ == "__main__":
    _main()
