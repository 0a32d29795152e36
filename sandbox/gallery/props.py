"""Draws the props that a figure can hold, around its hand."""

from __future__ import annotations

import math
from collections.abc import Callable

from sandbox.gallery.design import WHITE
from sandbox.gallery.pen import Colour, Pen, Point, bent, mix

_WOOD: Colour = (150, 110, 80)


def draw_prop(pen: Pen, name: str, hand: Point, *, colour: Colour, side: int) -> None:
    """Draw one of `design.PROPS`; `side` is -1 or 1, the direction away from the figure."""
    _PROPS[name](pen, hand, colour, side)


def _staff(pen: Pen, hand: Point, side: int) -> Point:
    """Draw a staff through the hand; returns its upper end."""
    x, y = hand
    top = (x + side * 0.08, y - 0.5)
    pen.stroke([(x - side * 0.06, y + 0.45), top], 0.06, _WOOD)
    return top


def _gear(pen: Pen, hand: Point, colour: Colour, side: int) -> None:
    x, y = _staff(pen, hand, side)
    teeth = [(0.31 if step % 4 < 2 else 0.23, step * math.pi / 16) for step in range(32)]
    pen.shape([(x + radius * math.cos(angle), y + radius * math.sin(angle)) for radius, angle in teeth], colour)
    pen.oval(x, y, 0.1, fill=mix(colour, WHITE, 0.6))


def _key(pen: Pen, hand: Point, colour: Colour, side: int) -> None:
    x, y = hand
    pen.stroke([(x, y + 0.1), (x, y - 0.75)], 0.09, colour)
    for height in (-0.55, -0.72):
        pen.stroke([(x, y + height), (x + side * 0.17, y + height)], 0.08, colour)
    pen.oval(x, y + 0.26, 0.2, fill=colour)
    pen.oval(x, y + 0.26, 0.09, fill=mix(colour, WHITE, 0.7))


def _kite(pen: Pen, hand: Point, colour: Colour, side: int) -> None:
    x, y = hand[0] + side * 0.08, hand[1] - 0.5
    pen.stroke(bent([hand, (x, y + 0.35), (x, y)]), 0.035, _WOOD, outlined=False)
    top, bottom, left, right = (x, y - 0.42), (x, y + 0.38), (x - 0.28, y - 0.08), (x + 0.28, y - 0.08)
    pen.shape([top, right, bottom, left], colour)
    pen.shape([top, right, (x, y - 0.08)], mix(colour, WHITE, 0.6))
    pen.shape([bottom, left, (x, y - 0.08)], mix(colour, WHITE, 0.6))


def _bell(pen: Pen, hand: Point, colour: Colour, side: int) -> None:  # noqa: ARG001 - a bell has no side
    x, y = hand
    pen.oval(x, y + 0.55, 0.08, fill=mix(colour, (40, 30, 30), 0.4))
    pen.shape([(x - 0.09, y + 0.08), (x + 0.09, y + 0.08), (x + 0.19, y + 0.4), (x + 0.3, y + 0.52),
               (x - 0.3, y + 0.52), (x - 0.19, y + 0.4)], colour)  # fmt: skip
    pen.stroke([(x - 0.18, y + 0.38), (x + 0.18, y + 0.38)], 0.04, mix(colour, WHITE, 0.6), outlined=False)


def _hoop(pen: Pen, hand: Point, colour: Colour, side: int) -> None:
    x, y = hand[0] + side * 0.04, hand[1] - 0.38
    circle = [
        (x + 0.36 * math.cos(step * math.pi / 16), y + 0.36 * math.sin(step * math.pi / 16)) for step in range(33)
    ]
    pen.stroke(circle, 0.1, colour)


def _bolt(pen: Pen, hand: Point, colour: Colour, side: int) -> None:
    x, y = hand[0], hand[1] - 0.3
    zigzag = [(0.0, -0.55), (0.25, -0.55), (0.08, -0.15), (0.28, -0.15), (-0.12, 0.55), (0.0, 0.05), (-0.2, 0.05)]
    pen.shape([(x + side * dx, y + dy) for dx, dy in zigzag], colour)


_PROPS: dict[str, Callable[[Pen, Point, Colour, int], None]] = {
    "gear": _gear,
    "key": _key,
    "kite": _kite,
    "bell": _bell,
    "hoop": _hoop,
    "bolt": _bolt,
}
