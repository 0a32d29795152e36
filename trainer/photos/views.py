"""What the views of a photo show: names, boxes and pixels.

`whole` is the whole photo, resized to the square without keeping its proportions. Cropping to a square would cut off
heads, shoes and props of a portrait photo. Padding would spend two fifths of each pass on bars, whose width reveals the
orientation. Pooled features tolerate the distortion, and the reference recipe does the same. `mirror` is `whole`,
mirrored exactly. `top`, `middle` and `bottom` are the largest squares at these positions of a portrait photo; of a
landscape photo, at the left, in the middle and at the right; of a square photo, all of it.

A view of the figure has `trainer.config.FIGURE` before its name, as in "figure1/whole": the same view of what
`trainer.photos.figure` cuts out. The name is part of a version, of the features' cache and of each request, so nothing
can be cropped in one place and whole in another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from trainer.config import FIGURE, VIEWS

Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]  # left, top, right, bottom, as shares of the photo's width and height

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
_SQUARES = {"top": 0.0, "middle": 0.5, "bottom": 1.0}  # share of the excess length that is before the square


def is_of_figure(name: str) -> bool:
    """Whether a view is cropped to the figure, by this crop or another one."""
    return "/" in name


def crop_of(name: str) -> str:
    """The crop that a view needs: its name, or "none"."""
    return name.partition("/")[0] if is_of_figure(name) else "none"


def check_view(name: str) -> str:
    """The name of a view without its crop. Raises ValueError for a view or a crop that is not known."""
    plain = name.removeprefix(f"{FIGURE}/")
    if plain not in VIEWS:
        raise ValueError(f"{name!r} is no view; known: {', '.join(VIEWS)}, and the same after {FIGURE}/")
    return plain


def is_mirrored(name: str) -> bool:
    """Whether a view is mirrored."""
    return check_view(name) == "mirror"


def view_box(size: tuple[int, int], name: str, crop: Box = WHOLE) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part of a photo that a view shows.

    Args:
        size: width and height in pixels.
        crop: of a view of the figure: what was cut out.
    """
    plain = check_view(name)
    left, top, right, bottom = _in_pixels(size, crop)
    if plain not in _SQUARES:
        return left, top, right, bottom
    sides = (right - left, bottom - top)
    side = min(sides)
    left += round((sides[0] - side) * _SQUARES[plain])
    top += round((sides[1] - side) * _SQUARES[plain])
    return left, top, left + side, top + side


def cut(image: Image.Image, names: Sequence[str], side_px: int, crop: Box = WHOLE) -> Pixels:
    """The views of a photo; equal boxes are resampled once (`mirror` and `whole`, the squares of a square photo).

    Returns:
        (len(names), side_px, side_px, 3) uint8, antialiased bilinear, as torchvision prepares photos for its VGG16; the
        same input gives the same bytes.
    """
    boxes = [view_box(image.size, name, crop) for name in names]
    resized = {
        box: np.asarray(image.resize((side_px, side_px), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0))
        for box in set(boxes)
    }
    turned = [resized[box][:, :: -1 if is_mirrored(name) else 1] for box, name in zip(boxes, names, strict=True)]
    return np.stack(turned)


def _in_pixels(size: tuple[int, int], crop: Box) -> tuple[int, int, int, int]:
    width, height = size
    left, top = min(round(crop[0] * width), width - 1), min(round(crop[1] * height), height - 1)
    return left, top, max(round(crop[2] * width), left + 1), max(round(crop[3] * height), top + 1)
