"""The commands `key`, `export` and `import`: versions from one machine to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer.command_line import Config, console, read_settings


def key(config: Config = None) -> None:
    """Make the key that signs exported versions, once, and print its public half.

    With exchange.password_file, the key is encrypted with the password in that file.
    """
    from trainer.registry.signature import key_id, make_key, public_key
    from trainer.training.exchange import key_file

    settings = read_settings(config)
    file, password_file = key_file(settings), settings.exchange.password_file
    public = (public_key if file.exists() else make_key)(file, password_file=password_file)
    console().print(
        f"The secret half of key {key_id(public)} is in {file}: keep a copy, and show it to nobody.\n"
        "Machines that shall accept its versions need the public half in their config.yaml:\n\n"
        f'exchange:\n  trusted_keys: ["{public}"]',
        soft_wrap=True,
    )


def export(
    version: Annotated[str, typer.Argument(help="Name of a version, or “champion”.")],
    file: Annotated[
        Path | None, typer.Argument(help="File to write, or a folder for it (default: ./V.dokocos).")
    ] = None,
    config: Config = None,
    photo_lists: Annotated[
        bool,
        typer.Option(
            "--photo-lists",
            help="Take the hashes of its photos along, for a machine that has photos to compare versions on.",
        ),
    ] = False,
) -> None:
    """Write a version into one signed file, for another machine."""
    from trainer.training.exchange import export as export_version

    path = export_version(version, read_settings(config), file, photo_lists=photo_lists)
    console().print(f"{path}: {path.stat().st_size:,} bytes", soft_wrap=True)


def import_(
    file: Annotated[Path, typer.Argument(help="A file of `export`.")],
    config: Config = None,
    promote: Annotated[bool, typer.Option("--promote", help="Make it the champion without comparing.")] = False,
) -> None:
    """Register a version from a signed file, and make it the champion if it is better; a running bot takes it over."""
    from trainer.training.exchange import receive, take_in
    from trainer.training.progress import import_text, watch
    from trainer.training.session import session

    settings = read_settings(config)
    arrived = receive(file, settings)
    with session(settings.data_dir, "import") as run, watch(console(stderr=True)) as shown:
        outcome = take_in(arrived, settings, run.watcher(shown), promote=promote)
    console().print(import_text(arrived.name, outcome.version, outcome.verdict, is_new=outcome.is_new), soft_wrap=True)
