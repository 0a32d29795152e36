"""Draws soft, outlined shapes on a Pillow image, in figure units."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

_CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 40)), np.sin(np.linspace(0, 2 * np.pi, 40))], axis=1)


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """Mix two colours; `share` (0..1) is that of `other`."""
    r, g, b = (round(a + (z - a) * share) for a, z in zip(one, other, strict=True))
    return r, g, b


def soften(points: Sequence[Point], rounds: int = 3) -> np.ndarray:
    """Smooth a closed outline by `rounds` of corner cutting (Chaikin, 1974): (n, 2) -> (n * 2**rounds, 2)."""
    outline = np.asarray(points, dtype=float)
    for _ in range(rounds):
        following = np.roll(outline, -1, axis=0)
        cut = np.stack([0.75 * outline + 0.25 * following, 0.25 * outline + 0.75 * following], axis=1)
        outline = cut.reshape(-1, 2)
    return outline


def bent(points: Sequence[Point], steps: int = 10) -> np.ndarray:
    """The points of a quadratic curve through three points."""
    start, middle, end = (np.asarray(point, dtype=float) for point in points)
    handle = 2 * middle - (start + end) / 2  # so that the curve passes through the middle point
    t = np.linspace(0, 1, steps)[:, None]
    return np.asarray((1 - t) ** 2 * start + 2 * t * (1 - t) * handle + t**2 * end)


class Pen:
    """Draws on one image, with a fixed scale, origin, tilt and outline.

    Args:
        image: RGB; modified in place.
        origin: pixel position of (0, 0).
        unit_px: pixels per unit.
        tilt: degrees, clockwise.
        line: width of the outline in units.
        ink: its colour.
    """

    def __init__(
        self, image: Image.Image, *, origin: Point, unit_px: float, tilt: float, line: float, ink: Colour
    ) -> None:
        self._image = image
        self._draw = ImageDraw.Draw(image)
        cos, sin = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
        self._turn = np.array([[cos, sin], [-sin, cos]]) * unit_px
        self._origin = np.asarray(origin)
        self._unit_px = unit_px
        self._line = line
        self._ink = ink

    def shape(self, points: Sequence[Point] | np.ndarray, fill: Colour | Image.Image) -> None:
        """Draw a closed shape, filled with a colour or with cloth (an image of the same size)."""
        pixels = self._pixels(points)
        self._fill(pixels, fill)
        self._trace([*pixels, pixels[0], pixels[1]], self._line, self._ink)

    def oval(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float | None = None,
        *,
        fill: Colour | Image.Image,
        outlined: bool = True,
    ) -> None:
        """Draw an ellipse around (x, y); a circle without `ry`."""
        radii = np.array([rx, rx if ry is None else ry])
        half = self._line / 2 if outlined else 0.0
        if outlined:  # two ellipses: smoother, and much faster, than a line around one
            self._fill(self._pixels(_CIRCLE * (radii + half) + (x, y)), self._ink)
        self._fill(self._pixels(_CIRCLE * (radii - half).clip(0) + (x, y)), fill)

    def stroke(
        self, points: Sequence[Point] | np.ndarray, width: float, colour: Colour, *, outlined: bool = True
    ) -> None:
        """Draw an open line with round ends."""
        pixels = self._pixels(points)
        if outlined:
            self._round_line(pixels, width + self._line, self._ink)
        self._round_line(pixels, width - self._line if outlined else width, colour)

    def _pixels(self, points: Sequence[Point] | np.ndarray) -> list[Point]:
        placed = np.asarray(points, dtype=float) @ self._turn + self._origin
        return [(float(x), float(y)) for x, y in placed]

    def _fill(self, pixels: list[Point], fill: Colour | Image.Image) -> None:
        if isinstance(fill, Image.Image):
            self._cut_from(fill, pixels)
        else:
            self._draw.polygon(pixels, fill=fill)

    def _trace(self, pixels: list[Point], width: float, colour: Colour) -> None:
        self._draw.line(pixels, fill=colour, width=max(1, round(width * self._unit_px)), joint="curve")

    def _round_line(self, pixels: list[Point], width: float, colour: Colour) -> None:
        self._trace(pixels, width, colour)
        radius = width * self._unit_px / 2
        for x, y in (pixels[0], pixels[-1]):
            self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    def _cut_from(self, cloth: Image.Image, pixels: Sequence[Point]) -> None:
        box = _bounds(pixels, self._image.size)
        if box[0] >= box[2] or box[1] >= box[3]:
            return  # completely outside the image
        stencil = Image.new("L", (box[2] - box[0], box[3] - box[1]))
        ImageDraw.Draw(stencil).polygon([(x - box[0], y - box[1]) for x, y in pixels], fill=255)
        self._image.paste(cloth.crop(box), box[:2], stencil)


def _bounds(pixels: Iterable[Point], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The bounding box of points in whole pixels, clipped to an image size: left, top, right, bottom."""
    xs, ys = zip(*pixels, strict=True)
    width, height = size
    return max(0, int(min(xs))), max(0, int(min(ys))), min(width, int(max(xs)) + 2), min(height, int(max(ys)) + 2)
