"""The command line: real processes where it matters, and meaningful exit statuses."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import bot.__main__ as commands
from bot.instance.credentials import write_private_json
from bot.instance.login import Login
from bot.instance.scopes import FINE
from bot.storage.store import DATABASE, Store
from sandbox.faults import Fault
from sandbox.instance import InstanceSettings
from tests.bot.conftest import ROOT, World, photo, until
from tests.bot.oauth import CoarseServer, authorize
from tests.bot.storage.test_store import mention
from tests.web import Exchange, serving
from tests.web import status as answer
from trainer.config import FIGURE
from trainer.errors import ModelError

SECRET = "DOKOCOS_MASTODON__ACCESS_TOKEN"  # pragma: allowlist secret


@pytest.fixture
def run(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Returns a function that runs a command in this process; its result is exit status and output."""

    class Runs:
        def __call__(self, *arguments: str, **more: str) -> tuple[int, str]:
            for name, value in world.environment(**more).items():
                monkeypatch.setenv(name, value)
            monkeypatch.chdir(tmp_path)
            result = CliRunner().invoke(commands.app, list(arguments), input=self.typed)
            if result.exception is not None and not isinstance(result.exception, SystemExit):
                raise result.exception
            return result.exit_code, result.output

        typed: str | None = None

    return Runs()


