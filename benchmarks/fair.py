"""Attacks a running bot from one account or one host, and measures how long the mentions of others wait meanwhile.

Each attack has a bot of its own, with the default limits, on an instance with Mastodon's rate limits. Before it,
ordinary mentions are answered at rest; while it lasts, others of other people come once a second, with a photo each. An
answer may take ten times as long as at rest, or two seconds, and the bot's memory may grow by 200 MB. The decoding
processes are the real ones; the classifier is a stand-in (`benchmarks.quick_bot`).
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from benchmarks.home import Home, draw_photos, quick_home, resident_mb, running
from benchmarks.quick_bot import STAND_IN
from benchmarks.result import Figure, Goal, Result
from sandbox.instance import Account, InstanceSettings, Media, Status
from sandbox.server import serve
from tests import hostile

MIB = 2**20
N_AT_REST = 8
TIMES_USUAL, ALWAYS_ALLOWED_S = 10.0, 2.0
MAX_GROWTH_MB = 200.0
PATIENCE_S = 180.0
EVERY_S = 1.0
LOOK_EVERY_S = 0.02
ATTACKERS_HOST = "attackers.example"


@dataclass
class Scene:
    """What an attack has at hand: the instance, a slow file server, and files that were made once."""

    place: Home
    slow_url: str
    photo: bytes
    huge: bytes
    heavy: bytes
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def stranger(self, host: str = "") -> Account:
        """A new person with an account of more than a day."""
        acct = f"person{next(self._numbers)}" + (f"@{host}" if host else "")
        return self.place.instance.add_account(acct, created_at=datetime.now(UTC) - timedelta(days=400))

    def people(self, n: int) -> list[Account]:
        """People of one host."""
        return [self.stranger(ATTACKERS_HOST) for _ in range(n)]

    def file(self, by: Account, data: bytes, *, url: str | None = None) -> Media:
        """An attachment, whose preview takes no time to make."""
        return self.place.instance.attach(by, data, preview=self.photo, url=url, remote_url=url)

    def ask(self, by: Account, *media: Media, text: str = "@dokocos which gallery?") -> Status:
        return self.place.instance.post(by, text, attachments=media)


def _silence(scene: Scene) -> None:
    """200 mentions of one account below a stranger's photo, whose author was asked before."""
    author, attacker = scene.stranger(), scene.stranger(ATTACKERS_HOST)
    photo = scene.place.instance.post(author, "my costume", attachments=[scene.file(author, scene.photo)])
    for _ in range(200):
        scene.place.instance.post(attacker, "@dokocos which?", in_reply_to=photo)


def _hanging(scene: Scene) -> None:
    """20 mentions of one account with a photo that never comes."""
    attacker = scene.stranger(ATTACKERS_HOST)
    for _ in range(20):
        scene.ask(attacker, scene.file(attacker, b"", url=f"{scene.slow_url}/hanging"))


def _dripping(scene: Scene) -> None:
    """A photo that drips in each of 16 mentions, of as many neighbours of those who wait."""
    for attacker in [scene.stranger() for _ in range(16)]:
        scene.ask(attacker, scene.file(attacker, b"", url=f"{scene.slow_url}/dripping"))


def _pixels(scene: Scene) -> None:
    """Four photos of 33 million pixels in each of 16 mentions of one host."""
    for attacker in scene.people(16):
        scene.ask(attacker, *(scene.file(attacker, scene.huge) for _ in range(4)))


def _posts(scene: Scene) -> None:
    """Six mentions of each of 60 accounts of one host: more than the server lets the bot answer in three hours."""
    for attacker in scene.people(60) * 6:
        scene.ask(attacker)


def _bytes(scene: Scene) -> None:
    """Four files of 15 MiB in each of 16 mentions of one host."""
    for attacker in scene.people(16):
        scene.ask(attacker, *(scene.file(attacker, scene.heavy) for _ in range(4)))


def _texts(scene: Scene) -> None:
    """150 mentions of one account with a warning of 500,000 characters each, which the instance need not parse."""
    attacker = scene.stranger(ATTACKERS_HOST)
    for _ in range(150):
        scene.place.instance.post(attacker, "@dokocos which?", spoiler_text="gallery " * 62_500)


ATTACKS: dict[str, Callable[[Scene], None]] = {
    "silence": _silence,
    "hanging": _hanging,
    "dripping": _dripping,
    "pixels": _pixels,
    "posts": _posts,
    "bytes": _bytes,
    "texts": _texts,
}


