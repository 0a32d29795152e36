"""Decodes hostile files, and measures their peak memory and time.

There are four rounds, each with its own child processes:

- the corpus of `tests.hostile` under the default limits: every file must have an allowed result, and every good file
  must be decoded;
- files with flipped bits, from other seeds: each gives an array or a refusal, and no child is lost;
- the corpus' bombs without limits on pixels, bytes and frames: the memory limit alone must be enough;
- photos with the maximum number of pixels, in the formats that need most memory: they must be decoded.

It also measures the cost of the child process for a typical photo, with and without confinement, and what a decoder
gets that is controlled by a malicious photo (`tests.intruder`).
"""

from __future__ import annotations

import os
import socket
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, count, islice
from pathlib import Path
from unittest import mock

from PIL import Image

from benchmarks.result import Figure, Goal, Result
from tests import hostile, intruder
from tests.hostile import HostileFile
from tests.verdict import judge, peak_mib
from trainer.config import ImageSettings
from trainer.photos import decode_process, images
from trainer.photos.decode import Decoder
from trainer.photos.views import Pixels

LIMITS = ImageSettings()
UNLIMITED = ImageSettings(max_pixels=10**12, max_bytes=10**10, max_frames=10**9)
MIB = 1024 * 1024
SMALL_MIB = 256  # memory limit in the round of bombs


