"""Finds fonts for the pictures and writes with them, in any script that one of the machine's fonts has.

The base font has Latin and, if possible, Japanese letters. In order of preference it is a Japanese font of the system,
that of the package matplotlib-fontja (IPAexGothic, 6 MB) if installed, or DejaVu Sans, which comes with Matplotlib.
What it lacks is written in the first other font that has it: DejaVu Sans, then those of the system, Noto Sans first.

Arabic, Hebrew, Thai, Hindi and others are more than one letter after the other. They are written only where Pillow can
shape them, which takes libraqm and FriBiDi. A wording that cannot be written rightly gives way to the next one.
"""

from __future__ import annotations

import importlib.util
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import regex
from PIL import ImageDraw, ImageFont, features

from bot.reply.length import clusters

FOLDERS = (
    Path("/usr/share/fonts"),
    Path("/usr/local/share/fonts"),
    Path("~/.local/share/fonts"),
    Path("~/.fonts"),
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
SUFFIXES = (".ttf", ".otf", ".ttc")
NEVER = ("LastResort", "Blank", "Emoji")  # in names of fonts that have a box, or nothing, for each character
NO_CHARACTER = "\U0010ffff"  # never assigned, so every font draws its missing-glyph box

_DROPPED = regex.compile(r"[\p{Cc}\p{Cf}\p{Variation_Selector}--\u200c\u200d]", regex.VERSION1)  # joiners stay
_JOINERS = "\u200c\u200d"
_WORDY = regex.compile(r"[\p{L}\p{N}\p{Mn}\p{Mc}]")
# Marks, joined or turned letters, and Hangul in pieces.
_SHAPED = regex.compile(r"[\p{M}\p{Bidi_Class=R}\p{Bidi_Class=AL}\p{Mongolian}\u1100-\u11ff]")
_RIGHT_TO_LEFT = r"[\p{Bidi_Class=R}\p{Bidi_Class=AL}]"
# From the first such letter to the last, with the number behind it.
_TURNED = regex.compile(rf"{_RIGHT_TO_LEFT}(?:.*{_RIGHT_TO_LEFT})?\p{{M}}*(?:[^\p{{L}}]*\p{{N}})?")
_STARTS_TURNED = regex.compile(rf"\P{{L}}*{_RIGHT_TO_LEFT}")

Text = str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Face:
    """The files of a font; `bold` may be the same."""

    regular: Path
    bold: Path


@dataclass(frozen=True, slots=True)
class Run:
    """A part of a line in one font; None: no font has it."""

    text: str
    face: Face | None
    direction: str | None = None  # ltr or rtl, of the line, where some letters run from right to left


@dataclass(frozen=True, slots=True)
class Font:
    """Writes lines of one size, each part of a line in a font that has its characters.

    Attributes:
        direction: of the text that the lines are of, ltr or rtl.
    """

    size_px: int
    bold: bool = False
    direction: str = "ltr"

    def getlength(self, text: str) -> float:
        """How wide a line is, in pixels."""
        return sum(self._of(run).getlength(run.text, direction=run.direction) for run in _runs(text, self.direction))

    def write(
        self,
        pen: ImageDraw.ImageDraw,
        at: tuple[float, float],
        text: str,
        ink: tuple[int, int, int],
        *,
        anchor: str = "la",
    ) -> None:
        """Writes a line; `anchor` as Pillow has it: l, m or r, then a, m or s."""
        ascent, descent = self._of(Run("", None)).getmetrics()
        left = at[0] - {"l": 0.0, "m": 0.5, "r": 1.0}[anchor[0]] * self.getlength(text)
        baseline = at[1] + {"a": ascent, "m": (ascent - descent) / 2, "s": 0}[anchor[1]]
        for run in _runs(text, self.direction):
            font = self._of(run)
            pen.text((left, baseline), run.text, ink, font, anchor="ls", direction=run.direction)
            left += font.getlength(run.text, direction=run.direction)

    def _of(self, run: Run) -> ImageFont.FreeTypeFont:
        face = run.face or _faces()[0]
        path = face.bold if self.bold and _has_all(face.bold, run.text) else face.regular
        return _truetype(path, self.size_px, is_shaped=_can_shape() and _SHAPED.search(run.text) is not None)


def load(size_px: int, *, bold: bool = False, text: str = "") -> Font:
    """The fonts at one size, for the lines of a text."""
    return Font(size_px, bold, _direction(text))


def writable(text: Text) -> str:
    """The first wording that can be written, without emoji and signs that no font has; empty if there is none.

    So a label falls back to its English name where no font has its letters, and no missing-glyph box is drawn.
    """
    wordings = (text,) if isinstance(text, str) else text
    for wording in wordings:
        whole = _DROPPED.sub("", unicodedata.normalize("NFC", wording))
        kept = "".join(each for each in clusters(whole) if _WORDY.search(each) or _face(each) is not None)
        if can_write(kept) and kept.strip():
            return " ".join(kept.split())
    return ""


def can_write(text: str) -> bool:
    """Whether fonts have every character of a text, and Pillow can shape it."""
    is_shaped = _SHAPED.search(text) is not None
    return (_can_shape() or not is_shaped) and all(run.face is not None for run in _runs(text, _direction(text)))


def _direction(text: str) -> str:
    """Where a text runs to: as its first letter does."""
    return "rtl" if _STARTS_TURNED.match(text) else "ltr"


def _runs(text: str, direction: str) -> list[Run]:
    """The parts of a line, from left to right."""
    turned = _TURNED.search(text)
    if turned is None:
        return _runs_by_font(text)
    start, end = (0, len(text)) if direction == "rtl" else turned.span()
    middle = Run(text[start:end], _face(text[start:end]), direction if _can_shape() else None)
    return [*_runs_by_font(text[:start]), middle, *_runs_by_font(text[end:])]


def _runs_by_font(text: str) -> list[Run]:
    runs: list[Run] = []
    for cluster in clusters(text):
        last = runs[-1].face if runs else None
        stays = last is not None and not _WORDY.search(cluster) and _has_all(last.regular, cluster)
        face = last if stays else _face(cluster)
        if runs and face == last:
            runs[-1] = Run(runs[-1].text + cluster, face)
        else:
            runs.append(Run(cluster, face))
    return runs


def _can_shape() -> bool:
    return bool(features.check("raqm"))


@lru_cache(maxsize=4096)
def _face(text: str) -> Face | None:
    """The first font that has every character of a text."""
    return next((face for face in _faces() if _has_all(face.regular, text)), None)


def _has_all(path: Path, text: str) -> bool:
    return all(_has(path, character) for character in set(text))


@lru_cache(maxsize=65536)
def _has(path: Path, character: str) -> bool:
    if character.isspace() or character in _JOINERS:
        return True
    try:
        font = _truetype(path, 16, is_shaped=False)
        return bytes(font.getmask(character)) != bytes(font.getmask(NO_CHARACTER))
    except OSError:  # no font of ours, or one of fixed sizes
        return False


@lru_cache(maxsize=512)
def _truetype(path: Path, size_px: int, *, is_shaped: bool) -> ImageFont.FreeTypeFont:
    layout = ImageFont.Layout.RAQM if is_shaped else ImageFont.Layout.BASIC
    return ImageFont.truetype(path, size_px, layout_engine=layout)


@cache
def _faces() -> tuple[Face, ...]:
    """All fonts, the base font first."""
    found: dict[str, Path] = {}
    for path in _font_files():
        found.setdefault(path.name, path)
    folder = _package_folder("matplotlib") / "mpl-data/fonts/ttf"
    dejavu = Face(folder / "DejaVuSans.ttf", folder / "DejaVuSans-Bold.ttf")
    japanese = [Face(found[regular], found.get(bold, found[regular])) for regular, bold in JAPANESE if regular in found]
    others = [
        Face(path, next((found[name] for name in _bold_names(path) if name in found), path))
        for name, path in sorted(found.items(), key=_preference)
        if path.suffix in SUFFIXES
        and (path.stem.endswith("-Regular") or "-" not in path.stem)
        and not any(word in name for word in NEVER)
    ]
    return (*japanese[:1], dejavu, *others)


def _preference(named: tuple[str, Path]) -> tuple[bool, bool, str]:
    name = named[0]
    return not name.startswith("NotoSans"), "Serif" in name or "Mono" in name, name


def _bold_names(path: Path) -> tuple[str, ...]:
    stem = path.stem.removesuffix("-Regular")
    return f"{stem}-Bold{path.suffix}", f"{stem}Bold{path.suffix}"


def _font_files() -> Iterator[Path]:
    packaged = _package_folder("matplotlib_fontja")
    for folder in (*(folder.expanduser() for folder in FOLDERS), packaged):
        for inner, _, names in os.walk(folder):
            yield from (Path(inner, name) for name in names)


def _package_folder(name: str) -> Path:
    """The folder of a package, without importing it; a path that is no folder if it is not installed."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else Path(os.devnull)