def run(*, quick: bool, work_dir: Path, say: Callable[[str], None]) -> Result:
    """Run the benchmark.

    Args:
        quick: fewer mentions of others during each attack.
        work_dir: a folder for the bots' files.
        say: prints a line of progress.
    """
    n_others = 6 if quick else 15
    photo = draw_photos(1)[0]
    huge = hostile.save(hostile.drawing().resize((5760, 5760)), "JPEG", progressive=True, subsampling=0)
    heavy = photo + bytes(15 * MIB - len(photo))

    def together(scene: Scene) -> None:
        for attack in ATTACKS.values():
            attack(scene)

    figures: dict[str, Figure] = {}
    goals: list[Goal] = []
    for name, attack in {**ATTACKS, "together": together}.items():
        with tempfile.TemporaryDirectory(dir=work_dir) as folder, _scene(Path(folder), photo, huge, heavy) as scene:
            seen = _measure(scene, attack, n_others)
        say(f"{name}: {seen.worst_s:.2f} s at worst (at rest {seen.usual_s:.2f} s), memory +{seen.growth_mb:.0f} MB")
        allowed_s = max(ALWAYS_ALLOWED_S, TIMES_USUAL * seen.usual_s)
        figures |= {
            f"{name}_usual_s": seen.usual_s,
            f"{name}_median_s": seen.median_s,
            f"{name}_worst_s": seen.worst_s,
            f"{name}_growth_mb": seen.growth_mb,
        }
        goals += [
            Goal(f"{name}_worst_s", at_most=allowed_s),
            Goal(f"{name}_growth_mb", at_most=MAX_GROWTH_MB),
        ]
    figures |= {"others": n_others, "classifier": f"stand-in: {STAND_IN}"}
    return Result(figures=figures, goals=tuple(goals))


@dataclass(frozen=True)
class _Seen:
    usual_s: float
    median_s: float
    worst_s: float
    growth_mb: float


def _measure(scene: Scene, attack: Callable[[Scene], None], n_others: int) -> _Seen:
    with running(scene.place) as (process, _):
        at_rest = _ask_others(scene, N_AT_REST + 1, every_s=EVERY_S / 2)[1:]
        before_mb = resident_mb(process)
        with _highest_mb(process) as highest:
            attacking = threading.Thread(target=attack, args=(scene,), name="attack")
            attacking.start()
            took = _ask_others(scene, n_others, every_s=EVERY_S)
            attacking.join()
        return _Seen(statistics.median(at_rest), statistics.median(took), max(took), highest[0] - before_mb)


def _ask_others(scene: Scene, n: int, *, every_s: float) -> list[float]:
    """Asks as `n` strangers at this interval, whether or not the earlier ones are answered; returns each one's seconds.

    Who has no answer after `PATIENCE_S` counts with that time.
    """
    started = time.monotonic()
    asked: list[tuple[float, Status]] = []
    took: list[float] = []
    while len(took) < n:
        time.sleep(LOOK_EVERY_S)
        now = time.monotonic()
        if len(asked) + len(took) < n and now >= started + every_s * (len(asked) + len(took)):
            who = scene.stranger()
            asked.append((now, scene.ask(who, scene.file(who, scene.photo))))
        ended = [each for each in asked if now > each[0] + PATIENCE_S or scene.place.answers(each[1])]
        took += [now - since for since, _ in ended]
        asked = [each for each in asked if each not in ended]
    return took


@contextmanager
def _highest_mb(process: subprocess.Popen[bytes]) -> Iterator[list[float]]:
    """The highest resident memory of a process, so far, as the only item."""
    highest = [resident_mb(process)]
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            highest[0] = max(highest[0], resident_mb(process))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield highest
    finally:
        done.set()
        thread.join()


@contextmanager
def _scene(work_dir: Path, photo: bytes, huge: bytes, heavy: bytes) -> Iterator[Scene]:
    usual = {"BOT__MAX_ANSWERS_PER_HOUR": "20", "BOT__MAX_ANSWERS_PER_HOUR_NEW": "5"}
    with quick_home(work_dir, **usual) as place, serve(_slow_files()) as slow_url:
        place.instance.settings = InstanceSettings()  # with Mastodon's rate limits
        yield Scene(place, slow_url, photo, huge, heavy)


def _slow_files() -> Starlette:
    """A file server of the attackers: /hanging never answers, /dripping sends 15 MiB at 64 bytes a second."""

    async def hanging(_: Request) -> StreamingResponse:
        await asyncio.sleep(3600)
        raise AssertionError

    async def drip() -> AsyncIterator[bytes]:
        while True:
            yield bytes(16)
            await asyncio.sleep(0.25)

    async def dripping(_: Request) -> StreamingResponse:
        return StreamingResponse(drip(), headers={"Content-Length": str(15 * MIB)}, media_type="image/jpeg")

    return Starlette(routes=[Route("/hanging", hanging), Route("/dripping", dripping)])
