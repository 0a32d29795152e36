"""Photos are decoded in child processes within limits, and every file gets an answer."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import psutil
import pytest

from tests import hostile
from tests.verdict import judge, peak_mib
from trainer.config import VIEWS, ImageSettings
from trainer.errors import ImageError, ProjectError
from trainer.photos import decode_process, images
from trainer.photos.decode import Decoder
from trainer.photos.decode_process import ROOT
from trainer.photos.duplicates import perceptual_hash
from trainer.photos.views import Pixels

MIB = 1024 * 1024
LIMITS = ImageSettings(decode_max_bytes=768 * MIB)
PHOTO = hostile.encoded("JPEG")
# Two million empty lines of a run-length BMP: valid, and slow enough for a timeout.
SLOW = next(file.data for file in hostile.bombs() if file.name == "bomb/rle.bmp")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps the memory limit")


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(LIMITS) as shared:
        yield shared


def outcome(decoder: Decoder, data: bytes) -> str:
    """ "array", or the reason of the refusal."""
    try:
        seen = decoder.prepare(data)
    except ImageError as error:
        return error.reason
    assert seen.shape == (224, 224, 3)
    assert seen.dtype == np.uint8
    return hostile.ARRAY


def test_every_hostile_file_gives_an_array_or_an_allowed_refusal() -> None:
    ends, wrong = {}, {}
    with Decoder(LIMITS) as decoder:
        before = decoder.pids()
        for file in hostile.corpus():
            ends[file.name], fault = judge(file, decoder.prepare)
            if fault is not None:
                wrong[file.name] = fault
        assert decoder.pids() == before, "a child had to be replaced"
        if sys.platform == "linux":
            assert peak_mib(decoder.pids()) < 256
    assert wrong == {}
    assert len(ends) >= 200
    assert set(ends.values()) >= {
        hostile.ARRAY, "empty", "not_an_image", "unsupported", "truncated", "damaged", "too_large", "too_many_pixels",
        "too_small", "animated_too_long",
    }  # fmt: skip


@linux_only
def test_bombs_that_no_limit_stops_are_stopped_by_the_memory_limit() -> None:
    unlimited = ImageSettings(max_pixels=10**12, max_bytes=10**9, max_frames=10**9, decode_max_bytes=256 * MIB)
    with Decoder(unlimited) as decoder:
        ends = {file.name: outcome(decoder, file.data) for file in hostile.bombs()}
        assert peak_mib(decoder.pids()) < 256 + 64  # shared libraries do not count
        assert outcome(decoder, PHOTO) == hostile.ARRAY
    assert ends["bomb/13000x13000-rgb.png"] == "too_heavy"
    assert ends["bomb/screen.gif"] in {"too_heavy", "too_many_pixels"}  # Pillow's own limit may come first


@linux_only
def test_a_file_that_is_itself_too_much_for_a_child_is_too_heavy() -> None:
    with Decoder(ImageSettings(max_bytes=10**9, decode_max_bytes=96 * MIB)) as decoder:
        assert outcome(decoder, PHOTO + bytes(60 * MIB)) == "too_heavy"
        assert outcome(decoder, PHOTO) == hostile.ARRAY


def test_a_photo_that_takes_too_long_is_refused_and_its_child_replaced() -> None:
    with Decoder(LIMITS, deadline_s=0.05) as decoder:
        before = set(decoder.pids())
        with pytest.raises(ImageError, match=r"more than 0\.05 s") as caught:
            decoder.prepare(SLOW)
        assert caught.value.reason == "too_slow"
        assert len(before & set(decoder.pids())) == len(before) - 1


def test_a_child_that_hangs_is_replaced_and_the_next_photo_answered() -> None:
    with Decoder(LIMITS, deadline_s=2) as decoder:
        assert [outcome(decoder, PHOTO) for _ in decoder.pids()] == [hostile.ARRAY, hostile.ARRAY]
        hung = decoder.pids()
        for pid in hung:
            os.kill(pid, signal.SIGSTOP)
        with ThreadPoolExecutor(len(hung)) as pool:
            ends = list(pool.map(lambda _: outcome(decoder, PHOTO), hung))
        assert ends == ["too_slow", "too_slow"]
        assert outcome(decoder, PHOTO) == hostile.ARRAY


def test_a_photo_whose_child_is_killed_from_outside_is_still_answered() -> None:
    with Decoder(LIMITS, deadline_s=60) as decoder, ThreadPoolExecutor(2) as pool:
        assert [outcome(decoder, PHOTO) for _ in decoder.pids()] == [hostile.ARRAY, hostile.ARRAY]
        stopped = decoder.pids()
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        ends = [pool.submit(outcome, decoder, PHOTO) for _ in stopped]
        for pid in stopped:
            os.kill(pid, signal.SIGKILL)
        assert [end.result() for end in ends] == [hostile.ARRAY, hostile.ARRAY]


@pytest.mark.parametrize("view", VIEWS)
def test_a_child_gives_the_same_views_as_training(decoder: Decoder, view: str) -> None:
    (expected,) = images.prepare(PHOTO, LIMITS, [view])
    assert np.array_equal(decoder.prepare(PHOTO, view), expected)
    small = images.thumbnail(PHOTO, LIMITS, max_width=90, max_height=90)
    assert np.array_equal(decoder.thumbnail(PHOTO, max_width=90, max_height=90), small)


def test_a_child_measures_the_same_as_this_process(decoder: Decoder) -> None:
    for name in ("JPEG", "PNG"):
        data = hostile.save(hostile.drawing().resize((333, 512)), name)
        rgb = images.load_rgb(data, LIMITS)
        measured = decoder.measure(data)
        assert (measured.height, measured.width) == rgb.shape[:2] == (512, 333)
        assert perceptual_hash(measured.brightness) == perceptual_hash(rgb)


@pytest.mark.filterwarnings("ignore")  # of Pillow, about broken EXIF
def test_a_confined_child_gives_the_same_results_as_this_process(decoder: Decoder) -> None:
    """What it could not import or open any more would be a refusal of a good photo."""

    def decide(prepare: Callable[[bytes], Pixels], data: bytes) -> tuple[str, bytes]:
        try:
            return hostile.ARRAY, prepare(data).tobytes()
        except ImageError as error:
            return error.reason, b""

    bombs = {file.name for file in hostile.bombs()}
    for file in hostile.corpus():
        if file.name not in bombs:
            seen = decide(lambda data: images.prepare(data, LIMITS, ["whole"])[0], file.data)
            assert decide(decoder.prepare, file.data) == seen, file.name


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        ("{}, b'123'", "too few pixels"),
        ("{'reason': 'because', 'message': ''}, b''", "a reason of its own"),
        ("{'reason': ['damaged'], 'message': ''}, b''", "a reason that is no text"),
        ("{'reason': 'damaged', 'message': {}}, b''", "no message"),
        ("{'reason': 'damaged', 'message': 'x' * 10**6}, b''", "a message without an end"),
    ],
)
def test_a_child_with_an_invalid_answer_is_replaced(answer: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        f"from trainer.photos import decode_child\ndecode_child._answer = lambda *_: ({answer})\ndecode_child._main()"
    )
    monkeypatch.setattr(decode_process, "COMMAND", (sys.executable, "-c", code))
    with Decoder(LIMITS, n_children=1) as decoder:
        before = decoder.pids()
        with pytest.raises(ImageError) as caught:
            decoder.prepare(PHOTO)
        assert caught.value.reason in ("damaged", "too_heavy"), what
        assert decoder.pids() != before


@pytest.mark.parametrize("size", [None, [224], [0, 224], [-224, -224], [10**9, 10**9], ["224", "224"], 5])
def test_an_impossible_size_in_an_answer_is_rejected(size: object, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from trainer.photos import decode_child\n"
        f"decode_child._answer = lambda *_: ({{'size': {size!r}}}, bytes(64 * 64))\n"
        "decode_child._main()"
    )
    monkeypatch.setattr(decode_process, "COMMAND", (sys.executable, "-c", code))
    with Decoder(LIMITS, n_children=1) as decoder:
        with pytest.raises(ImageError, match="invalid answer"):
            decoder.measure(PHOTO)
        with pytest.raises(ImageError, match="invalid answer"):
            decoder.thumbnail(PHOTO, max_width=224, max_height=224)


def test_a_bug_in_the_decoder_is_logged_and_the_photo_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    code = (
        "from trainer.photos import decode_child\n"
        "decode_child.images.prepare = lambda *_, **__: {}['a fault']\n"
        "decode_child._main()"
    )
    monkeypatch.setattr(decode_process, "COMMAND", (sys.executable, "-c", code))
    with Decoder(LIMITS, n_children=1) as decoder, pytest.raises(ImageError, match="failed on the photo"):
        decoder.prepare(PHOTO)
    assert "KeyError" in caplog.text


def test_a_decoder_for_many_photos_starts_no_child_before_the_first() -> None:
    with closing(Decoder.in_bulk(LIMITS, n_children=3)) as decoder:
        assert decoder.pids() == []
        decoder.prepare(PHOTO)
        assert len(decoder.pids()) == 1


def test_many_threads_each_get_the_answer_to_their_own_photo(decoder: Decoder) -> None:
    sides = [40 + 3 * number for number in range(24)]
    photos = [hostile.save(hostile.drawing().resize((side, 300)), "PNG") for side in sides]
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda data: decoder.thumbnail(data, max_width=500, max_height=300), photos))
    assert [photo.shape for photo in seen] == [(300, side, 3) for side in sides]


def test_a_child_has_no_token_and_no_setting_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOKOCOS_MASTODON__ACCESS_TOKEN", "s3cret")
    with Decoder(LIMITS) as decoder:
        environments = [psutil.Process(pid).environ() for pid in decoder.pids()]
    assert environments
    assert all("PATH" in environment for environment in environments)
    assert not any(name.startswith("DOKOCOS") for environment in environments for name in environment)


def test_the_children_end_with_the_bot_even_when_it_is_killed() -> None:
    code = (
        "import time; from trainer.photos.decode import Decoder; from trainer.config import ImageSettings\n"
        "decoder = Decoder(ImageSettings()); decoder.start()\n"
        "print(*decoder.pids(), flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as bot:
        assert bot.stdout is not None
        children = [psutil.Process(int(pid)) for pid in bot.stdout.readline().split()]
        bot.kill()
    assert len(children) == 2
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []


def test_a_closed_decoder_raises_and_leaves_no_process() -> None:
    decoder = Decoder(LIMITS)
    decoder.start()
    pids = decoder.pids()
    decoder.close()
    decoder.close()
    assert not any(psutil.pid_exists(pid) for pid in pids)
    with pytest.raises(ProjectError, match="closed"):
        decoder.prepare(PHOTO)


def test_closing_during_a_photo_does_not_refuse_the_photo() -> None:
    decoder = Decoder(LIMITS, deadline_s=60)
    decoder.start()
    outcome(decoder, PHOTO)
    for pid in decoder.pids():
        os.kill(pid, signal.SIGSTOP)
    asked = threading.Event()

    def ask() -> None:
        asked.set()
        decoder.prepare(PHOTO)

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask)
        asked.wait()
        decoder.close()
        assert isinstance(answer.exception(), ProjectError)
        assert not isinstance(answer.exception(), ImageError)


def test_files_refused_before_decoding_reach_no_child() -> None:
    never_started = Decoder(ImageSettings(max_bytes=1000))
    assert outcome(never_started, PHOTO) == "too_large"
    assert outcome(never_started, b"") == "empty"
    assert never_started.pids() == []


def test_an_unknown_view_is_a_value_error(decoder: Decoder) -> None:
    with pytest.raises(ValueError, match="'left' is no view"):
        decoder.prepare(PHOTO, "left")
