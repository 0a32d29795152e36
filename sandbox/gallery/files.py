"""Renders the files of photos on request; nothing is cached."""

from __future__ import annotations

from PIL import Image

from sandbox.gallery.collection import Photo
from sandbox.gallery.drawing import draw, jpeg

ORIGINAL_PX = 1200  # width of an original; larger sizes give the original
_NOT_FOUND = b"<!doctype html><title>404</title><h1>This photo is not here any more.</h1>\n"


def render(photo: Photo, *, width: int, height: int | None = None, max_px: int = ORIGINAL_PX) -> bytes:
    """Render a photo's file: a JPEG, or a broken file if the photo has a flaw.

    Args:
        width: maximum width in pixels, limited by `max_px`; never larger than the original.
        height: maximum height in pixels; None keeps the proportions.
        max_px: width of the original at the host.
    """
    if photo.flaw == "html":
        return _NOT_FOUND
    if photo.flaw == "tiny":
        return jpeg(Image.new("RGB", (8, 8), photo.scene.style.wall), quality=photo.quality)
    width = min(width, max_px)
    if height is not None:
        width = min(width, int(height * photo.aspect))
    data = jpeg(_picture(photo, max(1, width)), quality=photo.quality)
    return data[: len(data) * 3 // 5] if photo.flaw == "truncated" else data


def render_square(photo: Photo, side_px: int) -> bytes:
    """Render the centre of a photo as a square JPEG for icons and thumbnails; with flaws as in `render`."""
    if photo.flaw is not None:
        return render(photo, width=side_px)
    whole = _picture(photo, side_px)
    top = max(0, (whole.height - side_px) // 3)
    return jpeg(whole.crop((0, top, side_px, top + side_px)), quality=photo.quality)


def _picture(photo: Photo, width: int) -> Image.Image:
    left, top, right, bottom = photo.window
    whole = draw(photo.scene, round(width / (right - left)))
    if photo.twin_of is None:
        return whole
    x, y = round(left * whole.width), round(top * whole.height)
    # Both edges may be rounded outwards, which would be a pixel too many.
    box = (x, y, min(round(right * whole.width), x + width), round(bottom * whole.height))
    return whole.crop(box)
