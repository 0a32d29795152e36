"""Completes files that lack only what comes after their picture, as some programs and proxies leave them.

A JPEG ends with two bytes that hold nothing else, a WebP's header repeats the file's length. Whether all of a
JPEG's picture is there cannot be read off its bytes without decoding it. So it is decoded with different bytes in the
place of its end: if the picture depends on them, some of it is missing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

END_OF_IMAGE = b"\xff\xd9"
# What may stand between the picture and its end: nothing, and bits that would be seen if they were taken for pixels.
TAILS = (b"", b"\xa5" * 64, b"\x5a" * 64)
MAX_UNUSED = 16  # bytes after the picture, as a line end that a program added
_N_COEFFICIENTS = 64
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in compressed data, not a stuffed byte and not a restart
_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_START_OF_SCAN = 0xDA


def complete_jpegs(data: bytes) -> tuple[Sequence[bytes], bytes] | None:
    """A JPEG without its end, completed in several ways; None if it is another kind of damage.

    Returns:
        Files that must all show the same picture if none of it is missing; and one that must show another, as else the
        last bytes are no part of the picture, and it may have been cut before them.

    Source: ITU-T T.81, annexes B and G.
    """
    if not _announces_all(data):
        return None
    body = data.removesuffix(b"\xff")
    return [body + tail + END_OF_IMAGE for tail in TAILS], body[:-MAX_UNUSED] + TAILS[1] + END_OF_IMAGE


def complete_webp(data: bytes) -> bytes:
    """A WebP whose header tells the length that the file has; a last chunk of odd length is filled up.

    Source: https://developers.google.com/speed/webp/docs/riff_container
    """
    even = data + bytes(len(data) % 2)
    return even[:4] + (len(even) - 8).to_bytes(4, "little") + even[8:]


def _announces_all(data: bytes) -> bool:
    """Whether the scans that a JPEG begins hold every bit of every coefficient.

    A progressive JPEG that ends between two scans looks whole and is coarse.
    """
    bits_left: dict[int, list[int]] = {}  # of each component, for each coefficient
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        segment = data[at + 4 : at + 2 + length]
        at += 2 + length
        if kind in _FRAMES and len(segment) > 5:
            bits_left = {component: [1] * _N_COEFFICIENTS for component in segment[6::3]}
        elif kind == _START_OF_SCAN and len(segment) >= 4:
            first, last, bits = segment[-3], segment[-2], segment[-1] & 0x0F
            for component in segment[1:-3:2]:
                if component in bits_left:
                    bits_left[component][first : last + 1] = [bits] * (last + 1 - first)
            found = _MARKER.search(data, at)
            if found is None:
                break
            at = found.start()
    return bool(bits_left) and not any(map(any, bits_left.values()))
