"""The client maps each failure of a server to the right error, and never shows the token."""

from __future__ import annotations

import json
import logging
import re
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from mastodon import Mastodon

from bot.check import Probe
from bot.config import MastodonSettings
from bot.entities import Reply
from bot.errors import InstanceError, NoSuchPage, NotFound, OutOfScope, RateLimited, Refused, Transient, Unauthorized
from bot.instance import parse
from bot.instance.client import Client
from bot.instance.limits import DEFAULT_WAIT_S, MAX_WINDOW_S, Limits
from bot.instance.listener import Listener
from bot.instance.transport import Transport
from sandbox.faults import Fault
from sandbox.instance import InstanceSettings
from tests.bot.conftest import World
from tests.web import Exchange, serving
from tests.web import status as answer

REPLY = Reply("hi", visibility="public", spoiler_text="", sensitive=False, language="en")
NOW = 1_800_000_000.0
POSTS = "/api/v1/statuses"


def fail(world: World, path: str = ".*", **fault: Any) -> None:
    world.instance.faults.add(Fault.model_validate({"kind": "answer", "path": path} | fault))


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"status": 401}, Unauthorized),
        ({"status": 403}, Refused),
        ({"status": 404}, NotFound),
        ({"status": 410}, NotFound),
        ({"status": 422}, Refused),
        ({"status": 429}, RateLimited),
        ({"status": 500}, Transient),
        ({"status": 502, "html": True}, Transient),
        ({"status": 503}, Transient),
        ({"status": 503, "html": True}, Transient),
        ({"status": 429, "html": True}, RateLimited),
        ({"kind": "rate_limit"}, RateLimited),
        ({"kind": "cut"}, Transient),
        ({"kind": "html"}, Transient),
        ({"kind": "truncate"}, Transient),
        ({"kind": "cut_body"}, Transient),
        ({"kind": "delay", "seconds": 2.5}, Transient),
    ],
)
def test_each_failure_has_its_kind_and_none_shows_the_token(
    world: World, fault: dict[str, Any], expected: type[InstanceError]
) -> None:
    question = world.ask()
    fail(world, **fault)
    client = world.client()
    with pytest.raises(InstanceError) as caught:
        client.reader.status(str(question.id))
    assert type(caught.value) is expected
    assert world.me.token not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_an_outage_is_distinguished_from_the_failure_of_one_request(world: World) -> None:
    fail(world, status=500, times=1)
    fail(world, status=503, times=1)
    fail(world, kind="cut", times=1)
    client = world.client()
    outages = []
    for _ in range(3):
        with pytest.raises(Transient) as caught:
            client.reader.status("1")
        outages.append(caught.value.outage)
    assert outages == [False, True, True]


def test_a_missing_scope_is_distinguished_from_a_refusal(world: World) -> None:
    question = world.ask()
    client = world.client(world.instance.token(world.me, "read:accounts"))
    with pytest.raises(OutOfScope, match="outside the authorized scopes"):
        client.poster.post(REPLY, in_reply_to=str(question.id), idempotency_key="k")


def test_an_upload_to_a_failing_instance_does_not_recurse(world: World) -> None:
    fail(world, r"/api/v[12]/instance.*", status=500)
    assert world.client().poster.upload(_jpeg(), description="x", timeout_s=5)


@pytest.mark.parametrize("html", [False, True])
def test_an_instance_without_a_description_is_treated_as_mastodon(world: World, html: bool) -> None:
    fail(world, r"/api/v[12]/instance.*", status=404, html=html)
    instance = world.client().home.instance()
    assert (instance.version, instance.max_characters) == ("unknown", 500)
    assert world.instance.faults.fired["answer"] == 2


def test_an_instance_that_is_down_is_not_treated_as_one_without_a_description(world: World) -> None:
    fail(world, r"/api/.*", status=404, html=True)
    with pytest.raises(Transient):
        world.client().home.instance()


def test_the_v1_description_of_an_instance_is_accepted(world: World) -> None:
    fail(world, "/api/v2/instance", status=404)
    assert world.client().home.instance().max_characters == 500


