"""Names a file's type by its first bytes, and tells whether its end is missing; for helpful error messages.

Nothing here decides whether a file is decoded: that is Pillow's business, over in `trainer.photos.images`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Family = Literal["JPEG", "PNG", "WebP", "GIF", "AVIF", "HEIC", "BMP", "TIFF"]

AVIF_BRANDS = frozenset({b"avif", b"avis"})
HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})

_FAMILIES: tuple[tuple[bytes, Family], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
)
_OTHER_IMAGES = (
    (b"8BPS", "a Photoshop file"),
    (b"%!PS", "a PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\x00\x00\x01\x00", "a Windows icon"),
    (b"\x00\x00\x02\x00\x00", "a Targa image"),
    (b"\x00\x00\x0a\x00\x00", "a Targa image"),
    (b"\x00\x00\x02\x00", "a Windows cursor"),
    (b"icns", "a macOS icon"),
    (b"DDS ", "a DirectDraw surface"),
    (b"qoif", "a QOI image"),
    *(
        (b"P" + digit + space, "a Netpbm image")
        for digit in (b"1", b"2", b"3", b"4", b"5", b"6")
        for space in (b"\n", b" ")
    ),
)
_OTHER_FILES = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"\x1aE\xdf\xa3", "a video"),
    (b"OggS", "an audio or video file"),
    (b"ID3", "an audio file"),
    (b"fLaC", "an audio file"),
)
_MARKUP = ((b"<svg", "an SVG drawing"), (b"<!doctype html", "an HTML page"), (b"<html", "an HTML page"))


def family(data: bytes) -> Family | None:
    """The format that the first bytes announce; None when it is none that is decoded here."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        return "AVIF" if brand in AVIF_BRANDS else "HEIC" if brand in HEIC_BRANDS else None
    return next((name for magic, name in _FAMILIES if data.startswith(magic)), None)


def other_image(data: bytes) -> str | None:
    """The name, with its article, of an image format that is recognised and not decoded; else None."""
    return next((name for magic, name in _OTHER_IMAGES if data.startswith(magic)), None)


def other_file(data: bytes) -> str:
    """What a file that is no image is, with its article, as well as can be told from its first kilobyte."""
    known = next((name for magic, name in _OTHER_FILES if data.startswith(magic)), None)
    if known:
        return known
    if data[4:8] == b"ftyp":
        return "a video"
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    markup = next((name for tag, name in _MARKUP if tag in head and head.startswith(b"<")), None)
    if markup:
        return markup
    return "text" if _is_text(data[:1024]) else "an unknown kind of file"


def webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels that a WebP file announces; None when its header is broken.

    The canvas of a WebP is allocated when the file is opened, so its size must be known before.
    Source: https://developers.google.com/speed/webp/docs/riff_container
    """
    if len(data) < 30:
        return None
    kind, bits = data[12:16], int.from_bytes(data[21:25], "little")
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L":
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def is_cut_short(data: bytes) -> bool:
    """Whether the end that the format promises is missing; asked only of files that failed to decode."""
    kind = family(data)
    return kind is not None and _IS_CUT_SHORT[kind](data)


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # else only a character cut in two by the end of the kilobyte
            return False
        text = head[: error.start].decode()
    return all(character.isprintable() or character.isspace() for character in text)


def _is_cut_boxes(data: bytes) -> bool:
    """ISO base media files (AVIF, HEIC) are boxes, each beginning with its length; source: ISO/IEC 14496-12, 4.2."""
    place = 0
    while place + 8 <= len(data):
        size = int.from_bytes(data[place : place + 4])
        if size == 1:
            size = int.from_bytes(data[place + 8 : place + 16])
        if size < 8:  # 0 means "to the end of the file"; anything else is damage, not a cut
            return False
        place += size
    return place != len(data)


def _is_cut_tiff(data: bytes) -> bool:
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    return int.from_bytes(data[4:8], order) + 2 > len(data)  # the first directory lies beyond the end


_IS_CUT_SHORT: dict[Family, Callable[[bytes], bool]] = {
    "JPEG": lambda data: b"\xff\xd9" not in data[-1024:],
    "PNG": lambda data: b"IEND" not in data[-1024:],
    "GIF": lambda data: not data.rstrip(b"\x00").endswith(b";"),
    "WebP": lambda data: len(data) < 8 + int.from_bytes(data[4:8], "little"),
    "BMP": lambda data: len(data) < int.from_bytes(data[2:6], "little"),
    "TIFF": _is_cut_tiff,
    "AVIF": _is_cut_boxes,
    "HEIC": _is_cut_boxes,
}
