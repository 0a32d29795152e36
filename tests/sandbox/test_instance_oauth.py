"""App login by a pasted code and by redirect, and all requests that must be refused."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from mastodon import Mastodon
from mastodon.errors import MastodonUnauthorizedError

from sandbox.instance import Account, Instance
from tests.sandbox.conftest import Client, bearer

CALLBACK = "http://127.0.0.1:9/callback"


def register(url: str, redirect_uri: str = CALLBACK, scopes: str = "read write") -> Any:
    app = {"client_name": "dokocos", "redirect_uris": redirect_uri, "scopes": scopes}
    return requests.post(f"{url}/api/v1/apps", data=app, timeout=10).json()


def approve(url: str, app: Any, **changes: str) -> requests.Response:
    """Press the button on the authorization page, as `you`."""
    asked = {"client_id": app["client_id"], "redirect_uri": app["redirect_uris"][0], "scope": "read", "state": "s"}
    form = {**asked, "account": "you", "decision": "approve", **changes}
    return requests.post(f"{url}/oauth/authorize", data=form, allow_redirects=False, timeout=10)


def code_of(answer: requests.Response) -> str:
    return parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]


def redeem(url: str, app: Any, code: str, **changes: str) -> requests.Response:
    form = {
        "grant_type": "authorization_code",
        "client_id": app["client_id"],
        "client_secret": app["client_secret"],
        "redirect_uri": app["redirect_uris"][0],
        "code": code,
        **changes,
    }
    return requests.post(f"{url}/oauth/token", data=form, timeout=10)


@pytest.fixture(autouse=True)
def you(instance: Instance) -> Account:
    return instance.add_account("you", display_name="You")


def test_mastodon_py_logs_in_by_a_code_pasted_by_hand(instance_url: str, tmp_path: Path) -> None:
    with requests.Session() as session:
        client_id, secret = Mastodon.create_app(
            "dokocos", scopes=["read", "write"], api_base_url=instance_url, session=session
        )
        api = Mastodon(client_id, secret, api_base_url=instance_url, mastodon_version="4.6.5", session=session)
        address = api.auth_request_url(scopes=["read", "write"], allow_http=True)
        page = session.get(address, timeout=10).text
        hidden = dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', page))
        shown = session.post(f"{instance_url}/oauth/authorize", {**hidden, "account": "you", "decision": "approve"})
        code = re.search(r'class="oauth-code" readonly value="([^"]+)"', shown.text)
        assert code is not None
        token_file = tmp_path / "token"
        token = api.log_in(code=code[1], scopes=["read", "write"], to_file=token_file, allow_http=True)
        assert api.me().acct == "you"
        assert token in token_file.read_text()


def test_the_redirect_has_the_code_and_the_state(instance_url: str) -> None:
    app = register(instance_url)
    answer = approve(instance_url, app)
    assert answer.status_code == 302
    assert answer.headers["location"].startswith(CALLBACK + "?")
    assert parse_qs(urlsplit(answer.headers["location"]).query)["state"] == ["s"]
    token = redeem(instance_url, app, code_of(answer)).json()
    assert (token["token_type"], token["scope"]) == ("Bearer", "read")


def test_a_denied_authorization_gives_no_code(instance_url: str) -> None:
    answer = approve(instance_url, register(instance_url), decision="deny")
    assert parse_qs(urlsplit(answer.headers["location"]).query)["error"] == ["access_denied"]


def test_a_code_can_be_used_once(instance_url: str) -> None:
    app = register(instance_url)
    code = code_of(approve(instance_url, app))
    answers = [redeem(instance_url, app, code) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 400]
    assert answers[1].json()["error"] == "invalid_grant"


def test_a_code_is_valid_for_its_own_app_only(instance_url: str) -> None:
    code = code_of(approve(instance_url, register(instance_url)))
    assert redeem(instance_url, register(instance_url), code).status_code == 400


def test_a_code_is_valid_for_its_own_redirect_uri_only(instance_url: str) -> None:
    app = register(instance_url, f"{CALLBACK}\n{CALLBACK}/2")
    code = code_of(approve(instance_url, app))
    assert redeem(instance_url, app, code, redirect_uri=f"{CALLBACK}/2").status_code == 400


def test_a_code_is_valid_for_ten_minutes(instance: Instance, instance_url: str) -> None:
    app = register(instance_url)
    now = [1_780_000_000.0]
    instance.host.clock = lambda: now[0]
    for later, status in ((600, 200), (601, 400)):
        code = code_of(approve(instance_url, app))
        now[0] += later
        assert redeem(instance_url, app, code).status_code == status


def test_a_wrong_secret_is_refused(instance_url: str) -> None:
    app = register(instance_url)
    answer = redeem(instance_url, app, code_of(approve(instance_url, app)), client_secret="guess")
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


def test_a_code_with_a_challenge_needs_its_verifier(instance_url: str) -> None:
    app = register(instance_url)
    verifier = "v" * 43
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
    for given, status in (("wrong", 400), (verifier, 200)):
        code = code_of(approve(instance_url, app, code_challenge=challenge, code_challenge_method="S256"))
        assert redeem(instance_url, app, code, code_verifier=given).status_code == status


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"client_id": "unknown"}, 401),
        ({"redirect_uri": "http://elsewhere.example/"}, 400),
        ({"scope": "admin:write"}, 400),
        ({"scope": "push"}, 400),
        ({"account": "nobody"}, 422),
    ],
)
def test_an_authorization_that_does_not_match_the_app_is_refused(
    instance_url: str, changes: dict[str, str], status: int
) -> None:
    assert approve(instance_url, register(instance_url), **changes).status_code == status


def test_an_app_token_has_no_account(instance_url: str) -> None:
    app = register(instance_url)
    form = {name: app[name] for name in ("client_id", "client_secret")}
    token = requests.post(
        f"{instance_url}/oauth/token", data={**form, "grant_type": "client_credentials"}, timeout=10
    ).json()["access_token"]
    headers = bearer(token)
    named = requests.get(f"{instance_url}/api/v1/apps/verify_credentials", headers=headers, timeout=10)
    assert named.json()["name"] == "dokocos"
    answer = requests.get(f"{instance_url}/api/v1/accounts/verify_credentials", headers=headers, timeout=10)
    assert (answer.status_code, answer.json()) == (422, {"error": "This method requires an authenticated user"})


def test_a_revoked_token_is_refused_with_the_real_error(instance_url: str) -> None:
    app = register(instance_url)
    token = redeem(instance_url, app, code_of(approve(instance_url, app))).json()["access_token"]
    form = {"client_id": app["client_id"], "client_secret": app["client_secret"], "token": token}
    assert requests.post(f"{instance_url}/oauth/revoke", data=form, timeout=10).status_code == 200
    address = f"{instance_url}/api/v1/accounts/verify_credentials"
    answer = requests.get(address, headers=bearer(token), timeout=10)
    assert (answer.status_code, answer.json()) == (401, {"error": "The access token was revoked"})


def test_a_token_of_another_app_cannot_be_revoked(instance_url: str, you: Account) -> None:
    app = register(instance_url)
    form = {"client_id": app["client_id"], "client_secret": app["client_secret"], "token": you.token}
    assert requests.post(f"{instance_url}/oauth/revoke", data=form, timeout=10).status_code == 403


@pytest.mark.parametrize("token", ["", "nonsense"])
def test_no_token_or_a_wrong_one_is_401(instance_url: str, token: str) -> None:
    address = f"{instance_url}/api/v1/accounts/verify_credentials"
    answer = requests.get(address, headers=bearer(token) if token else {}, timeout=10)
    assert (answer.status_code, answer.json()) == (401, {"error": "The access token is invalid"})
    assert "invalid_token" in answer.headers["www-authenticate"]


def test_a_scope_includes_its_sub_scopes(client: Client, you: Account) -> None:
    assert client(you, "read").me().acct == "you"
    assert client(you, "profile").me().acct == "you"
    assert client(you, "write:statuses").status_post("hello").id


def test_a_disabled_account_gets_an_error(instance_url: str, you: Account) -> None:
    you.suspended = True
    address = f"{instance_url}/api/v1/accounts/verify_credentials"
    answer = requests.get(address, headers=bearer(you.token), timeout=10)
    assert (answer.status_code, answer.json()) == (403, {"error": "Your login is currently disabled"})


def test_mastodon_py_recognises_a_bad_token(client: Client, instance: Instance, you: Account) -> None:
    api = client(you)
    instance.revoke(api.access_token)
    with pytest.raises(MastodonUnauthorizedError):
        api.me()


def test_an_app_name_is_escaped_on_the_page(instance_url: str) -> None:
    app = requests.post(
        f"{instance_url}/api/v1/apps",
        data={"client_name": "<script>alert(1)</script>", "redirect_uris": CALLBACK},
        timeout=10,
    ).json()
    asked = {"client_id": app["client_id"], "redirect_uri": CALLBACK, "response_type": "code"}
    page = requests.get(f"{instance_url}/oauth/authorize", params=asked, timeout=10).text
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
