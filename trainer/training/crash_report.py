"""Explains a run that has no end in the journal: when and in which step it ended, and the likely cause.

A weak power supply fails when a GPU draws full power, a few minutes into a training, and leaves no trace. When memory
runs out, the system kills one process and keeps running. The boot id tells the two apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import takewhile

from trainer.training.host_metrics import boot_id
from trainer.training.journal import Run

WITHIN = timedelta(minutes=15)  # "within minutes"
SUSPICIOUS = 3  # this many times is no coincidence
HOT_C = 90.0
SHORT_OF_MEMORY = 0.05  # share of the memory that was free


def explain_crash(runs: Sequence[Run], *, current_boot_id: str | None = None) -> str | None:
    """Describe how the last run crashed; None if it ended normally, or if there is no run.

    Args:
        runs: from `Journal.runs`, without the current run.
        current_boot_id: None means the one that the system reports.
    """
    if not runs or runs[-1].ended is not None:
        return None
    last = runs[-1]
    current = boot_id() if current_boot_id is None else current_boot_id
    since = takewhile(lambda run: run.ended is None, reversed(runs))
    boots = [run.boot_id for run in runs[1:]] + [current]
    went_down = {run.run_id for run, after in zip(runs, boots, strict=True) if after != run.boot_id}
    return " ".join((*_describe_run(last), _suggestion(last, list(since), went_down)))


def _describe_run(run: Run) -> Iterator[str]:
    yield f"The last run, `{run.command}` of {run.started:%Y-%m-%d %H:%M} UTC, ended without a clean stop:"
    yield f'last seen at {run.last_seen:%H:%M:%S} UTC, after {_format_duration(run.lasted)}, in the step "{run.step}".'
    yield f"Its last readings: {run.reading.describe()}."


def _suggestion(last: Run, sudden: Sequence[Run], went_down: set[str]) -> str:
    """The likely cause and what to do; `sudden` are the latest runs in a row that have no end."""
    if last.run_id not in went_down:
        return _process_ended(last)
    under_load = [run for run in sudden if run.gpu_under_load and run.lasted <= WITHIN and run.run_id in went_down]
    if len(under_load) >= SUSPICIOUS:
        return (
            f"The machine went down as well. This is the {_ordinal(len(under_load))} crash within minutes under "
            f"GPU load, so the power supply is the likely cause: lower the GPU's power limit (`nvidia-smi -pl "
            f"{_lower_limit(last)}`), test or replace the power supply, or use --gentle, which adds pauses."
        )
    if last.reading.temperature_c is not None and last.reading.temperature_c >= HOT_C:
        return (
            f"The machine went down as well, at {last.reading.temperature_c:.0f} °C: check fans and dust, "
            "or use --gentle, which adds pauses between batches."
        )
    if last.gpu_under_load:
        return (
            "The machine went down as well, with the GPU under load. If it happens again within minutes, suspect "
            "the power supply first and heat second; --gentle adds pauses between batches."
        )
    return (
        "The machine has restarted since: a power failure, a system crash, or somebody switched it off. If it "
        "happens again under load, check the power supply and the temperatures; --gentle adds pauses between batches."
    )


def _process_ended(run: Run) -> str:
    """The likely cause when only the process ended, not the machine."""
    free, total = run.reading.memory_free, run.reading.memory_total
    if free is not None and total and free < SHORT_OF_MEMORY * total:
        return (
            "The machine kept running, and memory was nearly full: the system probably killed the process (check "
            "`dmesg`). Lower features.batch_size, or close other programs."
        )
    return (
        "The machine kept running: something killed the process, e.g. `kill -9` or the end of its session or container."
    )


def _lower_limit(run: Run) -> str:
    """80% of the GPU's power limit, in watts."""
    limit = run.reading.gpu_limit_w
    return f"{0.8 * limit:.0f}" if limit else "WATTS"


def _format_duration(time: timedelta) -> str:
    seconds = round(time.total_seconds())
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def _ordinal(number: int) -> str:
    return {3: "third", 4: "fourth", 5: "fifth"}.get(number, f"{number}th")