def run(*, quick: bool, work_dir: Path, say: Callable[[str], None]) -> Result:
    """Run the benchmark.

    Args:
        quick: fewer files with flipped bits, and only one format of the largest photos.
        work_dir: a folder with fake secrets of a bot, for the intruder.
        say: prints a line of progress, and each file with a wrong result.
    """
    limit_mib = LIMITS.decode_max_bytes // MIB
    corpus = _Round(LIMITS, limit_mib, say)
    corpus.run("corpus", hostile.corpus())
    flipped = _Round(LIMITS, limit_mib, say)
    wrong_bits = chain.from_iterable(hostile.flipped(seed) for seed in count(1))
    flipped.run("wrong bits", islice(wrong_bits, 600 if quick else 3000))
    bombs = _Round(UNLIMITED, SMALL_MIB, say)
    bombs.run("bombs", (HostileFile(file.name, file.data, _ANY) for file in hostile.bombs()))
    large = _Round(LIMITS.model_copy(update={"max_bytes": 10**9}), limit_mib, say)
    large.run("largest photos", _largest(["JPEG"] if quick else ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"]))
    inside_ms, unconfined_ms, confined_ms = _price()
    n_got, n_tried = _raid(work_dir, say)
    figures: dict[str, Figure] = {
        "files": corpus.n_files,
        "ended_wrongly": corpus.n_wrong,
        "ends": ", ".join(f"{end} {n}" for end, n in corpus.ends.most_common()),
        "median_ms": statistics.median(corpus.took_ms),
        "slowest_ms": max(corpus.took_ms),
        "slowest": corpus.slowest,
        "peak_child_mib": corpus.peak_mib,
        "files_with_wrong_bits": flipped.n_files,
        "ended_wrongly_with_wrong_bits": flipped.n_wrong,
        "children_lost": corpus.n_lost + flipped.n_lost + large.n_lost,
        "bombs_unlimited_ends": ", ".join(f"{end} {n}" for end, n in bombs.ends.most_common()),
        "bombs_unlimited_peak_child_mib": bombs.peak_mib,
        "bombs_unlimited_slowest_ms": max(bombs.took_ms),
        "largest_photos_refused": large.n_wrong,
        "largest_photos_peak_child_mib": large.peak_mib,
        "largest_photos_slowest_ms": max(large.took_ms),
        "decode_in_process_ms": inside_ms,
        "decode_in_unconfined_child_ms": unconfined_ms,
        "decode_in_child_ms": confined_ms,
        "confinement_ms": confined_ms - unconfined_ms,
        "intruder_tried": n_tried,
        "intruder_got": n_got,
    }
    goals = (
        Goal("files", at_least=200),
        Goal("ended_wrongly", at_most=0),
        Goal("ended_wrongly_with_wrong_bits", at_most=0),
        Goal("children_lost", at_most=0),
        Goal("slowest_ms", at_most=1000 * LIMITS.decode_timeout_s),
        Goal("peak_child_mib", at_most=SMALL_MIB),
        Goal("bombs_unlimited_peak_child_mib", at_most=SMALL_MIB + _LIBRARIES_MIB),
        Goal("largest_photos_refused", at_most=0),
        Goal("largest_photos_peak_child_mib", at_most=limit_mib + _LIBRARIES_MIB),
        Goal("confinement_ms", at_most=1.0),
        Goal("intruder_tried", at_least=60),
        Goal("intruder_got", at_most=0),
    )
    return Result(figures, goals)


_LIBRARIES_MIB = 64  # shared libraries are resident, but are not data
_ANY = hostile.FLIPPED | {"too_heavy", "too_slow", "too_large", "empty"}


class _Round:
    """Runs files through one decoder, and collects the results."""

    def __init__(self, limits: ImageSettings, memory_mib: int, say: Callable[[str], None]) -> None:
        self._decoder = Decoder(limits.model_copy(update={"decode_max_bytes": memory_mib * MIB}))
        self._say = say
        self.ends: Counter[str] = Counter()
        self.took_ms: list[float] = []
        self.slowest = ""
        self.n_wrong = 0
        self.n_lost = 0
        self.peak_mib = 0.0

    @property
    def n_files(self) -> int:
        return len(self.took_ms)

    def run(self, name: str, files: Iterable[HostileFile]) -> None:
        with self._decoder as decoder:
            for _ in decoder.pids():
                decoder.prepare(hostile.encoded("JPEG"))  # the first photo waits until its child has started
            for file in files:
                self._take(decoder, file)
            self.peak_mib = max(self.peak_mib, peak_mib(decoder.pids()))
        self._say(f"{name}: {self.n_files} files, {self.n_wrong} wrong results, {self.n_lost} children lost")

    def _take(self, decoder: Decoder, file: HostileFile) -> None:
        before = decoder.pids()
        started = time.perf_counter()
        end, fault = judge(file, decoder.prepare)
        took_ms = 1000 * (time.perf_counter() - started)
        if took_ms > max(self.took_ms, default=0):
            self.slowest = file.name
        self.took_ms.append(took_ms)
        self.ends[end] += 1
        self.n_lost += decoder.pids() != before
        if fault is not None:
            self.n_wrong += 1
            self._say(f"{file.name}: {fault}")


def _largest(formats: Iterable[str]) -> Iterator[HostileFile]:
    """The drawing with the maximum number of pixels, with an alpha channel if the format has one."""
    large = hostile.drawing().resize((5760, 5760))
    options = {"JPEG": {"progressive": True, "subsampling": 0}, "WEBP": {"method": 0}, "AVIF": {"speed": 10}}
    cutout = large.copy()
    cutout.putalpha(Image.new("L", large.size, 255))
    for name in formats:
        data = hostile.save(large if name == "JPEG" else cutout, name, **options.get(name, {}))
        yield HostileFile(f"5760x5760.{name.lower()}", data, frozenset({hostile.ARRAY}), hostile.drawing())


def _price(rounds: int = 100) -> tuple[float, float, float]:
    """Milliseconds for one view of a 350 x 600 JPEG: in this process, in an unconfined child, in a confined child.

    Medians over alternating rounds, so that other work on the machine affects all.
    """
    data = hostile.save(hostile.drawing().resize((350, 600)), "JPEG", quality=90)
    with _unconfined(LIMITS) as free, Decoder(LIMITS) as decoder:
        ways: list[Callable[[], Pixels]] = [
            lambda: images.prepare(data, LIMITS, ["whole"]),
            lambda: free.prepare(data),
            lambda: decoder.prepare(data),
        ]
        took: list[list[float]] = [[], [], []]
        for number in range(rounds + 2):
            for way, times in zip(ways, took, strict=True):
                started = time.perf_counter()
                way()
                if number >= 2:  # before, the children start
                    times.append(1000 * (time.perf_counter() - started))
    inside, in_free, in_confined = (statistics.median(times) for times in took)
    return inside, in_free, in_confined


@contextmanager
def _unconfined(limits: ImageSettings) -> Iterator[Decoder]:
    """A decoder without confinement."""
    code = "from trainer.photos import decode_child as it; it.confine = lambda **_: (); it._main()"
    with mock.patch.object(decode_process, "COMMAND", (sys.executable, "-c", code)), Decoder(limits) as decoder:
        for _ in decoder.pids():
            decoder.lacks()
        yield decoder


def _raid(work_dir: Path, say: Callable[[str], None]) -> tuple[int, int]:
    """Numbers of successful and tried attempts of an intruder."""
    for name in ("token", "database"):
        (work_dir / name).write_text("secret", encoding="ascii")
    (work_dir / "temporary").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server, intruder.taken_over() as decoder:
        about = {
            **{name: str(work_dir / name) for name in ("token", "database", "temporary")},
            "data_dir": str(work_dir),
            "parent": os.getpid(),
            "port": server.getsockname()[1],
            "secret": "secret",  # pragma: allowlist secret
        }
        got, n_tried = intruder.ask(decoder, about)
    say(f"an intruder tried {n_tried} things and got {', '.join(got) or 'nothing'}")
    return len(got), n_tried
