"""A mention's life without a stream is as with one: edits and deletions are noticed in the list of notifications."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.faults import Fault
from tests.bot.conftest import World, settle, until

POLLED: dict[str, dict[str, Any]] = {"mastodon": {"streaming": False}}


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.mentions.review.EVERY_S", 0.1)


@pytest.mark.every_profile
def test_a_photo_added_by_an_edit_is_answered_without_a_stream(world: World) -> None:
    with world.bot(**POLLED) as bot:
        question = world.ask(label=None)
        help_ = world.answer(question)
        settle(bot)
        world.add_photo(question)
        assert "China gallery" in world.other_answer(question, help_).text


def test_a_photo_added_while_the_bot_was_away_is_answered(world: World) -> None:
    with world.bot(**POLLED) as bot:
        question = world.ask(label=None)
        help_ = world.answer(question)
        settle(bot)
    world.add_photo(question)
    with world.bot(**POLLED):
        world.other_answer(question, help_)


def test_an_edit_is_noticed_long_after_the_looks_have_gone_on(world: World) -> None:
    robot = world.person("robot", bot=True)
    with world.bot(mastodon={"streaming": False, "overlap_s": 0.0}) as bot:
        question = world.ask(label=None)
        help_ = world.answer(question)
        for _ in range(100):  # more than one page
            world.ask(by=robot, label=None)
        until(lambda: bot.store.inbox.counts().get("refused") == 100)
        world.add_photo(question)
        world.other_answer(question, help_)


@pytest.mark.every_profile
def test_an_answer_is_deleted_with_its_question_without_a_stream(world: World) -> None:
    with world.bot(**POLLED) as bot:
        stays, goes = world.ask(), world.ask()
        for question in (stays, goes):
            world.answer(question)
        settle(bot)
        world.instance.delete(goes)
        until(lambda: bot.store.inbox.counts() == {"answered": 1, "refused": 1})
        assert [status.in_reply_to_id for status in world.instance.statuses_of(world.me)] == [stays.id]


def test_notifications_that_were_cleared_cost_one_call_each_and_no_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.mentions.review.MAX_CHECKS", 2)
    asked = Fault(kind="delay", path=r"/api/v1/statuses/\d+", methods=("GET",), seconds=0.0)
    with world.bot(**POLLED) as bot:
        questions = [world.ask() for _ in range(5)]
        for question in questions:
            world.answer(question)
        settle(bot)
        world.instance.faults.add(asked)
        world.instance.notifications.clear(world.me)
        until(lambda: world.instance.faults.fired["delay"] == 5)
        looks = bot.catch_up._delivery._n_looks
        until(lambda: bot.catch_up._delivery._n_looks > looks + 4)
        assert world.instance.faults.fired["delay"] == 5
        assert [len(world.answers(question)) for question in questions] == [1] * 5


def test_a_review_reads_a_few_pages_however_long_the_list(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.instance.reading.PAGE_SIZE", 5)
    robot = world.person("robot", bot=True)
    for _ in range(30):
        world.ask(by=robot, label=None)
    with world.bot(**POLLED) as bot:
        until(lambda: bot.store.inbox.counts() == {"refused": 30})
        bot.catch_up.stop(5.0)
        world.instance.faults.add(Fault(kind="delay", path="/api/v1/notifications", seconds=0.0))
        bot.catch_up._review._look()
    assert world.instance.faults.fired["delay"] == 3