def test_a_rate_limit_waits_as_long_as_the_server_says(world: World) -> None:
    fail(world, kind="rate_limit", seconds=120)
    before = time.time()
    with pytest.raises(RateLimited) as caught:
        world.client().reader.status("1")
    assert 118 <= caught.value.until - before <= 125


def test_no_call_is_sent_while_its_limit_is_used_up(world: World) -> None:
    fail(world, "/api/v1/statuses/1", kind="rate_limit", seconds=60)
    client = world.client()
    for _ in range(5):
        with pytest.raises(RateLimited):
            client.reader.status("1")
    assert world.instance.faults.fired["rate_limit"] == 1
    assert client.calls.limits.blocked_until("post") is None  # other families are not affected


def test_a_rate_limit_on_the_stream_blocks_no_other_call(world: World) -> None:
    fail(world, "/api/v1/streaming.*", status=429, html=True)
    client = world.client()
    listener = Listener(Probe())
    with pytest.raises(RateLimited):
        client.stream.read(listener)
    assert client.calls.limits.blocked_until("call") is None
    assert client.home.me(again=True).acct == "dokocos"


def test_the_headers_of_an_answer_are_remembered(world: World) -> None:
    client = world.client()
    client.poster.upload(_jpeg(), description="x", timeout_s=5)
    assert client.calls.limits.remaining("upload") == 29


def test_an_upload_without_a_readable_answer_may_be_retried(world: World) -> None:
    world.instance.settings = InstanceSettings(version="4.6.5")
    fail(world, r"/api/v2/media", kind="html", times=1)
    with pytest.raises(Transient):
        world.client().poster.upload(_jpeg(), description="x", timeout_s=5)


