"""Draws the background of a figure: a wall, a floor and a decoration, in the member's colours."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from PIL import Image, ImageDraw

from sandbox.gallery.design import WHITE, Style
from sandbox.gallery.pen import Colour, mix

_HORIZON = 0.74  # share of the image height above the floor


def draw_backdrop(size: tuple[int, int], style: Style, rng: random.Random) -> Image.Image:
    """Draw a new RGB image of `size` pixels; `rng` varies the details."""
    image = _gradient(size, mix(style.wall, WHITE, 0.35), style.wall)
    draw = ImageDraw.Draw(image)
    _DECORATIONS[style.backdrop](draw, size, style, rng)
    width, height = size
    floor_y = int(_HORIZON * height)
    draw.rectangle((0, floor_y, width, height), fill=style.floor)
    draw.rectangle((0, floor_y, width, floor_y + height // 100), fill=mix(style.floor, WHITE, 0.3))
    shade = mix(style.floor, (20, 20, 40), 0.25)
    draw.ellipse((width * 0.2, height * 0.86, width * 0.8, height * 0.95), fill=shade)
    return image


def _gradient(size: tuple[int, int], top: Colour, bottom: Colour) -> Image.Image:
    strip = Image.new("RGB", (1, 2))
    strip.putpixel((0, 0), top)
    strip.putpixel((0, 1), bottom)
    column = strip.resize((1, size[1]), Image.Resampling.BILINEAR)
    return column.resize(size, Image.Resampling.NEAREST)


Decoration = Callable[[ImageDraw.ImageDraw, tuple[int, int], Style, random.Random], None]


def _studio(draw: ImageDraw.ImageDraw, size: tuple[int, int], style: Style, rng: random.Random) -> None:
    width, height = size
    x, y = width * rng.uniform(0.3, 0.7), height * rng.uniform(0.25, 0.45)
    for ring in range(5, 0, -1):
        reach = width * 0.13 * ring
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=mix(style.wall, WHITE, 0.45 - 0.07 * ring))


def _bokeh(draw: ImageDraw.ImageDraw, size: tuple[int, int], style: Style, rng: random.Random) -> None:
    width, height = size
    for _ in range(14):
        x, y, reach = width * rng.random(), height * rng.uniform(0, _HORIZON), width * rng.uniform(0.03, 0.13)
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=mix(style.wall, WHITE, rng.uniform(0.1, 0.6)))


def _curtain(draw: ImageDraw.ImageDraw, size: tuple[int, int], style: Style, rng: random.Random) -> None:
    width, height = size
    folds = rng.randint(5, 8)
    for fold in range(folds):
        left = width * (fold + rng.uniform(0.0, 0.2)) / folds
        draw.rectangle((left, 0, left + width / folds * 0.45, height), fill=mix(style.wall, (60, 40, 70), 0.08))


def _hills(draw: ImageDraw.ImageDraw, size: tuple[int, int], style: Style, rng: random.Random) -> None:
    width, height = size
    for depth, share in ((0.5, 0.15), (0.6, 0.3), (0.68, 0.45)):
        phase, swell = rng.uniform(0, math.tau), rng.uniform(0.02, 0.06)
        crest = [(width * step / 16, height * (depth + swell * math.sin(phase + step * 0.6))) for step in range(17)]
        draw.polygon([(0, height), *crest, (width, height)], fill=mix(style.wall, style.floor, share))


def _blocks(draw: ImageDraw.ImageDraw, size: tuple[int, int], style: Style, rng: random.Random) -> None:
    width, height = size
    x = 0.0
    while x < width:
        step, top = width * rng.uniform(0.1, 0.2), height * rng.uniform(0.2, 0.55)
        draw.rectangle((x, top, x + step, height), fill=mix(style.wall, style.floor, rng.uniform(0.08, 0.25)))
        x += step


def _window(draw: ImageDraw.ImageDraw, size: tuple[int, int], style: Style, rng: random.Random) -> None:
    width, height = size
    left, top = width * rng.uniform(0.05, 0.5), height * rng.uniform(0.05, 0.15)
    right, bottom = left + width * 0.45, top + height * 0.4
    draw.rectangle((left, top, right, bottom), fill=mix(style.wall, (225, 240, 255), 0.6))
    frame, bar = mix(style.wall, (70, 50, 50), 0.18), max(2, width // 60)
    draw.rectangle((left, top, right, bottom), outline=frame, width=bar)
    draw.line(((left + right) / 2, top, (left + right) / 2, bottom), fill=frame, width=bar)
    draw.line((left, (top + bottom) / 2, right, (top + bottom) / 2), fill=frame, width=bar)


_DECORATIONS: dict[str, Decoration] = {
    "studio": _studio,
    "bokeh": _bokeh,
    "curtain": _curtain,
    "hills": _hills,
    "blocks": _blocks,
    "window": _window,
}
