"""Draws a scene as an image of any size."""

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

_FINER = 2  # oversampling factor for smooth edges, as Pillow does not antialias shapes
_GRAIN_PX = 128  # the grain repeats after this many pixels, which is not visible
_UNITS_HIGH = 3.05  # height of an image in units at zoom 1
_UNITS_WIDE = 2.05  # minimum width, so that no hand is cut off


def draw(scene: Scene, width_px: int) -> Image.Image:
    """Draw a scene as an RGB image of `width_px`; the pose's aspect gives the height."""
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
    """Encode an image as JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _expose(image: Image.Image, scene: Scene) -> Image.Image:
    """Apply the light and the grain of the member's style."""
    tables = [min(255, round(level * factor)) for factor in scene.style.light for level in range(256)]
    lit = np.asarray(image.point(tables))
    rng = np.random.default_rng(scene.seed)
    grain = rng.normal(0, scene.style.noise, (_GRAIN_PX, _GRAIN_PX)).round().astype(np.int16)
    height, width = lit.shape[:2]
    tiles = np.tile(grain, (height // _GRAIN_PX + 1, width // _GRAIN_PX + 1))[:height, :width]
    return Image.fromarray(np.clip(lit + tiles[..., None], 0, 255).astype(np.uint8))
