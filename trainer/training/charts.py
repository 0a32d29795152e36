"""Line charts as SVG, in the colours of the page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.figure import Figure

INK = "#010203"  # stands for currentColor, which matplotlib does not know
COLOURS = ("#e4572e", "#3d8bd4")  # readable on dark and on light


@dataclass(frozen=True, slots=True)
class Chart:
    """What to draw.

    Attributes:
        title: says in words what is seen; for those who do not see it as well.
        lines: name -> x and y values; two at most.
        reference: name and values of a line to compare with, dashed.
        sizes: name -> how much each of a line's points counts, shown as the size of its dot.
        mark_x: where a dotted line stands upright.
    """

    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    reference: tuple[str, Sequence[float], Sequence[float]] | None = None
    sizes: Mapping[str, Sequence[float]] = field(default_factory=dict)
    mark_x: float | None = None
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None


def line_chart(chart: Chart) -> Markup:
    """An <svg> element; the same chart gives the same text."""
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": chart.title,
        "font.family": "sans-serif",
        "font.size": 11,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    }
    with matplotlib.rc_context(settings):
        figure = _draw(chart)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    named = f'<svg role="img" aria-label="{escape(chart.title)}"'
    return Markup(svg.replace("<svg", named, 1))  # noqa: S704 - matplotlib escapes what it draws


def _draw(chart: Chart) -> Figure:
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    if chart.reference is not None:
        name, xs, ys = chart.reference
        axes.plot(xs, ys, "--", color=INK, alpha=0.5, label=name, linewidth=1.5)
    for (name, (xs, ys)), colour in zip(chart.lines.items(), COLOURS, strict=False):
        axes.plot(xs, ys, color=colour, label=name, linewidth=2, marker="o" if len(xs) == 1 else None)
        if name in chart.sizes:
            largest = max(chart.sizes[name])
            dots = [12 + 90 * size / largest for size in chart.sizes[name]]
            axes.scatter(xs, ys, s=dots, color=colour, clip_on=False, zorder=3)
    if chart.mark_x is not None:
        axes.axvline(chart.mark_x, color=INK, linestyle=":", linewidth=1)
    axes.set(xlabel=chart.x_label, ylabel=chart.y_label)
    if chart.x_range:
        axes.set_xlim(chart.x_range)
    if chart.y_range:
        axes.set_ylim(chart.y_range)
    axes.grid(visible=True, color=INK, alpha=0.15, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    if len(chart.lines) > 1 or chart.reference:
        axes.legend(frameon=False)
    return figure
