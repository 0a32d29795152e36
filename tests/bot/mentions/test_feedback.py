"""What people say back to an answer is thanked once and noted; it changes figures and nothing else."""

from __future__ import annotations

import hashlib
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from bot.app import Bot
from bot.storage.inbox import Entry
from bot.storage.opinions import Agreement
from bot.storage.records import DAY_S
from sandbox.faults import Fault
from sandbox.instance import Account, Status
from tests.bot.conftest import World, settle, until
from tests.bot.mentions.test_consent import agree
from tests.bot.mentions.test_etiquette import refusal
from tests.fake_trainer import add_version


def say(world: World, answer: Status, text: str, by: Account | None = None, **options: object) -> Status:
    """A reply to an answer of the bot."""
    return world.ask(f"@dokocos {text}", label=None, in_reply_to=answer, by=by or world.alice, **options)


def test_a_word_that_comes_before_the_answer_is_recorded_waits_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    with world.bot() as bot:
        by_reply, by_status = bot.store.inbox.by_reply, bot.store.inbox.by_status

        def late(reply_id: str) -> Entry | None:
            asked.append(reply_id)
            return None if len(asked) < 3 else by_reply(reply_id)

        def posting(status_id: str) -> Entry | None:
            entry = by_status(status_id)
            return entry and replace(entry, state="posting")

        answer = world.answer(world.ask())
        until(lambda: bot.store.inbox.counts().get("answered"))
        monkeypatch.setattr(bot.store.inbox, "by_reply", late)
        monkeypatch.setattr(bot.store.inbox, "by_status", posting)
        assert world.answer(say(world, answer, "right"))
        assert len(asked) >= 3
        assert opinions(bot) == [("japan", 1, 1)]


def opinions(bot: Bot) -> list[tuple[str, int, int]]:
    """(label, number of opinions, number of those that agree) of each label."""
    return [(each.label, each.n, each.n_right) for each in bot.store.opinions.tally()]


@pytest.mark.every_profile
@pytest.mark.parametrize("streaming", [True, False])
def test_an_opinion_is_thanked_once_and_the_newest_counts(world: World, *, streaming: bool) -> None:
    with world.bot(mastodon={"streaming": streaming}) as bot:
        answer = world.answer(world.ask())
        thanks = world.answer(say(world, answer, "it is Brazil"))
        assert "I learn nothing from it" in thanks.text
        assert opinions(bot) == [("japan", 1, 0)]
        assert refusal(bot, say(world, answer, "Right!")) == "another word about the same answer"
        assert opinions(bot) == [("japan", 1, 1)]
        assert bot.store.opinions.tally() == [Agreement("japan", "v1", 1, 1)]


def test_words_that_say_right_wrong_or_another_gallery_are_opinions(world: World) -> None:
    said: dict[str, list[str]] = {
        "right": ["right", "正解！", "It's Japan", "日本です", "japan"],
        "wrong": ["wrong", "違う", "it is Brazil.", "ブラジルです", "中国だよ！", "not right"],
        "": ["it is great", "I was in Brazil", "thanks", "yes", "no", "Brazil or Japan"],
    }
    with world.bot() as bot:
        for verdict, texts in said.items():
            for text in texts:
                person = world.person(f"person{len(bot.store.inbox.entries())}")
                reply = say(world, world.answer(world.ask(by=person)), text, person)
                if verdict:
                    world.answer(reply)
                else:
                    assert refusal(bot, reply) == "only words in answer to us"
        assert opinions(bot) == [("japan", len(said["right"]) + len(said["wrong"]), len(said["right"]))]


def test_words_of_a_file_of_the_admins_count_too(world: World, tmp_path: Path) -> None:
    texts = tmp_path / "texts.yaml"
    words = "{stop: [stop], start: [start], delete: [delete], agree: [ok], wrong: [nope], named: ['é {gallery}']}"
    texts.write_text(f"en: {{words: {words}}}")
    with world.bot(bot={"texts": str(texts)}) as bot:
        for text in ("nope", "é Japan", "right"):
            world.answer(say(world, world.answer(world.ask()), text))
        assert opinions(bot) == [("japan", 3, 2)]


