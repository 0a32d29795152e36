"""Server-sent events, received by a raw client and by Mastodon.py."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import pytest
import requests
from mastodon import StreamListener
from mastodon.errors import MastodonNetworkError

from sandbox.instance import Account, Instance
from tests.sandbox.conftest import Client, listen


def test_a_mention_arrives_as_a_notification(
    instance: Instance, instance_url: str, bot: Account, alice: Account
) -> None:
    with listen(instance_url, bot.token) as stream:
        status = instance.post(alice, "@dokocos どこコス?", language="ja")
        name, event = stream.event()
    assert (name, event["type"], event["status"]["id"]) == ("notification", "mention", str(status.id))
    assert event["account"]["acct"] == "alice"


def test_edits_and_deletions_of_a_mention_arrive(
    instance: Instance, instance_url: str, bot: Account, alice: Account
) -> None:
    status = instance.post(alice, "@dokocos hi")
    with listen(instance_url, bot.token) as stream:
        instance.edit(status, "@dokocos hello")
        name, edited = stream.event()
        assert (name, edited["id"]) == ("status.update", str(status.id))
        assert edited["content"].endswith(" hello</p>")
        instance.delete(status)
        assert stream.event() == ("delete", str(status.id))


def test_a_home_timeline_has_own_and_followed_statuses(
    instance: Instance, instance_url: str, bot: Account, alice: Account
) -> None:
    instance.follow(bot, alice)
    stranger = instance.add_account("bob")
    with listen(instance_url, bot.token) as stream:
        instance.post(stranger, "unheard")
        followed, own = instance.post(alice, "heard"), instance.post(bot, "mine")
        assert [stream.event()[1]["id"] for _ in range(2)] == [str(followed.id), str(own.id)]


def test_the_notification_stream_has_only_notifications(
    instance: Instance, instance_url: str, bot: Account, alice: Account
) -> None:
    with listen(instance_url, bot.token, "user/notification") as stream:
        instance.post(bot, "mine")
        instance.post(alice, "@dokocos hi")
        assert stream.event()[0] == "notification"


def test_a_token_without_the_notifications_scope_gets_the_timeline_only(
    instance: Instance, instance_url: str, bot: Account, alice: Account
) -> None:
    with listen(instance_url, instance.token(bot, "read:statuses")) as stream:
        instance.post(alice, "@dokocos hi")
        instance.post(bot, "mine")
        assert stream.event()[0] == "update"


def test_past_events_are_not_sent(instance: Instance, instance_url: str, bot: Account, alice: Account) -> None:
    instance.post(alice, "@dokocos early")
    with listen(instance_url, bot.token) as stream:
        instance.post(alice, "@dokocos late")
        assert stream.event()[1]["status"]["content"].endswith(" late</p>")


def test_an_idle_stream_has_heartbeats(instance: Instance, instance_url: str, bot: Account) -> None:
    instance.settings = dataclasses.replace(instance.settings, heartbeat_s=0.01)
    with listen(instance_url, bot.token) as stream:
        assert [stream.line() for _ in range(3)] == [":thump"] * 3


@pytest.mark.parametrize(
    ("path", "headers", "status", "error"),
    [
        ("user", {}, 401, "Missing access token"),
        ("user", {"Authorization": "Bearer nonsense"}, 401, "Invalid access token"),
        ("nowhere", {}, 400, "Unknown channel requested"),
        ("", {}, 400, "Unknown channel requested"),
    ],
)
def test_a_stream_is_refused_with_the_real_error(
    instance_url: str, path: str, headers: dict[str, str], status: int, error: str
) -> None:
    answer = requests.get(f"{instance_url}/api/v1/streaming/{path}", headers=headers, timeout=10)
    assert (answer.status_code, answer.json()) == (status, {"error": error})


def test_a_stream_needs_the_read_scope(instance: Instance, instance_url: str, bot: Account) -> None:
    token = instance.token(bot, "write")
    answer = requests.get(f"{instance_url}/api/v1/streaming/user?access_token={token}", timeout=10)
    assert (answer.status_code, answer.json()["error"]) == (401, "Access token does not have the required scopes")


def test_a_revoked_token_ends_the_stream_cleanly_and_then_is_refused(
    instance: Instance, instance_url: str, bot: Account
) -> None:
    with listen(instance_url, bot.token) as stream:
        instance.revoke(bot.token)
        assert stream.line() is None
    answer = requests.get(f"{instance_url}/api/v1/streaming/user?access_token={bot.token}", timeout=10)
    assert answer.status_code == 401


def test_streaming_can_be_turned_off(instance: Instance, instance_url: str, bot: Account) -> None:
    instance.settings = dataclasses.replace(instance.settings, streaming=False)
    answer = requests.get(f"{instance_url}/api/v1/streaming/user?access_token={bot.token}", timeout=10)
    assert answer.status_code == 404


def test_the_streaming_server_has_a_health_check(instance_url: str) -> None:
    assert requests.get(f"{instance_url}/api/v1/streaming/health", timeout=10).text == "OK"


class Listener(StreamListener):  # type: ignore[misc]
    """Lets a test wait for events of a Mastodon.py stream."""

    def __init__(self) -> None:
        self.connected = threading.Event()
        self.heard: list[str] = []

    def handle_heartbeat(self) -> None:
        self.connected.set()

    def on_notification(self, notification: Any) -> None:
        self.heard.append(notification.type)


def stream_until_it_ends(api: Any, listener: Listener) -> tuple[threading.Thread, list[BaseException | None]]:
    """Run the blocking call in a thread; the list gets its exception, or None for a normal return."""
    ended: list[BaseException | None] = []

    def run() -> None:
        try:
            api.stream_user(listener, timeout=10)
            ended.append(None)
        except Exception as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert listener.connected.wait(10)
    return thread, ended


def test_mastodon_py_returns_normally_from_a_stream_that_ends_cleanly(
    client: Client, instance: Instance, bot: Account, alice: Account
) -> None:
    listener = Listener()
    thread, ended = stream_until_it_ends(client(bot), listener)
    instance.post(alice, "@dokocos hi")
    instance.faults.close_streams()
    thread.join(10)
    assert ended == [None]
    assert listener.heard == ["mention"]


def test_mastodon_py_raises_when_a_stream_is_cut(client: Client, instance: Instance, bot: Account) -> None:
    thread, ended = stream_until_it_ends(client(bot), Listener())
    instance.faults.close_streams("cut")
    thread.join(10)
    assert isinstance(ended[0], MastodonNetworkError)
