"""The tables of `python -m bot inbox`, `jobs` and `stats`."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from bot.admin.agreement import Opinions
from bot.admin.status import StatusReader
from bot.config import Settings
from bot.storage.inbox import Entry
from bot.storage.records import DAY_S, Records, Run
from bot.storage.store import Store
from bot.timetable import Timetable
from trainer.quoting import escaped


def jobs_table(settings: Settings, database: Path, *, limit: int) -> RenderableType:
    """When each job is due, and the last runs, newest first; times in UTC. Raises StorageError."""
    records = Records(database)
    try:
        planned = Table("job", "when", "next", title="Jobs", title_justify="left")
        for name, job in settings.schedule.jobs().items():
            planned.add_row(name, job.when, _next(settings, name, records.last_turn(name)))
        runs = Table("job", "began", "took", "outcome", "", title="Last runs", title_justify="left")
        for run in records.runs(limit=limit):
            runs.add_row(*(Text(escaped(cell)) for cell in _cells(run)))
    finally:
        records.close()
    return Group(planned, runs)


def stats_table(settings: Settings, database: Path, *, days: int) -> RenderableType:
    """Mentions by day and outcome, reasons of refusals, the champion's figures, opinions. Raises StorageError."""
    store, records = Store(database, heal=False), Records(database)
    try:
        since = time.time() - days * DAY_S
        tallies = store.inbox.ended_since(since)
        view = StatusReader(settings, store, records).read()
        opinions = Opinions(store.opinions.tally(since=since), store.opinions.tally_samples(since=since))
    finally:
        store.close()
        records.close()
    by_day: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    reasons: defaultdict[str, int] = defaultdict(int)
    for tally in tallies:
        by_day[tally.day][tally.state] += tally.n
        if tally.reason:
            reasons[tally.reason] += tally.n
    table = Table("day (UTC)", "answered", "refused", "failed", title="Mentions", title_justify="left")
    for day, states in sorted(by_day.items()):
        table.add_row(day, *(f"{states[state]:,}" for state in ("answered", "refused", "failed")))
    refused = [
        Text(escaped(f"refused: {n:,} {reason}")) for reason, n in sorted(reasons.items(), key=lambda each: -each[1])
    ]
    said = [Text(escaped(line)) for line in (f"champion: {view.champion}", *view.figures, *opinions.lines())]
    return Group(table, *refused, *said)


def _next(settings: Settings, name: str, last_turn: float | None) -> str:
    """When a job is due, without jitter, as text."""
    job = settings.schedule.jobs()[name]
    if not job.enabled:
        return "off"
    if last_turn is None:
        return "counted from the bot's first start"
    timetable = Timetable(job.when, time_zone=settings.schedule.time_zone)
    return f"{timetable.after(datetime.fromtimestamp(last_turn, UTC)):%Y-%m-%d %H:%M}"


def _cells(run: Run) -> tuple[str, ...]:
    took = "" if run.ended_at is None else f"{run.ended_at - run.started_at:.0f} s"
    began = datetime.fromtimestamp(run.started_at, UTC)
    return run.job, f"{began:%Y-%m-%d %H:%M}", took, run.outcome or "running", run.detail


def inbox_table(entries: Iterable[Entry]) -> Table:
    """Mentions that wait or have failed, one a row."""
    table = Table(Column("notification", overflow="fold"), "from", "state", "tries", "received", "reason or answer")
    for entry in entries:
        received = datetime.fromtimestamp(entry.received_at, UTC).strftime("%Y-%m-%d %H:%M")
        answer = f"{entry.kind} {entry.label or ''}".strip() if entry.state == "answered" else entry.reason
        cells = (entry.notification_id, entry.acct, entry.state, str(entry.tries), received, answer)
        table.add_row(*(Text(escaped(cell)) for cell in cells))  # as text: an acct or a reason may look like markup
    return table
