"""`python -m trainer COMMAND`: one command for each step, from scraping photos to promoting a version."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from trainer.command_line import Config, console, read_settings
from trainer.config import Settings
from trainer.errors import FetchError, ProjectError
from trainer.quoting import escaped_lines
from trainer.review import command as review_command
from trainer.training import exchange_commands

logger = logging.getLogger(__name__)

STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Scrape photos, train, evaluate and promote versions."
)


@app.callback()
def before_all(context: typer.Context, config: Config = None) -> None:
    """Accept --config before the command as well as after it."""
    os.umask(0o077)  # what is written is for this user alone
    context.default_map = {command: {"config": config} for command in COMMANDS}


@app.command()
def scrape(
    config: Config = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Only check stored files, and fetch damaged ones again.")
    ] = False,
) -> None:
    """Fetch photos from the configured source; stored photos are not fetched again."""
    from trainer.lock import only_one
    from trainer.photos.decode import Decoder
    from trainer.photos.manifest import FILE_NAME, Manifest
    from trainer.scrape.maintenance import verify as verify_files
    from trainer.scrape.progress import progress, summary, verified
    from trainer.scrape.scrape import Scrape
    from trainer.scrape.sites.choose import open_site
    from trainer.web.fetch import Fetcher

    settings = read_settings(config)
    with (
        only_one(settings.data_dir / "scrape.lock", "scrape"),
        Fetcher(settings.web) as fetcher,
        Manifest(settings.data_dir / FILE_NAME) as manifest,
        closing(Decoder.in_bulk(settings.images, n_children=settings.scrape.concurrent_images)) as decoder,
    ):
        site = open_site(settings, fetcher)
        if verify:
            checked = verify_files(site, manifest, settings, decoder)
            console().print(verified(checked))
            problems = checked.problems
        else:
            with progress(console(stderr=True)) as on_photo:
                report = Scrape(site, manifest, settings, decoder, on_photo=on_photo).run()
            console().print(summary(report))
            problems = report.problems
    if problems:
        raise FetchError("\n".join(problems))


@app.command()
def forget(
    config: Config = None,
    photo: Annotated[str | None, typer.Option(help="Id of a photo at its source.")] = None,
    member: Annotated[str | None, typer.Option(help="Id of a member at the source: deletes all their photos.")] = None,
) -> None:
    """Delete a photo, or all photos of a member, and never fetch them again (for take-downs).

    Versions that learned from them go on serving, without naming or showing them.
    """
    from trainer.lock import only_one
    from trainer.photos.manifest import FILE_NAME, Kind, Manifest
    from trainer.scrape.maintenance import forget as forget_photos
    from trainer.scrape.maintenance import named
    from trainer.training.takedown import take_down

    settings = read_settings(config)
    if (photo is None) == (member is None):
        raise typer.BadParameter("give either --photo ID or --member ID")
    kind: Kind = "photo" if member is None else "member"
    id_, source = member or photo or "", settings.source.kind
    with (
        only_one(settings.data_dir / "scrape.lock", "scrape"),
        only_one(settings.data_dir / "train.lock", "training"),
        Manifest(settings.data_dir / FILE_NAME) as manifest,
    ):
        photos = named(manifest, source, kind, id_)
        take_down(settings.data_dir, photos, id_=id_)
        forget_photos(manifest, settings, source, kind, id_, photos, now=datetime.now(UTC))
    print(
        f"{len(photos)} photo{'' if len(photos) == 1 else 's'} deleted; they will not be fetched again, and the next "
        "training will not use them. Past versions serve as before: their figures and number of photos stay, their "
        "lists and reports no longer name or show these photos."
    )


@app.command()
def contributions(
    config: Config = None,
    delete: Annotated[
        list[str] | None, typer.Option("--delete", metavar="ID", help="Delete such a photo for good.")
    ] = None,
) -> None:
    """Delete contributed photos that were taken back or not settled in time, with all traces; list the others."""
    from trainer.photos.contributions import ID, Contributions
    from trainer.training.contributed import held, tidy

    settings, now = read_settings(config), datetime.now(UTC)
    for id_ in delete or ():
        if not ID.fullmatch(id_) or not Contributions(settings.data_dir).take_back(id_):
            raise typer.BadParameter(f"there is no {id_}")
    n_gone = tidy(settings, now=now)
    for each in held(settings, now=now):
        print(f"{each.contribution.id}  {each.contribution.offered_at:%Y-%m-%d}  {each.state}")
    print(f"{n_gone} contributed photo{'' if n_gone == 1 else 's'} deleted, with all traces")


GENTLE = typer.Option("--gentle", help="Pause after each batch for as long as it took: half the load, half the speed.")


@app.command()
def features(
    config: Config = None,
    gentle: Annotated[bool, GENTLE] = False,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Where to compute: in this process, or on a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="A running Ray cluster (default: one is started for this machine)."),
    ] = None,
) -> None:
    """Compute the missing features of all photos."""
    from trainer.training.contributed import tidy
    from trainer.training.progress import dataset_table, watch
    from trainer.training.session import session
    from trainer.training.training_data import TrainingData
    from trainer.vgg16.engines.local import open_local
    from trainer.vgg16.engines.ray import on_ray

    settings = read_settings(config)
    if engine == "local" and address is not None:
        raise typer.BadParameter("--address is for --engine ray")
    if engine == "ray" and gentle:
        raise typer.BadParameter("--gentle is for --engine local; give a Ray node fewer CPUs instead")
    tidy(settings, now=datetime.now(UTC))
    with session(settings.data_dir, "features", gentle=gentle) as run, watch(console(stderr=True)) as shown:
        training_data = TrainingData.gather(
            settings, run.watcher(shown), open_engine=open_local if engine == "local" else on_ray(address)
        )
    console().print(dataset_table(training_data.dataset))
    console().print(f"computed the features of {training_data.n_new:,} photos")


@app.command()
def train(
    config: Config = None,
    gentle: Annotated[bool, GENTLE] = False,
    repeat: Annotated[
        int, typer.Option(min=1, metavar="N", help="Train with N seeds and show how much the figures vary.")
    ] = 1,
) -> None:
    """Compute missing features, train, evaluate on held-out members, promote the better version."""
    from trainer.training.contributed import tidy
    from trainer.training.fitting import repeat as repeat_fit
    from trainer.training.progress import dataset_table, report_table, spread_table, verdict_text, watch
    from trainer.training.session import SCRAPING, session
    from trainer.training.train import clear_up
    from trainer.training.train import train as train_version

    settings = read_settings(config)
    tidy(settings, now=datetime.now(UTC))
    with session(settings.data_dir, "train", gentle=gentle) as run:
        if settings.source.kind == "folder" or run.resumes_scrape or not _has_photos(settings):
            run.journal.step(SCRAPING)
            _scrape_or_warn(config, settings)
        with watch(console(stderr=True)) as shown:
            watcher = run.watcher(shown)
            review_command.take_out_before_training(settings, watcher)
            outcome = train_version(settings, watcher)
            spread = repeat_fit(outcome.training_data, settings, watcher, n=repeat, first=outcome.trained)
            clear_up(settings)
    out = console()
    out.print(dataset_table(outcome.training_data.dataset))
    out.print(report_table(outcome.trained.report, title=f"{outcome.version.name} on held-out members"))
    if repeat > 1:
        out.print(spread_table(spread))
    out.print(verdict_text(outcome.version, outcome.verdict))
    out.print(f"report: {outcome.version.folder / 'report.html'}", soft_wrap=True)
    if settings.features.weights == "random":
        out.print("VGG16 has random weights: good for demos and tests, not for real answers")


def _has_photos(settings: Settings) -> bool:
    from trainer.photos.manifest import FILE_NAME, Manifest

    with Manifest(settings.data_dir / FILE_NAME) as manifest:
        return next(manifest.photos(settings.source.kind), None) is not None


def _scrape_or_warn(config: Path | None, settings: Settings) -> None:
    """Scrape; when photos are stored already, a scrape error is only a warning."""
    try:
        scrape(config)
    except FetchError as error:
        if not _has_photos(settings):
            raise
        logger.warning("training on the stored photos; the scrape is incomplete: %s", error)


@app.command()
def evaluate(
    version: Annotated[str | None, typer.Argument(help="Name of a version (default: the champion).")] = None,
    config: Config = None,
) -> None:
    """Evaluate the champion, or another version, on the current holdout members."""
    from trainer.training.progress import report_table, watch
    from trainer.training.session import session
    from trainer.training.train import evaluate_version

    settings = read_settings(config)
    with session(settings.data_dir, "evaluate") as run, watch(console(stderr=True)) as shown:
        evaluated, report = evaluate_version(version, settings, run.watcher(shown))
    console().print(report_table(report, title=f"{evaluated.name} on held-out members"))


@app.command()
def reproduce(
    version: Annotated[str, typer.Argument(help="Name of a version.")],
    config: Config = None,
) -> None:
    """Train a version again from its own photos, seed and settings; exit status 1 if the bits differ."""
    from trainer.training.progress import watch
    from trainer.training.reproduce import reproduce as train_again
    from trainer.training.session import session

    settings = read_settings(config)
    with session(settings.data_dir, "reproduce") as run, watch(console(stderr=True)) as shown:
        found = train_again(version, settings, run.watcher(shown))
    console().print(found.describe(), soft_wrap=True)
    if found.differing:
        raise typer.Exit(1)


@app.command()
def doctor(config: Config = None) -> None:
    """Show how the last runs ended, the state of the machine, and what could not be checked."""
    from trainer.training.doctor import examine

    settings = read_settings(config)
    console().print(examine(settings.data_dir))


@app.command()
def models(config: Config = None) -> None:
    """List the versions and mark the champion."""
    from trainer.registry.registry import Registry
    from trainer.training.progress import versions_table

    settings = read_settings(config)
    registry = Registry(settings.data_dir)
    versions, damaged = [], {}
    for name in registry.names():
        try:
            versions.append(registry.load(name))
        except ProjectError as error:
            damaged[name] = str(error)
    if not versions and not damaged:
        print("no versions yet; run `python -m trainer train`")
        return
    console().print(versions_table(versions, registry.history(), damaged))


@app.command()
def promote(version: Annotated[str, typer.Argument(help="Name of a version.")], config: Config = None) -> None:
    """Make a version the champion."""
    from trainer.registry.registry import Registry

    settings = read_settings(config)
    print(f"{Registry(settings.data_dir).promote(version, reason='promoted by hand').name} is the champion now")


@app.command()
def rollback(config: Config = None) -> None:
    """Make the previous champion the champion again."""
    from trainer.registry.registry import Registry

    settings = read_settings(config)
    print(f"{Registry(settings.data_dir).rollback().name} is the champion again")


app.command(name="review")(review_command.review)
app.command(name="key")(exchange_commands.key)
app.command(name="export")(exchange_commands.export)
app.command(name="import")(exchange_commands.import_)

COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]


def main() -> None:
    """Run a command; a `ProjectError` prints its message without a traceback.

    SIGTERM and Ctrl-C stop it cleanly, with exit status 128 + signal number.
    """
    signal.signal(signal.SIGTERM, _exit_on_signal)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a label that the terminal cannot encode must not stop a training
    try:
        app()
    except ProjectError as error:
        print("error:", escaped_lines(str(error).splitlines()), file=sys.stderr)
        sys.exit(1)
    except SystemExit as end:
        if end.code in STOPPED:
            print("stopped; finished work is kept, and the same command continues from there", file=sys.stderr)
        raise


def _exit_on_signal(number: int, _: object) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
