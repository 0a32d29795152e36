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
def scrape(context: typer.Context) -> None:
    """Gather photos from the configured source; what is held already is not fetched again."""
    from trainer.fetch import Fetcher
    from trainer.manifest import FILE_NAME, Manifest
    from trainer.scrape import Scrape
    from trainer.scrape_view import progress, summary
    from trainer.sites import open_site

    settings: Settings = context.obj
    with Fetcher(settings.web) as fetcher, Manifest(settings.data_dir / FILE_NAME) as manifest:
        site = open_site(settings, fetcher)
        with progress(Console(stderr=True)) as on_photo:
            report = Scrape(site, manifest, settings, on_photo=on_photo).run()
    Console().print(summary(report))
    if report.problems:
        raise FetchError("\n".join(report.problems))


def main() -> None:
    """Run a command; an error that a person can act on is its text, nothing more."""
    try:
        app()
    except ProjectError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
