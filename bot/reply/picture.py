"""Draws a prediction: the photo with the head's heat map, and the scores as bars.

Uses only Pillow and takes about 30 ms. The dark background suits light and dark pages. Letters are large enough for a
phone, which shows the card at less than half its size. All texts come from the caller; none is an asker's.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from bot.reply.fonts import Font, Text, load, writable
from bot.reply.length import clusters
from bot.reply.writer import percent
from trainer.photos.views import WHOLE, Box, Pixels, is_mirrored, view_box

SIZE = (800, 420)
MARGIN = 24
PHOTO_BOX = (330, SIZE[1] - 2 * MARGIN)  # maximum size of the photo
HEADLINE_PX, HEADLINE_ALONE_PX = 120, SIZE[1] - 4 * MARGIN  # maximum height of the headline, with and without bars
MAX_BARS = 4
FRAME_PX = 2  # around the part of the photo that was looked at

BACKGROUND = (29, 32, 40)
TRACK = (58, 63, 76)
BAR = (126, 143, 178)
BEST_BAR = (252, 176, 66)
INK = (242, 242, 240)
PALE_INK = (172, 177, 188)

# Sixteen steps of Matplotlib's plasma: perceptually uniform, also for colour-blind people.
# Source: https://bids.github.io/colormap/ (public domain)
_PLASMA = bytes.fromhex(
    "0d0887 330597 5002a2 6a00a8 8405a7 9c179e b12a90 c33d80 d35171 e16462 ed7953 f68f44 fca636 fec029 f9dc24 f0f921"
)
_PHRASE = re.compile("[^はがのをにで、。]*[はがのをにで、。]+も?|[^はがのをにで、。]+")
MAX_OPACITY = 0.72  # of the heat map at its hottest; the photo stays visible


@dataclass(frozen=True, slots=True)
class Bar:
    """One label and its score.

    Attributes:
        label: the text to show; several wordings, best first, if the font may lack characters.
        share: 0..1.
    """

    label: Text
    share: float


def draw_card(
    photo: Pixels,
    heatmap: npt.NDArray[np.float32],
    bars: Sequence[Bar],
    *,
    headline: Text,
    footer: Text,
    scale: tuple[Text, Text] | None = ("", ""),
    view: str = "whole",
    crop: Box | None = None,
) -> bytes:
    """Draws the card.

    Args:
        photo: (h, w, 3) uint8, with its aspect ratio; reduced to fit into `PHOTO_BOX`.
        heatmap: (h, w) float32, 0..1, of any size: the evidence at each place of the classified view.
        bars: best first; only the first four are shown.
        headline: the answer; shown as large as fits above the bars, or beside the photo if there are none.
        footer: one line, e.g. the version.
        scale: the texts at the cold and the hot end of the colour scale; None: no scale.
        view: the view that the heat map shows (`trainer.photos.views`).
        crop: what the view is cropped to; a frame is drawn around it. None: it is not cropped.

    Returns:
        A JPEG of 800 x 420 px, 20 to 100 kB.
    """
    card = Image.new("RGB", SIZE, BACKGROUND)
    shown = Image.fromarray(photo)
    shown.thumbnail(PHOTO_BOX, Image.Resampling.BICUBIC)
    shown = _overlay_heatmap(shown, heatmap, view, crop)
    card.paste(shown, (MARGIN, (SIZE[1] - shown.height) // 2), _rounded(shown.size))
    left, right = MARGIN + shown.width + 30, SIZE[0] - MARGIN
    pen = ImageDraw.Draw(card)
    bottom = _write_headline(pen, writable(headline), left, right, is_alone=not bars)
    if scale is not None:
        _draw_scale(card, scale, left)
    small = load(17)
    small.write(pen, (left, SIZE[1] - MARGIN), _shorten(writable(footer), small, right - left), PALE_INK, anchor="ls")
    _draw_bars(pen, bars[:MAX_BARS], (left, bottom + 20, right, SIZE[1] - MARGIN - 70))
    buffer = io.BytesIO()
    card.save(buffer, "JPEG", quality=88, subsampling=0)  # full colour resolution: letters stay sharp
    return buffer.getvalue()


def _overlay_heatmap(photo: Image.Image, heatmap: npt.NDArray[np.float32], view: str, crop: Box | None) -> Image.Image:
    """Lays the heat map over the desaturated photo; hotter places are less transparent."""
    left, top, right, bottom = view_box(photo.size, view, crop or WHOLE)
    seen = heatmap[:, ::-1] if is_mirrored(view) else heatmap
    patch = Image.fromarray(np.ascontiguousarray(seen, np.float32))
    heat = np.zeros((photo.height, photo.width), np.float32)
    heat[top:bottom, left:right] = np.asarray(patch.resize((right - left, bottom - top), Image.Resampling.BICUBIC))
    heat = heat.clip(0, 1)
    colours = _colours()[(heat * 255).astype(np.uint8)]
    pale = Image.blend(photo, photo.convert("L").convert("RGB"), 0.5)
    opacity = MAX_OPACITY * heat[..., None] ** 1.5  # nearly cold places leave the photo unchanged
    shown = Image.fromarray((np.asarray(pale) * (1 - opacity) + colours * opacity).astype(np.uint8))
    if crop is not None:
        ImageDraw.Draw(shown).rectangle((left, top, right - 1, bottom - 1), outline=INK, width=FRAME_PX)
    return shown


@cache
def _colours() -> npt.NDArray[np.float32]:
    """(256, 3) float32: the colour scale from cold to hot."""
    steps = np.frombuffer(_PLASMA, np.uint8).reshape(-1, 3)
    places = np.linspace(0, len(steps) - 1, 256)
    return np.stack([np.interp(places, range(len(steps)), channel) for channel in steps.T], axis=1).astype(np.float32)


def _rounded(size: tuple[int, int]) -> Image.Image:
    """A mask with round corners; drawn four times as large, for smooth edges."""
    large = Image.new("L", (4 * size[0], 4 * size[1]), 0)
    ImageDraw.Draw(large).rounded_rectangle((0, 0, large.width - 1, large.height - 1), radius=40, fill=255)
    return large.reduce(4)


def _write_headline(pen: ImageDraw.ImageDraw, text: str, left: int, right: int, *, is_alone: bool) -> int:
    """Writes the headline above the bars, or, without bars, half way down; returns its lower edge."""
    if not text:
        return MARGIN
    size_px, lines = lay_out(text, right - left, HEADLINE_ALONE_PX if is_alone else HEADLINE_PX)
    font, step = load(size_px, bold=True, text=text), _line_px(size_px)
    top = (SIZE[1] - len(lines) * step) // 2 if is_alone else MARGIN - 6
    for line in lines:
        font.write(pen, (left, top), line, INK)
        top += step
    return top


def lay_out(text: str, width: int, height: int) -> tuple[int, list[str]]:
    """The largest size and the lines in which a headline fits into width x height px; its end is cut if none fits."""
    for size_px in range(38, 17, -4):
        font = load(size_px, bold=True, text=text)
        lines, n_lines = _wrap(text, font, width), height // _line_px(size_px)
        if len(lines) <= n_lines:
            return size_px, lines
    between = " " if " " in text else ""
    return size_px, [*lines[: n_lines - 1], _shorten(between.join(lines[n_lines - 1 :]), font, width)]


def _line_px(size_px: int) -> int:
    return round(size_px * 1.3)


def _draw_bars(pen: ImageDraw.ImageDraw, bars: Sequence[Bar], box: tuple[int, int, int, int]) -> None:
    """Draws each bar below its label and percentage; the first one, the answer, is highlighted.

    Bars without names would say nothing, so there are none if one of the labels cannot be written.
    """
    labels = [writable(bar.label) for bar in bars]
    if not all(labels):
        return
    left, top, right, bottom = box
    row = min((bottom - top) // max(len(bars), 1), 66)
    size_px = min(26, row // 2)
    for place, (bar, name) in enumerate(zip(bars, labels, strict=True)):
        base = top + place * row + size_px
        bold = place == 0
        font = load(size_px, bold=bold, text=name)
        font.write(pen, (right, base), f"{percent(bar.share)}%", INK, anchor="rs")
        room = right - left - round(load(size_px, bold=True).getlength("100%")) - 12
        font.write(pen, (left, base), _shorten(name, font, room), INK, anchor="ls")
        line = (left, base + 8, right, base + 8 + row // 5)
        pen.rounded_rectangle(line, 3, TRACK)
        length = round((right - left) * min(max(bar.share, 0.0), 1.0))
        if length > 0:
            pen.rounded_rectangle((left, line[1], left + length, line[3]), 3, BEST_BAR if bold else BAR)


def _draw_scale(card: Image.Image, scale: tuple[Text, Text], left: int) -> None:
    """Draws the colours from cold to hot between their two texts."""
    cold, hot = map(writable, scale)
    pen, font, base = ImageDraw.Draw(card), load(17), SIZE[1] - MARGIN - 30
    font.write(pen, (left, base), cold, PALE_INK, anchor="ls")
    start = left + (round(font.getlength(cold)) + 10 if cold else 0)
    ramp = Image.fromarray(_colours()[None, ::2].astype(np.uint8)).resize((128, 12))
    card.paste(ramp, (start, base - 12))
    font.write(pen, (start + ramp.width + 10, base), hot, PALE_INK, anchor="ls")


def _wrap(text: str, font: Font, width: int) -> list[str]:
    """Wraps a text to `width` pixels: at spaces or, without any, as in Japanese, after particles and stops."""
    between = " " if " " in text else ""
    pieces = text.split(" ") if between else _PHRASE.findall(text)
    if max(map(font.getlength, pieces), default=0) > width:
        between, pieces = "", list(clusters(text))
    lines = [""]
    for piece in pieces:
        longer = f"{lines[-1]}{between}{piece}" if lines[-1] else piece
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(piece)
    return lines


def _shorten(text: str, font: Font, width: int) -> str:
    """The text if it fits, else its beginning with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    kept = list(clusters(text))
    while kept and font.getlength("".join(kept) + "…") > width:
        kept.pop()
    return "".join(kept) + "…"
