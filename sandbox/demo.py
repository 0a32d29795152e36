"""Runs `python -m sandbox demo`: the whole process from scraping to answers, on this machine.

The instance and the gallery run in this process. The trainer and the bot are child processes, configured by environment
variables as in a normal installation.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from sandbox import gallery as galleries
from sandbox import instance as instances
from sandbox.child import Child, environment, source_settings
from sandbox.conversation import Question, answers, ask, find_problems, questions
from sandbox.gallery import Gallery
from sandbox.instance import Account, Instance, Status
from sandbox.instance.people import BOT
from sandbox.server import serve
from sandbox.transcript import Transcript

PACKAGES = Path(__file__).parent.parent  # where child processes find `trainer` and `bot`
PHOTOS_PER_MEMBER = 3  # few, so that the holdout has enough members for useful figures
CONNECT_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 60.0
LOOK_EVERY_S = 0.1


class DemoError(Exception):
    """The demo cannot continue; the text says why and what to do."""


def run_demo(
    *, once: bool, photos: int, seed: int, keep: bool, weights: str = "random", console: Console | None = None
) -> int:
    """Run the demo, from an empty sandbox to the last answer.

    Args:
        once: exit after the last answer instead of waiting for Ctrl-C.
        photos: photos per label.
        seed: of the gallery and of the photos in the questions.
        keep: keep the data folder at the end.
        weights: of VGG16: "random", "imagenet" (Keras downloads them), or the path of a file.

    Returns:
        the exit status: 0 if every answer is as expected, 1 if not, 130 if interrupted.
    """
    console = console or Console()
    data_dir = Path(tempfile.mkdtemp(prefix="dokocos-demo-"))
    demo = _Demo(console, data_dir, photos=photos, seed=seed, weights=weights)
    try:
        with _sigterm_as_ctrl_c():
            return demo.run(stay=not once)
    except KeyboardInterrupt:
        console.print("\nStopped.")
        return 0 if demo.is_complete else 130
    except DemoError as error:
        console.print(f"\n{error}", style="bold red", markup=False, highlight=False)
        return 1
    finally:
        demo.print_times()
        if keep:
            console.print(f"The data is kept in {data_dir}", highlight=False, soft_wrap=True)
        else:
            shutil.rmtree(data_dir, ignore_errors=True)


class _Demo:
    """One run of the demo; `run` has the steps in order."""

    def __init__(self, console: Console, data_dir: Path, *, photos: int, seed: int, weights: str) -> None:
        self.is_complete = False
        self._console = console
        self._data_dir = data_dir
        self._photos = photos
        self._seed = seed
        # The child processes run in another folder.
        self._weights = weights if weights in ("random", "imagenet") else str(Path(weights).expanduser().absolute())
        self._times: list[tuple[str, float]] = []

    def run(self, *, stay: bool) -> int:
        with contextlib.ExitStack() as servers:
            with self._step("Start the sandbox"):
                instance = Instance()
                instances.add_people(instance)
                gallery = Gallery.of_size(self._photos, self._seed, photos_per_member=PHOTOS_PER_MEMBER)
                instance_url = servers.enter_context(serve(instances.create_app(instance)))
                gallery_url = servers.enter_context(serve(galleries.create_app(gallery)))
                where = f"Mastodon instance  {instance_url}\nPhoto gallery      {gallery_url}"
                self._console.print(where, highlight=False)
            account = instance.account(BOT)
            child_environment = self._environment(instance_url, gallery, gallery_url, account.token)
            with self._step(f"Scrape {self._photos} photos from each of {len(gallery.labels)} galleries"):
                self._run_trainer("scrape", child_environment)
            drawn = "seeded random weights" if self._weights == "random" else f"weights: {Path(self._weights).stem}"
            with self._step(f"Train a head on VGG16 features ({drawn})"):
                self._run_trainer("train", child_environment)
            missing = self._ask_bot(instance, gallery, account, child_environment, stay=stay)
        return 1 if missing else 0

    def _ask_bot(
        self, instance: Instance, gallery: Gallery, account: Account, environment: Mapping[str, str], *, stay: bool
    ) -> list[str]:
        """Run the bot and ask the questions; returns the problems with its answers."""
        transcript = Transcript(instance, self._console)
        with self._child("bot", "run", environment=environment, log=self._data_dir / "bot.log") as bot:
            with self._step("Start the bot"):
                _wait_until_connected(instance, account, bot)
            with self._step("Ask the bot"):
                asked = _ask_all(instance, questions(gallery, self._seed), account, bot, transcript)
            missing = find_problems(instance, asked, account)
            self.is_complete = not missing
            self._report(missing, len(asked))
            if stay:
                self._print_invitation(instance.base_url)
                while True:
                    transcript.show_new()
                    _check_alive(bot)
                    time.sleep(LOOK_EVERY_S)
        return missing

    def _run_trainer(self, command: str, environment: Mapping[str, str]) -> None:
        """Run a command of the trainer; it writes to this terminal."""
        with self._child("trainer", command, environment=environment) as trainer:
            status = trainer.wait()
        if status != 0:
            raise DemoError(
                f"`{trainer.command}` ended with exit status {status}; its last lines above say why. "
                "Run the demo again with --keep to inspect its data"
            )

    def _child(self, *words: str, environment: Mapping[str, str], log: Path | None = None) -> Child:
        """Create a child process; its working directory has no config.yaml, so the demo is the same everywhere."""
        return Child(*words, environment=environment, folder=self._data_dir, log=log)

    def _environment(self, instance_url: str, gallery: Gallery, gallery_url: str, token: str) -> dict[str, str]:
        """The environment of the child processes, without the user's own settings."""
        settings = source_settings(gallery, gallery_url) | {
            "DATA_DIR": str(self._data_dir),
            "SCRAPE__PHOTOS_PER_LABEL": str(self._photos),
            "FEATURES__WEIGHTS": self._weights,
            "FEATURES__VIEWS": "[whole]",
            "MASTODON__BASE_URL": instance_url,
            "MASTODON__ACCESS_TOKEN": token,
            "MASTODON__ALLOW_HTTP": "true",
        }
        own = {"PYTHONPATH": str(PACKAGES), "TF_CPP_MIN_LOG_LEVEL": "3"}  # no TensorFlow messages
        return environment(settings) | own

    @contextlib.contextmanager
    def _step(self, title: str) -> Iterator[None]:
        """Print a step's title and measure its time."""
        self._console.print()
        self._console.rule(f"[bold]{title}", align="left")
        started = time.monotonic()
        try:
            yield
        finally:
            self._times.append((title, time.monotonic() - started))

    def _report(self, missing: Sequence[str], n_asked: int) -> None:
        if missing:
            lines = "\n".join(f"  {line}" for line in missing)
            self._console.print(f"Some answers are not as expected:\n{lines}", style="bold red", markup=False)
        else:
            self._console.print(f"[bold green]All {n_asked} answers are as expected.")

    def _print_invitation(self, address: str) -> None:
        self._console.print(
            Panel(
                f"[bold]{address}/[/bold]\n\nOpen this page, post a photo of your own to the bot, and watch "
                "the answer arrive.\nPress Ctrl-C to stop.",
                title="Your turn",
                border_style="bold magenta",
                expand=False,
                padding=(1, 4),
            )
        )

    def print_times(self) -> None:
        """Print the time that each step took."""
        if not self._times:
            return
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for title, seconds in [*self._times, ("Together", sum(seconds for _, seconds in self._times))]:
            table.add_row(title, f"{seconds:6.1f} s")
        self._console.print()
        self._console.print(table)


