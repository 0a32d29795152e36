"""Builds the output of `python -m trainer doctor`: recent runs, the machine's state, and failed checks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from trainer.lock import is_held
from trainer.training.crash_report import explain_crash
from trainer.training.host_metrics import Reading, read_machine
from trainer.training.journal import Journal, Run
from trainer.training.session import LOCK

N_RUNS = 10


def examine(data_dir: Path) -> RenderableType:
    """The tables and lines to print.

    Raises:
        StorageError: the journal cannot be read.
    """
    runs = Journal(data_dir).runs()
    at_work = runs.pop() if runs and runs[-1].ended is None and is_held(data_dir / LOCK) else None
    parts: list[RenderableType] = [_runs_table(runs[-N_RUNS:])] if runs else [Text("no runs in the journal yet")]
    if runs:
        parts.append(Text(explain_crash(runs) or "The last run ended normally."))
    if at_work:
        parts.append(Text(f'`{at_work.command}` is running, in the step "{at_work.step}"'))
    parts += [
        Text(f"{'checked' if found else 'not checked'}: {text}") for found, text in _checks(read_machine(), data_dir)
    ]
    return Group(*parts)


def _runs_table(runs: list[Run]) -> Table:
    table = Table("run", "began, UTC", "lasted", "last step", "ended", "last readings", title="Last runs")
    for run in runs:
        lasted = str(run.lasted).split(".", maxsplit=1)[0]
        ended = Text("crashed", style="red") if run.ended is None else Text(run.ended)
        command = f"{run.command}{' --gentle' if run.gentle else ''}"
        table.add_row(command, f"{run.started:%Y-%m-%d %H:%M}", lasted, run.step, ended, run.reading.describe())
    return table


def _checks(now: Reading, data_dir: Path) -> Iterator[tuple[bool, str]]:
    """Check the machine: (whether the check worked, the result or why it failed)."""
    yield now.load is not None, f"load: {now.load:.1f}" if now.load is not None else "load: not reported by this system"
    if now.memory_free is not None and now.memory_total is not None:
        yield True, f"memory: {now.memory_free / 1e9:.1f} of {now.memory_total / 1e9:.1f} GB free"
    else:
        yield False, "memory: not reported by this system"
    if now.temperature_c is not None:
        yield True, f"temperature: {now.temperature_c:.0f} °C at the hottest sensor"
    else:
        yield False, "temperature: no sensor found (containers and virtual machines have none)"
    if now.gpu_busy is not None:
        yield True, replace(now, load=None, memory_free=None, temperature_c=None).describe()  # only the GPU's values
    else:
        yield False, "GPU: no NVIDIA GPU, no driver, or `nvidia-ml-py` is not installed"
    where = data_dir if data_dir.exists() else Path()
    yield True, f"disk: {shutil.disk_usage(where).free / 1e9:.1f} GB free for {data_dir}"
    yield False, "power supply: cannot be measured; only the pattern of crashes shows a problem"
