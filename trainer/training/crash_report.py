"""Explains a run that ended without a last line in the journal: when, in which step, and what that suggests.

A worn power supply gives way when a GPU draws its full power, a few minutes into a training, and leaves no trace; a
machine that runs out of memory ends one process and goes on. The two are told apart by whether the machine was started
again since.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import takewhile

from trainer.training.host_metrics import boot_id
from trainer.training.journal import Run

WITHIN = timedelta(minutes=15)  # "within minutes"
SUSPICIOUS = 3  # so many times is no coincidence
HOT_C = 90.0
SHORT_OF_MEMORY = 0.05  # share of the memory that was still free


def explain_sudden_end(runs: Sequence[Run], *, current_boot_id: str | None = None) -> str | None:
    """The last run's sudden end in plain words; None when it ended in order, or there was none.

    Args:
        runs: as `Journal.runs` gives them, without the run that asks.
        current_boot_id: of the machine's start now; None: as the system tells it.
    """
    if not runs or runs[-1].ended is not None:
        return None
    last = runs[-1]
    current = boot_id() if current_boot_id is None else current_boot_id
    since = takewhile(lambda run: run.ended is None, reversed(runs))
    boots = [run.boot_id for run in runs[1:]] + [current]
    went_down = {run.run_id for run, after in zip(runs, boots, strict=True) if after != run.boot_id}
    return " ".join((*_what_happened(last), _suggestion(last, list(since), went_down)))


def _what_happened(run: Run) -> Iterator[str]:
    yield f"The last run, `{run.command}` of {run.started:%Y-%m-%d %H:%M} UTC, ended without a clean stop:"
    yield f'last seen at {run.last_seen:%H:%M:%S} UTC, after {_in_words(run.lasted)}, in the step "{run.step}".'
    yield f"Its last readings: {run.reading.in_words()}."


def _suggestion(last: Run, sudden: Sequence[Run], went_down: set[str]) -> str:
    """What the pattern suggests; `sudden` are the runs without an end since the last one that had one."""
    if last.run_id not in went_down:
        return _process_ended(last)
    under_load = [run for run in sudden if run.gpu_under_load and run.lasted <= WITHIN and run.run_id in went_down]
    if len(under_load) >= SUSPICIOUS:
        return (
            f"The machine went down as well. This is the {_ordinal(len(under_load))} sudden end within minutes under "
            f"GPU load, which suggests the power supply: lower the GPU's power limit (`nvidia-smi -pl "
            f"{_lower_limit(last)}`), test or replace the power supply, or run with --gentle, which paces the batches."
        )
    if last.reading.temperature_c is not None and last.reading.temperature_c >= HOT_C:
        return (
            f"The machine went down as well, at {last.reading.temperature_c:.0f} °C: check fans and dust, "
            "or run with --gentle, which paces the batches."
        )
    if last.gpu_under_load:
        return (
            "The machine went down as well, with the GPU under load. Should it happen again within minutes, suspect "
            "the power supply first and heat second; --gentle paces the batches."
        )
    return (
        "The machine was restarted since: a power cut, a crash of the system, or somebody switched it off. Should "
        "it happen again under load, look at the power supply and at the temperatures; --gentle paces the batches."
    )


def _process_ended(run: Run) -> str:
    """The machine ran on, so something ended the process alone."""
    free, total = run.reading.memory_free, run.reading.memory_total
    if free is not None and total and free < SHORT_OF_MEMORY * total:
        return (
            "The machine ran on, and memory was nearly used up: the system probably ended the process (`dmesg` would "
            "say so). Set features.batch_size lower, or close other programs."
        )
    return (
        "The machine ran on: the process alone was ended from outside, by `kill -9` or with its session or container."
    )


def _lower_limit(run: Run) -> str:
    """Four fifths of the power limit that the GPU had, in watts."""
    limit = run.reading.gpu_limit_w
    return f"{0.8 * limit:.0f}" if limit else "WATTS"


def _in_words(time: timedelta) -> str:
    seconds = round(time.total_seconds())
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def _ordinal(number: int) -> str:
    return {3: "third", 4: "fourth", 5: "fifth"}.get(number, f"{number}th")
