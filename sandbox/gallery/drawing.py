"""A scene -> the picture of it, at any size."""

from __future__ import annotations

import io
import random

import numpy as np
from PIL import Image

from sandbox.gallery.backdrop import draw_backdrop
from sandbox.gallery.cloth import weave
from sandbox.gallery.design import Scene
from sandbox.gallery.figure import draw_figure
from sandbox.gallery.pen import Pen

_FINER = 2  # drawn so many times as large, then reduced: Pillow's shapes have jagged edges
_GRAIN_PX = 128  # the grain repeats after so many pixels, which nobody sees
_UNITS_HIGH = 3.05  # height of a picture in units at zoom 1
_UNITS_WIDE = 2.05  # and the least width, so that nobody's hand is cut off


def draw(scene: Scene, width_px: int) -> Image.Image:
    """The scene as an RGB picture `width_px` wide, its height by the pose's aspect."""
    style, pose = scene.style, scene.pose
    width, height = width_px, max(1, round(width_px / pose.aspect))
    large = (width * _FINER, height * _FINER)
    unit_px = min(large[1] / _UNITS_HIGH, large[0] / _UNITS_WIDE) * style.zoom * pose.zoom
    image = draw_backdrop(large, style, random.Random(scene.seed))
    pen = Pen(
        image,
        origin=(large[0] * 0.5 + pose.shift[0] * unit_px, large[1] * 0.60 + pose.shift[1] * unit_px),
        unit_px=unit_px,
        tilt=pose.tilt,
        line=style.line,
        ink=style.ink,
    )
    draw_figure(pen, weave(scene.costume.dress, large, unit_px=unit_px), style, scene.costume, pose)
    return _expose(image.reduce(_FINER), scene)


def jpeg(image: Image.Image, *, quality: int) -> bytes:
    """The picture as a JPEG file."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _expose(image: Image.Image, scene: Scene) -> Image.Image:
    """The member's light and grain."""
    tables = [min(255, round(level * factor)) for factor in scene.style.light for level in range(256)]
    lit = np.asarray(image.point(tables))
    rng = np.random.default_rng(scene.seed)
    grain = rng.normal(0, scene.style.noise, (_GRAIN_PX, _GRAIN_PX)).round().astype(np.int16)
    height, width = lit.shape[:2]
    tiles = np.tile(grain, (height // _GRAIN_PX + 1, width // _GRAIN_PX + 1))[:height, :width]
    return Image.fromarray(np.clip(lit + tiles[..., None], 0, 255).astype(np.uint8))
