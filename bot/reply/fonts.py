"""Finds a font for the pictures, with Japanese if possible; characters that it lacks are left out.

In order of preference: a Japanese font of the system, that of the package matplotlib-fontja (IPAexGothic, 6 MB) if
installed, and DejaVu Sans, which comes with Matplotlib and has no Japanese.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from PIL import ImageFont

FOLDERS = (
    Path("/usr/share/fonts"),
    Path("/usr/local/share/fonts"),
    Path("~/.local/share/fonts"),
    Path("/System/Library/Fonts"),
    Path("/Library/Fonts"),
)
# File names, regular and bold, best first. In the collections (.ttc) the first font is the Japanese one.
JAPANESE = (
    ("NotoSansCJK-Regular.ttc", "NotoSansCJK-Bold.ttc"),
    ("NotoSansCJKjp-Regular.otf", "NotoSansCJKjp-Bold.otf"),
    ("NotoSansJP-Regular.otf", "NotoSansJP-Bold.otf"),
    ("ヒラギノ角ゴシック W3.ttc", "ヒラギノ角ゴシック W6.ttc"),
    ("ipaexg.ttf", "ipaexg.ttf"),
    ("ipag.ttf", "ipag.ttf"),
    ("fonts-japanese-gothic.ttf", "fonts-japanese-gothic.ttf"),
)
NO_CHARACTER = "\U0010ffff"  # never assigned, so every font draws its missing-glyph box

Text = str | tuple[str, ...]


@cache
def load(size_px: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The best available font at one size; cached."""
    regular, heavy = _paths()
    return ImageFont.truetype(heavy if bold else regular, size_px, layout_engine=ImageFont.Layout.BASIC)


def can_write(text: str) -> bool:
    """Whether the font has every character of a text."""
    return all(_has(character) for character in set(text))


def writable(text: Text) -> str:
    """The first wording that the font can write completely, else the characters of the last one that it has.

    So a Japanese label falls back to its English name without a Japanese font, and no missing-glyph box is drawn.
    """
    wordings = (text,) if isinstance(text, str) else text
    for wording in wordings:
        if can_write(wording):
            return wording
    return "".join(filter(_has, wordings[-1])).strip()


@cache
def _has(character: str) -> bool:
    if character.isspace():
        return True
    font = load(16)
    return bytes(font.getmask(character)) != bytes(font.getmask(NO_CHARACTER))


@cache
def _paths() -> tuple[Path, Path]:
    """The paths of the regular and the bold font."""
    found: dict[str, Path] = {}
    for path in _font_files():
        found.setdefault(path.name, path)
    for regular, bold in JAPANESE:
        if regular in found:
            return found[regular], found.get(bold, found[regular])
    dejavu = _package_folder("matplotlib") / "mpl-data/fonts/ttf"
    return dejavu / "DejaVuSans.ttf", dejavu / "DejaVuSans-Bold.ttf"


def _font_files() -> Iterator[Path]:
    packaged = _package_folder("matplotlib_fontja")
    for folder in (*(folder.expanduser() for folder in FOLDERS), packaged):
        for inner, _, names in os.walk(folder):
            yield from (Path(inner, name) for name in names)


def _package_folder(name: str) -> Path:
    """The folder of a package, without importing it; a path that is no folder if it is not installed."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else Path(os.devnull)