def _wait_until_connected(instance: Instance, account: Account, bot: Child) -> None:
    give_up_at = time.monotonic() + CONNECT_TIMEOUT_S
    while not instance.hub.listeners(account):
        _check_alive(bot)
        if time.monotonic() > give_up_at:
            raise DemoError(
                f"The bot did not connect within {CONNECT_TIMEOUT_S:.0f} s. Its last lines:\n{bot.last_lines()}"
            )
        time.sleep(LOOK_EVERY_S)


def _check_alive(bot: Child) -> None:
    if bot.exit_status is not None:
        raise DemoError(
            f"`{bot.command}` ended with exit status {bot.exit_status}. Its last lines:\n{bot.last_lines()}\n"
            "Run the demo again with --keep to inspect its data"
        )


def _ask_all(
    instance: Instance, wanted: Sequence[Question], account: Account, bot: Child, transcript: Transcript
) -> dict[Question, Status]:
    """Ask the questions one after another; each waits for the previous answer or a timeout."""
    asked = {}
    for question in wanted:
        asked[question] = ask(instance, question, account)
        give_up_at = time.monotonic() + ANSWER_TIMEOUT_S
        while not answers(instance, asked[question], account) and time.monotonic() < give_up_at:
            transcript.show_new()
            _check_alive(bot)
            time.sleep(LOOK_EVERY_S)
        transcript.show_new()
    return asked


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C: stop the child processes and delete the data."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
