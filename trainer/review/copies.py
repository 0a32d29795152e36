"""Tells whether two photos are one picture: mirrored, framed, cropped, or the same again.

A perceptual hash is of the whole photo, so a mirrored, framed or cropped copy has another. Neighbours in feature space
are candidates; here their pixels are laid over each other.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE_PX = 24  # of the compared pictures
SMALL_PX = 8  # of a picture to look for candidates by
WORK_PX = 96  # to which a photo without its frame is reduced first
SCALES = (1.0, 0.95, 0.9, 0.85, 0.8)  # of a part of one photo that is the whole of the other, for each axis
PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of such a part, as a share of what is around it
FRAME = 0.2  # at most this share of each side is a frame
PLAIN = 5.0  # standard deviation of the brightness, 0..255, of a row or column of a frame

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def likeness(one: Pixels, other: Pixels) -> float:
    """The highest correlation, -1..1, of one photo with any large part of the other, mirrored or not.

    Args:
        one: (h, w, 3) uint8; same for `other`.
    """
    pictures = [_reduced(pixels) for pixels in (one, other)]
    best = -1.0
    for whole, around in (pictures, pictures[::-1]):
        small = _parts(whole, spans=((0.0, 1.0),))
        mirrored = _parts(whole[:, ::-1], spans=((0.0, 1.0),))
        best = max(best, float((_parts(around, spans=_spans()) @ np.concatenate([small, mirrored]).T).max()))
    return best


def small_brightness(pixels: Pixels) -> Floats:
    """The brightness without a plain frame, (SMALL_PX ** 2,), to look for candidates by."""
    small: Floats = _parts(_reduced(pixels), spans=((0.0, 1.0),), side_px=SMALL_PX)[0]
    return small


def mirrored(small: Floats) -> Floats:
    """The rows (n, SMALL_PX ** 2) of `small_brightness` for the mirrored photos."""
    return small.reshape(-1, SMALL_PX, SMALL_PX)[:, :, ::-1].reshape(small.shape)


def _reduced(pixels: Pixels) -> Floats:
    """The brightness without a plain frame, (WORK_PX, WORK_PX)."""
    picture = Image.fromarray(pixels).convert("L")
    grey = np.asarray(picture, dtype=np.float32)
    top, bottom = _inner(grey.std(axis=1))
    left, right = _inner(grey.std(axis=0))
    box = (left, top, right, bottom)
    return np.asarray(picture.resize((WORK_PX, WORK_PX), Image.Resampling.BOX, box=box), dtype=np.float32)


def _inner(deviations: Floats) -> tuple[int, int]:
    """The first row that is not of a frame, and the one after the last."""
    widest = int(FRAME * len(deviations))
    inside = deviations > PLAIN
    first = int(np.argmax(inside[:widest])) if inside[:widest].any() else 0
    last = int(np.argmax(inside[::-1][:widest])) if inside[::-1][:widest].any() else 0
    return first, len(deviations) - last


def _parts(picture: Floats, *, spans: tuple[tuple[float, float], ...], side_px: int = SIDE_PX) -> Floats:
    """The parts of a picture between all pairs of spans, each with mean 0 and length 1, (n, side_px ** 2)."""
    shrink, n = _shrink(spans, side_px), len(spans)
    parts = (shrink @ picture @ shrink.T).reshape(n, side_px, n, side_px).swapaxes(1, 2).reshape(n * n, side_px**2)
    parts = parts - parts.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(parts, axis=1, keepdims=True)
    found: Floats = np.where(lengths > side_px, parts / np.maximum(lengths, 1e-6), 0.0)  # zeros for a plain picture
    return found.astype(np.float32)


@cache
def _shrink(spans: tuple[tuple[float, float], ...], side_px: int) -> Floats:
    """(n * side_px, WORK_PX): each row averages a piece of a picture's rows; `side_px` pieces of each span."""
    edges = np.arange(WORK_PX + 1)
    rows = []
    for first, last in spans:
        borders = np.linspace(first, last, side_px + 1) * WORK_PX
        for start, stop in pairwise(borders):
            inside = np.minimum(edges[1:], stop) - np.maximum(edges[:-1], start)
            rows.append(np.maximum(inside, 0) / (stop - start))
    return np.array(rows, dtype=np.float32)


@cache
def _spans() -> tuple[tuple[float, float], ...]:
    """Large parts of an axis, as shares of it."""
    found = {
        (round(place * (1 - scale), 6), round(place * (1 - scale) + scale, 6))
        for scale, place in product(SCALES, PLACES)
    }
    return tuple(sorted(found))
