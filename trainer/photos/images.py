"""Decodes photos and makes the square views for VGG16; training and serving both use it.

For any bytes, every library error becomes an `ImageError` with one of these reasons:

    empty               no bytes at all
    not_an_image        HTML, SVG, text, PDF, a video, ...
    unsupported         an image in a format or pixel type that is not decoded
    truncated           the end is missing
    damaged             the bytes contradict the format
    too_large           more bytes than images.max_bytes
    too_many_pixels     more pixels than images.max_pixels, according to the header, before decoding
    too_small           a side shorter than images.min_side_px
    animated_too_long   more frames or pages than images.max_frames
    too_heavy           decoding ran out of memory

Design decisions:

- Transparent pixels become white, as when most software saves a JPEG; training photos are JPEGs.
- Samples of 16 bits keep their upper eight: Pillow reads 16-bit colour so, and 16-bit grey follows it here.
- Embedded colour profiles are not applied: at 224 px they change little, and they would expose one more parser to
  untrusted data.
- Only the first frame or page of a file is used.
- Truncated files are rejected: `LOAD_TRUNCATED_IMAGES` stays off. Those that lack only what comes after the picture are
  not truncated (`trainer.photos.endings`).
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import (
    # Importing a plugin registers it. For a format without one, Image.open would load all plugins that Pillow has.
    AvifImagePlugin,  # noqa: F401
    ExifTags,
    Image,
    MpoImagePlugin,  # noqa: F401
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)
from pillow_heif import register_heif_opener

from trainer.config import ImageSettings
from trainer.errors import ImageError
from trainer.photos import endings, filetype
from trainer.photos.figure import Figures
from trainer.photos.views import WHOLE, Pixels, cut, is_of_figure

Find = Callable[[Image.Image], Figures]  # `trainer.photos.figure.Detector.find`

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "HEIF", "BMP", "TIFF")
FORMATS_IN_WORDS = "JPEG, PNG, WebP, GIF, AVIF, HEIC, BMP or TIFF"
REASONS = frozenset(
    {
        "empty", "not_an_image", "unsupported", "truncated", "damaged", "too_large", "too_many_pixels", "too_small",
        "animated_too_long", "too_heavy",
    }
)  # fmt: skip
WHITE = (255, 255, 255)
MAX_CAMERA = 40  # characters
BRIGHTNESS_PX = 64  # side of the small image used for the perceptual hash
# More scans than any encoder writes; each costs a pass over all pixels. libjpeg-turbo's own fuzzers stop here too.
MAX_JPEG_SCANS = 500
PNG = b"\x89PNG\r\n\x1a\n"
# Pixels, the frames of an animation, and EXIF for its orientation. Nothing else of a PNG changes what is decoded.
PNG_NEEDED = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT", b"eXIf"})

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
FIGURE_PX = 448  # as `side_px`, for views of the figure: a part of the photo shall have enough pixels too


@dataclass(frozen=True, slots=True)
class Measured:
    """Properties of a photo, without its pixels.

    Attributes:
        width: in pixels, after the EXIF rotation; same for `height`.
        brightness: (BRIGHTNESS_PX, BRIGHTNESS_PX) uint8, for `trainer.photos.duplicates.perceptual_hash`.
    """

    width: int
    height: int
    brightness: Pixels


def load_decoders() -> None:
    """Import everything that decoding would import later, so that it opens no file afterwards."""
    Image.preinit()
    _register_heif()


def load_rgb(data: bytes, limits: ImageSettings, *, side_px: int | None = None) -> Pixels:
    """Decode one photo, turned as its EXIF says.

    Args:
        data: the file's bytes; untrusted.
        limits: checked before decoding.
        side_px: when only views of this side are wanted, a large JPEG is decoded at a half, quarter or eighth of its
            size, with both sides still at least twice `side_px`; None: at full size.

    Returns:
        (h, w, 3) uint8, RGB, writable.

    Raises:
        ImageError: the bytes cannot be decoded; the module docstring lists the reasons.
    """
    return np.array(_decode(data, limits, side_px=side_px))


def view(rgb: Pixels, name: str, *, side_px: int = 224) -> Pixels:
    """One square view of a whole photo.

    Args:
        rgb: (h, w, 3) uint8.
        name: one of `trainer.config.VIEWS`; `trainer.photos.views` says what they show.

    Returns:
        (side_px, side_px, 3) uint8.

    Raises:
        ValueError: an unknown name, or an array of another shape or type.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"an (h, w, 3) uint8 array is needed, not {rgb.shape} {rgb.dtype}")
    seen: Pixels = cut(Image.fromarray(rgb), [name], side_px)[0]
    return seen


