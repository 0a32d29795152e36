"""Draws a figure in a costume: a round mascot with a hood, a dress of patterned cloth, and a prop in one hand.

Lengths are in units: (0, 0) is the waist, y points down, and a figure is about 2.5 units high.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from PIL import Image

from sandbox.gallery.design import WHITE, Costume, Pose, Style
from sandbox.gallery.pen import Colour, Pen, Point, bent, mix, soften
from sandbox.gallery.props import draw_prop

SHOULDER_Y = -0.42
HEM_Y = 0.62


def draw_figure(pen: Pen, cloth: Image.Image, style: Style, costume: Costume, pose: Pose) -> None:
    """Draw the whole figure, from back to front; `cloth` is as large as the image."""
    if costume.caped:
        _draw_cape(pen, cloth, style)
    _draw_legs(pen, style, costume)
    _draw_dress(pen, cloth, style, costume)
    free = _free_hand(pose)
    held = (pose.prop_side * (0.56 + 0.06 * pose.raised), 0.15 - 0.75 * pose.raised)
    _draw_arm(pen, style, costume, side=-pose.prop_side, hand=free)
    draw_prop(pen, costume.prop, held, colour=costume.prop_colour, side=pose.prop_side)
    _draw_arm(pen, style, costume, side=pose.prop_side, hand=held)
    _draw_head(pen, cloth, style, costume, pose)


def _draw_cape(pen: Pen, cloth: Image.Image, style: Style) -> None:
    spread = 1.02 * style.girth
    pen.shape(
        soften([(-0.3, SHOULDER_Y - 0.05), (0.3, SHOULDER_Y - 0.05), (spread, 0.75), (0.3, 0.68), (0, 0.78),
                (-0.3, 0.68), (-spread, 0.75)]),
        cloth,
    )  # fmt: skip


def _draw_legs(pen: Pen, style: Style, costume: Costume) -> None:
    foot_y = HEM_Y + style.legs
    for side in (-1, 1):
        x = side * 0.17 * style.girth
        pen.stroke([(x, HEM_Y - 0.25), (x, foot_y)], 0.17, mix(costume.boots, WHITE, 0.6))
        pen.shape(
            soften([(x - 0.12, foot_y - 0.14), (x + 0.12, foot_y - 0.14), (x + 0.12 + 0.06 * side, foot_y + 0.1),
                    (x - 0.12 + 0.06 * side, foot_y + 0.1)]),
            costume.boots,
        )  # fmt: skip


def _draw_dress(pen: Pen, cloth: Image.Image, style: Style, costume: Costume) -> None:
    shoulder, hem = 0.27 * style.girth, (0.64 if costume.skirted else 0.5) * style.girth
    waist = 0.27 * style.girth if costume.skirted else 0.36 * style.girth
    pen.shape(
        [(-shoulder, SHOULDER_Y), (shoulder, SHOULDER_Y), (waist, -0.02), *_hem(hem, waves=costume.skirted),
         (-waist, -0.02)],
        cloth,
    )  # fmt: skip
    pen.shape([(-waist, -0.05), (waist, -0.05), (waist * 1.06, 0.06), (-waist * 1.06, 0.06)], costume.trim)
    pen.oval(0, 0.0, 0.06, fill=mix(costume.trim, WHITE, 0.6))


def _hem(reach: float, *, waves: bool) -> list[Point]:
    """The lower edge of the dress, from right to left."""
    steps = 12
    xs = [reach * (1 - 2 * step / steps) for step in range(steps + 1)]
    return [(x, HEM_Y + (0.03 * math.cos(step * math.pi / 2) if waves else 0.0)) for step, x in enumerate(xs)]


def _free_hand(pose: Pose) -> Point:
    x, y = {"hip": (0.4, 0.02), "wave": (0.78, -0.72), "down": (0.58, 0.28)}[pose.free_hand]
    return -pose.prop_side * x, y


def _draw_arm(pen: Pen, style: Style, costume: Costume, *, side: int, hand: Point) -> None:
    shoulder = (side * 0.24 * style.girth, SHOULDER_Y + 0.1)
    elbow = ((shoulder[0] + hand[0]) / 2 + side * 0.1, (shoulder[1] + hand[1]) / 2 + 0.06)
    pen.stroke(bent([shoulder, elbow, hand]), 0.17, costume.dress.ground)
    pen.oval(*hand, 0.1, fill=style.face)


def _draw_head(pen: Pen, cloth: Image.Image, style: Style, costume: Costume, pose: Pose) -> None:
    radius = style.head
    y = SHOULDER_Y - 0.82 * radius
    hood = mix(costume.dress.ground, costume.trim, 0.35)
    _HEADGEAR[costume.headgear](pen, y, radius, hood, costume.trim)
    pen.oval(0, y, radius * 1.12, radius * 1.05, fill=cloth)
    pen.oval(0, y + 0.1 * radius, radius * 0.82, radius * 0.74, fill=style.face)
    _draw_face(pen, y + 0.12 * radius, radius, style, pose.mood)
    pen.shape([(-0.2, SHOULDER_Y + 0.1), (0, SHOULDER_Y + 0.03), (-0.2, SHOULDER_Y - 0.05)], costume.trim)
    pen.shape([(0.2, SHOULDER_Y + 0.1), (0, SHOULDER_Y + 0.03), (0.2, SHOULDER_Y - 0.05)], costume.trim)
    pen.oval(0, SHOULDER_Y + 0.03, 0.05, fill=costume.trim)


def _draw_face(pen: Pen, y: float, radius: float, style: Style, mood: str) -> None:
    blush = mix(style.face, (240, 90, 110), 0.4)
    for side in (-1, 1):
        pen.oval(side * 0.52 * radius, y + 0.2 * radius, 0.13 * radius, 0.08 * radius, fill=blush, outlined=False)
        _draw_eye(pen, side * 0.32 * radius, y, radius, style)
    mouth_y = y + 0.26 * radius
    if mood == "open":
        pen.oval(0, mouth_y + 0.04 * radius, 0.1 * radius, 0.12 * radius, fill=(190, 70, 80))
    else:
        depth = 0.1 if mood == "smile" else 0.02
        pen.stroke(
            bent([(-0.14 * radius, mouth_y), (0, mouth_y + depth * radius), (0.14 * radius, mouth_y)]),
            0.025, style.ink, outlined=False,
        )  # fmt: skip


def _draw_eye(pen: Pen, x: float, y: float, radius: float, style: Style) -> None:
    if style.eyes == "closed":
        lid = [(x - 0.13 * radius, y + 0.04 * radius), (x, y - 0.07 * radius), (x + 0.13 * radius, y + 0.04 * radius)]
        pen.stroke(bent(lid), 0.03, style.ink, outlined=False)
        return
    rx, ry = {"round": (0.13, 0.14), "tall": (0.11, 0.2), "sleepy": (0.15, 0.1)}[style.eyes]
    pen.oval(x, y, rx * radius, ry * radius, fill=style.ink, outlined=False)
    pen.oval(x + 0.04 * radius, y - 0.06 * radius, 0.05 * radius, fill=WHITE, outlined=False)


# Headgear: (pen, height of the head's middle, its radius, colour of the hood, colour of the trim)
Headgear = Callable[[Pen, float, float, Colour, Colour], None]


def _cat(pen: Pen, y: float, r: float, hood: Colour, trim: Colour) -> None:
    for side in (-1, 1):
        outer = [(side * 0.25 * r, y - 0.85 * r), (side * 0.92 * r, y - 1.5 * r), (side * 1.0 * r, y - 0.4 * r)]
        inner = [(side * 0.45 * r, y - 0.9 * r), (side * 0.83 * r, y - 1.25 * r), (side * 0.88 * r, y - 0.6 * r)]
        pen.shape(outer, hood)
        pen.shape(inner, trim)


def _rabbit(pen: Pen, y: float, r: float, hood: Colour, trim: Colour) -> None:
    for side in (-1, 1):
        pen.oval(side * 0.42 * r, y - 1.5 * r, 0.24 * r, 0.75 * r, fill=hood)
        pen.oval(side * 0.42 * r, y - 1.45 * r, 0.11 * r, 0.5 * r, fill=trim)


def _bear(pen: Pen, y: float, r: float, hood: Colour, trim: Colour) -> None:
    for side in (-1, 1):
        pen.oval(side * 0.75 * r, y - 0.8 * r, 0.36 * r, fill=hood)
        pen.oval(side * 0.75 * r, y - 0.8 * r, 0.18 * r, fill=trim)


def _horns(pen: Pen, y: float, r: float, hood: Colour, trim: Colour) -> None:  # noqa: ARG001 - the signature of all headgear
    for side in (-1, 1):
        tip = (side * 1.15 * r, y - 1.55 * r)
        pen.shape(
            [(side * 0.4 * r, y - 0.8 * r), (side * 0.95 * r, y - 1.0 * r), tip, (side * 0.85 * r, y - 0.5 * r)], trim
        )


def _antennae(pen: Pen, y: float, r: float, hood: Colour, trim: Colour) -> None:
    for side in (-1, 1):
        tip = (side * 0.75 * r, y - 1.6 * r)
        pen.stroke(bent([(side * 0.3 * r, y - 0.9 * r), (side * 0.35 * r, y - 1.4 * r), tip]), 0.06, hood)
        pen.oval(*tip, 0.16 * r, fill=trim)


def _hat(pen: Pen, y: float, r: float, hood: Colour, trim: Colour) -> None:
    pen.shape([(-0.8 * r, y - 0.65 * r), (0.8 * r, y - 0.65 * r), (0.15 * r, y - 1.9 * r)], mix(hood, trim, 0.3))
    pen.oval(0.15 * r, y - 1.9 * r, 0.16 * r, fill=trim)


def _crown(pen: Pen, y: float, r: float, hood: Colour, trim: Colour) -> None:  # noqa: ARG001
    spikes = [(-0.65, -0.75), (-0.75, -1.4), (-0.35, -1.1), (0, -1.55), (0.35, -1.1), (0.75, -1.4), (0.65, -0.75)]
    pen.shape([(x * r, y + dy * r) for x, dy in spikes], trim)


def _plume(pen: Pen, y: float, r: float, hood: Colour, trim: Colour) -> None:
    for reach, colour in ((0.75, trim), (0.35, mix(trim, hood, 0.5)), (0.0, trim)):
        pen.shape(
            soften([(-0.1 * r, y - 0.8 * r), (0.2 * r, y - 0.8 * r), ((reach + 0.35) * r, y - (1.75 - reach / 2) * r),
                    ((reach - 0.1) * r, y - (1.85 - reach / 2) * r)]),
            colour,
        )  # fmt: skip


_HEADGEAR: dict[str, Headgear] = {
    "cat": _cat,
    "rabbit": _rabbit,
    "horns": _horns,
    "antennae": _antennae,
    "hat": _hat,
    "crown": _crown,
    "bear": _bear,
    "plume": _plume,
}
