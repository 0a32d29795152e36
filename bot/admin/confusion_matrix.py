"""Draws a confusion matrix with Pillow, like the answer's card, and describes it in an alt text."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw

from bot.reply.fonts import Text, load, writable
from bot.reply.length import clusters
from bot.reply.picture import BACKGROUND, BEST_BAR, INK, PALE_INK, TRACK

CELL_PX = 120
MIN_CELL_PX = 34
MAX_SIDE_PX = 1200
MARGIN = 24
LABEL_PX = 170
MAX_ALT_TEXT = 1400  # characters; every server accepts 1500


def draw_matrix(labels: Sequence[str], matrix: Sequence[Sequence[int]], *, title: str) -> bytes:
    """Draws the picture.

    Args:
        labels: k names.
        matrix: (k, k) photos; a row for each true label, a column for each answer.
        title: one line above it.

    Returns:
        A JPEG, at most `MAX_SIDE_PX` wide and high, except with very many labels.
    """
    cell = max(MIN_CELL_PX, min(CELL_PX, (MAX_SIDE_PX - LABEL_PX - 2 * MARGIN) // len(labels)))
    left, top = MARGIN + LABEL_PX, MARGIN + 84
    side = cell * len(labels)
    picture = Image.new("RGB", (max(left + side + MARGIN, 560), top + side + MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    load(24, bold=True).write(draw, (MARGIN, MARGIN), writable(title), INK)
    load(15).write(draw, (left, MARGIN + 34), "rows: the photo's gallery; columns: the answer", PALE_INK)
    for row, name in enumerate(labels):
        label = (name, str(row + 1))  # the number, where no font has the name
        middle = top + row * cell + cell // 2
        _text(draw, (left - 12, middle), label, LABEL_PX - 12, anchor="rm")
        _text(draw, (left + row * cell + cell // 2, top - 9), label, cell - 6, anchor="ms")  # on one baseline
        total = sum(matrix[row])
        for column, n in enumerate(matrix[row]):
            box = (left + column * cell, top + row * cell, left + (column + 1) * cell - 3, top + (row + 1) * cell - 3)
            share = n / total if total else 0.0
            draw.rectangle(box, fill=_mixed(share))
            centre = ((box[0] + box[2]) // 2, (box[1] + box[3]) // 2)
            ink = BACKGROUND if share > 0.5 else INK
            _text(draw, centre, f"{share:.0%}" if cell < 80 else f"{n:,} ({share:.0%})", cell - 8, anchor="mm", ink=ink)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=92, subsampling=0)
    return out.getvalue()


def describe_matrix(labels: Sequence[str], matrix: Sequence[Sequence[int]], *, title: str) -> str:
    """The alt text: one sentence for each row."""
    lines = []
    for label, row in zip(labels, matrix, strict=True):
        answers = ", ".join(f"{n:,} as {answer}" for answer, n in zip(labels, row, strict=True) if n)
        lines.append(f"{sum(row):,} of {label} answered: {answers or 'none'}.")
    whole = f"Confusion matrix. {title}. " + " ".join(lines)
    return whole if len(whole) <= MAX_ALT_TEXT else whole[: MAX_ALT_TEXT - 1] + "…"


def _text(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: Text,
    room_px: int,
    *,
    anchor: str,
    ink: tuple[int, int, int] = INK,
) -> None:
    """Draws one line of text, in a smaller font and then shortened until it fits."""
    shown = writable(text)
    size = 18
    while size > 10 and load(size).getlength(shown) > room_px:
        size -= 1
    letters, font = list(clusters(shown)), load(size)
    while len(letters) > 1 and font.getlength("".join(letters)) > room_px:
        letters.pop()
    font.write(draw, at, "".join(letters), ink, anchor=anchor)


def _mixed(share: float) -> tuple[int, int, int]:
    """A colour between the empty bar's (0) and the best bar's (1)."""
    red, green, blue = (round(low + (high - low) * share) for low, high in zip(TRACK, BEST_BAR, strict=True))
    return red, green, blue
