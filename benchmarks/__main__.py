"""`python -m benchmarks` lists the benchmarks; `python -m benchmarks NAME [--quick]` runs one.

To add one: a module with `run(*, quick, work_dir, say) -> Result`, and a line in BENCHMARKS.
"""

from __future__ import annotations

import importlib
import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.result import Figure, Result

BENCHMARKS = {  # name -> module, what it measures
    "features": ("benchmarks.features", "photos per second beside the machine's own ceiling and plain Model.predict"),
    "training": ("benchmarks.training", "a whole training beside the recipe that everybody copies: seconds, accuracy"),
    "retrain": ("benchmarks.retrain", "what training again after 1% new photos costs, beside the first training"),
    "scale": ("benchmarks.scale", "memory and seconds with the cached features of 15,000 and 100,000 photos"),
    "resume": ("benchmarks.resume", "kill -9 at random moments of a training: the end is the same, bit for bit"),
    "repeat": ("benchmarks.repeat", "the same training twice, bit for bit; the spread of its figures over seeds"),
    "imbalance": ("benchmarks.imbalance", "2:2:1 data: recall of the rarest class beside the others"),
    "calibration": ("benchmarks.calibration", "how far scores can be believed on held-out members"),
    "promotion": ("benchmarks.promotion", "how often equal and better challengers are promoted"),
    "latency": ("benchmarks.latency", "from mention to reply, beside one bare forward pass; readiness and memory"),
    "busy": ("benchmarks.busy", "answers while the bot trains, beside answers while it does not"),
    "burst": ("benchmarks.burst", "a hundred mentions at once, beside the batched rate of the same network"),
    "chaos": ("benchmarks.chaos", "a thousand mentions while everything fails: lost, answered twice, left behind"),
    "soak": ("benchmarks.soak", "memory, files, threads and database over ten thousand mentions"),
    "month": ("benchmarks.month", "a simulated month of scrapes, trainings and mentions: what is lost, what is told"),
    "hostile": ("benchmarks.hostile", "broken and malicious files: how each ends, peak memory, slowest"),
}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    name: Annotated[str | None, typer.Argument(help="Which one; without it they are listed.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds: to see that it works, not to quote.")] = False,
) -> None:
    """Measure what dokocos promises. The last line is JSON; the exit status is 1 when a goal was missed."""
    console = Console()
    if name is None:
        console.print(_list())
        return
    if name not in BENCHMARKS:
        raise typer.BadParameter(f"{name}: no such benchmark; there are: {', '.join(BENCHMARKS)}")
    module = importlib.import_module(BENCHMARKS[name][0])
    with tempfile.TemporaryDirectory(prefix=f"dokocos-{name}-") as folder:
        result: Result = module.run(quick=quick, work_dir=Path(folder), say=Console(stderr=True).print)
    console.print(_table(name, result))
    typer.echo(json.dumps(result.as_json(name), ensure_ascii=False))
    raise typer.Exit(0 if result.met else 1)


def _list() -> Table:
    table = Table("name", "what it measures", title="python -m benchmarks NAME [--quick]")
    for name, (_, text) in BENCHMARKS.items():
        table.add_row(name, text)
    return table


def _table(name: str, result: Result) -> Table:
    """Figures beside their goals."""
    goals = {goal.figure: goal for goal in result.goals}
    table = Table("figure", "value", "goal", "", title=name)
    for figure, value in result.figures.items():
        goal = goals.get(figure)
        mark = "" if goal is None else ("[green]met[/]" if goal.is_met(value) else "[red]missed[/]")
        table.add_row(figure, _shown(value), "" if goal is None else str(goal), mark)
    return table


def _shown(value: Figure) -> str:
    return f"{value:,.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