@pytest.mark.every_profile
def test_a_bystanders_word_is_no_opinion(world: World) -> None:
    bob = world.person("bob")
    with world.bot() as bot:
        answer = world.answer(world.ask())
        assert refusal(bot, say(world, answer, "it is Brazil", bob)) == "only words in answer to us"
        assert opinions(bot) == []


def test_words_elsewhere_or_about_several_photos_are_no_opinion(world: World) -> None:
    bob = world.person("bob")
    with world.bot() as bot:
        answer = world.answer(world.ask())
        between = world.instance.post(bob, "@alice @dokocos was that right?", in_reply_to=answer)
        several = world.answer(world.ask(attachments=[world.photo(), world.photo("china")]))
        unknown = world.answer(world.ask(label="unknown"))
        help_ = world.answer(world.ask(label=None))
        for parent in (between, several, unknown, help_):
            refusal(bot, say(world, parent, "wrong"))
        assert opinions(bot) == []


def test_a_new_photo_below_an_answer_is_a_new_question(world: World) -> None:
    with world.bot() as bot:
        answer = world.answer(world.ask())
        reply = world.ask("@dokocos wrong", label="china", in_reply_to=answer)
        assert "China gallery" in world.answer(reply).text
        assert opinions(bot) == []


def test_asker_and_author_of_a_photo_that_was_consented_to_are_heard_and_nobody_else(world: World) -> None:
    carol, bob = world.person("carol"), world.person("bob")
    above = world.instance.post(carol, "my costume", attachments=[world.photo("brazil", of=carol)])
    with world.bot() as bot:
        answer = agree(world, world.answer(world.ask(label=None, in_reply_to=above)), carol)
        world.answer(say(world, answer, "wrong", world.alice))
        world.answer(say(world, answer, "right", carol))
        refusal(bot, say(world, answer, "right", bob))
        assert opinions(bot) == [("brazil", 2, 1)]


@pytest.mark.every_profile
@pytest.mark.parametrize(("streaming", "is_first"), [(True, True), (False, False)])
def test_an_opinion_goes_with_its_words_and_changes_with_them(
    world: World, monkeypatch: pytest.MonkeyPatch, *, streaming: bool, is_first: bool
) -> None:
    for name in ("EVERY_S", "STREAMING_EVERY_S", "CHECKED_FOR_S"):  # reviews find what a stream did not tell
        monkeypatch.setattr(f"bot.mentions.review.{name}", 0.1)
    with world.bot(mastodon={"streaming": streaming, "catch_up_every_s": 0.2}) as bot:
        answer = world.answer(world.ask())
        reply = say(world, answer, "right")
        thanks = world.answer(reply)
        settle(bot)
        if not is_first:  # the first one stays, and the later one gets no thanks
            reply = say(world, answer, "right")
            refusal(bot, reply)
        world.instance.edit(reply, "@dokocos wrong")
        until(lambda: opinions(bot) == [("japan", 1, 0)])
        world.instance.delete(reply)
        until(lambda: opinions(bot) == [])
        until(lambda: (thanks in world.instance.statuses_of(world.me)) != is_first)


def test_an_opinion_that_is_edited_into_something_else_is_deleted(world: World) -> None:
    with world.bot() as bot:
        reply = say(world, world.answer(world.ask()), "right")
        world.answer(reply)
        settle(bot)
        until(lambda: bot.stream.is_open)
        world.instance.edit(reply, "@dokocos what a day")
        until(lambda: opinions(bot) == [])


@pytest.mark.parametrize("how", ["delete", "stop", "question deleted", "pruned"])
def test_notes_go_with_the_answer_with_stop_and_in_time(world: World, how: str) -> None:
    with world.bot() as bot:
        question = world.ask()
        answer = world.answer(question)
        world.answer(say(world, answer, "right"))
        bot.store.opinions.draw([bot.store.inbox.by_status(str(question.id)).notification_id])  # type: ignore[union-attr]
        settle(bot)
        until(lambda: bot.stream.is_open)
        if how in ("delete", "stop"):
            say(world, answer, how)
        elif how == "question deleted":
            world.instance.delete(question)
        else:
            bot.operations.jobs.now = lambda: 4e9
            bot.operations.jobs.prune(True)
        count = "SELECT (SELECT count(*) FROM opinions) + (SELECT count(*) FROM samples)"
        with sqlite3.connect(world.data_dir / "bot.sqlite3") as db:
            until(lambda: db.execute(count).fetchone()[0] == (how == "stop"))  # the sample tells of nobody
        db.close()