def prepare(
    data: bytes, limits: ImageSettings, views: Sequence[str], *, side_px: int = 224, find: Find | None = None
) -> Pixels:
    """The views of one photo, from its bytes; training and serving both use it.

    Those of the whole photo are the same, byte for byte, as `view` of `load_rgb(data, limits, side_px=side_px)`, in
    less memory.

    Args:
        find: finds the figure, for views of it; they are of the whole photo if there is none.

    Returns:
        (len(views), side_px, side_px, 3) uint8, in the order given.

    Raises:
        ImageError: as `load_rgb`.
        ValueError: an unknown view; views of the figure beside others, or without `find`.
    """
    if not any(map(is_of_figure, views)):
        return cut(_decode(data, limits, side_px=side_px), views, side_px)
    if find is None or not all(map(is_of_figure, views)):
        raise ValueError("views of the figure need a detector, and come without others")
    image = _decode(data, limits, side_px=FIGURE_PX)
    return cut(image, views, side_px, find(image).box or WHOLE)


def find_figures(data: bytes, limits: ImageSettings, find: Find) -> Figures:
    """The figures in a photo, as `prepare` finds them; raises as `load_rgb`."""
    return find(_decode(data, limits, side_px=FIGURE_PX))


def thumbnail(data: bytes, limits: ImageSettings, *, max_width: int, max_height: int) -> Pixels:
    """The whole photo scaled down to fit a box; proportions are kept, and it is never enlarged.

    Returns:
        (h, w, 3) uint8 with h <= max_height and w <= max_width.

    Raises:
        ImageError: as `load_rgb`.
    """
    image = _decode(data, limits, side_px=max(max_width, max_height))
    image.thumbnail((max_width, max_height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.array(image)


def measure(data: bytes, limits: ImageSettings) -> Measured:
    """Decode a photo at full size and measure it; raises as `load_rgb`."""
    image = _decode(data, limits, side_px=None)
    small = image.convert("L").resize((BRIGHTNESS_PX, BRIGHTNESS_PX), Image.Resampling.LANCZOS)
    return Measured(image.width, image.height, np.array(small))


def camera(data: bytes, limits: ImageSettings) -> str:
    """The camera that a photo's EXIF names, at most MAX_CAMERA ASCII characters, or ""; raises as `check_bytes`."""
    check_bytes(data, limits)
    try:
        found = Image.open(io.BytesIO(_without_extras(data)), formats=FORMATS).getexif()
        maker, model = (str(found.get(tag) or "").strip("\0 ") for tag in (ExifTags.Base.Make, ExifTags.Base.Model))
    except Exception:  # as for the orientation: that is no reason to refuse a photo
        return ""
    name = model if model.startswith(maker) else f"{maker} {model}"
    return "".join(letter for letter in name if letter.isascii() and letter.isprintable()).strip()[:MAX_CAMERA]


def _decode(data: bytes, limits: ImageSettings, *, side_px: int | None) -> Image.Image:
    check_bytes(data, limits)
    _register_heif()
    try:
        return _read(data, limits, side_px)
    except ImageError:
        raise
    except Exception as error:  # the libraries raise many types: KeyError, struct.error, SystemError, ...
        whole = None if isinstance(error, MemoryError) else _without_end(data, limits, side_px)
        if whole is None:
            raise _explain(error, data) from error
        return whole


def _read(data: bytes, limits: ImageSettings, side_px: int | None) -> Image.Image:
    image = Image.open(io.BytesIO(_without_extras(data)), formats=FORMATS)
    _check_size(image, limits)
    _check_frames(image, limits)
    if side_px is not None and image.format in ("JPEG", "MPO"):
        image.draft(None, (2 * side_px, 2 * side_px))
    image.load()
    return _turn(_to_rgb(image), _orientation(image))


def _without_end(data: bytes, limits: ImageSettings, side_px: int | None) -> Image.Image | None:
    """The picture of a file that lacks only what comes after it; None if some of it is missing, or damaged."""
    kind = filetype.family(data)
    try:
        if kind == "WebP":
            return _read(endings.complete_webp(data), limits, side_px)
        completed = endings.complete_jpegs(data) if kind == "JPEG" else None
        if completed is None:
            return None
        alike, other = completed
        picture = _read(alike[0], limits, side_px)
        is_whole = all(_read(each, limits, side_px) == picture for each in alike[1:])
        return picture if is_whole and _read(other, limits, side_px) != picture else None
    except Exception:
        return None


def _without_extras(data: bytes) -> bytes:
    """A PNG with what is needed of it alone; anything else as it is.

    Pillow would unpack texts and profiles, and refuse a photo for any small chunk that is damaged.
    """
    if not data.startswith(PNG):
        return data
    kept, at = [PNG], len(PNG)
    while len(length := data[at : at + 4]) == 4:
        end = at + 12 + int.from_bytes(length)
        kind, checksum = data[at + 4 : at + 8], data[end - 4 : end]
        is_sound = kind != b"eXIf" or zlib.crc32(data[at + 4 : end - 4]) == int.from_bytes(checksum)
        if kind in PNG_NEEDED and is_sound:
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


@cache
def _register_heif() -> None:
    """Register HEIF without thumbnails: an embedded one may differ from the photo."""
    register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)


def is_image(data: bytes) -> bool:
    """Whether the first bytes are those of an image, decoded here or not."""
    return filetype.family(data) is not None or filetype.other_image(data) is not None


def check_bytes(data: bytes, limits: ImageSettings) -> None:
    """Check everything that can be checked before a library parses the bytes.

    Raises:
        ImageError: "empty", "too_large", and for some formats "too_many_pixels", "damaged".
    """
    if not data:
        raise ImageError("the file is empty (0 bytes); fetch or send it again", reason="empty")
    if len(data) > limits.max_bytes:
        raise ImageError(
            f"the file has {len(data):,} bytes, images.max_bytes allows {limits.max_bytes:,}; save it smaller",
            reason="too_large",
        )
    kind = filetype.family(data)
    if kind == "WebP":
        _check_pixels(*(filetype.webp_canvas(data) or (0, 0)), limits)
    if kind == "JPEG" and data.count(b"\xff\xda") > MAX_JPEG_SCANS:
        raise ImageError(f"the JPEG has more than {MAX_JPEG_SCANS} scans; save the photo again", reason="damaged")


def _check_pixels(width: int, height: int, limits: ImageSettings) -> None:
    if width * height > limits.max_pixels:
        raise ImageError(
            f"the photo has {width} x {height} pixels, images.max_pixels allows {limits.max_pixels:,} in all; "
            "scale it down",
            reason="too_many_pixels",
        )


def _check_size(image: Image.Image, limits: ImageSettings) -> None:
    _check_pixels(*image.size, limits)
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # a tile is decoded whole, even if little of it is used
        tags = image.tag_v2
        _check_pixels(tags.get(TiffImagePlugin.TILEWIDTH, 1), tags.get(TiffImagePlugin.TILELENGTH, 1), limits)
    if min(image.size) < limits.min_side_px:
        raise ImageError(
            f"the photo has {image.width} x {image.height} pixels, each side needs at least {limits.min_side_px}; "
            "use a larger one",
            reason="too_small",
        )


def _check_frames(image: Image.Image, limits: ImageSettings) -> None:
    if _has_frame(image, limits.max_frames):
        raise ImageError(
            f"the file has more than {limits.max_frames:,} frames or pages (images.max_frames); use a still picture",
            reason="animated_too_long",
        )


def _has_frame(image: Image.Image, index: int) -> bool:
    """Whether frame `index` (from 0) exists, without decoding it."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return getattr(image, "n_frames", 1) > index
    try:
        image.seek(index)  # `n_frames` would visit all pages, which takes hours for a malicious file
    except EOFError:
        return False
    finally:
        image.seek(0)
    return True


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F", "LAB"):
        raise ImageError(
            f"{image.format} with pixels of kind {image.mode} has no agreed range of brightness; save it as 8-bit RGB",
            reason="unsupported",
        )
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    cutout = image.convert("RGBA")
    if image.format == "BMP" and cutout.getchannel("A").getextrema() == (0, 0):
        return cutout.convert("RGB")  # many programs leave this byte at 0 and mean a picture without transparency
    laid_on_white = Image.new("RGB", cutout.size, WHITE)
    laid_on_white.paste(cutout, mask=cutout)
    return laid_on_white


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 when it is missing or unreadable: that is no reason to refuse a photo."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1
    return found if found in _TURNS else 1


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _explain(error: Exception, data: bytes) -> ImageError:
    """Turn a library's error into an `ImageError` that says what is wrong with the file and what to do."""
    kind, about = filetype.family(data), f"{len(data):,} bytes"
    if isinstance(error, MemoryError):
        return ImageError(f"decoding the {kind} ({about}) takes too much memory; scale it down", reason="too_heavy")
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return ImageError(f"the {kind} ({about}) has too many pixels: {error}; scale it down", reason="too_many_pixels")
    if kind is None and (name := filetype.other_image(data)):
        return ImageError(f"{name} ({about}) is not decoded here; save it as {FORMATS_IN_WORDS}", reason="unsupported")
    if kind is None:
        name = filetype.other_file(data)
        return ImageError(f"{name} ({about}) instead of an image; use {FORMATS_IN_WORDS}", reason="not_an_image")
    if "truncated" in str(error).lower() or filetype.is_cut_short(data):
        return ImageError(f"the {kind} ends early, after {about}; fetch or send it again", reason="truncated")
    fault = "its header makes no sense" if isinstance(error, UnidentifiedImageError) else str(error)
    return ImageError(f"the {kind} ({about}) is damaged: {fault}; save the photo again", reason="damaged")