def test_unreadable_notifications_are_skipped(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.ask()
    client = world.client()
    raw = dict(client.calls.api().notifications()[0])
    from bot.instance.reading import readable_mention

    assert readable_mention(raw) is not None
    assert readable_mention(raw | {"type": "favourite"}) is None
    broken = dict(raw["status"]) | {"account": None}
    with caplog.at_level(logging.WARNING):
        assert readable_mention(raw | {"status": broken}) is None
    assert "unreadable notification=95" in caplog.text


@pytest.mark.parametrize(
    ("headers", "status", "remaining", "until"),
    [
        ({"X-RateLimit-Remaining": "7", "X-RateLimit-Reset": "2027-01-15T08:01:00.123456Z"}, 200, 7, NOW + 60.123456),
        ({"X-RateLimit-Remaining": "7", "X-RateLimit-Reset": str(int(NOW + 30))}, 200, 7, NOW + 30),
        ({"X-RateLimit-Reset": "2027-01-15T08:01:00Z", "Date": "Fri, 15 Jan 2027 08:00:50 GMT"}, 429, 0, NOW + 10),
        ({}, 429, 0, NOW + DEFAULT_WAIT_S),
        ({"Retry-After": "5"}, 429, 0, NOW + 5),
        ({"X-RateLimit-Reset": "nonsense"}, 429, 0, NOW + DEFAULT_WAIT_S),
        ({"X-RateLimit-Remaining": "7", "X-RateLimit-Reset": "nonsense"}, 200, None, None),
        ({}, 200, None, None),
        ({"X-RateLimit-Remaining": "\xb2", "X-RateLimit-Reset": str(int(NOW + 30))}, 200, None, None),
        ({"X-RateLimit-Remaining": "7", "X-RateLimit-Reset": "30"}, 200, 7, NOW + 30),
        ({"X-RateLimit-Reset": "30"}, 429, 0, NOW + 30),
        ({"X-RateLimit-Reset": "2020-01-01T00:00:00Z"}, 429, 0, NOW + DEFAULT_WAIT_S),
        ({"X-RateLimit-Reset": "9999-12-31T23:59:59Z"}, 429, 0, NOW + MAX_WINDOW_S),
        ({"X-RateLimit-Reset": "9" * 400}, 429, 0, NOW + MAX_WINDOW_S),
        ({"Retry-After": "99999999999"}, 429, 0, NOW + MAX_WINDOW_S),
        ({"Retry-After": "\xb2"}, 429, 0, NOW + DEFAULT_WAIT_S),
        ({"X-RateLimit-Reset": "2027-01-15T08:01:00Z", "Date": "yesterday"}, 429, 0, NOW + 60),
    ],
)
def test_limits_are_read_from_all_kinds_of_headers(
    headers: dict[str, str], status: int, remaining: int | None, until: float | None
) -> None:
    limits = Limits(now=lambda: NOW)
    limits.note("call", headers, status=status)
    assert limits.remaining("call") == remaining
    blocked = limits.blocked_until("call")
    assert blocked == pytest.approx(until) if remaining == 0 else blocked is None


def _jpeg() -> bytes:
    from tests.bot.conftest import photo

    return photo()


def test_each_thread_has_its_own_mastodon_object(world: World) -> None:
    from concurrent.futures import ThreadPoolExecutor

    client: Client = world.client()
    with ThreadPoolExecutor(4) as pool:
        assert {account.id for account in pool.map(lambda _: client.home.me(again=True), range(16))} == {
            str(world.me.id)
        }


def client_of(url: str) -> Client:
    return Client(MastodonSettings(base_url=url, allow_http=True), "s3cret", user_agent="test")


def test_a_long_thread_is_not_converted_value_by_value(world: World) -> None:
    photo = world.instance.post(world.alice, "my costume")
    world.instance.post(world.alice, "@dokocos which?", in_reply_to=photo)
    api, statuses = world.client().calls.api(), []
    for thread in (api.status_context(str(photo.id)), Mastodon.status_context(api, photo.id)):
        statuses += thread["descendants"]
    assert type(statuses[0]["account"]) is dict
    assert parse.status(statuses[0]) == parse.status(statuses[1])
    assert type(api.notifications(limit=5)[0]["status"]) is dict


def test_a_redirect_on_the_same_server_is_followed() -> None:
    with serving() as server:
        server.answers["/api/v1/accounts/verify_credentials"] = answer(301, Location="/api/v1/me")
        server.answers["/api/v1/me"] = answer(200, b'{"id": 1, "username": "me"}', Content_Type="application/json")
        assert client_of(server.url).home.me().acct == "me"


def test_a_redirect_to_another_server_is_reported_and_not_followed() -> None:
    with serving() as other, serving() as server:
        server.answers["/api/v1/accounts/verify_credentials"] = answer(301, Location=f"{other.url}/api/v1/x")
        with pytest.raises(Transient, match=f"redirects to {other.url}; if it has moved there for good") as caught:
            client_of(server.url).home.me()
    assert caught.value.outage
    assert not other.requests


def test_a_redirected_post_does_not_become_a_get() -> None:
    looked: list[str] = []

    def moved(exchange: Exchange) -> None:
        looked.append(exchange.command)
        exchange.reply(b"{}", Content_Type="application/json")

    with serving() as server:
        server.posted = answer(302, Location="/elsewhere")
        server.answers["/elsewhere"] = moved
        with pytest.raises(Transient, match="redirects to"):
            client_of(server.url).poster.post(REPLY, in_reply_to="1", idempotency_key="k")
    assert not looked


def test_a_token_for_https_is_never_sent_unencrypted() -> None:
    from bot.instance.transport import Transport

    with serving({"/api/v1/streaming/user": b""}) as server:
        with pytest.raises(requests.exceptions.InvalidSchema, match="without https"):
            Transport("https://example.social").get(f"{server.url}/api/v1/streaming/user")
        assert not server.requests


@pytest.mark.parametrize(
    "words", ["Insufficient permissions: write:statuses.", "Forbidden: token has insufficient scope permission"]
)
def test_other_servers_messages_for_a_missing_scope_are_recognized(words: str) -> None:
    body = json.dumps({"error": words}).encode()
    refusal = answer(403, body, Content_Type="application/json")
    with serving({"/api/v1/statuses/1": refusal}) as server, pytest.raises(OutOfScope):
        client_of(server.url).reader.status("1")


def test_a_refusal_that_is_not_from_the_api_is_tried_again(world: World) -> None:
    fail(world, POSTS, methods=("POST",), status=403, html=True, times=1)
    question = world.ask()
    client = world.client()
    with pytest.raises(Transient) as caught:
        client.poster.post(REPLY, in_reply_to=str(question.id), idempotency_key="k")
    assert not caught.value.outage
    assert client.poster.post(REPLY, in_reply_to=str(question.id), idempotency_key="k")


@pytest.mark.parametrize("account", [b"[]", b"null"])
@pytest.mark.parametrize(("status", "kind"), [(401, "application/json"), (404, "text/html")])
def test_a_server_that_cannot_say_whose_token_this_is_counts_as_away(account: bytes, status: int, kind: str) -> None:
    with serving() as server:
        server.answers["/api/v1/statuses/1"] = answer(status, b"no", Content_Type=kind)
        server.answers["/api/v1/accounts/verify_credentials"] = answer(200, account, Content_Type="application/json")
        with pytest.raises((Transient, NoSuchPage)) as caught:
            client_of(server.url).reader.status("1")
    assert caught.value.outage


@pytest.mark.parametrize("body", [b"{}", b'{"error": "blocked"}', b'{"status": "ok"}', b'{"id": null}', b"[]", b"null"])
def test_an_answer_to_a_post_without_a_status_is_no_post(body: bytes) -> None:
    with serving() as server:
        server.posted = answer(200, body, Content_Type="application/json")
        with pytest.raises(Transient, match="posting"):
            client_of(server.url).poster.post(REPLY, in_reply_to="1", idempotency_key="k")


def test_a_web_page_in_place_of_json_is_an_outage() -> None:
    with serving() as server:
        server.answers["/api/v1/statuses/1"] = answer(200, b"<html>wait</html>", Content_Type="text/html")
        with pytest.raises(Transient) as caught:
            client_of(server.url).reader.status("1")
    assert caught.value.outage


@pytest.mark.parametrize(
    "words", ["Your login is currently pending approval", "Your login is missing a confirmed e-mail address"]
)
def test_an_account_that_may_not_act_yet_needs_a_person(words: str) -> None:
    with serving() as server:
        body = json.dumps({"error": words}).encode()
        server.answers["/api/v1/accounts/verify_credentials"] = answer(403, body, Content_Type="application/json")
        with pytest.raises(Unauthorized, match=words):
            client_of(server.url).home.me()


def test_a_password_in_netrc_is_never_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("default login somebody password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    seen: list[str | None] = []

    def me(exchange: Exchange) -> None:
        seen.append(exchange.headers["Authorization"])
        exchange.reply(b'{"id": 1, "username": "me"}', Content_Type="application/json")

    with serving() as server:
        server.answers["/api/v1/accounts/verify_credentials"] = me
        Transport(server.url).get(f"{server.url}/api/v1/accounts/verify_credentials", timeout=5)
        client_of(server.url).home.me()
    assert seen == [None, "Bearer s3cret"]


FORGED = "no”\r\n2026-11-27 ERROR bot: forged\x1b[2J\x9b\u2028\u202e" + "x" * 5000


@pytest.mark.parametrize("status", [200, 403, 404, 422, 500])
def test_a_servers_words_are_quoted_on_one_line(status: int) -> None:
    def refuse(exchange: Exchange) -> None:
        exchange.send_response(status, "no\x1b[2J\x9b31m")
        exchange.send_header("Content-Type", "text/\x9b31m")
        exchange.send_header("Content-Length", "0")
        exchange.end_headers()

    body = json.dumps({"error": FORGED}).encode()
    with serving() as server:
        server.answers["/api/v1/statuses/1"] = refuse
        server.answers["/api/v1/statuses/2"] = answer(status, body, Content_Type="application/json")
        client = client_of(server.url)
        for status_id in ("1", "2"):
            with pytest.raises(InstanceError) as caught:
                client.reader.status(status_id)
            said = str(caught.value)
            assert said.isprintable()
            assert len(said) < 500
            outside = re.sub("“[^”]*”", "", said)  # what is not quoted is ours
            assert not re.search("forged|31m|2J", outside)
