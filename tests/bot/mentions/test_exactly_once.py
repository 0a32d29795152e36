"""A mention gets exactly one answer, whatever fails; counted on the instance, not in the bot's database."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import timedelta

import pytest

from bot.entities import Mention
from bot.storage.inbox import Outcome
from sandbox.faults import Fault
from sandbox.instance import InstanceSettings
from tests.bot.conftest import PATIENCE_S, World, settle, until
from tests.fakes import FakeScored, Pixels
from trainer.errors import StorageError

POSTS = "/api/v1/statuses"
MEDIA = r"/(system|media_proxy|media)/.*"


@pytest.mark.every_profile
@pytest.mark.parametrize("kind", ["store_then_answer", "store_then_cut"])
def test_a_post_that_was_stored_though_it_failed_is_not_repeated(world: World, kind: str) -> None:
    world.instance.faults.add(Fault.model_validate({"kind": kind, "path": POSTS, "methods": ("POST",), "times": 1}))
    with world.bot() as bot:
        question = world.ask()
        until(lambda: bot.store.inbox.counts().get("answered"))
        settle(bot)
    assert len(world.answers(question)) == 1
    assert world.instance.faults.fired[kind] == 1


@pytest.mark.every_profile
def test_a_post_that_was_not_stored_is_repeated(world: World) -> None:
    world.instance.faults.add(Fault(kind="cut", path=POSTS, methods=("POST",), times=2))
    with world.bot() as bot:
        question = world.ask()
        until(lambda: bot.store.inbox.counts().get("answered"))
    assert len(world.answers(question)) == 1


@pytest.mark.parametrize("version", ["4.5.15", "4.6.5"])
def test_a_server_that_answers_a_repeated_key_with_500_gets_one_post(world: World, version: str) -> None:
    world.instance.settings = InstanceSettings(version=version)
    world.instance.faults.add(Fault(kind="store_then_cut", path=POSTS, methods=("POST",), times=1))
    # The first check of the thread fails too, so the post is nearly repeated.
    world.instance.faults.add(Fault(kind="answer", path=r".*/context", status=503, times=1))
    with world.bot() as bot:
        question = world.ask()
        until(lambda: bot.store.inbox.counts().get("answered"))
        settle(bot)
    assert len(world.answers(question)) == 1


@pytest.mark.parametrize("posted", [False, True])
@pytest.mark.parametrize("state", ["new", "working", "posting"])
def test_a_bot_killed_in_any_state_answers_once_after_its_restart(world: World, state: str, posted: bool) -> None:
    question = world.ask()
    store = world.store()
    (mention,) = world.client().reader.notifications().mentions
    notification_id = mention.notification_id
    store.inbox.put(mention, look_first=False)
    if state != "new":
        store.inbox.take(1)
    if state == "posting":
        store.inbox.mark_posting(notification_id)
    if posted:  # posted, but killed before that was recorded
        world.instance.post(world.me, "@alice earlier answer", in_reply_to=question)
    store.close()
    with world.bot() as bot:
        until(lambda: bot.store.inbox.counts().get("answered"))
        settle(bot)
    answers = world.answers(question)
    assert len(answers) == 1
    assert ("earlier" in answers[0].text) == posted


@pytest.mark.every_profile
def test_a_lost_database_leads_to_no_second_answer(world: World) -> None:
    with world.bot():
        question = world.ask()
        world.answer(question)
    for file in world.data_dir.glob("bot.sqlite3*"):
        file.unlink()
    with world.bot() as bot:
        until(lambda: bot.store.inbox.counts().get("answered"))
        settle(bot)
    assert len(world.answers(question)) == 1


def test_a_damaged_database_is_replaced_and_loses_nothing(world: World) -> None:
    with world.bot() as bot:
        answered = world.ask()
        world.answer(answered)
        bot.store.opt_outs.add("12345")
    missed = world.ask()
    database = world.data_dir / "bot.sqlite3"
    database.write_bytes(b"this is no database" * 1000)
    with world.bot() as bot:
        world.answer(missed)
        settle(bot)
    assert len(world.answers(answered)) == 1
    assert len(list(world.data_dir.glob("bot.sqlite3.damaged-*"))) == 1


@pytest.mark.every_profile
def test_what_was_asked_while_the_bot_was_away_is_answered(world: World) -> None:
    before = world.ask()
    with world.bot():
        world.answer(before)
    away = [world.ask() for _ in range(3)]
    with world.bot():
        for question in away:
            world.answer(question)
    assert len(world.answers(before)) == 1


@pytest.mark.every_profile
def test_a_long_absence_is_read_page_by_page(world: World) -> None:
    with world.bot():
        world.answer(world.ask())
    robot = world.person("robot", bot=True)
    first = world.ask()
    for _ in range(90):  # more than one page
        world.ask(by=robot, label=None)
    last = world.ask()
    with world.bot() as bot:
        world.answer(first)
        world.answer(last)
        settle(bot)
        assert sum(bot.store.inbox.counts().values()) == 93


def test_one_old_status_does_not_end_the_first_catch_up(world: World) -> None:
    robot = world.person("robot", bot=True)
    first = world.ask()
    for _ in range(80):  # one page
        world.ask(by=robot, label=None)
    world.ask().created_at -= timedelta(days=400)  # an old status that was edited to mention the bot
    with world.bot():
        world.answer(first)


def test_a_notification_that_appears_late_under_a_lower_id_is_found(world: World) -> None:
    with world.bot(mastodon={"streaming": False}):
        world.answer(world.ask())
        world.instance.notifications.hold_next()
        late = world.ask("@dokocos late")
        world.answer(world.ask("@dokocos early"))
        world.instance.notifications.release()
        world.answer(late)


@pytest.mark.parametrize("how", ["end", "cut"])
def test_a_mention_during_a_lost_stream_is_caught_up(world: World, how: str) -> None:
    with world.bot(mastodon={"poll_every_s": 60.0, "catch_up_every_s": 60.0}) as bot:
        until(lambda: bot.stream.is_open)
        world.instance.faults.close_streams(how)  # type: ignore[arg-type]
        world.answer(world.ask())


def test_a_silent_stream_is_noticed(world: World) -> None:
    settings = {"stream_timeout_s": 15.1, "catch_up_every_s": 0.2}
    with world.bot(mastodon=settings) as bot:
        until(lambda: bot.stream.is_open)
        world.instance.faults.stall_streams()
        world.answer(world.ask())  # the stream is open but silent: the catch-up finds it


def test_an_instance_without_streaming_is_polled(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.instance.settings = InstanceSettings(streaming=False)
    with world.bot():
        world.answer(world.ask())
        until(lambda: "polling every_s" in caplog.text)
        world.answer(world.ask())
    assert caplog.text.count("polling every_s") == 1


def test_private_mentions_that_the_server_filters_are_answered(world: World) -> None:
    with world.bot(mastodon={"catch_up_every_s": 0.2}):
        question = world.ask(visibility="direct")
        assert world.answer(question).visibility == "direct"


def test_a_rate_limit_is_waited_for_and_costs_nothing(world: World) -> None:
    world.instance.faults.add(Fault(kind="rate_limit", path=POSTS, methods=("POST",), times=2, seconds=0.3))
    with world.bot(bot={"max_attempts": 1}) as bot:
        question = world.ask()
        world.answer(question)
        settle(bot)
        (entry,) = bot.store.inbox.entries()
    assert (entry.state, entry.attempts) == ("answered", 1)


def test_while_posting_is_limited_the_stream_goes_on(world: World) -> None:
    world.instance.faults.add(Fault(kind="rate_limit", path=POSTS, methods=("POST",), times=1, seconds=1.0))
    with world.bot() as bot:
        first = world.ask()
        until(lambda: world.instance.faults.fired["rate_limit"])
        second = world.ask()
        until(lambda: sum(bot.store.inbox.counts().values()) == 2)  # received while nothing can be posted
        assert not world.answers(second)
        world.answer(first)
        world.answer(second)


def test_a_limit_on_deleting_delays_no_answer(world: World) -> None:
    with world.bot() as bot:
        question = world.ask()
        reply = world.answer(question)
        world.instance.faults.add(Fault(kind="rate_limit", path=f"{POSTS}/.*", methods=("DELETE",), seconds=3600))
        world.ask("@dokocos delete", label=None, in_reply_to=reply)
        until(lambda: bot.store.inbox.counts().get("deferred"))
        world.answer(world.ask())
    assert world.answers(question) == [reply]


def test_no_work_is_done_for_an_answer_that_cannot_be_posted_yet(world: World) -> None:
    world.instance.faults.add(Fault(kind="rate_limit", path=POSTS, methods=("POST",), times=1, seconds=3600))
    with world.bot() as bot:
        world.ask()
        until(lambda: bot.store.inbox.counts().get("deferred"))
        world.ask()
        until(lambda: sum(bot.store.inbox.counts().values()) == 2)
    assert sum(world.classifier.batches) == 1


def test_an_outage_counts_as_no_attempt(world: World) -> None:
    world.instance.faults.add(Fault(kind="answer", path=POSTS, methods=("POST",), status=503, html=True, times=6))
    with world.bot(bot={"max_attempts": 2}) as bot:
        question = world.ask()
        world.answer(question)
        settle(bot)
    assert len(world.answers(question)) == 1


def test_a_mention_that_always_fails_is_given_up_and_stops_no_other(world: World) -> None:
    with world.bot(bot={"max_attempts": 2}) as bot:
        original = world.decoder.prepare

        def prepare(data: bytes, view: str):  # type: ignore[no-untyped-def]
            if b"poison" in data:
                raise RuntimeError("boom")
            return original(data, view)

        world.decoder.prepare = prepare  # type: ignore[method-assign]
        poison = world.ask(attachments=[world.instance.attach(world.alice, b"poison")])
        good = world.ask()
        world.answer(good)
        until(lambda: bot.store.inbox.counts().get("failed"))
        failed = bot.store.inbox.by_status(str(poison.id))
        assert failed is not None
        assert "boom" in failed.reason
        world.decoder.prepare = original  # type: ignore[method-assign]
        assert bot.store.inbox.retry() == 1
        bot.worker.wake()
        assert (
            "read this file" in world.answer(poison).text
        )  # the decoder failed because of the test; the file is no image


def test_a_revoked_token_stops_the_bot_with_a_message_what_to_do(world: World) -> None:
    with world.bot() as bot:
        until(lambda: bot.stream.is_open)
        world.instance.revoke(world.me.token)
        bot.wait()
    assert "run `python -m bot login" in str(bot.failure)
    assert world.me.token not in str(bot.failure)


def test_a_question_deleted_before_its_answer_is_recorded_as_gone(world: World) -> None:
    world.decoder.gate.clear()
    with world.bot() as bot:
        question = world.ask()
        until(lambda: bot.store.inbox.counts().get("working"))
        world.instance.delete(question)
        world.decoder.gate.set()
        until(lambda: bot.store.inbox.counts().get("refused"))
        (entry,) = bot.store.inbox.entries()
    assert entry.reason == "the question is gone"
    assert not world.instance.statuses_of(world.me)


def test_the_answer_to_a_deleted_photo_says_that_it_is_gone(world: World) -> None:
    world.instance.faults.add(Fault(kind="answer", path=MEDIA, status=404))
    with world.bot():
        reply = world.answer(world.ask())
    assert "could not fetch" in reply.text


def test_a_media_server_that_is_down_for_a_while_delays_the_answer(world: World) -> None:
    world.instance.faults.add(Fault(kind="answer", path=MEDIA, status=503, times=4))
    with world.bot():
        reply = world.answer(world.ask())
    assert "Japan gallery" in reply.text


def test_a_media_server_that_stays_down_leads_to_a_polite_answer(world: World) -> None:
    world.instance.faults.add(Fault(kind="answer", path=MEDIA, status=503))
    with world.bot(bot={"max_attempts": 2}):
        assert "could not fetch" in world.answer(world.ask()).text


def test_a_burst_is_answered_in_batches(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    may_go, predict = threading.Event(), world.classifier.predict

    def predict_later(photos: Pixels) -> Sequence[FakeScored]:
        may_go.wait(PATIENCE_S)
        return predict(photos)

    monkeypatch.setattr(world.classifier, "predict", predict_later)
    people = [world.person(f"asker{number}@host{number % 4}.example") for number in range(32)]
    with world.bot(bot={"concurrent_mentions": 16}) as bot:
        questions = [world.ask(by=who) for who in people]
        until(lambda: bot.predictor._jobs.qsize() >= 8)
        may_go.set()
        for question in questions:
            world.answer(question)
    assert all(len(world.answers(question)) == 1 for question in questions)
    assert max(world.classifier.batches) == 8


def test_a_second_bot_on_the_same_inbox_is_refused(world: World) -> None:
    with world.bot(), pytest.raises(StorageError, match="another bot is running"), world.bot():
        pass


def test_a_failed_disk_write_loses_no_mention(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with world.bot(mastodon={"catch_up_every_s": 0.2}) as bot:
        put_it = bot.store.inbox.put
        failures = iter(range(3))

        def full(mention: Mention, *, look_first: bool) -> bool:
            if next(failures, None) is not None:
                raise StorageError("disk full")
            return put_it(mention, look_first=look_first)

        monkeypatch.setattr(bot.store.inbox, "put", full)
        world.answer(world.ask())


def test_an_outcome_that_cannot_be_recorded_is_found_in_the_thread(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.bot() as bot:
        finish = bot.store.inbox.finish
        failures = iter(range(1))

        def full(notification_id: str, outcome: Outcome) -> None:
            if next(failures, None) is not None:
                raise StorageError("disk full")
            finish(notification_id, outcome)

        monkeypatch.setattr(bot.store.inbox, "finish", full)
        question = world.ask()
        until(lambda: bot.store.inbox.counts().get("answered"))
    assert len(world.answers(question)) == 1
