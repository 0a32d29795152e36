"""`python -m sandbox demo`: the whole job as a newcomer sees it, on this machine alone.

The instance and the gallery run in this process; trainer and bot are children of it, told by the environment where
everything is, as they would be told anywhere else.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from sandbox import gallery as galleries
from sandbox import instance as instances
from sandbox.child import Child
from sandbox.conversation import Question, answers, ask, questions, what_is_missing
from sandbox.gallery import Gallery
from sandbox.instance import Account, Instance, Status
from sandbox.instance.people import BOT
from sandbox.server import serve
from sandbox.transcript import Transcript

PACKAGES = Path(__file__).parent.parent  # where children find `trainer` and `bot`
SPARE_PHOTOS = 8  # for each label, as some files are broken on purpose
PHOTOS_PER_MEMBER = 3  # few, so that enough members are held out for figures that mean something
CONNECT_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 60.0
LOOK_EVERY_S = 0.1


class DemoError(Exception):
    """The demo cannot go on; the text says why and what to do."""


def run_demo(*, once: bool, photos: int, seed: int, keep: bool, console: Console | None = None) -> int:
    """Run the demo from the empty sandbox to the last answer.

    Args:
        once: end after the last answer instead of staying until Ctrl-C.
        photos: for each label.
        seed: of the gallery and of the photos that are asked about.
        keep: leave the data folder where it is at the end.

    Returns:
        The exit status: 0 where every expected answer came, 1 where not, 130 when interrupted before.
    """
    console = console or Console()
    data_dir = Path(tempfile.mkdtemp(prefix="dokocos-demo-"))
    demo = _Demo(console, data_dir, photos=photos, seed=seed)
    try:
        with _terminated_as_interrupted():
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
            console.print(f"Everything is kept in {data_dir}", highlight=False, soft_wrap=True)
        else:
            shutil.rmtree(data_dir, ignore_errors=True)


class _Demo:
    """One run of the demo; `run` reads as the steps come."""

    def __init__(self, console: Console, data_dir: Path, *, photos: int, seed: int) -> None:
        self.is_complete = False
        self._console = console
        self._data_dir = data_dir
        self._photos = photos
        self._seed = seed
        self._times: list[tuple[str, float]] = []

    def run(self, *, stay: bool) -> int:
        with contextlib.ExitStack() as servers:
            with self._step("Start the sandbox"):
                instance = Instance()
                instances.add_people(instance)
                gallery = _hang_gallery(self._seed, self._photos)
                instance_url = servers.enter_context(serve(instances.create_app(instance)))
                gallery_url = servers.enter_context(serve(galleries.create_app(gallery)))
                self._say(f"Mastodon instance  {instance_url}\nPhoto gallery      {gallery_url}")
            account = instance.account(BOT)
            environment = self._environment(instance_url, gallery, gallery_url, account.token)
            with self._step(f"Scrape {self._photos} photos from each of {len(gallery.labels)} galleries"):
                self._run_trainer("scrape", environment)
            with self._step("Train a head on VGG16 features (seeded random weights)"):
                self._run_trainer("train", environment)
            missing = self._converse(instance, gallery, account, environment, stay=stay)
        return 1 if missing else 0

    def _converse(
        self, instance: Instance, gallery: Gallery, account: Account, environment: Mapping[str, str], *, stay: bool
    ) -> list[str]:
        """Let the bot run and people ask it; returns what is missing of its answers."""
        transcript = Transcript(instance, self._console)
        with self._child("bot", "run", environment=environment, log=self._data_dir / "bot.log") as bot:
            with self._step("Start the bot"):
                _wait_until_connected(instance, account, bot)
            with self._step("Ask the bot"):
                asked = _ask_all(instance, questions(gallery, self._seed), account, bot, transcript)
            missing = what_is_missing(instance, asked, account)
            self.is_complete = not missing
            self._report(missing, len(asked))
            if stay:
                self._invite(instance.base_url)
                while True:
                    transcript.show_new()
                    _check_alive(bot)
                    time.sleep(LOOK_EVERY_S)
        return missing

    def _run_trainer(self, command: str, environment: Mapping[str, str]) -> None:
        """Run one command of the trainer; it writes to this terminal itself, progress bars and all."""
        with self._child("trainer", command, environment=environment) as trainer:
            status = trainer.wait()
        if status != 0:
            raise DemoError(
                f"`{trainer.command}` ended with exit status {status}; its last lines above say why. "
                "Run the demo again with --keep to look at its data afterwards"
            )

    def _child(self, *words: str, environment: Mapping[str, str], log: Path | None = None) -> Child:
        """The working folder holds no config.yaml, so that the demo is the same for everybody."""
        return Child(*words, environment=environment, folder=self._data_dir, log=log)

    def _environment(self, instance_url: str, gallery: Gallery, gallery_url: str, token: str) -> dict[str, str]:
        """What the children are told; settings of whoever started the demo are left out."""
        countries = {label: {"region": pair[0], "country": pair[1]} for label, pair in gallery.countries.items()}
        settings = {
            "DATA_DIR": str(self._data_dir),
            "WEB__ALLOW_PRIVATE_ADDRESSES": "true",
            "SOURCE__KIND": "worldcosplay",
            "SOURCE__WORLDCOSPLAY__BASE_URL": gallery_url,
            "SOURCE__WORLDCOSPLAY__IMAGE_HOSTS": "[127.0.0.1]",
            "SOURCE__WORLDCOSPLAY__COUNTRIES": json.dumps(countries),
            "SCRAPE__PHOTOS_PER_LABEL": str(self._photos),
            "SCRAPE__PAGE_PAUSE_S": "0",
            "SCRAPE__IMAGE_PAUSE_S": "0",
            "FEATURES__WEIGHTS": "random",
            "FEATURES__VIEWS": "[whole]",
            "MASTODON__BASE_URL": instance_url,
            "MASTODON__ACCESS_TOKEN": token,
            "MASTODON__ALLOW_HTTP": "true",
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DOKOCOS_")}
        own = {"PYTHONPATH": str(PACKAGES), "TF_CPP_MIN_LOG_LEVEL": "3"}  # TensorFlow's chatter says nothing here
        return inherited | own | {f"DOKOCOS_{name}": value for name, value in settings.items()}

    @contextlib.contextmanager
    def _step(self, title: str) -> Iterator[None]:
        """Announce a step, and take its time."""
        self._console.print()
        self._console.rule(f"[bold]{title}", align="left")
        started = time.monotonic()
        try:
            yield
        finally:
            self._times.append((title, time.monotonic() - started))

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False)

    def _report(self, missing: Sequence[str], n_asked: int) -> None:
        if missing:
            lines = "\n".join(f"  {line}" for line in missing)
            self._console.print(f"Not every expected answer came:\n{lines}", style="bold red", markup=False)
        else:
            self._console.print(f"[bold green]All {n_asked} expected answers came.")

    def _invite(self, address: str) -> None:
        self._console.print(
            Panel(
                f"[bold]{address}/[/bold]\n\nOpen this page, post a photo of your own to the bot, and watch "
                "the answer arrive.\nCtrl-C ends everything.",
                title="Your turn",
                border_style="bold magenta",
                expand=False,
                padding=(1, 4),
            )
        )

    def print_times(self) -> None:
        """What took how long."""
        if not self._times:
            return
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for title, seconds in [*self._times, ("Together", sum(seconds for _, seconds in self._times))]:
            table.add_row(title, f"{seconds:6.1f} s")
        self._console.print()
        self._console.print(table)


def _hang_gallery(seed: int, photos: int) -> Gallery:
    """A gallery with enough photos under each label."""
    n_members = -(-(photos + SPARE_PHOTOS) // PHOTOS_PER_MEMBER)
    gallery = Gallery(seed, members_per_label=n_members, photos_per_member=PHOTOS_PER_MEMBER)
    for label in gallery.labels:
        short = photos + SPARE_PHOTOS - len(gallery.photos(label))
        gallery.grow(label, photos=max(0, short))
    return gallery


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
            "Run the demo again with --keep to look at its data afterwards"
        )


def _ask_all(
    instance: Instance, wanted: Sequence[Question], account: Account, bot: Child, transcript: Transcript
) -> dict[Question, Status]:
    """Ask one after the other, each when the one before has its answer or has waited long enough."""
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
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does: children stopped, data removed."""

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
