"""Admins' orders by direct mention; instance, messages and bot are real, only the trainer is a fake."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, cast

import psutil
import pytest

from bot.errors import Transient
from bot.storage.inbox import Outcome
from bot.storage.records import Records
from sandbox.faults import Fault
from sandbox.instance import Account, Status
from tests.bot.conftest import World, settle, until
from tests.fake_trainer import add_photos, add_version, plan
from trainer.errors import ProjectError
from trainer.photos.decisions import Decision, Decisions, Verdict
from trainer.photos.manifest import FILE_NAME, Manifest
from trainer.registry.registry import Registry
from trainer.review_state import LastReview, page_served, save_review

ADMIN = {"admins": ["alice"]}


def order(world: World, text: str, *, by: Account | None = None, **options: Any) -> Status:
    """Sends a direct mention to the bot."""
    return world.ask(f"@dokocos {text}", label=None, by=by or world.alice, visibility="direct", **options)


def told(world: World, text: str, **options: Any) -> str:
    """The bot's answer to an order, all parts joined."""
    question = order(world, text, **options)
    return world.answer(question).text


def settle_by_hand(data_dir: Path, verdict: Verdict, photo_id: str) -> None:
    """A person's decision on the review page."""
    with Manifest(data_dir / FILE_NAME) as manifest:
        Decisions(manifest).put(
            [Decision("worldcosplay", photo_id, photo_id * 64, verdict, None, "person", "", datetime.now(UTC))]
        )


def messages(world: World) -> list[Status]:
    """The bot's messages that answer nobody, oldest first."""
    return [each for each in world.instance.statuses_of(world.me) if each.in_reply_to_id is None]


def message(world: World, part: str) -> Status:
    """Waits for a message that answers nobody."""
    return cast(Status, until(lambda: next((each for each in messages(world) if part in each.text), None)))


@pytest.fixture(autouse=True)
def _private_mentions_come_at_once(world: World) -> None:
    """Sets what `python -m bot check --fix` sets; else the stream omits private mentions from strangers."""
    if world.instance.settings.profile.filters_notifications:
        world.client().home.accept_private_mentions()


@pytest.fixture
def versions(world: World) -> list[str]:
    """Two versions; the second one serves."""
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    world.data_dir.mkdir(parents=True)
    return [add_version(world.data_dir, right=right, promoted=True, created_at=moment) for right in (0.6, 0.8)]


@pytest.mark.every_profile
def test_status_shows_the_current_state(world: World, versions: list[str]) -> None:
    with world.bot(bot=ADMIN):
        question = order(world, "status")
        answer = world.answer(question)
    assert answer.visibility == "direct"
    assert re.match(r"@alice(@sandbox\.test)? Up for 0 min\.", answer.text)
    for part in (f"Champion {versions[1]}", "brazil: recall", "Balanced accuracy 0.80", "scrape: off", "GB free"):
        assert part in answer.text


@pytest.mark.usefixtures("versions")
def test_japanese_words_mean_the_same(world: World) -> None:
    with world.bot(bot=ADMIN):
        assert "Up for" in told(world, "状態")
        assert "今の様子" in told(world, "ヘルプ", language="ja")


@pytest.mark.parametrize("acct", ["mallory", "alice@evil.example", "alice@sandbox.evil.example"])
def test_an_impostor_is_treated_as_an_ordinary_user(world: World, acct: str) -> None:
    """The same display name, or the same user name on another host, makes nobody an admin."""
    impostor = world.person(acct, display_name=world.alice.display_name)
    with world.bot(bot=ADMIN) as bot:
        answer = world.answer(order(world, "pause", by=impostor))
        assert "Mention me with a cosplay photo" in answer.text
        assert bot.operations.handlers.serves_only() is None


@pytest.mark.parametrize("visibility", ["public", "unlisted", "private"])
def test_only_direct_mentions_are_orders(world: World, visibility: str) -> None:
    with world.bot(bot=ADMIN) as bot:
        question = world.ask("@dokocos pause", label=None, visibility=visibility)
        assert "Mention me with a cosplay photo" in world.answer(question).text
        assert bot.operations.handlers.serves_only() is None


def test_a_remote_admin_is_named_with_their_host(world: World) -> None:
    bob = world.person("bob@example.social")
    with world.bot(bot={"admins": ["@Bob@Example.social"]}):
        assert "Inbox: " in told(world, "inbox", by=bob)


