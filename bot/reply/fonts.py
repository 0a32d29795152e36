"""A font that can write what the picture says, Japanese included; what none can write is not written.

Taken from what is there, best first: a Japanese font of the system's, the one of the package matplotlib-fontja
(IPAexGothic, 6 MB) where that is installed, and DejaVu Sans, which Matplotlib brings and which has no Japanese.
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
NO_CHARACTER = "\U0010ffff"  # never assigned: every font draws its sign for a missing glyph

Text = str | tuple[str, ...]


@cache
def load(size_px: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The best font there is, at one size; remembered."""
    regular, heavy = _paths()
    return ImageFont.truetype(heavy if bold else regular, size_px, layout_engine=ImageFont.Layout.BASIC)


def can_write(text: str) -> bool:
    """Whether the font has every character of a text."""
    return all(_has(character) for character in set(text))


def writable(text: Text) -> str:
    """The first of several wordings that can be written whole; of the last one, what can be written.

    So a Japanese label falls back to its English name where there is no Japanese font, and nowhere stands a tofu.
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
    """Regular and bold."""
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
    """Where an installed package lies, without importing it; a folder that does not exist when it is not installed."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else Path(os.devnull)