def test_stop_deletes_what_the_account_said_about_answers_to_others(world: World) -> None:
    carol = world.person("carol")
    above = world.instance.post(carol, "my costume", attachments=[world.photo("brazil", of=carol)])
    with world.bot() as bot:
        answer = agree(world, world.answer(world.ask(label=None, in_reply_to=above)), carol)
        world.answer(say(world, answer, "wrong", world.alice))
        until(lambda: opinions(bot) == [("brazil", 1, 0)])
        world.answer(world.ask("@dokocos stop", label=None))
        assert opinions(bot) == []


@pytest.mark.every_profile
def test_thanks_whose_post_failed_though_it_was_stored_are_not_repeated(world: World) -> None:
    with world.bot() as bot:
        answer = world.answer(world.ask())
        world.instance.faults.add(Fault(kind="store_then_cut", path="/api/v1/statuses", methods=("POST",), times=1))
        reply = say(world, answer, "right")
        until(lambda: bot.store.inbox.counts().get("answered") == 2)
        settle(bot)
        assert len(world.answers(reply)) == 1
        assert opinions(bot) == [("japan", 1, 1)]


@pytest.mark.every_profile
def test_a_bot_killed_after_it_noted_an_opinion_thanks_once_after_its_restart(world: World) -> None:
    with world.bot():
        answer = world.answer(world.ask())
    reply = say(world, answer, "wrong")
    store = world.store()
    mentions = world.client().reader.notifications().mentions
    mention = next(each for each in mentions if "wrong" in each.status.text)
    store.inbox.put(mention, look_first=False)
    store.inbox.take(1)
    answered = next(each for each in store.inbox.entries() if each.label)
    store.opinions.note(
        answered.notification_id,
        account_id=mention.status.account.id,
        status_id=mention.status.id,
        is_right=False,
        said_at=mention.status.created_at.timestamp(),
    )
    store.inbox.mark_posting(mention.notification_id)
    store.close()
    with world.bot() as bot:
        until(lambda: bot.store.inbox.counts().get("answered") == 2)
        settle(bot)
        assert opinions(bot) == [("japan", 1, 0)]
    assert len(world.answers(reply)) == 1


def test_fifty_fresh_accounts_that_say_brazil_for_a_week_change_a_counter_and_nothing_else(world: World) -> None:
    world.data_dir.mkdir(parents=True)
    add_version(world.data_dir, right=0.8, promoted=True, created_at=datetime(2026, 1, 2, tzinfo=UTC))
    kept = {"registry.json", "manifest.sqlite3"}

    def learned() -> dict[str, str]:
        files = (path for path in sorted(world.data_dir.rglob("*")) if path.is_file())
        names = {str(path.relative_to(world.data_dir)): path for path in files}
        return {
            name: hashlib.sha256(path.read_bytes()).hexdigest()
            for name, path in names.items()
            if name in kept or name.split("/")[0] in ("versions", "features", "images")
        }

    before, fresh = learned(), datetime.now(UTC) - timedelta(hours=1)
    people = [world.person(f"fresh{number}", created_at=fresh) for number in range(50)]
    with world.bot() as bot:
        stranger = world.answer(world.ask())
        for number, person in enumerate(people):
            if number % 7:  # below others' answers
                say(world, stranger, "it is Brazil", person)
            else:
                world.answer(say(world, world.answer(world.ask(by=person)), "it is Brazil", person))
        until(lambda: sum(bot.store.inbox.counts().values()) == 1 + 50 + 8)
        settle(bot)
        for days in range(7):
            bot.operations.jobs.now = partial(float, datetime.now(UTC).timestamp() + days * DAY_S)
            bot.operations.jobs.watch(False)
            bot.operations.jobs.prune(False)
        assert opinions(bot) == [("japan", 8, 0)]
        assert bot.operations.records.queued() == []
    assert learned() == before
    assert len(before) > 2
