"""Tells whether two photos are one picture: mirrored, framed, cropped, or the same again.

A perceptual hash is of the whole photo, so a mirrored, framed or cropped copy has another. Neighbours in feature space
are candidates; here their pixels are laid over each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE_PX = 24  # of the compared pictures
ROUGH_PX = 8  # of a first look
SMALL_PX = 8  # of a picture to look for candidates by
WORK_PX = 96  # to which a photo without its frame is reduced first
WHOLE = ((0.0, 1.0),)  # spans of an axis: all of it
SCALES = (1.0, 0.9, 0.8)  # of a part of one photo that is the whole of the other, for each axis
PLACES = (0.0, 0.5, 1.0)  # of such a part, as a share of what is around it
WORTH_A_LOOK = 0.88  # correlation at the first look; of 180 changed copies, none had less than 0.91
STARTS = 4  # parts at which a closer look begins
STEPS = (0.04, 0.02, 0.01)  # by which the borders of a part are then moved
HOPELESS = 0.7  # correlation after such a step, below which the next ones are not tried
SMALLEST = 0.75  # length of a part, as a share of the axis
FRAME = 0.2  # at most this share of each side is a frame
PLAIN = 5.0  # standard deviation of the brightness, 0..255, of a row or column of a frame

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Span = tuple[float, float]  # of an axis, as shares of it


@dataclass(frozen=True, eq=False)
class Shrunk:
    """A photo as it is compared.

    Attributes:
        brightness: (WORK_PX, WORK_PX) uint8, without a plain frame.
        wholes: of the first look: all of it, and mirrored, (2, ROUGH_PX ** 2).
        parts: of the first look: all its large parts, (n, ROUGH_PX ** 2), for all pairs of spans down and across.
    """

    brightness: Pixels
    wholes: Floats
    parts: Floats

    @classmethod
    def of(cls, pixels: Pixels) -> Shrunk:
        """`pixels`: (h, w, 3) uint8."""
        picture = _reduced(pixels)
        wholes = np.concatenate([_parts(each, WHOLE, WHOLE, ROUGH_PX) for each in (picture, picture[:, ::-1])])
        return cls(picture.astype(np.uint8), wholes, _parts(picture, _spans(), _spans(), ROUGH_PX))


def likeness(one: Shrunk, other: Shrunk) -> float:
    """The highest correlation, -1..1, of one photo with any large part of the other, mirrored or not.

    Two photos that differ at a first, coarse look are not looked at again; theirs is the coarse correlation.
    """
    looks = (around.parts @ whole.wholes.T for whole, around in ((one, other), (other, one)))
    rough = np.stack(list(looks))  # (2 ways round, parts, mirrored or not)
    best = float(rough.max())
    if best < WORTH_A_LOOK:
        return best
    n_spans, nearest = len(_spans()), np.argsort(-rough, axis=None, kind="stable")[:STARTS]
    fits = []
    for turn, part, is_mirrored in zip(*np.unravel_index(nearest, rough.shape), strict=True):
        whole, around = (one, other) if turn == 0 else (other, one)
        picture = whole.brightness[:, ::-1] if is_mirrored else whole.brightness
        fits.append(_fitted(picture, around.brightness, _spans()[part // n_spans], _spans()[part % n_spans]))
    return max(fits)


def _fitted(picture: Pixels, surroundings: Pixels, down: Span, across: Span) -> float:
    """The correlation of a picture with a part of another, after the borders of the part were moved to fit best."""
    around = surroundings.astype(np.float32)
    wanted = _parts(picture.astype(np.float32), WHOLE, WHOLE, SIDE_PX)[0]
    best = -1.0
    for step in STEPS:
        for _ in range(2):
            found = _parts(around, moved := _moved(down, step), (across,), SIDE_PX) @ wanted
            down, best = moved[int(found.argmax())], max(best, float(found.max()))
            found = _parts(around, (down,), moved := _moved(across, step), SIDE_PX) @ wanted
            across, best = moved[int(found.argmax())], max(best, float(found.max()))
        if best < HOPELESS:
            break
    return best


def _moved(span: Span, step: float) -> tuple[Span, ...]:
    """A span with its borders where they are, or moved by a step."""
    first, last = span
    starts, ends = ({min(max(at + by, 0.0), 1.0) for by in (-step, 0.0, step)} for at in (first, last))
    return tuple((start, end) for start in sorted(starts) for end in sorted(ends) if end - start >= SMALLEST)


def small_brightness(pixels: Pixels) -> Floats:
    """The brightness without a plain frame, (SMALL_PX ** 2,), to look for candidates by."""
    small: Floats = _parts(_reduced(pixels), WHOLE, WHOLE, SMALL_PX)[0]
    return small


def mirrored(small: Floats) -> Floats:
    """The rows (n, SMALL_PX ** 2) of `small_brightness` for the mirrored photos."""
    return small.reshape(-1, SMALL_PX, SMALL_PX)[:, :, ::-1].reshape(small.shape)


def _reduced(pixels: Pixels) -> Floats:
    """The brightness without a plain frame, (WORK_PX, WORK_PX)."""
    picture = Image.fromarray(pixels).convert("L")
    grey = np.asarray(picture, dtype=np.float32)
    left, top, (bottom, right) = 0, 0, grey.shape
    for _ in range(2):  # between the sides of a frame, its top is plain, and what is plain below it too
        top, bottom = _inner(grey[:, left:right].std(axis=1))
        left, right = _inner(grey[top:bottom].std(axis=0))
    box = (left, top, right, bottom)
    return np.asarray(picture.resize((WORK_PX, WORK_PX), Image.Resampling.BOX, box=box), dtype=np.float32)


def _inner(deviations: Floats) -> tuple[int, int]:
    """The first row that is not of a frame, and the one after the last."""
    widest = int(FRAME * len(deviations))
    inside = deviations > PLAIN
    first = int(np.argmax(inside[:widest])) if inside[:widest].any() else 0
    last = int(np.argmax(inside[::-1][:widest])) if inside[::-1][:widest].any() else 0
    return first, len(deviations) - last


def _parts(picture: Floats, down: Sequence[Span], across: Sequence[Span], side_px: int) -> Floats:
    """The parts of a picture for all pairs of spans, each with mean 0 and length 1, (n, side_px ** 2)."""
    shrunk = _shrink(down, side_px) @ picture @ _shrink(across, side_px).T
    blocks = shrunk.reshape(len(down), side_px, len(across), side_px).swapaxes(1, 2)
    parts = blocks.reshape(len(down) * len(across), side_px**2)
    parts = parts - parts.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(parts, axis=1, keepdims=True)
    found: Floats = np.where(lengths > side_px, parts / np.maximum(lengths, 1e-6), 0.0)  # zeros for a plain picture
    return found.astype(np.float32)


def _shrink(spans: Sequence[Span], side_px: int) -> Floats:
    """(n * side_px, WORK_PX): each row averages a piece of a picture's rows; `side_px` pieces of each span."""
    edges = np.arange(WORK_PX + 1)
    first, last = np.array(spans, dtype=np.float64).T[:, :, None]
    borders = (first + (last - first) * np.arange(side_px + 1) / side_px) * WORK_PX
    starts, stops = borders[:, :-1].reshape(-1, 1), borders[:, 1:].reshape(-1, 1)
    inside = np.minimum(edges[1:], stops) - np.maximum(edges[:-1], starts)
    shrink: Floats = (np.maximum(inside, 0) / (stops - starts)).astype(np.float32)
    return shrink


@cache
def _spans() -> tuple[Span, ...]:
    """Large parts of an axis, as shares of it."""
    found = {
        (round(place * (1 - scale), 6), round(place * (1 - scale) + scale, 6))
        for scale, place in product(SCALES, PLACES)
    }
    return tuple(sorted(found))
