"""`python -m benchmarks` lists the benchmarks; `python -m benchmarks NAME [--quick]` runs one.

To add one: a module with `run(*, quick, work_dir, say) -> Result`, and a line in BENCHMARKS.
"""

from __future__ import annotations

import importlib
import inspect
import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.result import Figure, Result

BENCHMARKS = {  # name -> module, what it measures
    "features": ("benchmarks.features", "photos per second, compared with the machine's limit and plain Model.predict"),
    "cluster": ("benchmarks.cluster", "two nodes of Ray on this machine beside the local engine; one is killed midway"),
    "training": ("benchmarks.training", "a whole training, compared with the usual tutorial recipe: seconds, accuracy"),
    "retrain": ("benchmarks.retrain", "cost of a training after 1% new photos, compared with the first training"),
    "fit": ("benchmarks.fit", "memory and seconds of a head on the cached features of 15,000 and 100,000 photos"),
    "scale": ("benchmarks.scale", "every step of a training on 10,000, 100,000 and 1,000,000 photos: time, memory"),
    "resume": ("benchmarks.resume", "kill -9 at random moments of a training: the result is bit-identical"),
    "repeat": ("benchmarks.repeat", "the same training twice, bit-identical; the spread of its figures over seeds"),
    "imbalance": ("benchmarks.imbalance", "2:2:1 data: recall of the rarest class, compared with the others"),
    "real": ("benchmarks.real", "the head on a folder of real pictures: accuracy, calibration, a rare label"),
    "converged": ("benchmarks.converged", "the head on real pictures beside the tutorial recipe at convergence"),
    "foreign": ("benchmarks.foreign", "real pictures of another kind, told from those that were learned"),
    "heat": ("benchmarks.heat", "how far a score falls when the places that the heat map shows are blurred"),
    "crop": ("benchmarks.crop", "what a crop to the figure does to accuracy, heat maps, seconds and memory"),
    "int8": ("benchmarks.int8", "what int8 costs on real pictures, beside float32: accuracy, calibration, heat maps"),
    "gpu": ("benchmarks.gpu", "features, fine-tuning, head and the reference on a GPU, compared with its ceiling"),
    "calibration": ("benchmarks.calibration", "calibration of the scores on holdout members"),
    "promotion": ("benchmarks.promotion", "how often equal and better challengers are promoted"),
    "latency": ("benchmarks.latency", "time from mention to reply, compared with a forward pass; start-up, memory"),
    "busy": ("benchmarks.busy", "answer times with and without a training at the same time"),
    "burst": ("benchmarks.burst", "100 mentions at once, compared with the batched rate of the same network"),
    "chaos": ("benchmarks.chaos", "1,000 mentions with faults everywhere: lost, answered twice, not cleaned up"),
    "review": ("benchmarks.review", "planted faults among photos: how many a review finds, and what that is worth"),
    "turn": ("benchmarks.turn", "a full turn: wrong labels, settled in a browser; a better champion; what askers say"),
    "fair": ("benchmarks.fair", "attacks by one account or host: how long others wait, and how memory grows"),
    "soak": ("benchmarks.soak", "memory, files, threads and database over 10,000 mentions"),
    "month": ("benchmarks.month", "a simulated month of scrapes, trainings and mentions: losses and messages"),
    "hostile": ("benchmarks.hostile", "broken and malicious files: result, peak memory, slowest"),
}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    name: Annotated[str | None, typer.Argument(help="Name of the benchmark; without it, all are listed.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds: a test run, not for publication.")] = False,
    pictures: Annotated[
        Path | None,
        typer.Option(
            help="Real pictures, for `real`, `converged`, `foreign`, `heat`, `crop`, `imbalance`, `int8`, `review`."
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="VGG16's weights, for benchmarks of learning: imagenet, a file, or random.")
    ] = None,
    photos: Annotated[int | None, typer.Option(help="For `scale`: only this many photos.", min=1000)] = None,
) -> None:
    """Run a benchmark. The last line is JSON; the exit status is 1 if a goal was missed."""
    console = Console()
    if name is None:
        console.print(_list())
        return
    if name not in BENCHMARKS:
        raise typer.BadParameter(f"{name}: no such benchmark; there are: {', '.join(BENCHMARKS)}")
    module = importlib.import_module(BENCHMARKS[name][0])
    options = {"pictures": pictures, "weights": weights, "photos": photos}
    options = {option: value for option, value in options.items() if value is not None}
    unknown = options.keys() - inspect.signature(module.run).parameters.keys()
    if unknown:
        raise typer.BadParameter(f"{name} takes no --{', --'.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix=f"dokocos-{name}-") as folder:
        result: Result = module.run(quick=quick, work_dir=Path(folder), say=Console(stderr=True).print, **options)
    console.print(_table(name, result))
    typer.echo(json.dumps(result.as_json(name), ensure_ascii=False))
    raise typer.Exit(0 if result.met else 1)


def _list() -> Table:
    table = Table("name", "what it measures", title="python -m benchmarks NAME [--quick]")
    for name, (_, text) in BENCHMARKS.items():
        table.add_row(name, text)
    return table


def _table(name: str, result: Result) -> Table:
    """The table of figures and goals."""
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
