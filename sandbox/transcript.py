"""Prints new statuses of an instance to a terminal, with attachments; replies are indented."""

from __future__ import annotations

import io
import textwrap

from PIL import Image, UnidentifiedImageError
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.style import Style
from rich.table import Table
from rich.text import Text

from sandbox.instance import Instance, Media, Status

_INDENT = 6
_WIDTH = 84
_PREVIEW_COLUMNS = 16  # of a portrait photo
_WIDE_PREVIEW_COLUMNS = 28  # of a landscape one


class Transcript:
    """Prints each status once, as a panel in a terminal, otherwise as plain lines."""

    def __init__(self, instance: Instance, console: Console) -> None:
        self._instance = instance
        self._console = console
        self._shown: set[int] = set()

    def show_new(self) -> None:
        """Print the statuses since the last call, oldest first."""
        for status in self._instance.statuses.all():
            if status.id not in self._shown:
                self._shown.add(status.id)
                self._print(status)

    def _print(self, status: Status) -> None:
        asked = self._instance.statuses.parent_of(status)
        indent = 0 if asked is None else _INDENT
        who = f"@{status.account.acct}" + ("" if asked is None else f" → @{asked.account.acct}")
        notes = [f"[{_describe(media)}]" for media in status.media]
        if not self._console.is_terminal:
            lines = textwrap.indent("\n".join([status.text, *notes]), "  ")
            self._console.out(textwrap.indent(f"{who}:\n{lines}\n", " " * indent), highlight=False)
            return
        body = Text(status.text)
        for note in notes:
            body.append(f"\n{note}", style="dim")
        panel = Panel(
            self._with_preview(body, status),
            title=Text(who, style="bold"),
            title_align="left",
            border_style="green" if status.account.bot else "cyan",
            width=min(_WIDTH, self._console.width - indent),
        )
        self._console.print(Padding(panel, (0, 0, 0, indent)))

    def _with_preview(self, body: Text, status: Status) -> RenderableType:
        """The text, with a low-resolution preview of its first photo if the terminal supports colours."""
        preview = _coarse(status.media[0].data) if status.media and self._console.color_system == "truecolor" else None
        if preview is None:
            return body
        grid = Table.grid(padding=(0, 2))
        grid.add_row(preview, body)
        return grid


def _describe(media: Media) -> str:
    size = "" if media.width is None else f" {media.width} x {media.height}"
    words = f": {media.description}" if media.description else ""
    return f"{media.type}{size}, {len(media.data):,} bytes{words}"


def _coarse(data: bytes) -> Text | None:
    """A photo as half blocks, two pixels per character; None if it cannot be decoded."""
    try:
        image = Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, UnidentifiedImageError):
        return None
    columns = _PREVIEW_COLUMNS if image.height >= image.width else _WIDE_PREVIEW_COLUMNS
    rows = max(2, round(columns * image.height / image.width)) // 2
    small = image.resize((columns, rows * 2))
    text = Text(no_wrap=True)
    for row in range(rows):
        for column in range(columns):
            upper, lower = (_hex(small.getpixel((column, 2 * row + half))) for half in (0, 1))
            text.append("▀", Style(color=upper, bgcolor=lower))
        text.append("\n")
    text.rstrip()
    return text


def _hex(pixel: object) -> str:
    return "#{:02x}{:02x}{:02x}".format(*pixel) if isinstance(pixel, tuple) else "#000000"
