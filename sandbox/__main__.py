"""`python -m sandbox serve` and `python -m sandbox demo`."""

from __future__ import annotations

import contextlib
import json
import signal
from typing import Annotated, Any

import typer

from sandbox.instance import NO_RATE_LIMITS, Instance, InstanceSettings, add_people, create_app
from sandbox.server import serve as serve_app

cli = typer.Typer(help="A Mastodon instance and a photo gallery on 127.0.0.1.", no_args_is_help=True)


@cli.command()
def serve(
    instance_port: Annotated[int, typer.Option(help="Port of the instance; 0: a free one.")] = 0,
    gallery_port: Annotated[int, typer.Option(help="Port of the gallery; 0: a free one.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the gallery's drawings and of random faults.")] = 0,
    version: Annotated[str, typer.Option(help="The Mastodon version to imitate.")] = InstanceSettings().version,
    rate_limits: Annotated[bool, typer.Option(help="Apply the rate limits of the real server.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON, nothing else.")] = False,
) -> None:
    """Run the instance and the gallery until Ctrl-C, and print their URLs and access tokens."""
    settings = InstanceSettings(version=version)
    if not rate_limits:
        settings = InstanceSettings(version=version, rate_limits=NO_RATE_LIMITS)
    instance = Instance(settings, seed=seed)
    tokens = add_people(instance)
    signals = (signal.SIGINT, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # in the servers' threads too, so that they wait for `sigwait`
    with contextlib.ExitStack() as servers:
        try:
            found = _start(servers, instance, instance_port, gallery_port, seed)
        except OSError as error:
            typer.echo(f"sandbox: {error.strerror}; is the port taken? Choose another, or 0 for a free one", err=True)
            raise typer.Exit(1) from error
        _print(found | {"tokens": tokens}, as_json=as_json)
        signal.sigwait(signals)


@cli.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="Exit after the last answer; 0 if all are as expected.")] = False,
    photos: Annotated[int, typer.Option(min=20, help="Photos per label.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the gallery and of the photos in the questions.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the data folder at the end.")] = False,
    weights: Annotated[
        str, typer.Option(help="VGG16's weights: imagenet (Keras downloads them), the path of a file, or random.")
    ] = "random",
) -> None:
    """Demonstrate the whole process on this machine: scrape, train, and answer mentions."""
    from sandbox.demo import run_demo

    raise typer.Exit(run_demo(once=once, photos=photos, seed=seed, keep=keep, weights=weights))


def _start(
    servers: contextlib.ExitStack, instance: Instance, instance_port: int, gallery_port: int, seed: int
) -> dict[str, str]:
    from sandbox import gallery

    return {
        "instance": servers.enter_context(serve_app(create_app(instance), port=instance_port)),
        "gallery": servers.enter_context(serve_app(gallery.create_app(gallery.Gallery(seed=seed)), port=gallery_port)),
    }


def _print(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found), flush=True)
        return
    print(f"Mastodon instance  {found['instance']}\nPhoto gallery      {found['gallery']}\n\nAccess tokens")
    for name, token in found["tokens"].items():
        print(f"  {name:<8} {token}")
    print("\nCtrl-C stops both.", flush=True)


if __name__ == "__main__":
    cli(prog_name="python -m sandbox")
