"""How often people agree: figures, who is told what, and the sample that admins judge."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest

from bot.admin.agreement import MIN_ACCOUNTS, Opinions, interval, is_worse
from bot.admin.sampling import Sampler
from bot.storage.inbox import Outcome
from bot.storage.opinions import Agreement
from bot.storage.records import DAY_S
from sandbox.instance import Status
from tests.bot.admin.conftest import Office
from tests.bot.admin.test_orders import message, messages, order
from tests.bot.conftest import World, settle, until
from tests.bot.storage.test_store import mention
from tests.fake_trainer import add_version

MONDAY = datetime(2026, 11, 23, 9, tzinfo=UTC).timestamp()


def answers(office: Office, n: int, *, version: str, right: int | None = None, first: int = 0) -> None:
    """Mentions answered with japan, each of another account; of all, unless `right` is None, so many agree."""
    for number in range(first, first + n):
        office.store.inbox.put(mention(number, account_id=f"account{number}"), look_first=False)
        outcome = Outcome("answered", kind="answer", reply_id=f"r{number}", label="japan", version=version)
        office.store.inbox.finish(str(number), outcome)
        if right is not None:
            office.store.opinions.note(
                str(number),
                account_id=f"account{number}",
                status_id=f"s{number}",
                is_right=number - first < right,
                said_at=office.clock.now,
            )


@pytest.mark.parametrize(
    ("n_right", "n", "expected"), [(5, 10, (0.237, 0.763)), (0, 10, (0.0, 0.278)), (81, 263, (0.255, 0.366))]
)
def test_the_interval_is_wilsons(n_right: int, n: int, expected: tuple[float, float]) -> None:
    assert interval(n_right, n) == pytest.approx(expected, abs=5e-4)


def test_the_words_have_label_version_interval_and_who_answers() -> None:
    said = [Agreement("japan", "v2", 10, 5), Agreement("china", "v1", 2, 2)]
    text = "\n".join(Opinions(said, [Agreement("japan", "v2", 4, 3)]).lines())
    for part in (
        "7 of 12",
        "- japan, version v2: 5 of 10 (0.24 to 0.76)",
        "Only who wants to",
        "random sample",
        "3 of 4",
    ):
        assert part in text
    assert Opinions().lines() == []


def test_a_version_is_worse_only_if_that_is_sure() -> None:
    assert is_worse((60, 20), (60, 50))
    assert not is_worse((60, 50), (60, 20))
    assert not is_worse((60, 40), (60, 45))
    assert not is_worse((MIN_ACCOUNTS - 1, 0), (100, 100))


def test_admins_are_told_once_of_a_champion_that_people_disagree_with_more(office: Office) -> None:
    old, new = (add_version(office.data_dir, right=right, promoted=True) for right in (0.6, 0.8))
    answers(office, 30, version=old, right=27)
    office.clock.now += DAY_S
    answers(office, 30, version=new, right=10, first=30)
    for _ in range(3):
        office.jobs.watch(False)
    (told,) = office.waiting()
    assert f"People disagree with champion {new} more than with {old}" in told
    office.clock.now += 5 * DAY_S
    office.jobs.watch(False)
    assert office.waiting() == []


def test_one_account_counts_once_for_each_version(office: Office) -> None:
    answers(office, 30, version="v1", right=0)
    for number in range(30):
        said = {"status_id": f"l{number}", "is_right": number > 0, "said_at": office.clock.now + number}
        office.store.opinions.note(str(number), account_id="loud", **said)  # type: ignore[arg-type]
    assert office.store.opinions.by_account("v1") == (31, 1)


def test_the_weekly_report_has_what_people_said_in_that_week(office: Office) -> None:
    answers(office, 3, version="v1", right=2)
    assert "japan, version v1: 2 of 3" in office.jobs.week()
    office.clock.now += 8 * DAY_S
    assert "version v1" not in office.jobs.week()


# The sample


@pytest.fixture
def _private_mentions_come_at_once(world: World) -> None:
    if world.instance.settings.profile.filters_notifications:
        world.client().home.accept_private_mentions()


def sample_message(world: World) -> Status:
    return message(world, "Sample 1:")


@pytest.mark.every_profile
@pytest.mark.usefixtures("_private_mentions_come_at_once")
def test_a_sampled_answer_comes_as_a_link_and_the_admins_word_stands_apart(world: World) -> None:
    with world.bot(bot={"admins": ["alice"], "sample_answers_per_week": 3}) as bot:
        bob = world.person("bob")
        answer = world.answer(world.ask(by=bob))
        world.answer(world.ask(by=bob, visibility="direct"))
        world.answer(world.ask(by=bob, visibility="private"))
        settle(bot)
        bot.operations.sampler.now = lambda: datetime.now(UTC).timestamp() + 7 * DAY_S
        assert bot.operations.sampler.run_job(False) == "1 answers sent to the admins"
        bot.operations.outbox.send()
        sent = sample_message(world)
        assert sent.visibility == "direct"
        assert f"/{answer.id}" in sent.text
        assert "right" in world.answer(order(world, "right", in_reply_to=sent)).text
        assert "wrong" in world.answer(order(world, "違う", in_reply_to=sent)).text
        assert bot.store.opinions.tally_samples() == [Agreement("japan", "v1", 1, 0)]
        assert bot.store.opinions.tally() == []


@pytest.mark.usefixtures("_private_mentions_come_at_once")
def test_nobody_but_an_admin_calls_a_sample_right_or_wrong(world: World) -> None:
    mallory = world.person("mallory")
    forged = world.instance.post(mallory, "@dokocos Sample 1: right?", visibility="direct")
    with world.bot(bot={"admins": ["alice"], "sample_answers_per_week": 3}) as bot:
        question = world.ask()
        world.answer(question)
        settle(bot)
        bot.store.opinions.draw([each.notification_id for each in bot.store.inbox.entries() if each.label])
        for by in (mallory, world.alice):
            order(world, "right", by=by, in_reply_to=forged)
        until(lambda: len(bot.store.inbox.entries()) == 4)
        settle(bot)
        assert bot.store.opinions.tally_samples() == []
        assert messages(world) == []


def test_a_weeks_sample_is_drawn_once_at_random_and_is_no_larger_than_asked_for(office: Office) -> None:
    office.clock.now = MONDAY - 3 * DAY_S
    answers(office, 40, version="v1")
    with office.store._database.transaction() as db:
        db.execute("UPDATE inbox SET visibility = 'public'")
    office.clock.now = MONDAY
    sampler = Sampler(
        office.outbox._client, office.store, office.outbox, per_week=5, now=office.clock, chance=random.Random(1)
    )
    for _ in range(3):
        sampler._draw()
        office.clock.now += DAY_S
    drawn = [sample.reply_id for sample in office.store.opinions.unsent()]
    assert len(set(drawn)) == 5
    assert drawn != [f"r{number}" for number in range(5)]
    assert sampler.run_job(False) == "0 answers sent to the admins"  # these answers are not on the instance
    assert office.store.opinions.unsent() == []


def test_nothing_is_sampled_by_default(world: World) -> None:
    with world.bot(bot={"admins": ["alice"]}) as bot:
        world.answer(world.ask())
        settle(bot)
        bot.operations.sampler.now = lambda: datetime.now(UTC).timestamp() + 7 * DAY_S
        assert bot.operations.sampler.run_job(False) == "off"
        assert bot.store.opinions.n_drawn(since=0.0) == 0
