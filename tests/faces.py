"""A photo of a person that Matplotlib's wheel carries, for tests of the crop: Grace Hopper (public domain)."""

from __future__ import annotations

from functools import cache

from matplotlib import cbook
from PIL import Image

from tests import hostile

SIZE = (512, 600)
FACE = (0.3, 0.15, 0.75, 0.55)  # within this part of it: left, top, right, bottom


@cache
def portrait() -> Image.Image:
    """The photo, 512 x 600 px, RGB."""
    with Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as photo:
        return photo.convert("RGB")


def scene(*places: tuple[int, int], size: tuple[int, int] = (900, 600), width: int = 128) -> Image.Image:
    """A plain picture with the photo in it, `width` pixels wide, at each of these places (left, top)."""
    picture = Image.new("RGB", size, (90, 120, 90))
    small = portrait().resize((width, round(width * SIZE[1] / SIZE[0])))
    for place in places:
        picture.paste(small, place)
    return picture


def as_png(picture: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    return hostile.save(picture, "PNG")
