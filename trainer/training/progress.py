"""Shows the progress of a training: bars in a terminal, otherwise log lines; tables at the end."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import mean, stdev

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from trainer.evaluation.evaluate import Figure, Report
from trainer.evaluation.promotion import Verdict
from trainer.photos.dataset import SPLITS, Dataset
from trainer.quoting import escaped
from trainer.registry.registry import Period, Version
from trainer.training.fitting import Trained
from trainer.training.training_data import Watcher

logger = logging.getLogger(__name__)

LOG_EVERY_S = 5.0
SHOWN_LABELS = 5  # per version, in the table of versions
STEP_TITLES = {
    "photos": "splitting photos",
    "network": "loading VGG16",
    "quantising": "quantising VGG16",
    "features": "features",
    "head": "fitting the head",
    "fine-tuning": "fine-tuning block5",
    "baselines": "colour histograms",
    "evaluation": "evaluating the head",
    "comparison": "comparing to champion",
    "version": "saving the version",
    "figures": "finding figures",
    "statistics": "looking at photos",
    "cameras": "looking for cameras",
    "folds": "scoring out of fold",
    "suspects": "comparing photos",
    "curve": "learning curve",
}


@contextmanager
def watch(console: Console) -> Iterator[Watcher]:
    """Yield a watcher that shows each step."""
    if not console.is_terminal:
        yield _LogLines()
        return
    columns = (
        TextColumn("{task.description:>21}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        watcher = _Bars(bars)
        yield watcher
        watcher.finish()


class _Bars:
    def __init__(self, bars: Progress) -> None:
        self._bars = bars

    def step(self, name: str, total: int | None = None) -> None:
        self.finish()
        if total != 0:
            self._bars.add_task(STEP_TITLES[name], total=total, rate="")

    def update(self, done: int, total: int) -> None:
        task = self._bars.tasks[-1]
        rate = f"{task.speed:.1f}/s" if task.speed else ""
        self._bars.update(task.id, completed=done, total=total, rate=rate)

    def finish(self) -> None:
        """Mark the current step as done; a fit may stop before its last epoch."""
        if self._bars.tasks:
            task = self._bars.tasks[-1]
            done = int(task.completed) or 1
            self._bars.update(task.id, completed=done, total=done)


class _LogLines:
    def __init__(self) -> None:
        self._name = ""
        self._done_before: int | None = None
        self._started_at = self._logged_at = time.monotonic()

    def step(self, name: str, total: int | None = None) -> None:
        self._name = name
        self._done_before = None
        self._started_at = self._logged_at = time.monotonic()
        logger.info("%s%s", STEP_TITLES[name], "" if total is None else f" total={total}")

    def update(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._done_before is None:  # a resumed step does not start at 0
            self._done_before = done
            self._started_at = now
            return
        if now - self._logged_at < LOG_EVERY_S:
            return
        self._logged_at = now
        rate = (done - self._done_before) / max(now - self._started_at, 1e-9)
        logger.info("%s done=%d of=%d rate=%.1f/s s_left=%.0f", STEP_TITLES[self._name], done, total, rate,
                    (total - done) / max(rate, 1e-9))  # fmt: skip


def dataset_table(dataset: Dataset) -> RenderableType:
    """Table of photos by label and split, and of excluded photos."""
    counts = Counter((item.label, item.split) for item in dataset.items)
    members = {label: len({item.group for item in dataset.items if item.label == label}) for label in dataset.labels}
    table = _table("Photos for training", "label", numbers=(*SPLITS, "members"))
    for label in dataset.labels:
        table.add_row(label, *(f"{counts[label, split]:,}" for split in SPLITS), f"{members[label]:,}")
    lines = [
        f"excluded: {n:,} {reason}" for reason, n in sorted(Counter(reason for _, reason in dataset.excluded).items())
    ]
    moved = Counter(split for _, split in dataset.relabelled)
    lines += [f"another label than at the source: {moved[split]:,} of {split}" for split in SPLITS if moved[split]]
    if dataset.contributed:
        lines.append(f"contributed by their authors: {len(dataset.contributed):,} of train")
    return Group(table, *(Text(line, style="dim") for line in lines))


def report_table(report: Report, *, title: str) -> RenderableType:
    """Table of metrics on the holdout, by class and overall."""
    table = _table(title, "label", numbers=("recall", "precision", "photos", "members"))
    for one in report.classes:
        recall, precision = figure(one.recall), figure(one.precision)
        table.add_row(one.label, recall, precision, f"{one.n_photos:,}", f"{one.n_members:,}")
    lines = [f"balanced accuracy {figure(report.balanced_accuracy)}, macro F1 {figure(report.macro_f1)}"]
    if report.train_accuracy is not None:
        lines.append(f"on the training photos: {report.train_accuracy:.2f}")
    lines += [f"baseline {name}: {value:.2f}" for name, value in report.baselines.items()]
    answered = "" if report.answered_accuracy is None else f", accuracy of these answers {report.answered_accuracy:.0%}"
    lines.append(f"sure enough to answer for {report.coverage:.0%} of the photos{answered}")
    lines.append(
        f"calibration error {report.expected_calibration_error:.3f}, pooled accuracy {figure(report.accuracy)}"
    )
    return Group(table, *(Text(line) for line in lines))


def spread_table(trained: Mapping[int, Trained]) -> RenderableType:
    """Table of the metrics of a training with several seeds, and their spread."""
    labels = [one.label for one in next(iter(trained.values())).report.classes]
    names = ("balanced accuracy", *(f"recall of {label}" for label in labels))
    table = _table("The same training with other seeds", Column("seed", no_wrap=True), numbers=names)
    rows = {
        seed: [one.report.balanced_accuracy.value or 0.0, *(label.recall.value or 0.0 for label in one.report.classes)]
        for seed, one in trained.items()
    }
    for seed, row in rows.items():
        table.add_row(str(seed), *(f"{value:.3f}" for value in row))
    table.add_section()
    columns = list(zip(*rows.values(), strict=True))
    table.add_row("mean", *(f"{mean(column):.3f}" for column in columns))
    table.add_row("std. deviation", *(f"{stdev(column):.3f}" for column in columns))
    table.add_row("range", *(f"{max(column) - min(column):.3f}" for column in columns))
    advice = "A change of a figure that is smaller than this, or within its interval above, may be chance."
    return Group(table, Text(advice, style="dim"))


def verdict_text(version: Version, verdict: Verdict) -> RenderableType:
    """Whether the new version was promoted, and why."""
    head = f"{version.name} is the champion now" if verdict.promoted else f"{version.name} is saved, but not promoted"
    return Text(f"{head}: {'; '.join(verdict.reasons)}")


def import_text(name: str, version: Version, verdict: Verdict | None, *, is_new: bool) -> RenderableType:
    """What became of a version that arrived under a name."""
    called = f" as {version.name}, as another version has its name" if version.name != name else ""
    if verdict is None:
        return Text(f"{name} is already here{called}, and has served; promote it by hand to use it again")
    head = f"{name} is {'imported' if is_new else 'already here'}{called}"
    champion = "it is the champion now" if verdict.promoted else "not promoted"
    return Text(f"{head}; {champion}: {'; '.join(verdict.reasons)}")


def versions_table(versions: Sequence[Version], history: Sequence[Period], damaged: dict[str, str]) -> RenderableType:
    """Table of all versions, oldest first, with the times when each was the champion."""
    name, numbers = Column("version", no_wrap=True), ("photos", "balanced accuracy", "min score")
    table = _table("Versions", name, "labels", "block5", numbers=numbers)
    table.add_column("served, UTC")
    for version in versions:
        served = [reign for reign in history if reign.version == version.name]
        champion = bool(history) and history[-1].version == version.name
        times = "\n".join(f"{_format_time(reign.since)} to {_format_time(reign.until)}" for reign in served)
        accuracy = Figure(**version.metrics["report"]["balanced_accuracy"])
        table.add_row(
            Text(f"{version.name} *", style="bold") if champion else version.name,
            _first_few(version.facts.labels),
            "tuned" if version.facts.tuned else "VGG16's",
            f"{version.facts.n_photos:,}",
            figure(accuracy),
            f"{version.facts.threshold:.2f}",
            times,
        )
    star = [Text("* the champion", style="dim")] if history else []
    return Group(table, *star, *(Text(escaped(f"damaged: {fault}"), style="red") for fault in damaged.values()))


def _table(title: str, *columns: Column | str, numbers: Sequence[str]) -> Table:
    """A table without rows, with columns of numbers after the others."""
    return Table(*columns, *(Column(name, justify="right") for name in numbers), title=title, title_justify="left")


def _first_few(labels: Sequence[str]) -> str:
    """The labels, or the first few and the number of others."""
    if len(labels) <= SHOWN_LABELS:
        return ", ".join(labels)
    return f"{', '.join(labels[: SHOWN_LABELS - 1])} and {len(labels) - SHOWN_LABELS + 1:,} more"


def _format_time(time: str | None) -> str:
    """An ISO 8601 time as e.g. "11-23 21:05"."""
    return "now" if time is None else time[5:16].replace("T", " ")


def figure(value: Figure) -> str:
    """A metric with its interval, e.g. "0.71 (0.64 to 0.78)"."""
    if value.value is None:
        return "-"
    return f"{value.value:.2f} ({value.low:.2f} to {value.high:.2f})"
