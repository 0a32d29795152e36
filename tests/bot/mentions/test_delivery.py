"""A stream that is open and brings nothing is noticed by the looks at the notifications, and opened again."""

from __future__ import annotations

import pytest

from bot.app import Bot
from bot.mentions.delivery import GRACE_S, Delivery
from tests.bot.conftest import World, settle, until
from tests.bot.storage.test_store import Clock


def is_watched(bot: Bot) -> bool:
    """Whether a look has ended that began after the stream was opened."""
    return bot.catch_up._delivery._has_looked


def test_a_stream_that_the_server_forgot_is_opened_again_and_delivers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.mentions.delivery.GRACE_S", 0.05)
    with world.bot(mastodon={"catch_up_every_s": 0.3}) as bot:
        until(lambda: is_watched(bot))
        world.instance.hub.forget()  # it stays open
        world.answer(world.ask())
        until(lambda: bot.stream.n_connections == 2)
        assert not bot.catch_up._delivery.is_trusted
        until(lambda: is_watched(bot))
        world.answer(world.ask())
        until(lambda: bot.catch_up._delivery.is_trusted)
        settle(bot)
        assert bot.stream.n_connections == 2


def test_a_stream_that_never_brings_anything_is_opened_again_ever_more_rarely(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.mentions.delivery.GRACE_S", 0.05)
    world.instance.hub.silent |= {"events", "websocket"}
    with world.bot(mastodon={"catch_up_every_s": 0.3, "max_reconnect_pause_s": 60.0}) as bot:
        for _ in range(2):
            until(lambda: is_watched(bot))
            n_before = bot.stream.n_connections
            world.answer(world.ask())
            until(lambda: bot.stream.n_connections > n_before)  # noqa: B023 - called at once
        assert bot.stream.n_connections == 3
        assert bot.stream._n_failures == 1


def test_looks_beside_a_stream_that_works_open_no_other(world: World) -> None:
    with world.bot(mastodon={"catch_up_every_s": 0.02}, bot={"max_answers_per_hour": 100}) as bot:
        until(lambda: is_watched(bot))
        for question in [world.ask() for _ in range(20)]:
            world.answer(question)
        settle(bot)
        assert bot.stream.n_connections == 1
        assert bot.catch_up._delivery.is_trusted


def test_a_mention_that_the_server_filters_is_not_missed_from_the_stream(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.mentions.delivery.GRACE_S", 0.01)
    with world.bot(mastodon={"catch_up_every_s": 0.05}) as bot:
        until(lambda: is_watched(bot))
        world.answer(world.ask(visibility="direct"))
        looks = bot.catch_up._delivery._n_looks
        until(lambda: bot.catch_up._delivery._n_looks > looks + 3)
        assert bot.stream.n_connections == 1


class Reopened:
    """A delivery with a clock, and how often it had the stream opened again."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.delivery = Delivery(now=self.clock)
        self.reopened: list[bool] = []
        self.delivery.reopen = self.reopened.append
        self.delivery.opened()
        self.look()

    def look(self, *found: str) -> None:
        self.delivery.begin_look()
        self.delivery.found(found)
        self.delivery.end_look()

    def pause(self) -> float:
        return self.delivery.pause(trusted_s=120.0, else_s=15.0)


def test_what_the_stream_brings_soon_after_a_look_is_not_missing() -> None:
    case = Reopened()
    case.look("1")
    assert case.pause() == GRACE_S
    case.delivery.heard("1")
    case.clock.now += GRACE_S
    case.look("1")
    assert case.reopened == []
    assert case.pause() == 120.0


def test_looks_come_closer_together_until_the_stream_delivers() -> None:
    case = Reopened()
    assert case.pause() == 120.0
    case.look("1")
    case.clock.now += GRACE_S
    case.look("1")
    assert case.reopened == [False]
    case.delivery.ended()
    case.delivery.opened()
    case.look("1")
    assert case.pause() == 15.0
    case.look("1", "2")
    case.clock.now += GRACE_S
    case.look("1", "2")
    assert case.reopened == [False, True]
    case.delivery.ended()
    case.delivery.opened()
    case.delivery.heard("3")
    assert case.pause() == 120.0


def test_what_came_before_the_stream_was_open_is_not_missing() -> None:
    case = Reopened()
    case.delivery.begin_look()
    case.delivery.ended()
    case.delivery.opened()
    case.delivery.found(["1"])
    case.delivery.end_look()  # it began before
    case.look("1", "2")
    case.clock.now += 10 * GRACE_S
    case.look("1", "2")
    assert case.reopened == []


def test_without_a_stream_nothing_is_missing() -> None:
    case = Reopened()
    case.delivery.ended()
    case.look("1")
    case.clock.now += GRACE_S
    case.look("1")
    assert (case.reopened, case.pause()) == ([], 15.0)


def test_where_a_proxy_holds_events_back_a_websocket_is_opened(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.mentions.delivery.GRACE_S", 0.05)
    world.instance.hub.silent.add("events")
    with world.bot(mastodon={"catch_up_every_s": 0.3}) as bot:
        while bot.stream.n_connections < 3:
            until(lambda: is_watched(bot))
            n_before = bot.stream.n_connections
            world.answer(world.ask())
            until(lambda n=n_before: bot.catch_up._delivery.is_trusted or bot.stream.n_connections > n)  # type: ignore[misc]
        assert bot.client.stream.way is not None
        assert bot.client.stream.way.speech == "WebSocket"
        until(lambda: is_watched(bot))
        world.answer(world.ask())
        until(lambda: bot.catch_up._delivery.is_trusted)
        assert bot.stream.n_connections == 3
