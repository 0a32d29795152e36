"""The token: where it is found, and that no log line or traceback shows it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from bot import log
from bot.config import MastodonSettings, Settings
from bot.instance.credentials import find_token, read_private_json, write_private_json
from trainer.config import LogSettings
from trainer.errors import ConfigError, StorageError

TOKEN = "s3cret-token"


@pytest.fixture
def _own_logging() -> Iterator[None]:
    """Restores the root logger's handlers."""
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    yield
    root.handlers[:] = kept
    root.setLevel(level)


def settings(tmp_path: Path, **mastodon: object) -> Settings:
    return Settings(data_dir=tmp_path, mastodon=MastodonSettings.model_validate(mastodon))


def test_a_token_from_the_environment_wins(tmp_path: Path) -> None:
    write_private_json(tmp_path / "mastodon_token", {"access_token": "other"})
    assert find_token(settings(tmp_path, access_token=SecretStr(f"{TOKEN}\n"))).token == TOKEN


@pytest.mark.parametrize("content", [json.dumps({"access_token": TOKEN}), TOKEN, f"{TOKEN}\n"])
def test_a_token_is_read_from_a_private_file_as_json_or_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mastodon_token"
    path.write_text(content)
    path.chmod(0o600)
    found = find_token(settings(tmp_path))
    assert found.token == TOKEN
    assert TOKEN not in repr(found)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_token_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "mastodon_token"
    path.write_text(TOKEN)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600") as caught:
        find_token(settings(tmp_path))
    assert TOKEN not in str(caught.value)


def test_a_token_is_not_sent_unencrypted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not https"):
        find_token(settings(tmp_path, base_url="http://example.social", access_token=SecretStr(TOKEN)))


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"access_token": 5}', "", f"{TOKEN}\nsecond", f'"{TOKEN}"', "ｆｕｌｌ"]
)
def test_a_file_without_a_token_is_a_clear_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mastodon_token"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="bot login") as caught:
        find_token(settings(tmp_path))
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("token", [f"{TOKEN}\nsecond", f"Bearer {TOKEN}", f"{TOKEN}é"])
def test_a_token_that_no_header_can_carry_is_refused_without_being_shown(tmp_path: Path, token: str) -> None:
    with pytest.raises(ConfigError, match="the environment: the access token contains") as caught:
        find_token(settings(tmp_path, access_token=SecretStr(token)))
    assert TOKEN not in str(caught.value)


def test_an_instances_address_is_normalized(tmp_path: Path) -> None:
    write_private_json(tmp_path / "mastodon_token", {"access_token": TOKEN, "base_url": "https://Friends.Nico"})
    for written in ("https://friends.nico/", "HTTPS://Friends.Nico:443", " https://friends.nico./ "):
        found = settings(tmp_path, base_url=written)
        assert found.mastodon.base_url == "https://friends.nico"
        assert find_token(found).token == TOKEN
    assert settings(tmp_path, base_url="http://[::1]:3000").mastodon.base_url == "http://[::1]:3000"


@pytest.mark.parametrize(
    "written",
    [
        "friends.nico",
        "ftp://friends.nico",
        "https://",
        "https://friends.nico/@dokocos",
        "https://friends.nico?x",
        "https://a:b@friends.nico",
        "https://friends.nico:port",
        "https://[::1",
        "https://friends .nico",
    ],
)
def test_an_address_that_is_no_instances_is_refused(tmp_path: Path, written: str) -> None:
    with pytest.raises(ValueError, match=r"like https://example\.social"):
        settings(tmp_path, base_url=written)


def test_a_private_file_is_private_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_private_json(path, {"a": 1})
    write_private_json(path, {"a": 2})
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_private_json(path) == {"a": 2}
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_a_private_file_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        write_private_json(tmp_path / "file" / "token", {})


@pytest.mark.usefixtures("_own_logging")
@pytest.mark.parametrize("format_", ["plain", "json"])
def test_a_secret_is_in_no_log_line_nor_traceback(capsys: pytest.CaptureFixture[str], format_: str) -> None:
    log.set_up(LogSettings.model_validate({"format": format_}), secrets=[TOKEN])
    logger = logging.getLogger("bot.test")
    logger.info("calling with %s", TOKEN)
    try:
        raise RuntimeError(f"Bearer {TOKEN}")
    except RuntimeError:
        logger.exception("it failed")
    written = capsys.readouterr().err
    assert TOKEN not in written
    assert written.count("[secret]") >= 2
    if format_ == "json":
        assert [json.loads(line)["level"] for line in written.splitlines()] == ["INFO", "ERROR"]


@pytest.mark.parametrize("mode", [0o440, 0o444])
def test_a_mounted_secret_that_is_not_ours_to_change_is_taken_with_a_warning(
    tmp_path: Path, mode: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="run `chmod 600"):
        read_private_json(path)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert read_private_json(path) == {"access_token": TOKEN}
    assert "others can read it" in caplog.text
    assert TOKEN not in caplog.text
    path.chmod(0o666)
    with pytest.raises(ConfigError):
        read_private_json(path)
