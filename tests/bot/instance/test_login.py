"""A login gives its secrets to the instance alone, and leaves a token that works, or none."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from bot.errors import InstanceError
from bot.instance.credentials import read_private_json, write_private_json
from bot.instance.login import LOGIN_FILE, METADATA, CoarseScopesError, Login
from bot.instance.scopes import COARSE, FINE
from tests.bot.conftest import World
from tests.bot.oauth import APP, CoarseServer, authorize
from tests.web import Exchange, serving, status
from trainer.errors import ConfigError, StorageError

TOKEN = {"access_token": "t0ken", "scope": "read"}
ME = status(200, b'{"id": "1", "username": "me"}', Content_Type="application/json")


def login(url: str, folder: Path) -> Login:
    return Login(base_url=url, data_dir=folder, user_agent="test", timeout_s=5)


def asked(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def answering(answers: dict[str, Any], *, seen: list[str] | None = None) -> Callable[[Exchange], None]:
    """Answers each POST with what stands under its path: JSON, bytes, or a function."""

    def answer(exchange: Exchange) -> None:
        if seen is not None:
            seen.append(exchange.path)
        found = answers[exchange.path]
        if callable(found):
            found(exchange)
        else:
            body = found if isinstance(found, bytes) else json.dumps(found).encode()
            exchange.reply(body, Content_Type="application/json")

    return answer


# PKCE and state


def test_a_code_is_of_no_use_without_the_secret_that_stayed_here(world: World, tmp_path: Path) -> None:
    step = login(world.url, tmp_path)
    url = step.url()
    code = authorize(url)
    begun = read_private_json(tmp_path / LOGIN_FILE)
    assert begun is not None
    digest = hashlib.sha256(begun["verifier"].encode()).digest()
    assert asked(url)["code_challenge"] == base64.urlsafe_b64encode(digest).decode().rstrip("=")
    assert asked(url)["code_challenge_method"] == "S256"
    assert 43 <= len(begun["verifier"]) <= 128  # RFC 7636, section 4.1
    assert begun["verifier"] not in url
    thief = login(world.url, tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    os.link(tmp_path / "mastodon_app.json", tmp_path / "elsewhere" / "mastodon_app.json")
    with pytest.raises(InstanceError, match="no token for this code"):
        thief.finish(code)
    path, tried = step.finish(authorize(step.url()))
    assert {each.outcome for each in tried} == {"granted"}
    assert path.stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / LOGIN_FILE).exists()


def test_a_code_of_another_login_is_not_taken(world: World, tmp_path: Path) -> None:
    step = login(world.url, tmp_path)
    url = step.url()
    code, state = authorize(url), asked(url)["state"]
    page = f"{world.url}/oauth/authorize/native"
    for pasted in (f"{page}?code={code}&state=another", f"{page}?code={code}&state=", f"{page}?state={state}"):
        with pytest.raises(InstanceError, match=r"another login|holds no code"):
            step.finish(pasted)
    with pytest.raises(InstanceError, match="“access_denied”"):
        step.finish(f"{page}?error=access_denied&state={state}")
    with pytest.raises(InstanceError, match="neither a code"):
        step.finish("http://[")
    step.finish(f" {page}?code={code}&state={state}\n")


# Redirects and nonsense


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("path", ["/api/v1/apps", "/oauth/token"])
def test_no_secret_follows_a_redirect_to_another_address(code: int, path: str, tmp_path: Path) -> None:
    seen: list[str] = []
    with serving() as other, serving() as server:
        other.posted = answering({"/x": TOKEN | APP}, seen=seen)
        answers: dict[str, Any] = {"/api/v1/apps": APP, "/oauth/token": TOKEN}
        server.posted = answering(answers | {path: status(code, Location=f"{other.url}/x")})
        step = login(server.url, tmp_path)
        with pytest.raises(InstanceError, match="no secret is sent"):
            step.finish("c0de")
        assert other.url.removeprefix("http://") in str(step_error(step))
        assert seen == []
        assert other.requests == []
    assert not (tmp_path / "mastodon_token").exists()


def step_error(step: Login) -> InstanceError:
    with pytest.raises(InstanceError) as caught:
        step.finish("c0de")
    return caught.value


def test_a_redirect_on_the_same_address_that_keeps_the_method_is_followed(tmp_path: Path) -> None:
    with serving({"/api/v1/accounts/verify_credentials": ME}) as server:
        answers = {"/api/v1/apps": APP, "/oauth/token": status(307, Location="/token"), "/token": TOKEN}
        server.posted = answering(answers)
        login(server.url, tmp_path).finish("c0de")
    assert json.loads((tmp_path / "mastodon_token").read_text())["access_token"] == "t0ken"


NONSENSE = [b"{}", b"[]", b"null", b"5", b'"x"', b"<html>", b"", b"\xff", b"[" * 50_000, b'{"error": 5}']


@pytest.mark.parametrize("metadata", NONSENSE)
def test_metadata_without_an_address_leads_to_the_usual_page(metadata: bytes, tmp_path: Path) -> None:
    with serving({METADATA: status(200, metadata, Content_Type="application/json")}) as server:
        server.posted = answering({"/api/v1/apps": APP})
        assert login(server.url, tmp_path).url().startswith(f"{server.url}/oauth/authorize?response_type=code&")


@pytest.mark.parametrize(
    "named",
    [5, [], {}, "", "javascript:alert(1)", "http://[", "//other.example/", "https://other.example/authorize", "x"],
)
@pytest.mark.parametrize("name", ["authorization_endpoint", "token_endpoint"])
def test_metadata_that_names_another_address_is_a_clear_error(name: str, named: object, tmp_path: Path) -> None:
    metadata = json.dumps({name: named}).encode()
    with serving({METADATA: status(200, metadata, Content_Type="application/json")}) as server:
        server.posted = answering({"/api/v1/apps": APP})
        step = login(server.url, tmp_path)
        run = step.url if name == "authorization_endpoint" else partial(step.finish, "c0de")
        with pytest.raises(InstanceError, match=f"its {name} is"):
            run()


def test_the_servers_own_pages_are_used_where_it_names_them(tmp_path: Path) -> None:
    with serving() as server:
        metadata = {"authorization_endpoint": f"{server.url}/login", "token_endpoint": f"{server.url}/exchange"}
        server.answers = {
            METADATA: status(200, json.dumps(metadata).encode(), Content_Type="application/json"),
            "/api/v1/accounts/verify_credentials": ME,
        }
        server.posted = answering({"/api/v1/apps": APP, "/exchange": TOKEN})
        step = login(server.url, tmp_path)
        assert step.url().startswith(f"{server.url}/login?")
        step.finish("c0de")


@pytest.mark.parametrize(
    "nonsense", [*NONSENSE, b'{"client_id": null}', b'{"client_id": 5}', b'{"access_token": "a b"}']
)
@pytest.mark.parametrize("path", ["/api/v1/apps", "/oauth/token"])
def test_nonsense_in_place_of_an_app_or_a_token_is_a_clear_error(path: str, nonsense: bytes, tmp_path: Path) -> None:
    with serving() as server:
        answers: dict[str, Any] = {"/api/v1/apps": APP, "/oauth/token": TOKEN}
        server.posted = answering(answers | {path: nonsense})
        with pytest.raises(InstanceError, match=r"holds no client_id|holds no access_token"):
            login(server.url, tmp_path).finish("c0de")
    assert not (tmp_path / "mastodon_token").exists()


# Scopes


@pytest.mark.parametrize("refuses", [False, True])
def test_a_server_that_knows_coarse_scopes_alone_is_asked_for_those(refuses: bool, tmp_path: Path) -> None:
    with serving() as server:
        coarse = CoarseServer(server, refuses=refuses)
        step = login(server.url, tmp_path)
        url = step.url()
        if not refuses:
            assert asked(url)["scope"] == " ".join(FINE)
            with pytest.raises(CoarseScopesError, match="bookmarks") as caught:
                step.finish("c0de")
            assert "read:accounts" in str(caught.value)
            assert not (tmp_path / "mastodon_token").exists()
            url = step.url(coarse=True)
        assert asked(url)["scope"] == " ".join(COARSE)
        path, _ = step.finish("c0de")
        held = json.loads(path.read_text())
        assert (held["access_token"], held["scopes"]) == ("coarse", "read write")
        assert asked(step.url())["scope"] == " ".join(COARSE)  # the next time at once
        assert coarse.apps == [*([] if refuses else [" ".join(FINE)]), " ".join(COARSE)]


def test_a_token_that_cannot_work_is_not_stored(tmp_path: Path) -> None:
    with serving() as server:
        CoarseServer(server, refuses=True, lacks=("/api/v1/statuses/0/context",))
        step = login(server.url, tmp_path)
        step.url()
        with pytest.raises(InstanceError, match="read:statuses is missing, so threads cannot be read"):
            step.finish("c0de")
    assert not (tmp_path / "mastodon_token").exists()


# Files


def test_the_file_is_private_whatever_the_umask_and_replaces_the_old_one(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        path = tmp_path / "new" / "token"
        path.parent.mkdir(mode=0o700)
        path.parent.chmod(0o700)
        for number in (1, 2):
            write_private_json(path, {"n": number})
            assert path.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)
    assert read_private_json(path) == {"n": 2}
    assert [each.name for each in path.parent.iterdir()] == ["token"]


def test_a_file_of_another_user_or_a_link_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, path = tmp_path / "target", tmp_path / "token"
    target.write_text("precious")
    path.symlink_to(target)
    with pytest.raises(StorageError, match="not a file of its own"):
        write_private_json(path, {"access_token": "t0ken"})
    path.unlink()
    path.write_text("theirs")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(StorageError, match="belongs to another user"):
        write_private_json(path, {"access_token": "t0ken"})
    assert (target.read_text(), path.read_text()) == ("precious", "theirs")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["target", "token"]


def test_nothing_is_written_where_every_user_may_exchange_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(StorageError, match="every user can write there"):
        write_private_json(tmp_path / "token", {"access_token": "t0ken"})
    tmp_path.chmod(0o1777)  # as /tmp: others can add files, and exchange none
    write_private_json(tmp_path / "token", {"access_token": "t0ken"})


def test_a_pipe_in_the_files_place_holds_nothing_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "token", 0o600)
    with pytest.raises(ConfigError, match="is not a file"):
        read_private_json(tmp_path / "token")
    (tmp_path / "folder").mkdir(mode=0o700)
    with pytest.raises(ConfigError):
        read_private_json(tmp_path / "folder")
