"""`python -m trainer COMMAND`: a command for each step from a site's photos to a version that serves."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trainer.config import Settings, load_settings
from trainer.errors import FetchError, ProjectError

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Gather photos, learn from them, judge it."
)


@app.callback()
def read_settings(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="Another settings file than config.yaml.")] = None,
) -> None:
    settings = load_settings(Settings, config)
    logging.basicConfig(level=settings.log.level, format="%(levelname)s %(name)s: %(message)s")
    context.obj = settings


@app.command()
def scrape(
    context: typer.Context,
    verify: Annotated[
        bool, typer.Option("--verify", help="Only check the files that are held, and fetch damaged ones again.")
    ] = False,
) -> None:
    """Gather photos from the configured source; what is held already is not fetched again."""
    from trainer.fetch import Fetcher
    from trainer.lock import only_one
    from trainer.manifest import FILE_NAME, Manifest
    from trainer.scrape import Scrape
    from trainer.scrape_view import progress, summary, verified
    from trainer.sites import open_site
    from trainer.upkeep import verify as verify_files

    settings: Settings = context.obj
    with (
        only_one(settings.data_dir / "scrape.lock", "scrape"),
        Fetcher(settings.web) as fetcher,
        Manifest(settings.data_dir / FILE_NAME) as manifest,
    ):
        site = open_site(settings, fetcher)
        if verify:
            checked = verify_files(site, manifest, settings)
            Console().print(verified(checked))
            problems = checked.problems
        else:
            with progress(Console(stderr=True)) as on_photo:
                report = Scrape(site, manifest, settings, on_photo=on_photo).run()
            Console().print(summary(report))
            problems = report.problems
    if problems:
        raise FetchError("\n".join(problems))


@app.command()
def forget(
    context: typer.Context,
    photo: Annotated[str | None, typer.Option(help="Id of a photo at its source.")] = None,
    member: Annotated[str | None, typer.Option(help="Id of a member at the source: all photos of theirs.")] = None,
) -> None:
    """Delete a photo, or all photos of a member, and never take them again: for take-downs."""
    from datetime import UTC, datetime

    from trainer.lock import only_one
    from trainer.manifest import FILE_NAME, Manifest
    from trainer.upkeep import forget as forget_photos

    settings: Settings = context.obj
    if (photo is None) == (member is None):
        raise typer.BadParameter("give either --photo ID or --member ID")
    with (
        only_one(settings.data_dir / "scrape.lock", "scrape"),
        Manifest(settings.data_dir / FILE_NAME) as manifest,
    ):
        now = datetime.now(UTC)
        source = settings.source.kind
        if photo is not None:
            n_photos = forget_photos(manifest, settings.data_dir, source, "photo", photo, now=now)
        else:
            n_photos = forget_photos(manifest, settings.data_dir, source, "member", member or "", now=now)
    print(f"{n_photos} photos deleted; they will not be taken again. The next training is without them.")


def main() -> None:
    """Run a command; an error that a person can act on is its text, nothing more."""
    try:
        app()
    except ProjectError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
