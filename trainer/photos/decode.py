"""Decodes photos in child processes with a memory limit and a deadline, so that no file can affect other photos.

A child (`decode_child`) that hangs is killed, and one that has exited is restarted, so every photo gets an answer. A
child has no token in its environment, is confined (`trainer.confinement`), and returns only pixels and text: nothing is
pickled, and its answers are checked. So a child under control of a malicious photo can only give wrong answers.
"""

from __future__ import annotations

import logging
import os
import queue
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeVar

import numpy as np

from trainer.config import ImageSettings
from trainer.errors import ImageError
from trainer.photos import images
from trainer.photos.decode_process import Child, ChildDiedError
from trainer.photos.figure import Figures
from trainer.photos.views import Pixels, check_view, is_of_figure

logger = logging.getLogger(__name__)

N_CHILDREN = 2
PATIENCE = 10  # factor of the deadline when no user waits
_About = Mapping[str, Any]  # the JSON object of a frame
_T = TypeVar("_T")


class Decoder:
    """A small pool of decoding processes; thread-safe.

    Args:
        limits: limits for photos, and for a child's memory and time.
        n_children: number of processes; each is started by the first photo that needs it, or by `start`.
        deadline_s: seconds for one photo instead of `limits.decode_timeout_s`.
    """

    def __init__(self, limits: ImageSettings, *, n_children: int = N_CHILDREN, deadline_s: float | None = None) -> None:
        self._limits = limits
        deadline_s = limits.decode_timeout_s if deadline_s is None else deadline_s
        set_up = {
            "limits": limits.model_dump(),
            "memory_bytes": limits.decode_max_bytes,
            "deadline_s": deadline_s,
            "detector": limits.crop == "figure",
        }
        self._children = [Child(set_up, deadline_s) for _ in range(n_children)]
        self._idle: queue.SimpleQueue[Child] = queue.SimpleQueue()
        for child in self._children:
            self._idle.put(child)

    @classmethod
    def in_bulk(cls, limits: ImageSettings, *, n_children: int | None = None) -> Self:
        """A decoder for many photos without a waiting user: a child per CPU by default, and a long deadline.

        The deadline is long enough for a process with the lowest priority. Children start when they are needed.
        """
        return cls(limits, n_children=n_children or os.cpu_count() or 1, deadline_s=PATIENCE * limits.decode_timeout_s)

    def start(self) -> None:
        """Start the children without waiting; the first photo waits until one is ready.

        Raises:
            ProjectError: no process could be started.
        """
        for child in self._children:
            child.start()

    def lacks(self) -> tuple[str, ...]:
        """The protections that this system lacks (see `trainer.confinement`); waits until a child has started.

        Raises:
            ProjectError: no child could be started, or the decoder is closed.
        """
        child = self._idle.get()
        try:
            return child.set_up()
        finally:
            self._idle.put(child)

    def pids(self) -> list[int]:
        """The process ids of the children, e.g. to measure their memory."""
        return [pid for child in self._children if (pid := child.pid()) is not None]

    def close(self) -> None:
        """Kill the children; a photo in progress ends with a `ProjectError` and can be retried later."""
        for child in self._children:
            child.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def prepare(self, data: bytes, view: str = "whole", *, side_px: int = 224) -> Pixels:
        """One view of a photo; raises as `views`.

        Returns:
            (side_px, side_px, 3) uint8.
        """
        pixels: Pixels = self.views(data, [view], side_px=side_px)[0]
        return pixels

    def views(self, data: bytes, views: Sequence[str], *, side_px: int = 224) -> Pixels:
        """The views of one photo, by `trainer.photos.images.prepare` in a child.

        Returns:
            (len(views), side_px, side_px, 3) uint8, in the order given.

        Raises:
            ImageError: with the reasons of `trainer.photos.images`, and "too_slow" when the deadline passed;
                "too_heavy" also when a child was killed for its memory, "damaged" also when it crashed, twice.
            ProjectError: no child could be started, or the decoder is closed; a later retry may succeed.
            ValueError: an unknown view.
        """
        for view in views:
            check_view(view)
        request = {"do": "prepare", "views": list(views), "side_px": side_px}
        of_figure = any(map(is_of_figure, views))
        return self._ask(
            request, data, lambda _, body: _pixels(body, len(views), side_px, side_px, 3), with_detector=of_figure
        )

    def figures(self, data: bytes) -> Figures:
        """The figures in a photo, as views of the figure are cropped; raises as `views`.

        The detector is loaded before a child is confined, so the first such photo of a child, of `views` too, replaces
        a child without it. With `crop: figure` in the limits, every child has it from the start.
        """

        def read(answer: _About, _: bytearray) -> Figures:
            match answer:
                case {"n_faces": n_faces, "largest": largest, "box": None}:
                    return Figures(n_faces, largest, None)
                case {"n_faces": n_faces, "largest": largest, "box": [left, top, right, bottom]}:
                    return Figures(n_faces, largest, (left, top, right, bottom))
            raise ValueError("no figures")

        return self._ask({"do": "find_figures"}, data, read, with_detector=True)

    def thumbnail(self, data: bytes, *, max_width: int, max_height: int) -> Pixels:
        """The whole photo scaled down, by `trainer.photos.images.thumbnail` in a child; raises as `views`.

        Returns:
            (h, w, 3) uint8, h <= max_height, w <= max_width.
        """

        def read(answer: _About, body: bytearray) -> Pixels:
            return _pixels(body, *_size(answer, max_width * max_height), 3)

        return self._ask({"do": "thumbnail", "max_width": max_width, "max_height": max_height}, data, read)

    def measure(self, data: bytes) -> images.Measured:
        """The properties of a photo, by `trainer.photos.images.measure` in a child; raises as `views`."""

        def read(answer: _About, body: bytearray) -> images.Measured:
            height, width = _size(answer, self._limits.max_pixels)
            return images.Measured(width, height, _pixels(body, images.BRIGHTNESS_PX, images.BRIGHTNESS_PX))

        return self._ask({"do": "measure"}, data, read)

    def camera(self, data: bytes) -> str:
        """The camera that a photo's file names, by `trainer.photos.images.camera` in a child; raises as `views`."""
        return self._ask({"do": "camera"}, data, lambda answer, _: _camera(answer))

    def _ask(
        self, request: _About, data: bytes, read: Callable[[_About, bytearray], _T], *, with_detector: bool = False
    ) -> _T:
        """Send a request to a child and parse its answer with `read`, which raises ValueError for an invalid answer."""
        images.check_bytes(data, self._limits)  # refuse what can be refused without decoding
        child = self._idle.get()
        try:
            if with_detector:
                child.equip()
            try:
                answer, body = child.ask(request, data)
            except ChildDiedError:  # perhaps killed from outside; a photo that crashes the decoder does so again
                answer, body = child.ask(request, data)
            if "fault" in answer:
                logger.error("bug in the decoder; please report it: %.9000r", answer["fault"])
                raise ImageError("the decoder failed on the photo; save it again", reason="damaged")
            if "reason" in answer:
                raise _refusal(answer)
            return read(answer, body)
        except ChildDiedError as error:
            logger.warning("decoder crashed twice exit_status=%d bytes=%d", error.exit_status, len(data))
            raise ImageError(f"{error} on the photo; save it again", reason=error.reason) from error
        except ValueError as error:
            child.discard()
            logger.warning("decoder replaced, because its answer was invalid bytes=%d", len(data))
            raise ImageError("the decoder gave an invalid answer; save the photo again", reason="damaged") from error
        finally:
            self._idle.put(child)


def _refusal(answer: _About) -> ImageError:
    reason, message = answer["reason"], answer.get("message")
    if not isinstance(message, str) or not isinstance(reason, str) or reason not in images.REASONS:
        raise ValueError(f"no refusal: {reason!r}")
    return ImageError(message, reason=reason)


def _size(answer: _About, max_pixels: int) -> tuple[int, int]:
    """Height and width."""
    match answer.get("size"):
        case [int(height), int(width)] if height > 0 and width > 0 and height * width <= max_pixels:
            return height, width
    raise ValueError("no size")


def _camera(answer: _About) -> str:
    found = answer.get("camera")
    if not isinstance(found, str) or len(found) > images.MAX_CAMERA or not (found.isascii() and found.isprintable()):
        raise ValueError("no camera")
    return found


def _pixels(body: bytearray, *shape: int) -> Pixels:
    return np.frombuffer(body, np.uint8).reshape(shape)
