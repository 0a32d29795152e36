"""Shows the progress of a scrape: bars in a terminal, otherwise a log line every few seconds; a table at the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from trainer.scrape.maintenance import VerifyReport
from trainer.scrape.scrape import OnPhoto, ScrapeReport

logger = logging.getLogger(__name__)

LOG_EVERY_S = 5.0


@contextmanager
def progress(console: Console) -> Iterator[OnPhoto]:
    """Yield a callback for `Scrape` that shows its progress."""
    if not console.is_terminal:
        yield _LogLines()
        return
    columns = (
        TextColumn("{task.description:>12}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[refused]}", style="dim"),
    )
    with Progress(*columns, console=console) as bars:
        yield _Bars(bars)


class _Bars:
    """Shows a bar for each label, with the photos stored and wanted."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, report: ScrapeReport) -> None:
        for label in report.labels:
            n_refused = report.n_refused(label)
            if label not in self._tasks:
                start = report.held[label] - report.kept[label]
                task = self._bars.add_task(label, total=report.goal, completed=start, rate="", refused="")
                self._tasks[label] = task
            task = self._tasks[label]
            speed = self._bars.tasks[task].speed
            self._bars.update(
                task,
                completed=report.held[label],
                rate=f"{speed:.1f}/s" if speed else "",
                refused=f"{n_refused} refused" if n_refused else "",
            )


class _LogLines:
    """Logs a line every few seconds."""

    def __init__(self) -> None:
        self._started_at = self._logged_at = time.monotonic()

    def __call__(self, report: ScrapeReport) -> None:
        now = time.monotonic()
        if now - self._logged_at < LOG_EVERY_S:
            return
        self._logged_at = now
        held = " ".join(f"{label}={report.held[label]}" for label in report.labels)
        n_kept = report.kept.total()
        rate = n_kept / (now - self._started_at)
        logger.info("scraping held: %s kept=%d refused=%d rate=%.1f/s%s", held, n_kept, report.refused.total(), rate,
                    _time_left(report, rate))  # fmt: skip


def _time_left(report: ScrapeReport, rate: float) -> str:
    if report.goal is None or not rate:
        return ""
    n_wanted = sum(max(report.goal - report.held[label], 0) for label in report.labels)
    return f" min_left={n_wanted / rate / 60:.0f}"


def verified(report: VerifyReport) -> str:
    """The result of `scrape --verify` in one line."""
    return (
        f"{report.n_checked:,} files checked: {len(report.restored):,} restored, {len(report.dropped):,} gone at the "
        f"source and deleted, {len(report.problems):,} still damaged or missing"
    )


def summary(report: ScrapeReport) -> RenderableType:
    """Tables of stored photos by label, and of refused photos with the reasons."""
    labels = Table("label", title="Photos", title_justify="left")
    for name in ("new", "known", "refused", "gone", "held now"):
        labels.add_column(name, justify="right")
    for label in report.labels:
        counts = (report.kept[label], report.known[label], report.n_refused(label), report.vanished[label])
        labels.add_row(label, *(f"{n:,}" for n in (*counts, report.held[label])))
    if not report.refused:
        return labels
    reasons = Table("label", "refused because", title="Refused", title_justify="left")
    reasons.add_column("photos", justify="right")
    for (label, reason), n in sorted(report.refused.items()):
        reasons.add_row(label, reason, f"{n:,}")
    return Group(labels, reasons)
