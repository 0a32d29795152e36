"""Makes /healthz, /metrics and a status page; no page shows a photo or a name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bot.admin.agreement import WHO_ANSWERS, share_of
from bot.admin.operations import Operations
from bot.admin.status import BotStatus, span
from bot.monitor.metrics import CONTENT_TYPE, Metrics
from bot.storage.inbox import Inbox, Tally
from bot.storage.records import DAY_S
from trainer.web.local_server import Page

DAYS_SHOWN = 14
CHART = (700, 165)  # width and height of the chart in SVG units
HEADROOM = 18  # units above the highest bar, for its number
GAP = 6
STATES = ("answered", "refused", "failed")  # from bottom to top
HTML = "text/html; charset=utf-8"


def pages_of(
    is_alive: Callable[[], bool], metrics: Metrics, inbox: Inbox, operations: Operations, *, now: Callable[[], float]
) -> dict[str, Callable[[], Page]]:
    """Path -> function that makes the page, for one running bot."""

    def healthz() -> Page:
        return Page(b"alive\n") if is_alive() else Page(b"a part of the bot is not alive\n", status=503)

    def status() -> Page:
        tallies = inbox.ended_since(now() - DAYS_SHOWN * DAY_S)
        reader, jobs = operations.status_reader, operations.schedule.jobs()
        return status_page(reader.read(), tallies, reader.job_lines(jobs), now=now())

    return {"/healthz": healthz, "/metrics": lambda: Page(metrics.page(), CONTENT_TYPE), "/": status}


def status_page(view: BotStatus, tallies: Sequence[Tally], jobs: Sequence[str], *, now: float) -> Page:
    """The status page: the current state, and the last days as a chart.

    Args:
        tallies: of mentions that ended in the last `DAYS_SHOWN` days.
        jobs: a line for each.
        now: seconds since the epoch.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    template = environment.get_template("status.html.j2")
    days = _days(tallies, now=now)
    text = template.render(
        view=view,
        uptime=span(view.uptime_s),
        days=days,
        states=STATES,
        jobs=_cells(jobs),
        share_of=share_of,
        who_answers=WHO_ANSWERS,
    )
    return Page(text.encode(), HTML)


def _days(tallies: Sequence[Tally], *, now: float) -> list[dict[str, object]]:
    """The chart's columns, one for each day, with their bars."""
    today = datetime.fromtimestamp(now, UTC).date()
    names = [str(today - timedelta(days=back)) for back in reversed(range(DAYS_SHOWN))]
    counts = {name: dict.fromkeys(STATES, 0) for name in names}
    for tally in tallies:
        if tally.day in counts and tally.state in STATES:
            counts[tally.day][tally.state] += tally.n
    highest = max((sum(each.values()) for each in counts.values()), default=0) or 1
    width = CHART[0] / DAYS_SHOWN
    columns: list[dict[str, object]] = []
    for number, name in enumerate(names):
        bars, y = [], float(CHART[1])
        for state in STATES:
            height = counts[name][state] / highest * (CHART[1] - HEADROOM)
            y -= height
            bars.append({"state": state, "n": counts[name][state], "y": round(y, 1), "height": round(height, 1)})
        n_all = sum(counts[name].values())
        words = f"{name} " + ", ".join(f"{counts[name][state]} {state}" for state in STATES)
        x, middle = round(number * width, 1), round(number * width + (width - GAP) / 2, 1)
        columns.append(
            {
                "name": f"{date.fromisoformat(name):%b %d}",
                "x": x,
                "middle": middle,
                "width": round(width - GAP, 1),
                "bars": bars,
                "n": f"{n_all:,}" if n_all else "",
                "top": round(y - 5, 1),
                "words": words,
            }
        )
    return columns


def _cells(jobs: Sequence[str]) -> list[tuple[str, str, str]]:
    """Splits lines of `StatusReader.job_lines` into table cells: the job, when it is due, its last outcome."""
    rows = []
    for line in jobs:
        name, _, rest = line.partition(": ")
        due, _, last = rest.partition(" (last ")
        rows.append((name, due, last.removesuffix(")")))
    return rows
