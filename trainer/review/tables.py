"""The tables that `python -m trainer review` prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from trainer.quoting import escaped
from trainer.review.suspects import Review, count_by_kind
from trainer.training.advice import Point


def suspects_table(review: Review, *, show: int) -> RenderableType:
    """Suspects, the most useful first, and their number by kind."""
    table = Table(
        Column("photo", no_wrap=True), "label", "split", "why", "suggested", "sure", title="Photos worth a second look",
        title_justify="left",
    )  # fmt: skip
    for each in review.suspects[:show]:
        suggested = f"relabel: {each.label}" if each.label else (each.suggested or "look")
        table.add_row(
            *(escaped(text) for text in (each.photo.photo_id, each.photo.label, each.split or "-", str(each.reason))),
            escaped(suggested),
            "yes" if each.is_sure else "",
        )
    more = len(review.suspects) - show
    rest = [f"{more:,} more are not shown (--show)"] if more > 0 else []
    return Group(table, *(Text(line) for line in (total(review), *rest, *review.examined.remarks)))


def total(review: Review) -> str:
    """The number of suspects by kind, in one line."""
    counts = ", ".join(f"{kind} {n:,}" for kind, n in count_by_kind(review.suspects).most_common()) or "none"
    return f"{len(review.suspects):,} suspects among {len(review.examined.photos):,} photos: {counts}"


def curve_table(curve: Sequence[Point]) -> RenderableType:
    """The learning curve."""
    names = ("share of the members", "photos", "balanced accuracy on validation", "spread")
    columns = [Column(name, justify="right") for name in names]
    table = Table(*columns, title="Have I enough photos?", title_justify="left")
    for point in curve:
        figures = (f"{point.share:.0%}", f"{point.n_photos:,}", f"{point.balanced_accuracy:.3f}", f"{point.spread:.3f}")
        table.add_row(*figures)
    return table


def lines(title: str, found: Sequence[object]) -> RenderableType:
    """A title and what was found, a line each."""
    return Group(Text(title, style="bold"), *(Text(f"  {escaped(str(each))}") for each in found or ("nothing",)))