def test_an_admin_who_is_not_found_gives_no_orders_and_the_bot_still_runs(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with world.bot(bot={"admins": ["nobody", "alice"]}):
        assert "Inbox: " in told(world, "inbox")
    assert "admin not found acct=nobody" in caplog.text


def test_an_admin_who_is_not_found_at_the_start_is_looked_up_again(world: World) -> None:
    with world.bot(bot={"admins": ["carol", "alice"]}) as bot:
        carol = world.person("carol")
        bot.operations.schedule.ask("watch")
        until(lambda: len(bot.operations.handlers.admins) == 2)
        assert "Inbox: " in told(world, "inbox", by=carol)
        assert bot.operations.outbox.admins == ("carol", "alice")


def test_known_admins_stay_admins_while_the_instance_is_down(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_acct: str) -> NoReturn:
        raise Transient("HTTP 503", outage=True)

    with world.bot(bot=ADMIN) as bot:
        monkeypatch.setattr(bot.client.reader, "lookup", away)
        bot.operations.reload(world.settings(bot={"admins": ["alice", "bob"]}))
        assert "Inbox: " in told(world, "inbox")


def test_an_admin_who_asks_about_a_photo_is_answered_like_anybody(world: World) -> None:
    with world.bot(bot=ADMIN):
        assert "gallery" in world.answer(world.ask(visibility="direct")).text


def test_an_admins_misspelt_order_gets_the_nearest_command_suggested(world: World) -> None:
    with world.bot(bot=ADMIN):
        assert "did you mean “status”?" in told(world, "satus")


def test_while_paused_mentions_wait_and_orders_are_executed(world: World) -> None:
    bob = world.person("bob")
    with world.bot(bot=ADMIN) as bot:
        assert "Paused" in told(world, "pause")
        question = world.ask(by=bob)
        until(lambda: bot.store.inbox.by_status(str(question.id)))
        assert "1 new" in told(world, "inbox")
        assert not world.answers(question)
    with world.bot(bot=ADMIN):  # the pause survives a restart
        assert "paused" in told(world, "status")
        assert not world.answers(question)
        assert "Resumed" in told(world, "resume")
        world.answer(question)


def test_help_lists_every_command_in_as_many_parts_as_needed(world: World) -> None:
    with world.bot(bot=ADMIN) as bot:
        question = order(world, "help")
        first = world.answer(question)
        settle(bot)
        (second,) = world.instance.replies_to(first)
    assert "status: the bot's current state" in first.text
    assert "help [COMMAND]: this list" in second.text
    assert second.visibility == "direct"


def test_a_promotion_waits_for_a_yes(world: World, versions: list[str]) -> None:
    with world.bot(bot=ADMIN):
        assert "There is no version 2020-01-01-1" in told(world, "promote 2020-01-01-1")
        asked = world.answer(order(world, f"promote {versions[0]}"))
        assert "Answer “yes” to this within 10 minutes" in asked.text
        assert Registry(world.data_dir).champion_name() == versions[1]
        assert f"{versions[0]} is the champion now" in told(world, "yes", in_reply_to=asked)
        assert Registry(world.data_dir).champion_name() == versions[0]
        assert "(champion)" in told(world, "models")


def test_a_rollback_can_be_cancelled(world: World, versions: list[str]) -> None:
    with world.bot(bot=ADMIN):
        asked = world.answer(order(world, "rollback"))
        assert "“rollback” is cancelled" in told(world, "いいえ", in_reply_to=asked)
        assert "Nothing waits for a yes" in told(world, "yes", in_reply_to=asked)
    assert Registry(world.data_dir).champion_name() == versions[1]


def test_another_admins_yes_does_not_confirm_an_order(world: World, versions: list[str]) -> None:
    bob = world.person("bob")
    with world.bot(bot={"admins": ["alice", "bob"]}):
        asked = world.answer(order(world, "rollback"))
        order(world, "yes", by=bob, in_reply_to=asked)
        assert "is the champion again" in told(world, "yes", in_reply_to=asked)
    assert Registry(world.data_dir).champion_name() == versions[0]


@pytest.mark.parametrize("place", ["nothing", "another answer", "another order", "somebody else's post"])
def test_a_yes_below_anything_but_the_question_confirms_nothing(world: World, versions: list[str], place: str) -> None:
    bob = world.person("bob")
    with world.bot(bot=ADMIN):
        other = world.answer(order(world, "jobs"))
        asked = world.answer(order(world, "rollback"))
        parents = {
            "nothing": None,
            "another answer": other,
            "another order": world.instance.status(asked.in_reply_to_id or 0),
            "somebody else's post": world.instance.post(bob, "@alice shall we?", visibility="direct"),
        }
        assert "Answer “yes” to the question itself" in told(world, "yes", in_reply_to=parents[place])
        assert Registry(world.data_dir).champion_name() == versions[1]
        assert "is the champion again" in told(world, "yes", in_reply_to=asked)
        assert "Nothing waits for a yes" in told(world, "yes", in_reply_to=asked)
    assert Registry(world.data_dir).champion_name() == versions[0]


def test_each_yes_confirms_the_order_that_it_is_below(world: World, versions: list[str]) -> None:
    with world.bot(bot=ADMIN):
        first = world.answer(order(world, f"promote {versions[0]}"))
        second = world.answer(order(world, "rollback"))
        assert "“rollback” is cancelled" in told(world, "no", in_reply_to=second)
        assert f"{versions[0]} is the champion now" in told(world, "yes", in_reply_to=first)


def test_a_yes_counts_while_the_record_of_its_question_is_still_written(world: World, versions: list[str]) -> None:
    slow = Fault(kind="store_then_delay", path="/api/v1/statuses", methods=("POST",), times=1, seconds=1.0)
    with world.bot(bot=ADMIN, mastodon={"request_timeout_s": 10.0}):
        world.instance.faults.add(slow)
        asked = world.answer(order(world, "rollback"))  # the bot has no response yet
        assert "is the champion again" in told(world, "yes", in_reply_to=asked)
    assert Registry(world.data_dir).champion_name() == versions[0]


def test_a_training_is_acknowledged_and_its_verdict_reported_with_figures_and_picture(
    world: World, versions: list[str]
) -> None:
    plan(world.data_dir, train=["better"])
    with world.bot(bot=ADMIN | {"pictures": True}):
        assert "Train starts now" in told(world, "train")
        news = message(world, "Training done")
    assert news.visibility == "direct"
    for part in ("is the champion now", "Why: ", "brazil: recall 0.90 (0.80)", f"champion so far, {versions[1]}"):
        assert part in "".join(each.text for each in messages(world))
    (picture,) = news.media
    assert picture.description.startswith("Confusion matrix.")
    assert "20 of brazil answered: 18 as brazil, 2 as china." in picture.description


@pytest.mark.usefixtures("versions")
def test_a_crashed_training_is_reported_and_the_bot_still_answers(world: World) -> None:
    plan(world.data_dir, train=["crash"])
    with world.bot(bot=ADMIN) as bot:
        told(world, "train")
        assert "killed by SIGABRT" in message(world, "training failed").text
        assert "train: off (last" in told(world, "jobs")
        world.answer(world.ask())
        assert bot.failure is None


@pytest.mark.usefixtures("versions")
def test_a_stop_ends_a_training_too_and_it_does_not_count_as_a_turn(world: World) -> None:
    plan(world.data_dir, train=["hang"])
    with world.bot(bot=ADMIN):
        told(world, "train")
        (training,) = until(psutil.Process().children)
    assert not training.is_running()
    records = Records(world.data_dir / "bot.sqlite3")
    assert [run.outcome for run in records.runs(limit=5, job="train")] == ["stopped"]
    records.close()


def test_a_scrape_reports_its_new_photos(world: World) -> None:
    plan(world.data_dir, scrape=[7])
    with world.bot(bot=ADMIN):
        assert "Scrape starts now" in told(world, "集めて")
        assert "7 photos held" in message(world, "Scrape done").text


@pytest.mark.usefixtures("versions")
def test_a_new_champion_is_announced_in_public_only_when_switched_on(world: World) -> None:
    plan(world.data_dir, train=["better", "better"])
    with world.bot(bot=ADMIN):
        told(world, "train")
        message(world, "Training done")
        assert not [each for each in messages(world) if each.visibility != "direct"]
        assert "are on" in told(world, "announce on")
        told(world, "train")
        public = message(world, "I have learned from 300 photos")
    assert public.visibility == "public"


@pytest.mark.usefixtures("versions")
def test_reports_wait_during_quiet_hours(world: World) -> None:
    plan(world.data_dir, train=["worse"])
    with world.bot(bot=ADMIN) as bot:
        assert "Quiet until" in told(world, "quiet 8")
        told(world, "train")
        until(lambda: bot.operations.records.queued())
        assert "The last seven days" in told(world, "report")
        assert not messages(world)
        assert "No longer quiet" in told(world, "quiet 0")
        message(world, "does not serve")


def test_failed_mentions_are_shown_and_tried_again(world: World) -> None:
    with world.bot(bot=ADMIN) as bot:
        question = world.ask(by=world.person("bob"))
        world.answer(question)
        settle(bot)
        entry = bot.store.inbox.by_status(str(question.id))
        assert entry is not None
        bot.store.inbox.finish(entry.notification_id, Outcome("failed", reason="HTTP 422"))
        assert f"{entry.notification_id} failed, 1 tries HTTP 422" in told(world, "inbox")
        assert "1 will be tried again" in told(world, f"retry {entry.notification_id}")
        assert "Nothing to try again" in told(world, "retry")


def test_the_log_order_shows_warnings_without_mentioning_anybody(world: World) -> None:
    world.log_lines = ["WARNING bot.mentions.worker: deferred by @bob https://example.social/1"]
    with world.bot(bot=ADMIN):
        answer = world.answer(order(world, "log"))
    assert "deferred by ＠bob" in answer.text
    assert [each.acct for each in answer.mentions] == ["alice"]


def test_a_repeated_order_gets_the_same_answer_and_is_executed_once(world: World) -> None:
    with world.bot(bot=ADMIN) as bot:
        told(world, "pause")
        first, again, another = (
            bot.operations.handlers.execute(order_id, str(world.alice.id), "resume", language="en")
            for order_id in ("1", "1", "2")
        )
    assert first is not None
    assert first.startswith("Resumed")
    assert again == first
    assert another is not None
    assert another.startswith("I was not paused")


def test_an_order_is_logged_with_its_outcome(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with world.bot(bot=ADMIN):
        told(world, "announce off")
    assert "order by=alice command=announce argument=off outcome=Public posts" in caplog.text


def test_a_promotion_by_the_real_trainer(world: World, versions: list[str], tmp_path: Path) -> None:
    from bot.admin.subprocesses import Subprocesses
    from bot.config import ScheduleSettings

    subprocesses = Subprocesses(ScheduleSettings(), tmp_path / "log", environ=world.environment())
    ended = subprocesses.run("promote", versions[0])
    assert (ended.status, ended.last_line) == (0, f"{versions[0]} is the champion now")
    assert "2020-01-01-1" in subprocesses.run("promote", "2020-01-01-1").why


@pytest.mark.usefixtures("versions")
def test_new_photos_are_counted_since_the_newest_version(world: World) -> None:
    from trainer.registry import serving

    add_photos(world.data_dir, 3, fetched_at=datetime(2026, 1, 1, tzinfo=UTC))
    add_photos(world.data_dir, 4, fetched_at=datetime(2026, 1, 3, tzinfo=UTC))
    holdings = serving.holdings(world.settings())
    assert (sum(holdings.n_by_label.values()), holdings.n_new) == (7, 4)


@pytest.mark.usefixtures("versions")
def test_review_tells_the_last_numbers_at_once_and_the_new_ones_when_they_are_counted(world: World) -> None:
    add_photos(world.data_dir, 9, fetched_at=datetime(2026, 1, 3, tzinfo=UTC))
    plan(world.data_dir, review=[4])
    with world.bot(bot=ADMIN) as bot:
        first = told(world, "review")
        assert "No review yet." in first
        assert "No page is open." in first
        assert "I have the photos looked through again" in first
        done = message(world, "Review done.")
        assert done.visibility == "direct"
        assert "4 suspects among 9 photos, 0 min ago: label 3, blank 1." in done.text
        assert "By label: japan 4." in done.text
        settle(bot)
        again = told(world, "確認")
        assert "4 suspects among 9 photos" in again
        assert "looked through again" not in again
        settle_by_hand(world.data_dir, "drop", "1")
        settle_by_hand(world.data_dir, "keep", "2")
        assert "Settled by hand since then: 2; in all: drop 1, keep 1." in told(world, "review")


@pytest.mark.usefixtures("versions")
def test_review_names_an_open_page_without_its_token_and_without_a_link(world: World) -> None:
    save_review(world.data_dir, LastReview(datetime.now(UTC), 0))
    with world.bot(bot=ADMIN):
        with page_served(world.data_dir, "127.0.0.1:4321"):
            open_ = told(world, "review")
        closed = told(world, "review")
    assert "The page is open at 127.0.0.1:4321 on the trainer's machine" in open_
    assert "ssh -L 4321:127.0.0.1:4321" in open_
    assert "token" not in open_
    assert "://" not in open_
    assert "0 suspects among 0 photos, 0 min ago: none." in closed
    assert "No page is open." in closed


@pytest.mark.usefixtures("versions")
def test_admins_hear_of_a_review_that_failed_only_if_they_asked_for_it(world: World) -> None:
    plan(world.data_dir, review=["there are no photos yet", "there are no photos yet"])
    with world.bot(bot=ADMIN) as bot:
        told(world, "review")
        assert "The review failed: there are no photos yet." in message(world, "The review failed").text
        with pytest.raises(ProjectError):
            bot.operations.jobs.review(False)
        assert bot.operations.records.queued() == []


def test_a_late_yes_does_nothing(world: World, versions: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.admin.handlers.CONFIRM_WITHIN_S", -1.0)
    with world.bot(bot=ADMIN):
        asked = world.answer(order(world, "rollback"))
        assert "Too late for “rollback”" in told(world, "yes", in_reply_to=asked)
    assert Registry(world.data_dir).champion_name() == versions[1]