@pytest.fixture
def version(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Provides a champion for `predict`, and its facts for `check`."""
    facts = SimpleNamespace(labels=("brazil", "china", "japan"), view="whole", crop="none")
    monkeypatch.setattr("trainer.registry.serving.champion", lambda _: SimpleNamespace(name="v1", facts=facts))
    monkeypatch.setattr("bot.photos.predict.ServingLoader", lambda _: world.loader)


@pytest.mark.usefixtures("version")
def test_check_names_labels_that_no_font_can_write(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = SimpleNamespace(labels=("brazil", "🐶", "🐱"), view="whole", crop="none")
    monkeypatch.setattr("trainer.registry.serving.champion", lambda _: SimpleNamespace(name="v1", facts=facts))
    _, output = run("check", "--offline", DOKOCOS_BOT__LABELS='{"🐱": {"en": "Tired"}}')
    assert "no font here can write 🐶, so" in output
    assert "fonts-noto-core" in output


def test_check_tells_if_the_crop_of_the_version_cannot_be_made_here(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = SimpleNamespace(labels=("brazil", "china"), view=f"{FIGURE}/whole", crop=FIGURE)
    monkeypatch.setattr("trainer.registry.serving.champion", lambda _: SimpleNamespace(name="v1", facts=facts))
    assert "galleries: brazil, china; it sees photos cropped to the figure" in run("check", "--offline")[1]
    facts.view = "figure9/whole"
    status, output = run("check", "--offline", COLUMNS="300")
    assert status == 1
    assert "v1: photos were cropped by figure9, and this dokocos crops by figure1" in output


def test_help_and_offline_check_load_no_tensorflow(world: World) -> None:
    code = (
        "import sys\nfrom bot.__main__ import app\n"
        "try: app(sys.argv[1:])\nfinally: print([m for m in ('tensorflow', 'keras') if m in sys.modules])"
    )
    for arguments in (["--help"], ["run", "--help"], ["check", "--offline"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=ROOT, env=world.environment(), capture_output=True, text=True
        )
        assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.usefixtures("version")
def test_check_passes_for_a_bot_that_can_run(world: World, run: Any) -> None:
    status, output = run("check", **{SECRET: world.me.token})
    assert status == 0, output
    assert "The bot can run." in output
    assert "streaming: open" in output
    assert "v1 is whole" in output


def test_check_offline_names_what_is_missing(run: Any) -> None:
    status, output = run("check", "--offline")
    assert status == 1
    assert "no access token yet; run `python -m bot login" in output
    assert "run `python -m trainer train`" in output
    assert "2 to fix" in output


def test_check_tells_what_the_system_lacks_for_shutting_decoders_in(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, output = run("check", "--offline")
    assert "ok    photos: decoded where no file, network or other process can be reached" in output
    command = (sys.executable, "-m", "tests.intruder", "--lacks", "landlock")
    monkeypatch.setattr("trainer.photos.decode_process.COMMAND", command)
    _, output = run("check", "--offline")
    assert "NOTE  photos: a file that takes its decoder over is not shut in" in output
    assert "this system lacks: Landlock (not here)" in output


def test_run_hides_its_memory_and_what_its_environment_was(world: World) -> None:
    code = (
        "import ctypes, sys, bot.app, bot.__main__ as commands\n"
        "def instead(*_, **__):\n"
        "    print('dumpable', ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))\n"
        "    raise commands.ConfigError('that is all')\n"
        "bot.app.Bot = instead\n"
        "commands.app(['run'])"
    )
    environment = world.environment(**{SECRET: "x"})
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.stdout == "dumpable 0\n", ended.stderr


def test_check_names_the_key_of_a_wrong_setting(run: Any) -> None:
    status, output = run("check", DOKOCOS_BOT__BATCH_SIZE="many")
    assert status == 1
    assert "DOKOCOS_BOT__BATCH_SIZE" in output


@pytest.mark.usefixtures("version")
def test_check_names_missing_scopes(world: World, run: Any) -> None:
    token = world.instance.token(world.me, "read:accounts", "read:statuses", "read:notifications")
    status, output = run("check", **{SECRET: token})
    assert status == 1
    for scope in ("read:follows", "write:statuses", "write:media"):
        assert f"{scope} is missing" in output


@pytest.mark.usefixtures("version")
def test_check_needs_no_more_than_the_scopes_that_login_asks_for(world: World, run: Any) -> None:
    status, output = run("check", **{SECRET: world.instance.token(world.me, *FINE)})
    assert status == 0, output


@pytest.mark.usefixtures("version")
def test_check_reports_filtered_private_mentions_and_can_fix_that(world: World, run: Any) -> None:
    _, output = run("check", "--fix", **{SECRET: world.me.token})
    assert "NOTE  private mentions" in output
    assert "fixed" in output
    _, output = run("check", **{SECRET: world.me.token})
    assert "ok    private mentions" in output


@pytest.mark.usefixtures("version")
def test_check_reports_missing_streaming(world: World, run: Any) -> None:
    world.instance.settings = InstanceSettings(streaming=False)
    status, output = run("check", **{SECRET: world.me.token})
    assert status == 0
    assert "the bot polls every 15 s" in output


def test_check_reports_an_unreachable_instance(run: Any) -> None:
    status, output = run("check", DOKOCOS_MASTODON__BASE_URL="http://127.0.0.1:9", **{SECRET: "t"})
    assert status == 1
    assert "instance: http://127.0.0.1:9" in output


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"status": 401}, "HTTP 401 “Error”; run `python -m bot login"),
        (
            {"status": 404, "html": True},
            "HTTP 404 “Not Found”; is that the address of a Mastodon server",
        ),
        ({"kind": "html"}, "the answer is “text/html; charset=utf-8”, not JSON"),
        ({"kind": "cut"}, "is that the address of a Mastodon server, and is it up?"),
    ],
)
def test_check_says_what_to_do_if_the_address_is_no_instance(
    world: World, run: Any, fault: dict[str, Any], said: str
) -> None:
    world.instance.faults.add(Fault.model_validate({"kind": "answer", "path": "/api/.*"} | fault))
    status, output = run("check", **{SECRET: world.me.token})
    assert status == 1
    assert said in output
    assert "Max retries" not in output


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:9", "ConnectionRefusedError"),
        ("http://127.0.0.1:9/about", "give an instance's address and nothing more"),
        ("two words", "give an instance's address and nothing more"),
    ],
)
def test_login_where_there_is_no_instance_says_what_is_wrong(run: Any, address: str, said: str) -> None:
    status, output = run("login", address, "--no-browser")
    assert status in (1, 3)
    assert said in output
    assert "Max retries" not in output


def test_a_wrong_code_is_a_clear_error(world: World, run: Any) -> None:
    status, output = run("login", world.url, "--no-browser", "--code", "wrong")
    assert status == 1
    assert "no token for this code" in output
    assert "run login again for a new one" in output
    assert not (world.data_dir / "mastodon_token").exists()


@pytest.mark.parametrize("scope", [{}, {"scope": None}, {"scope": ["read"]}, {"scope": 5}])
def test_a_token_without_a_readable_list_of_scopes_is_stored(run: Any, world: World, scope: dict[str, Any]) -> None:
    def grant(exchange: Exchange) -> None:
        token = {"access_token": "s3cret", **scope}
        answers = {"/api/v1/apps": {"client_id": "a", "client_secret": "b"}, "/oauth/token": token}
        exchange.reply(json.dumps(answers[exchange.path]).encode(), Content_Type="application/json")

    with serving() as server:
        server.posted = grant
        status, output = run("login", server.url, "--no-browser", "--code", "good")
    assert status == 0, output
    assert json.loads((world.data_dir / "mastodon_token").read_text())["access_token"] == "s3cret"


def test_an_app_that_the_instance_has_forgotten_is_registered_again(
    run: Any, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    forgotten = {"base_url": world.url, "scopes": " ".join(FINE), "client_id": "gone", "client_secret": "gone"}
    write_private_json(world.data_dir / "mastodon_app.json", forgotten)
    run("login", world.url, "--no-browser")
    held = json.loads((world.data_dir / "mastodon_app.json").read_text())
    assert held["client_id"] != "gone"
    assert caplog.text.count("has forgotten this bot's app; it is registered again") == 1
    run("login", world.url, "--no-browser")
    assert json.loads((world.data_dir / "mastodon_app.json").read_text()) == held


def test_the_reason_why_an_instance_registers_no_app_is_told(run: Any) -> None:
    with serving() as server:
        body = b'{"error": "Validation failed: Scopes are not known here"}'
        server.posted = answer(422, body, Content_Type="application/json")
        _, output = run("login", server.url, "--no-browser")
    assert "no app can be registered: HTTP 422 “Validation failed: Scopes are not known here”" in output


def test_an_instance_that_registers_no_app_is_a_clear_error(run: Any) -> None:
    with serving() as server:
        server.posted = answer(429, b'{"error": "Too many requests"}', Content_Type="application/json")
        status, output = run("login", server.url, "--no-browser")
    assert status == 1
    assert "no app can be registered: HTTP 429 “Too many requests”" in output


@pytest.mark.parametrize("command", ["inbox", "jobs", "stats"])
def test_commands_that_read_a_damaged_database_do_not_change_it(world: World, run: Any, command: str) -> None:
    world.data_dir.mkdir()
    database = world.data_dir / "bot.sqlite3"
    database.write_bytes(b"this is no database" * 1000)
    status, output = run(command)
    assert status == 1
    assert "restart the bot: it then renames this file" in output
    assert list(world.data_dir.glob("bot.sqlite3*")) == [database]


def test_run_without_a_token_says_how_to_get_one(world: World) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bot", "run"], cwd=ROOT, env=world.environment(), capture_output=True, text=True
    )
    assert done.returncode == 3
    assert "run `python -m bot login" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_with_a_token_that_is_refused_says_so_without_repeating_it(world: World) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bot", "run"],
        cwd=ROOT,
        env=world.environment(**{SECRET: "wrong-token-abcdef"}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3
    assert "wrong-token-abcdef" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@contextmanager
def running(world: World, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    process = world.spawn(**more)
    try:
        until(lambda: world.instance.hub.listeners(world.me))
        yield process
    finally:
        process.kill()
        process.wait()


def test_run_answers_and_stops_cleanly_on_sigterm(world: World) -> None:
    with running(world) as process:
        world.answer(world.ask())
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert children  # the decoders
        for child in children:
            with suppress(PermissionError):  # one that is shut in already closes it to its own user
                assert world.me.token.encode() not in Path(f"/proc/{child}/environ").read_bytes()
        process.terminate()
        assert process.wait(10) == 0
    log = world.log.read_text(encoding="utf-8")
    assert re.search(r"received notification=95 .*\n(.*\n)*.*replied notification=95 ", log)
    assert "stopped clean=True" in log
    assert world.me.token not in log


def test_run_writes_json_lines_when_told_to_and_stops_on_ctrl_c(world: World) -> None:
    with running(world, DOKOCOS_LOG__FORMAT="json") as process:
        world.answer(world.ask())
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    lines = [json.loads(line) for line in world.log.read_text(encoding="utf-8").splitlines()]
    assert any(line["message"].startswith("replied notification=95") for line in lines)


def test_a_killed_run_continues_after_a_restart(world: World) -> None:
    with running(world) as process:
        world.answer(world.ask())
        process.kill()
    missed = world.ask()
    with running(world):
        world.answer(missed)
    assert all(len(world.answers(each)) <= 1 for each in world.instance.statuses_of(world.alice))


@pytest.mark.usefixtures("version")
def test_predict_answers_for_files_and_fails_for_others(run: Any, tmp_path: Path) -> None:
    good = tmp_path / "good.jpg"
    good.write_bytes(photo("brazil"))
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    status, output = run("predict", str(good))
    assert status == 0
    assert "looks like the brazil gallery (version v1)" in output
    status, output = run("predict", str(good), str(tmp_path / "bad.jpg"), str(tmp_path / "missing.jpg"))
    assert status == 1
    assert "looks like the brazil gallery" in output
    assert "missing.jpg: cannot be read" in output


@pytest.mark.usefixtures("version")
@pytest.mark.parametrize(
    ("shown", "language", "sentence", "alt_text"),
    [
        ("brazil", "en", "This photo looks like the 🇧🇷 Brazil gallery.", "heat map: what is bright counted most"),
        ("brazil", "ja", "この写真は🇧🇷 ブラジルのギャラリーに似ています。", "🇧🇷 ブラジル "),
        ("unsure", "en", "I am not sure. If I had to choose", "heat map"),
        ("unknown", "ja", "これまでに学んだどの写真にも似ていない", "ギャラリーの名前はありません"),
    ],
)
def test_predict_saves_the_picture_of_the_answer(
    shown: str, language: str, sentence: str, alt_text: str, run: Any, tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_bytes(photo(shown))
    status, output = run("predict", "--picture", "card.jpg", "--language", language, "photo.jpg")
    assert status == 0
    assert "picture: card.jpg\n" in output
    assert re.search(f"^text: {sentence}", output, re.MULTILINE)
    assert re.search(f"^alt text: .*{alt_text}", output, re.MULTILINE)
    with Image.open(tmp_path / "card.jpg") as card:
        assert (card.format, card.size) == ("JPEG", (800, 420))


@pytest.mark.usefixtures("version")
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--picture", "there.jpg", "photo.jpg"], "exists already"),
        (["--picture", "dangling.jpg", "photo.jpg"], "exists already"),
        (["--picture", "card.png", "photo.jpg"], "ends in"),
        (["--picture", "nowhere/card.jpg", "photo.jpg"], "no folder"),
        (["--picture", "card.jpg", "--language", "xx", "photo.jpg"], "no such language"),
        (["--picture", "card.jpg", "photo.jpg", "photo.jpg"], "takes one photo"),
    ],
)
def test_predict_refuses_a_picture_that_it_should_not_write(
    arguments: list[str], reason: str, run: Any, tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_bytes(photo("brazil"))
    (tmp_path / "there.jpg").write_bytes(b"precious")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "gone")
    before = sorted(path.name for path in tmp_path.glob("*.jpg"))
    status, output = run("predict", *arguments, COLUMNS="300")
    assert status == 2
    assert reason in output
    assert sorted(path.name for path in tmp_path.glob("*.jpg")) == before
    assert (tmp_path / "there.jpg").read_bytes() == b"precious"


@pytest.mark.usefixtures("version")
def test_predict_makes_no_picture_of_what_it_cannot_read(run: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    status, output = run("predict", "--picture", "card.jpg", "bad.jpg")
    assert status == 1
    assert "picture:" not in output
    assert not (tmp_path / "card.jpg").exists()


@pytest.mark.usefixtures("version")
def test_predict_names_a_gallery_for_anything_if_the_bot_would(run: Any, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(photo("unknown"))
    assert "like nothing that was learned" in run("predict", "photo.jpg")[1]
    assert "like nothing that was learned" not in run("predict", "photo.jpg", DOKOCOS_BOT__REFUSE_UNKNOWN="false")[1]


def test_predict_without_a_version_says_what_to_do(run: Any, tmp_path: Path) -> None:
    status, output = run("predict", str(tmp_path / "any.jpg"))
    assert status == 3
    assert "run `python -m trainer train`" in output


def test_inbox_shows_failed_mentions_and_tries_them_again(world: World, run: Any) -> None:
    def poison(data: bytes, view: str) -> Any:
        raise RuntimeError(f"boom {len(data)} {view}")

    world.decoder.prepare = poison  # type: ignore[method-assign]
    with world.bot(bot={"max_attempts": 1}) as bot:
        question = world.ask()
        until(lambda: bot.store.inbox.counts().get("failed"))
    status, output = run("inbox")
    assert status == 0
    assert "boom" in output
    assert "1 failed" in output
    assert run("inbox", "--retry", "all")[0] == 0
    del world.decoder.prepare
    with world.bot():
        world.answer(question)
    status, output = run("inbox")
    assert "95" not in output
    assert run("inbox", "--retry", "95") == (
        1,
        "0 will be tried again; a running bot notices within 15 seconds.\n",
    )


def test_a_missing_model_ends_the_start(world: World) -> None:
    world.loader.classifier = None
    with pytest.raises(ModelError, match="trainer train"), world.bot():
        pass


def test_a_token_for_another_instance_is_refused_with_both_names(world: World, run: Any) -> None:
    content = {"base_url": "https://elsewhere.example", "access_token": "s3cret"}
    write_private_json(world.data_dir / "mastodon_token", content)
    status, output = run("check", "--offline")
    assert status == 1
    assert "https://elsewhere.example" in output
    assert "s3cret" not in output


def test_login_stores_a_token_that_only_this_user_can_read(world: World, run: Any) -> None:
    step = Login(base_url=world.url, data_dir=world.data_dir, user_agent="test", timeout_s=5)
    code = authorize(step.url())
    status, output = run("login", world.url, "--no-browser", "--code", code)
    assert status == 0, output
    file = world.data_dir / "mastodon_token"
    assert file.stat().st_mode & 0o777 == 0o600
    status, output = run("check")
    assert "token: from" in output
    assert "account: @" in output


def test_ids_are_whole_where_the_inbox_is_not_shown_on_a_terminal(world: World, run: Any) -> None:
    notification_id = "1764193000123/mention/" + "9c1f0f3e-7a4b-4c5d-8e9f-001122334455" * 3
    with closing(Store(world.data_dir / DATABASE)) as store:
        store.inbox.put(replace(mention(2), notification_id=notification_id), look_first=False)
    _, output = run("inbox")
    assert notification_id in output


def test_login_without_a_terminal_names_the_option_for_the_code(world: World, run: Any) -> None:
    status, output = run("login", world.url, "--no-browser")
    assert status == 3
    assert "--code CODE" in output


def test_login_asks_again_with_coarse_scopes_and_check_names_what_is_missing(world: World, run: Any) -> None:
    with serving() as server:
        CoarseServer(server)
        run.typed = "c0de\nc0de\n"
        status, output = run("login", server.url, "--no-browser")
        assert status == 0, output
        assert "with the scopes read and write" in output
        assert "bookmarks" in output
        assert output.count("/oauth/authorize?") == 2
        assert json.loads((world.data_dir / "mastodon_token").read_text())["access_token"] == "coarse"
        _, output = run("check", **{SECRET: "fine", "DOKOCOS_MASTODON__BASE_URL": server.url})
    for scope in ("read:accounts", "read:notifications", "read:statuses", "read:follows"):
        assert f"FAULT scopes: {scope} is missing, so " in output
    assert f"run `python -m bot login {server.url}` again" in output
