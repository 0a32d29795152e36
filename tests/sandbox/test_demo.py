"""The demo reports good and bad runs, and leaves no files or processes.

Two small programs replace the trainer and the bot, and run as child processes like the real ones; the fake bot uses the
real instance over HTTP.
"""

import io
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from rich.console import Console

from sandbox import demo
from sandbox.conversation import KINDS, Question, ask, find_problems, kind_of, questions
from sandbox.gallery import Gallery
from sandbox.instance import Account, Instance, add_people
from sandbox.instance.people import BOT
from sandbox.transcript import Transcript

TRAINER = """
import os, sys
print("fake trainer:", sys.argv[1], os.environ["DOKOCOS_SOURCE__WORLDCOSPLAY__BASE_URL"])
if "FAKE_WEIGHTS_NOTE" in os.environ:
    with open(os.environ["FAKE_WEIGHTS_NOTE"], "w") as note:
        note.write(os.environ["DOKOCOS_FEATURES__WEIGHTS"])
sys.exit(3 if sys.argv[1] == os.environ.get("FAKE_FAILS") else 0)
"""

# Answers each mention once; on SIGTERM it writes a file.
FAKE_BOT = """
import os, pathlib, re, signal, sys
import requests

def stop(*_):
    if "FAKE_NOTE" in os.environ:
        pathlib.Path(os.environ["FAKE_NOTE"]).write_text("stopped")
    sys.exit(0)

signal.signal(signal.SIGTERM, stop)
print("fake bot: starting", flush=True)
if os.environ.get("FAKE_FAILS") == "bot":
    sys.exit("fake bot: no model")
base = os.environ["DOKOCOS_MASTODON__BASE_URL"]
headers = {"Authorization": "Bearer " + os.environ["DOKOCOS_MASTODON__ACCESS_TOKEN"]}
stream = requests.get(base + "/api/v1/streaming/user", headers=headers, stream=True, timeout=60)
seen = set()
for line in stream.iter_lines(chunk_size=1):
    for note in requests.get(base + "/api/v1/notifications", headers=headers, timeout=60).json():
        status = note["status"]
        if note["id"] in seen or status["account"]["acct"] == os.environ.get("FAKE_IGNORES"):
            continue
        seen.add(note["id"])
        if not status["media_attachments"]:
            text = "Show me a costume for Cure WorldCosplay"
        else:
            file = requests.get(status["media_attachments"][0]["url"], timeout=60).content
            text = "Japan 60%" if file.endswith(bytes((255, 217))) else "I like JPEG"
        for _ in range(2 if os.environ.get("FAKE_TWICE") else 1):
            reply = {"status": text, "in_reply_to_id": status["id"], "language": status["language"]}
            requests.post(base + "/api/v1/statuses", headers=headers, data=reply, timeout=60)
"""


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder with packages `trainer` and `bot` that can be run."""
    for name, program in (("trainer", TRAINER), ("bot", FAKE_BOT)):
        folder = tmp_path / "packages" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder / "__main__.py").write_text(textwrap.dedent(program), encoding="utf-8")
    return tmp_path / "packages"


@pytest.fixture
def run(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Runner":
    monkeypatch.setattr(demo, "PACKAGES", packages)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return Runner(tmp_path)


class Runner:
    """Runs the demo with its output in a string."""

    def __init__(self, tmp_path: Path) -> None:
        self.output = io.StringIO()
        self._tmp_path = tmp_path

    def __call__(self, *, keep: bool = False, weights: str = "random") -> int:
        console = Console(file=self.output, width=100)
        return demo.run_demo(once=True, photos=20, seed=0, keep=keep, weights=weights, console=console)

    @property
    def left_behind(self) -> list[Path]:
        return list(self._tmp_path.glob("dokocos-demo-*"))


def test_a_run_with_all_answers_exits_with_0_and_leaves_no_files(run: Runner) -> None:
    assert run() == 0
    text = run.output.getvalue()
    assert "All 6 answers are as expected." in text
    assert "@alice:\n  @dokocos which gallery" in text
    assert "      @dokocos → @alice:\n        Japan 60%" in text
    assert "[image 720 x " in text
    assert "Together" in text
    assert run.left_behind == []


def test_the_data_can_be_kept(run: Runner) -> None:
    assert run(keep=True) == 0
    (folder,) = run.left_behind
    assert str(folder) in run.output.getvalue().replace("\n", "")
    assert "fake bot: starting" in (folder / "bot.log").read_text()


def test_the_demo_ignores_the_users_settings(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOKOCOS_SOURCE__WORLDCOSPLAY__BASE_URL", "https://example.org")
    monkeypatch.setenv("DOKOCOS_MASTODON__BASE_URL", "https://example.org")
    assert run() == 0


@pytest.mark.parametrize(
    ("given", "used"), [("random", "random"), ("imagenet", "imagenet"), ("weights.npz", "{here}/weights.npz")]
)
def test_the_demo_takes_other_weights(
    given: str, used: str, run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    note = tmp_path / "weights.txt"
    monkeypatch.setenv("FAKE_WEIGHTS_NOTE", str(note))
    assert run(weights=given) == 0
    assert note.read_text() == used.format(here=tmp_path)
    assert ("seeded random weights" in run.output.getvalue()) == (given == "random")


def test_a_missing_answer_is_reported_and_the_exit_status_is_1(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_IGNORES", "dan")
    monkeypatch.setattr(demo, "ANSWER_TIMEOUT_S", 0.5)
    assert run() == 1
    assert "@dan: no answer came; expected a help text" in run.output.getvalue()
    assert "@alice: no answer" not in run.output.getvalue()


def test_a_failing_trainer_ends_the_run_and_names_the_command(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAILS", "train")
    assert run() == 1
    assert "`python -m trainer train` ended with exit status 3" in run.output.getvalue().replace("\n", " ")
    assert run.left_behind == []


def test_the_last_lines_of_a_failing_bot_are_shown(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAILS", "bot")
    assert run() == 1
    assert "fake bot: no model" in run.output.getvalue()
    assert "`python -m bot run` ended with exit status 1" in run.output.getvalue()


def test_a_stop_after_the_last_answer_stops_the_bot_and_deletes_the_data(packages: Path, tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, tempfile; import sandbox.demo as demo\n"
        f"demo.PACKAGES = pathlib.Path({str(packages)!r}); tempfile.tempdir = {str(tmp_path)!r}\n"
        "sys.exit(demo.run_demo(once=False, photos=20, seed=0, keep=False))"
    )
    note = tmp_path / "note"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"FAKE_NOTE": str(note), "PYTHONPATH": str(Path(demo.__file__).parent.parent)},
    )
    with process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any("Press Ctrl-C to stop" in line for line in lines)
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
    assert process.returncode == 0
    assert "Stopped." in rest
    assert note.read_text() == "stopped"
    assert list(tmp_path.glob("dokocos-demo-*")) == []


@pytest.fixture
def bot(instance: Instance) -> Account:
    add_people(instance)
    return instance.account(BOT)


@pytest.fixture
def question() -> Question:
    return Question("fumi", "これは？", "gallery", b"no photo", language="ja")


def test_two_answers_to_one_question_are_a_problem(instance: Instance, bot: Account, question: Question) -> None:
    asked = ask(instance, question, bot)
    for _ in range(2):
        instance.post(bot, "@fumi 日本 60%", in_reply_to=asked, language="ja")
    assert find_problems(instance, {question: asked}, bot) == ["@fumi: 2 answers came; expected one"]


@pytest.mark.parametrize(
    ("text", "language", "problem"),
    [
        ("日本 60%", "ja", None),
        ("Japan 60%", "en", "the answer is in 'en'; expected 'ja'"),
        ("Cure WorldCosplay", "ja", f"the answer is not {KINDS['gallery']}: 'Cure WorldCosplay'"),
    ],
)
def test_an_answer_must_have_the_expected_kind_and_language(
    instance: Instance, bot: Account, question: Question, text: str, language: str, problem: str | None
) -> None:
    asked = ask(instance, question, bot)
    instance.post(bot, text, in_reply_to=asked, language=language)
    assert find_problems(instance, {question: asked}, bot) == ([f"@fumi: {problem}"] if problem else [])


def test_an_answer_by_another_account_does_not_count(instance: Instance, bot: Account, question: Question) -> None:
    asked = ask(instance, question, bot)
    instance.post(instance.account("bob"), "@fumi 日本 60%", in_reply_to=asked, language="ja")
    assert "no answer came" in find_problems(instance, {question: asked}, bot)[0]


def test_a_text_of_no_known_kind_is_none() -> None:
    assert kind_of("good morning") is None


def test_the_questions_cover_every_kind_of_answer_and_both_languages() -> None:
    asked = questions(Gallery(members_per_label=1), seed=0)
    assert {question.kind for question in asked} == set(KINDS)
    assert {question.language for question in asked} == {"en", "ja"}
    assert len({question.asker for question in asked}) == len(asked) == 6


def test_a_terminal_shows_the_photo_beside_the_text_and_each_status_once(instance: Instance, bot: Account) -> None:
    output = io.StringIO()
    console = Console(file=output, width=100, force_terminal=True, color_system="truecolor")
    transcript = Transcript(instance, console)
    asked = ask(instance, questions(Gallery(members_per_label=1), seed=0)[0], bot)
    transcript.show_new()
    first = output.getvalue()
    assert "▀" in first
    assert "@alice" in first
    instance.post(bot, "@alice Japan 60%", in_reply_to=asked)
    transcript.show_new()
    assert "Japan 60%" in output.getvalue()[len(first) :]
    assert "▀" not in output.getvalue()[len(first) :]
