"""Draws cloth with one of six invented patterns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image, ImageDraw

from sandbox.gallery.pen import Colour, Point


@dataclass(frozen=True, slots=True)
class Cloth:
    """A pattern in two colours.

    Attributes:
        pattern: one of PATTERNS.
        period: distance between repeats, in figure units.
        angle: rotation of the pattern, in degrees.
        weight: share of a repeat that the motif covers, 0..1.
    """

    pattern: str
    ground: Colour
    motif: Colour
    period: float
    angle: float
    weight: float


class _Loom:
    """Draws motifs; coordinates are in repeats from the middle of the image, rotated by the cloth's angle."""

    def __init__(self, draw: ImageDraw.ImageDraw, size: tuple[int, int], cloth: Cloth, unit_px: float) -> None:
        self._draw = draw
        self._motif = cloth.motif
        self._step = cloth.period * unit_px
        self._middle = (size[0] / 2, size[1] / 2)
        self._cos, self._sin = math.cos(math.radians(cloth.angle)), math.sin(math.radians(cloth.angle))
        # Half the diagonal, the maximum for any rotation.
        self.reach = math.ceil(math.hypot(*size) / 2 / self._step) + 1
        self.weight = cloth.weight

    def rows(self) -> Iterator[int]:
        return iter(range(-self.reach, self.reach + 1))

    def cells(self) -> Iterator[tuple[int, int]]:
        return ((column, row) for row in self.rows() for column in self.rows() if self._is_seen(column, row))

    def polygon(self, *points: Point) -> None:
        self._draw.polygon([self._place(*point) for point in points], fill=self._motif)

    def line(self, points: list[Point], width: float) -> None:
        self._draw.line([self._place(*point) for point in points], fill=self._motif, width=round(width * self._step))

    def disc(self, x: float, y: float, radius: float) -> None:
        x, y = self._place(x, y)
        reach = radius * self._step
        self._draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=self._motif)

    def ring(self, x: float, y: float, radius: float, width: float) -> None:
        x, y = self._place(x, y)
        reach = radius * self._step
        self._draw.ellipse(
            (x - reach, y - reach, x + reach, y + reach), outline=self._motif, width=max(1, round(width * self._step))
        )

    def _place(self, x: float, y: float) -> Point:
        return (
            self._middle[0] + (x * self._cos - y * self._sin) * self._step,
            self._middle[1] + (x * self._sin + y * self._cos) * self._step,
        )

    def _is_seen(self, column: int, row: int) -> bool:
        x, y = self._place(column, row)
        return -self._step < x < 2 * self._middle[0] + self._step and -self._step < y < 2 * self._middle[1] + self._step


def _stripes(loom: _Loom) -> None:
    for row in loom.rows():
        loom.line([(-loom.reach, row), (loom.reach, row)], loom.weight)


def _dots(loom: _Loom) -> None:
    for column, row in loom.cells():
        loom.disc(column + 0.5 * (row % 2), row, 0.25 + 0.3 * loom.weight)


def _checks(loom: _Loom) -> None:
    for x, y in loom.cells():
        loom.polygon((x, y), (x + 0.5, y), (x + 0.5, y + 0.5), (x, y + 0.5))
        loom.polygon((x + 0.5, y + 0.5), (x + 1, y + 0.5), (x + 1, y + 1), (x + 0.5, y + 1))


def _zigzags(loom: _Loom) -> None:
    for row in loom.rows():
        corners = [(column / 2, row + 0.45 * (column % 2)) for column in range(-2 * loom.reach, 2 * loom.reach + 1)]
        loom.line(corners, 0.9 * loom.weight)


def _rings(loom: _Loom) -> None:
    for column, row in loom.cells():
        loom.ring(column + 0.5 * (row % 2), row, 0.45, 0.1 + 0.2 * loom.weight)


_WEAVES: dict[str, Callable[[_Loom], None]] = {
    "bands": _stripes,
    "pinstripes": _stripes,
    "dots": _dots,
    "checks": _checks,
    "zigzags": _zigzags,
    "rings": _rings,
}
PATTERNS = tuple(_WEAVES)


def weave(cloth: Cloth, size: tuple[int, int], *, unit_px: float) -> Image.Image:
    """Draw flat cloth as an RGB image of `size` pixels, used to fill garments."""
    image = Image.new("RGB", size, cloth.ground)
    _WEAVES[cloth.pattern](_Loom(ImageDraw.Draw(image), size, cloth, unit_px))
    return image
