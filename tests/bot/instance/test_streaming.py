"""The stream is opened by the way and at the address that work, whatever the instance's description says."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import requests
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection
from websockets.utils import accept_key

from bot import check
from bot.check import Probe
from bot.errors import InstanceError, NotFound, RateLimited, Refused, Transient, Unauthorized
from bot.instance import websocket
from bot.instance.listener import Listener
from sandbox.faults import Fault
from sandbox.instance.profile import MASTODON, POLLING, ULIDS
from tests.bot.conftest import World, settle, until
from tests.web import Exchange, Server, serving

STREAM = r"/api/v1/streaming.*"
PATIENT: dict[str, dict[str, Any]] = {"mastodon": {"poll_every_s": 60.0, "catch_up_every_s": 60.0}}


@pytest.mark.parametrize(
    "profile", [ULIDS, replace(MASTODON, says_wss=True)], indirect=True, ids=["websocket", "events"]
)
def test_a_stream_described_as_wss_on_plain_http_is_found_at_the_instances_own_address(world: World) -> None:
    with world.bot(**PATIENT) as bot:
        until(lambda: bot.stream.is_open)
        question = world.ask()
        world.answer(question)
        help_ = world.answer(world.ask(label=None))
        settle(bot)
        assert bot.stream.n_connections == 1
        assert len(world.answers(question)) == 1
    assert "Mention me" in help_.text


@pytest.mark.parametrize("profile", [ULIDS], indirect=True)
def test_edits_and_deletions_arrive_over_a_websocket(world: World) -> None:
    with world.bot(**PATIENT) as bot:
        until(lambda: bot.stream.is_open)
        question = world.ask(label=None)
        help_ = world.answer(question)
        settle(bot)
        world.add_photo(question)
        assert "China gallery" in world.other_answer(question, help_).text
        world.instance.delete(question)
        until(lambda: not world.instance.statuses_of(world.me))


@pytest.mark.parametrize("profile", [ULIDS], indirect=True)
def test_a_websocket_that_breaks_is_opened_again_at_once_by_the_same_way(world: World) -> None:
    with world.bot(**PATIENT) as bot:
        until(lambda: bot.stream.is_open)
        way = bot.client.stream.way
        world.instance.faults.close_streams("end")
        until(lambda: bot.stream.n_connections == 2)
        assert bot.client.stream.way == way
        world.answer(world.ask())


@pytest.mark.parametrize("profile", [ULIDS], indirect=True)
def test_a_websocket_ends_with_the_bot(world: World) -> None:
    with world.bot(**PATIENT) as bot:
        until(lambda: bot.stream.is_open)
    until(lambda: world.instance.hub.listeners(world.me) == 0)


@pytest.mark.parametrize("profile", [ULIDS], indirect=True)
def test_a_server_that_reads_the_token_only_as_protocol_gets_it_there(world: World) -> None:
    world.instance.settings = replace(world.instance.settings, profile=replace(ULIDS, bearer_sockets=False))
    with world.bot(**PATIENT) as bot:
        until(lambda: bot.stream.is_open)
        world.answer(world.ask())


@pytest.mark.parametrize("profile", [MASTODON, ULIDS], indirect=True, ids=lambda profile: profile.name)
def test_a_revoked_token_ends_the_bot_whichever_way_it_streams(world: World) -> None:
    with world.bot(**PATIENT) as bot:
        until(lambda: bot.stream.is_open)
        world.instance.revoke(world.me.token)
        bot.wait()
        assert "refuses the token" in str(bot.failure)


@pytest.mark.parametrize("profile", [POLLING], indirect=True)
def test_a_server_without_streams_says_so_after_every_way_was_tried(world: World) -> None:
    client = world.client()
    with pytest.raises(NotFound, match="the stream: HTTP 404"):
        client.stream.read(Listener(Probe()))


def test_a_streaming_server_that_is_down_is_not_asked_another_way(world: World) -> None:
    world.instance.faults.add(Fault(kind="answer", path=STREAM, status=503, html=True))
    with world.bot() as bot:
        until(lambda: world.instance.faults.fired["answer"] >= 2)
        assert bot.client.stream.way is None
        world.answer(world.ask())
        world.instance.faults.clear()
        until(lambda: bot.stream.is_open)


@pytest.mark.parametrize("profile", [ULIDS], indirect=True)
def test_the_token_is_in_no_log_line_and_no_address(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with world.bot(**PATIENT) as bot:
        until(lambda: bot.stream.is_open)
        world.answer(world.ask())
    assert "stream open" in caplog.text
    assert world.me.token not in caplog.text
    assert not any("access_token" in path for path in world.instance.hub.addresses)


@pytest.mark.parametrize("profile", [ULIDS], indirect=True)
def test_check_says_by_which_way_it_streams(world: World) -> None:
    settings = world.settings(mastodon={"access_token": world.me.token})
    assert "streaming: open (WebSocket)" in [result.text for result in check.online(settings)]


def test_messages_that_are_no_events_are_passed_over() -> None:
    heard: list[str] = []

    class Events(Probe):
        def deleted(self, status_id: str) -> None:
            heard.append(status_id)

    odd: list[str | bytes] = [
        "no JSON",
        "[]",
        "7",
        "{}",
        '{"event": "delete"}',
        b"\xff",
        '{"event": "notification", "payload": "{"}',
    ]
    Listener(Events()).handle_messages(
        [*odd, '{"event": "delete", "payload": "01JD"}', '{"event":"delete","payload":7}']
    )
    assert heard == ["null", "01JD", "7"]


@pytest.mark.parametrize("profile", [MASTODON, ULIDS], indirect=True, ids=lambda profile: profile.name)
def test_a_redirect_to_another_server_is_not_followed_with_the_token(world: World) -> None:
    with serving() as elsewhere:
        location = f"{elsewhere.url}/api/v1/streaming"
        world.instance.faults.add(Fault(kind="redirect", path=STREAM, location=location))
        with pytest.raises(InstanceError):
            world.client().stream.read(Listener(Probe()))
    assert world.instance.faults.fired["redirect"]
    assert elsewhere.paths == []


@pytest.mark.parametrize("profile", [ULIDS], indirect=True)
@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"status": 401}, Unauthorized),
        ({"status": 403}, Refused),
        ({"status": 429}, RateLimited),
        ({"status": 502}, Transient),
    ],
)
def test_each_refusal_of_a_websocket_has_its_kind(
    world: World, fault: dict[str, Any], expected: type[InstanceError]
) -> None:
    world.instance.faults.add(Fault.model_validate({"kind": "answer", "path": "/api/v1/streaming"} | fault))
    with pytest.raises(expected) as caught:
        world.client().stream.read(Listener(Probe()))
    assert world.me.token not in f"{caught.value!r} {caught.value.__cause__!r}"


def greet_and_fall_silent(exchange: Exchange) -> None:
    """Opens a WebSocket and never writes again."""
    exchange.send_response(101)
    exchange.send_header("Upgrade", "websocket")
    exchange.send_header("Connection", "Upgrade")
    exchange.send_header("Sec-WebSocket-Accept", accept_key(exchange.headers["Sec-WebSocket-Key"]))
    exchange.end_headers()
    exchange.server.over.wait(30.0)


def open_socket(server: Server, *, open_timeout_s: float, silence_s: float) -> ClientConnection:
    return websocket.connect(
        server.url.replace("http", "ws", 1),
        token="s3cret",
        as_protocol=False,
        user_agent="test",
        open_timeout_s=open_timeout_s,
        silence_s=silence_s,
        session=requests.Session(),
    )


def test_a_websocket_that_answers_no_ping_is_given_up() -> None:
    with serving({"/": greet_and_fall_silent}) as server:
        connection = open_socket(server, open_timeout_s=10.0, silence_s=0.2)
        with pytest.raises(WebSocketException):
            connection.recv(timeout=10.0)


def test_a_handshake_that_never_ends_is_given_up() -> None:
    with serving({"/": lambda exchange: exchange.server.over.wait(30.0)}) as server, pytest.raises(TimeoutError):
        open_socket(server, open_timeout_s=0.3, silence_s=20.0)


@pytest.mark.parametrize("profile", [ULIDS], indirect=True)
@pytest.mark.parametrize(
    "page",
    [
        {"kind": "html"},
        {"kind": "redirect", "location": "https://login.example/"},
        {"kind": "answer", "status": 405},
        {"kind": "answer", "status": 404, "html": True},
    ],
)
def test_a_server_that_has_a_page_for_every_address_is_streamed_all_the_same(
    world: World, page: dict[str, Any]
) -> None:
    world.instance.faults.add(Fault.model_validate({"path": "/api/v1/streaming/user"} | page))
    with world.bot(**PATIENT) as bot:
        until(lambda: bot.stream.is_open)
        world.answer(world.ask())
