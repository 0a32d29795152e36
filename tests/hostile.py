"""A corpus of files that people might send to the bot: valid images of every kind, and files that only look like one.

All are generated here from a seed; none is a real photo. Each lists its allowed outcomes: an array, or reasons for a
refusal.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pillow_heif import register_heif_opener

ARRAY = "array"
BROKEN = frozenset({"truncated", "damaged"})
FLIPPED = frozenset(
    {ARRAY, "truncated", "damaged", "unsupported", "not_an_image", "too_many_pixels", "too_small", "animated_too_long"}
)
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "HEIF", "BMP", "TIFF")
SIZE = (180, 270)
_UNTURN = {  # undoes the rotation of an EXIF orientation
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
ORIENTATION = 0x0112
EXIF_IN_WORDS = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHI4sI", 1, ORIENTATION, 2, 3, b"up", 0)
# Orientation 6, and a text as resolution.
EXIF_HALF_GOOD = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack(
    "<HHHIHHHHI4sI", 2, ORIENTATION, 3, 1, 6, 0, 0x011A, 2, 3, b"up", 0
)


@dataclass(frozen=True, slots=True)
class HostileFile:
    """One file of the corpus.

    Attributes:
        outcomes: "array" and reasons of `ImageError`; decoding must end in one of them.
        expected: what the array must show, approximately; None if no picture is promised.
    """

    name: str
    data: bytes
    outcomes: frozenset[str]
    expected: Image.Image | None = None


@cache
def corpus(seed: int = 0) -> tuple[HostileFile, ...]:
    """Every file of the corpus, the same for the same seed; 50 MB in all, cached."""
    return (
        *_good_files(),
        *_turned_files(),
        *_odd_sizes(),
        *_cut_files(),
        *flipped(seed),
        *bombs(),
        *_crowded_files(),
        *_other_files(seed),
    )


@cache
def drawing() -> Image.Image:
    """A figure on four colours; every rotation and mirror image of it is different."""
    width, height = SIZE
    image = Image.new("RGB", SIZE, (200, 60, 60))
    pen = ImageDraw.Draw(image)
    pen.rectangle((width // 2, 0, width, height // 2), fill=(60, 160, 70))
    pen.rectangle((0, height // 2, width // 2, height), fill=(50, 70, 180))
    pen.rectangle((width // 2, height // 2, width, height), fill=(230, 200, 80))
    pen.ellipse((65, 40, 115, 90), fill=(240, 210, 190))
    pen.polygon(((90, 85), (140, 240), (40, 240)), fill=(40, 30, 60))
    pen.line((20, 250, 60, 110), fill=(250, 250, 250), width=6)
    return image


@cache
def encoded(format_name: str) -> bytes:
    """The drawing as a plain file of one of `FORMATS`."""
    return save(drawing(), format_name)


def save(image: Image.Image, format_name: str, **options: Any) -> bytes:
    """Encodes an image with Pillow."""
    if format_name == "HEIF":
        register_heif_opener()
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def png(
    size: tuple[int, int], depth: int, colour: int, stream: bytes, *chunks: bytes, interlaced: bool = False
) -> bytes:
    """Builds a PNG: header, further chunks, the zlib stream of its rows."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlaced)
    parts = (png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", stream), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def zeros(n_bytes: int) -> bytes:
    """A zlib stream of `n_bytes` zeros, a thousandth as long, made without holding them in memory."""
    block_bytes = 1 << 20
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(block_bytes)) + packer.flush(zlib.Z_FULL_FLUSH)
    packer = zlib.compressobj(9, wbits=-15)
    rest = packer.compress(bytes(n_bytes % block_bytes)) + packer.flush()
    checksum = struct.pack(">HH", n_bytes % 65521, 1)  # Adler-32 of zeros
    return b"\x78\xda" + block * (n_bytes // block_bytes) + rest + checksum


def gif_parts() -> tuple[bytes, bytes]:
    """The drawing as a GIF: header with palette, and one frame, without the final semicolon."""
    data = encoded("GIF")
    start = 13 + 3 * (2 << (data[10] & 7))
    return data[:start], data[start:-1]


@cache
def bombs() -> tuple[HostileFile, ...]:
    """Small files that need much memory or time to decode; part of the corpus."""
    return (*_pixel_bombs(), *_tiff_bombs(), *_text_bombs(), *_long_animations())


def _pixel_bombs() -> Iterator[HostileFile]:
    refused = frozenset({"too_many_pixels"})
    yield HostileFile("bomb/60000x60000-1bit.png", png((60000, 60000), 1, 0, zeros(60000 * 7501)), refused)
    yield HostileFile("bomb/13000x13000-rgb.png", png((13000, 13000), 8, 2, zeros(13000 * 39001)), refused)
    yield HostileFile("bomb/header-2e9.png", png((2**31 - 1, 2**31 - 1), 8, 6, zeros(100)), refused)
    yield HostileFile("bomb/screen.gif", _patch(encoded("GIF"), 6, b"\xff\xff\xff\xff"), refused)
    start, frame = gif_parts()
    yield HostileFile(
        "bomb/frame.gif", start + _patch(frame, frame.index(b",") + 5, b"\xff\xff\xff\xff") + b";", refused
    )
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\xff\xff" * 2
    body = b"WEBP" + canvas + encoded("WEBP")[12:]
    yield HostileFile("bomb/canvas.webp", b"RIFF" + struct.pack("<I", len(body)) + body, refused)
    lossless = save(drawing(), "WEBP", lossless=True)
    yield HostileFile("bomb/lossless.webp", _patch(lossless, 21, b"\xff\xff\xff\x0f"), refused)
    yield HostileFile("bomb/lossy.webp", _patch(encoded("WEBP"), 26, b"\xff\x3f\xff\x3f"), refused)
    place = encoded("JPEG").index(b"\xff\xc0") + 5
    yield HostileFile("bomb/header.jpg", _patch(encoded("JPEG"), place, b"\xff\xdc\xff\xdc"), refused)
    yield HostileFile("bomb/header.bmp", _patch(encoded("BMP"), 18, struct.pack("<II", 2**30, 2**30)), refused)
    yield HostileFile("bomb/upside-down.bmp", _patch(encoded("BMP"), 18, struct.pack("<Ii", 2**20, -(2**20))), refused)
    rle = b"BM" + struct.pack("<IIIIiiHHIIIIII", 0, 0, 1078, 40, 5000, 5000, 1, 8, 1, 0, 0, 0, 256, 0)
    yield HostileFile("bomb/rle.bmp", rle + bytes(1024) + b"\x00\x00" * 2_000_000, BROKEN | {ARRAY})
    for name in ("AVIF", "HEIF"):
        place = encoded(name).index(b"ispe") + 8
        data = _patch(encoded(name), place, struct.pack(">II", 30000, 30000))
        yield HostileFile(f"bomb/lying-header.{name.lower()}", data, refused | BROKEN)


def _tiff_bombs() -> Iterator[HostileFile]:
    refused = frozenset({"too_many_pixels"})
    lzw = save(drawing(), "TIFF", compression="tiff_lzw")
    for name, tags in {
        "header": {256: 100_000, 257: 100_000},
        "wide": {256: 2**31 - 1, 257: 32},
        "strip": {278: 2**31 - 1},
        "strip-length": {279: 2**31 - 1},
        "samples": {277: 65535},
    }.items():
        outcomes = refused if 256 in tags else BROKEN | {ARRAY, "unsupported", "too_heavy"}
        yield HostileFile(f"bomb/{name}.tif", _retag(lzw, tags), outcomes)
    tile = {256: 64, 257: 64, 258: 8, 259: 8, 262: 1, 277: 1, 322: 2**20, 323: 2**20, 324: 8, 325: 100}
    yield HostileFile("bomb/tile.tif", _tiff(tile), refused)
    pages = save(Image.new("L", (40, 40)), "TIFF", save_all=True, append_images=[Image.new("L", (40, 40))] * 1100)
    yield HostileFile("bomb/pages.tif", pages, frozenset({"animated_too_long"}))


def _text_bombs() -> Iterator[HostileFile]:
    rows = zlib.compress(_rows(np.asarray(drawing())))
    text = png_chunk(b"zTXt", b"Comment\0\0" + zeros(64 << 20))
    profile = png_chunk(b"iCCP", b"profile\0\0" + zeros(64 << 20))
    either = frozenset({ARRAY, "damaged"})
    yield HostileFile("bomb/text.png", png(SIZE, 8, 2, rows, text), either)
    yield HostileFile(
        "bomb/international-text.png",
        png(SIZE, 8, 2, rows, png_chunk(b"iTXt", b"k\0\1\0\0\0" + zeros(64 << 20))),
        either,
    )
    yield HostileFile(
        "bomb/many-texts.png", png(SIZE, 8, 2, rows, *[png_chunk(b"zTXt", b"k\0\0" + zeros(1_000_000))] * 200), either
    )
    yield HostileFile("bomb/profile.png", png(SIZE, 8, 2, rows, profile), either)
    plain = png_chunk(b"tEXt", b"Comment\0" + b"x" * 8_000_000)
    yield HostileFile("bomb/long-text.png", png(SIZE, 8, 2, rows, plain), either)
    yield HostileFile("bomb/many-chunks.png", png(SIZE, 8, 2, rows, png_chunk(b"prVt", b"") * 50_000), either)
    yield HostileFile("bomb/scans.jpg", _many_scans(3000), BROKEN)
    yield HostileFile(
        "bomb/segments.jpg",
        encoded("JPEG")[:2] + b"\xff\xe5\x00\x04ab" * 100_000 + encoded("JPEG")[2:],
        frozenset({ARRAY}),
    )


def _long_animations() -> Iterator[HostileFile]:
    too_long = frozenset({"animated_too_long"})
    start, frame = gif_parts()
    yield HostileFile("bomb/frames.gif", start + frame * 1100 + b";", too_long)
    still, turned = (drawing().resize((40, 40)).rotate(angle) for angle in (0, 90))
    for name in ("PNG", "WEBP"):
        data = save(still, name, save_all=True, append_images=[turned, still] * 550)
        yield HostileFile(f"bomb/frames.{name.lower()}", data, too_long)
    rows = zlib.compress(_rows(np.asarray(drawing())))
    claim = png_chunk(b"acTL", struct.pack(">II", 2**31, 0))
    yield HostileFile("bomb/claims-frames.png", png(SIZE, 8, 2, rows, claim), too_long)
    yield HostileFile(
        "bomb/comments.gif", start + b"!\xfe" + b"\x01x" * 500_000 + b"\x00" + frame + b";", frozenset({ARRAY})
    )


def _good_files() -> Iterator[HostileFile]:
    """The drawing in every variant that must be accepted."""
    image = drawing()
    grey, palette = image.convert("L"), image.quantize(32)
    for name in FORMATS:
        yield _good(f"good/plain.{name.lower()}", encoded(name), image)
    variants: Sequence[tuple[str, bytes, Image.Image]] = (
        ("progressive.jpg", save(image, "JPEG", progressive=True, quality=90), image),
        ("grey.jpg", save(grey, "JPEG"), grey),
        ("cmyk.jpg", save(image.convert("CMYK"), "JPEG", quality=90), image),
        ("several.mpo", save(image, "MPO", save_all=True, append_images=[grey.convert("RGB")]), image),
        ("profile.jpg", save(image, "JPEG", icc_profile=b"no profile at all" * 99), image),
        ("comment.jpg", save(image, "JPEG", comment=b"\xff\xd8" * 9000), image),
        ("trailer.jpg", encoded("JPEG") + b"<html>" * 1000, image),
        ("exif-garbage.jpg", save(image, "JPEG", exif=b"Exif\0\0" + bytes(range(256)) * 9), image),
        ("exif-cut.jpg", save(image, "JPEG", exif=_exif(1)[:-9]), image),
        ("exif-orientation-99.jpg", save(image, "JPEG", exif=_exif(99)), image),
        ("exif-orientation-text.jpg", save(image, "JPEG", exif=EXIF_IN_WORDS), image),
        ("exif-garbage.png", save(image, "PNG", exif=b"Exif\0\0MM\0*" + b"\xff" * 99), image),
        ("exif-garbage.webp", save(image, "WEBP", exif=b"Exif\0\0II*\0" + b"\xff" * 99), image),
        ("grey.png", save(grey, "PNG"), grey),
        ("palette.png", save(palette, "PNG"), image),
        ("16-bit-grey.png", save(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG"), grey),
        ("16-bit.png", png(SIZE, 16, 2, zlib.compress(_rows(np.asarray(image).repeat(2, axis=2)))), image),
        ("interlaced.png", png(SIZE, 8, 2, zlib.compress(_interlaced_rows(np.asarray(image))), interlaced=True), image),
        ("profile-garbage.png", save(image, "PNG", icc_profile=b"no profile"), image),
        ("lossless.webp", save(image, "WEBP", lossless=True), image),
        ("animated.webp", save(image, "WEBP", save_all=True, append_images=[image.rotate(90)]), image),
        ("interlaced.gif", save(palette, "GIF", interlace=1), image),
        ("animated.gif", save(palette, "GIF", save_all=True, append_images=[palette.rotate(90)]), image),
        ("animated.png", save(image, "PNG", save_all=True, append_images=[image.rotate(90)]), image),
        ("palette.bmp", save(palette, "BMP"), image),
        ("32-bit.bmp", save(image.convert("RGBA"), "BMP"), image),
        *((f"{packing}.tif", save(image, "TIFF", compression=packing), image) for packing in _TIFF_PACKINGS),
        ("cmyk.tif", save(image.convert("CMYK"), "TIFF"), image),
        ("16-bit-grey.tif", save(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "TIFF"), grey),
        ("big.tif", save(image, "TIFF", big_tiff=True), image),
        ("pages.tif", save(image, "TIFF", save_all=True, append_images=[drawing().convert("L")]), image),
        ("grey.heic", save(grey, "HEIF"), grey),
        *_transparent_variants(),
        *((f"as-{name.lower()}.exe", encoded(name), image) for name in FORMATS),
    )
    for name, data, expected in variants:
        yield _good(f"good/{name}", data, expected)
    checkers = image.convert("1")
    for name in ("PNG", "GIF", "BMP", "TIFF"):
        yield _good(f"good/1-bit.{name.lower()}", save(checkers, name), checkers)


_TIFF_PACKINGS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")


def _transparent_variants() -> Iterator[tuple[str, bytes, Image.Image]]:
    """Cutouts whose transparent parts must become white."""
    alpha = Image.new("L", SIZE, 255)
    alpha.paste(0, (0, 0, SIZE[0] // 2, SIZE[1]))
    cutout = drawing().copy()
    cutout.putalpha(alpha)
    expected = Image.new("RGB", SIZE, "white")
    expected.paste(drawing(), mask=alpha)
    for name in ("PNG", "WEBP", "TIFF", "AVIF", "HEIF"):
        yield f"cutout.{name.lower()}", save(cutout, name), expected
    yield "grey-cutout.png", save(cutout.convert("LA"), "PNG"), expected.convert("L")
    indexed = cutout.quantize(32)
    yield "palette-cutout.png", save(indexed, "PNG"), expected
    yield "palette-cutout.gif", save(cutout, "GIF"), expected


def _turned_files() -> Iterator[HostileFile]:
    """Files stored rotated, with the EXIF orientation that undoes it."""
    for name in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"):
        for orientation, undo in _UNTURN.items():
            stored = drawing() if undo is None else drawing().transpose(undo)
            data = save(stored, name, exif=_exif(orientation))
            yield _good(f"turned/{orientation}.{name.lower()}", data, drawing())
    data = save(drawing().transpose(Image.Transpose.ROTATE_90), "JPEG", exif=EXIF_HALF_GOOD)
    yield _good("turned/beside-a-damaged-tag.jpeg", data, drawing())


def _odd_sizes() -> Iterator[HostileFile]:
    small = frozenset({"too_small"})
    for size in ((1, 1), (1, 4000), (4000, 1), (31, 300), (300, 31)):
        for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
            data = save(drawing().resize(size), name)
            yield HostileFile(f"size/{size[0]}x{size[1]}.{name.lower()}", data, small)
    yield HostileFile("size/0x0.png", png((0, 0), 8, 2, zlib.compress(b"")), small | BROKEN)
    yield HostileFile("size/0x0.gif", _patch(encoded("GIF"), 6, bytes(4)), frozenset({ARRAY}) | small | BROKEN)
    for size in ((32, 32), (32, 12000), (12000, 32), (6000, 5000)):
        image = drawing().resize(size, Image.Resampling.NEAREST)
        yield _good(f"size/{size[0]}x{size[1]}.jpg", save(image, "JPEG", quality=95, subsampling=0), image)


def _cut_files() -> Iterator[HostileFile]:
    """Every format, cut off after each tenth."""
    files = {name.lower(): encoded(name) for name in FORMATS}
    files["progressive.jpg"] = save(drawing(), "JPEG", progressive=True)
    files["lzw.tif"] = save(drawing(), "TIFF", compression="tiff_lzw")
    for name, data in files.items():
        for tenth in range(1, 10):
            outcomes = BROKEN if "tif" in name else frozenset({"truncated"})
            yield HostileFile(f"cut/{tenth}-tenths.{name}", data[: len(data) * tenth // 10], outcomes)


def flipped(seed: int) -> Iterator[HostileFile]:
    """Each format with a few flipped bits: eight files anywhere, four in the headers."""
    rng = np.random.default_rng(seed)
    for name in FORMATS:
        for number in range(12):
            data = bytearray(encoded(name))
            reach = len(data) if number < 8 else min(200, len(data))
            for place in rng.integers(0, reach, size=1 << number % 4):
                data[place] ^= 1 << rng.integers(8)
            yield HostileFile(f"flipped/{number}.{name.lower()}", bytes(data), FLIPPED)


def _crowded_files() -> Iterator[HostileFile]:
    """Files inside files."""
    yield _good(
        "nested/html-in-comment.jpg", save(drawing(), "JPEG", comment=b"<html><script>alert(1)</script>"), drawing()
    )
    yield _good("nested/script.gif", save(drawing(), "GIF", comment=b"*/=1;alert(1)/*"), drawing())
    yield _good("nested/zip-behind.png", encoded("PNG") + b"PK\x03\x04" + bytes(100), drawing())
    archive = b"PK\x03\x04" + bytes(26) + encoded("PNG")
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="data:image/png;base64,AAAA"/></svg>'
    icon = b"\0\0\1\0\1\0\0\0\0\0\1\0\x20\0" + struct.pack("<II", len(encoded("PNG")), 22) + encoded("PNG")
    yield HostileFile("nested/png.zip", archive, frozenset({"not_an_image"}))
    yield HostileFile("nested/png.svg", svg, frozenset({"not_an_image"}))
    yield HostileFile("nested/png.ico", icon, frozenset({"unsupported"}))
    yield HostileFile("nested/jpeg-in-jpeg.jpg", encoded("JPEG")[:200] + encoded("JPEG"), FLIPPED)


def _other_files(seed: int) -> Iterator[HostileFile]:
    """Files that are no images, or of unsupported formats."""
    rng = np.random.default_rng(seed)
    no_image: dict[str, bytes] = {
        "page.html": b"<!DOCTYPE html><html><body>404</body></html>",
        "page-with-bom.html": b"\xef\xbb\xbf\n <html lang=ja>",
        "drawing.svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
        "bomb.svg": b'<!DOCTYPE s [<!ENTITY a "aa">]><svg>&a;</svg>',
        "answer.json": b'{"error":"Record not found"}',
        "text.txt": "写真ではありません。".encode() * 60,
        "paper.pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        "archive.zip": b"PK\x03\x04" + bytes(60),
        "archive.gz": b"\x1f\x8b\x08" + bytes(60),
        "video.mp4": b"\0\0\0\x20ftypisom" + bytes(60),
        "video.webm": b"\x1aE\xdf\xa3" + bytes(60),
        "sound.mp3": b"ID3\x04" + bytes(60),
        "program": b"\x7fELF" + bytes(60),
        "one-byte": b"\xff",
        "nulls": bytes(5000),
        **{f"random-{number}": rng.bytes(5000) for number in range(5)},
    }
    for name, data in no_image.items():
        yield HostileFile(f"other/{name}", data, frozenset({"not_an_image"}))
    no_format = {
        "page.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "layers.psd": b"8BPS\0\1" + bytes(60),
        "scan.jp2": save(drawing(), "JPEG2000"),
        "picture.jxl": b"\xff\x0a" + bytes(60),
        "picture.ppm": save(drawing(), "PPM"),
        "picture.ico": save(drawing(), "ICO"),
        "picture.qoi": save(drawing(), "QOI"),
    }
    for name, data in no_format.items():
        yield HostileFile(f"other/{name}", data, frozenset({"unsupported"}))
    yield HostileFile("other/empty", b"", frozenset({"empty"}))
    yield HostileFile("other/17-megabytes.jpg", encoded("JPEG") + bytes(17 << 20), frozenset({"too_large"}))
    for name in FORMATS:
        start = encoded(name)[:16]
        yield HostileFile(f"other/only-magic.{name.lower()}", start, BROKEN)
        yield HostileFile(f"other/magic-and-noise.{name.lower()}", start + rng.bytes(3000), FLIPPED)


def _good(name: str, data: bytes, expected: Image.Image) -> HostileFile:
    return HostileFile(name, data, frozenset({ARRAY}), expected)


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif.tobytes()


def _patch(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]


def _rows(pixels: np.ndarray) -> bytes:
    """The rows of a PNG, unfiltered."""
    return b"".join(b"\0" + row.tobytes() for row in pixels)


def _interlaced_rows(pixels: np.ndarray) -> bytes:
    """Rows in Adam7 order, seven passes; source: https://www.w3.org/TR/png-3/#8Interlace"""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    return b"".join(_rows(pixels[top::down, left::right]) for left, top, right, down in passes)


def _many_scans(n_scans: int) -> bytes:
    """A progressive JPEG that repeats its last scan many times."""
    data = save(drawing(), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * n_scans + data[-2:]


def _tiff(tags: dict[int, int]) -> bytes:
    """A TIFF with one directory of 32-bit values and a hundred zero bytes."""
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 108) + bytes(100) + directory


def _retag(data: bytes, tags: dict[int, int]) -> bytes:
    """Replaces values of tags in a little-endian TIFF's first directory."""
    (start,) = struct.unpack_from("<I", data, 4)
    (n_tags,) = struct.unpack_from("<H", data, start)
    for place in range(start + 2, start + 2 + 12 * n_tags, 12):
        (tag,) = struct.unpack_from("<H", data, place)
        if tag in tags:
            data = _patch(data, place, struct.pack("<HHII", tag, 4, 1, tags[tag]))
    return data
