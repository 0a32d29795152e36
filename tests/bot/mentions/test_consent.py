"""Consent is an answer to the bot's own request, for one photo and one asker; what it led to can be taken back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import pytest

from bot.app import Bot
from bot.mentions import withdrawal
from sandbox.faults import Fault
from sandbox.instance import Account, Status
from tests.bot.conftest import World, settle, until
from tests.bot.mentions.test_etiquette import refusal

ASKED_BEFORE = "the photo's author was asked before"


@pytest.fixture
def carol(world: World) -> Account:
    return world.person("carol")


@pytest.fixture
def above(world: World, carol: Account) -> Status:
    """Somebody else's photo."""
    return world.instance.post(carol, "my costume", attachments=[world.photo("brazil", of=carol)])


def ask(world: World, above: Status, by: Account | None = None) -> Status:
    """A question below somebody else's photo."""
    return world.ask(label=None, in_reply_to=above, by=by or world.alice)


def agree(world: World, request: Status, by: Account) -> Status:
    """The bot's answer to a "yes" below its request."""
    return world.answer(world.ask("@dokocos yes", label=None, by=by, in_reply_to=request))


@pytest.mark.parametrize("place", ["another question", "the photo", "the question", "a help text", "a second request"])
def test_yes_to_anything_but_the_request_is_no_consent(world: World, carol: Account, above: Status, place: str) -> None:
    bob = world.person("bob")
    with world.bot() as bot:
        question = ask(world, above)
        world.answer(question)
        other = world.instance.post(carol, "another one", attachments=[world.photo(of=carol)])
        parents: dict[str, Callable[[], Status]] = {
            "another question": lambda: world.instance.post(bob, "@carol @dokocos tea?", in_reply_to=above),
            "the photo": lambda: above,
            "the question": lambda: question,
            "a help text": lambda: world.answer(
                world.ask(label=None, by=bob, in_reply_to=world.instance.post(bob, "hm", in_reply_to=above))
            ),
            "a second request": lambda: world.answer(ask(world, other, bob)),
        }
        yes = world.ask("@dokocos yes", label=None, by=carol, in_reply_to=parents[place]())
        until(lambda: (entry := bot.store.inbox.by_status(str(yes.id))) and entry.state in ("answered", "refused"))
        assert refusal(bot, ask(world, above)) == ASKED_BEFORE
        assert bot.store.consents.find(photo_id=str(above.id), asker_id=str(world.alice.id)) is None


def test_consent_is_for_the_asker_and_the_photo_alone_and_its_time_is_kept(
    world: World, carol: Account, above: Status
) -> None:
    dave = world.person("dave")
    other = world.instance.post(carol, "another one", attachments=[world.photo(of=carol)])
    with world.bot() as bot:
        agree(world, world.answer(ask(world, above)), carol)
        assert "Brazil gallery" in world.answer(ask(world, above)).text
        assert refusal(bot, ask(world, above, dave)) == ASKED_BEFORE
        assert "somebody else's" in world.answer(ask(world, other)).text
        with sqlite3.connect(world.data_dir / "bot.sqlite3") as db:
            ((photo_id, asker_id, author_id, _, _, at),) = db.execute("SELECT * FROM consents").fetchall()
        assert (photo_id, asker_id, author_id) == (str(above.id), str(world.alice.id), str(carol.id))
        assert at > above.created_at.timestamp()
        bot.store.consents.prune(before=at + 1)
        assert refusal(bot, ask(world, above)) == ASKED_BEFORE


@pytest.mark.parametrize("how", ["deleted", "edited"])
def test_a_yes_that_is_gone_counts_no_more(world: World, carol: Account, above: Status, how: str) -> None:
    with world.bot() as bot:
        request = world.answer(ask(world, above))
        yes = world.ask("@dokocos yes", label=None, by=carol, in_reply_to=request)
        world.answer(yes)
        if how == "deleted":
            world.instance.delete(yes)
        else:
            world.instance.edit(yes, "@dokocos no")
        assert refusal(bot, ask(world, above)) == ASKED_BEFORE


def test_consent_is_not_for_photos_that_came_later(world: World, carol: Account, above: Status) -> None:
    with world.bot() as bot:
        agree(world, world.answer(ask(world, above)), carol)
        above.media.append(world.photo("japan", of=carol))
        world.instance.edit(above, "one more")
        assert refusal(bot, ask(world, above)) == ASKED_BEFORE


# Taking back


def two_answers(world: World, bot: Bot, carol: Account, above: Status) -> list[Status]:
    """Answers about Carol's photo: below her "yes", and to Alice."""
    answers = [agree(world, world.answer(ask(world, above)), carol), world.answer(ask(world, above))]
    settle(bot)
    return answers


def held(world: World, answers: list[Status]) -> list[Status]:
    return [each for each in answers if each in world.instance.statuses_of(world.me)]


@pytest.fixture
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(withdrawal, "LOOK_EVERY_S", 0.3)


@pytest.mark.usefixtures("_looks_often")
@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(
    "how", ["delete", "delete below her own", "stop", "post deleted", "photo edited out", "photo exchanged", "#nobot"]
)
def test_who_is_shown_can_take_every_answer_about_a_photo_away(
    world: World, carol: Account, above: Status, how: str, streaming: bool
) -> None:
    with world.bot(mastodon={"streaming": streaming}) as bot:
        answers = two_answers(world, bot, carol, above)
        own = world.answer(world.ask(by=carol))
        if how.startswith("delete"):
            world.ask("@dokocos delete", label=None, by=carol, in_reply_to=answers[how == "delete"])
        elif how == "#nobot":
            carol.note = "#nobot"
        elif how == "stop":
            world.ask("@dokocos stop", label=None, by=carol)
        elif how == "post deleted":
            world.instance.delete(above)
        else:
            above.media[:] = [] if how == "photo edited out" else [world.photo(of=carol)]
            world.instance.edit(above, "words alone")
        until(lambda: not held(world, answers))
        assert held(world, [own]) == [own]
        until(lambda: "answered" not in {entry.state for entry in bot.store.inbox.entries() if entry.reply_id in
                                         {str(each.id) for each in answers}})  # fmt: skip


@pytest.mark.usefixtures("_looks_often")
@pytest.mark.parametrize("how", ["delete", "stop", "post deleted"])
def test_answers_about_a_quoted_photo_are_taken_away_too(world: World, carol: Account, above: Status, how: str) -> None:
    with world.bot() as bot:
        answers = [agree(world, world.answer(world.ask(label=None, quoting=above)), carol)]
        answers.append(world.answer(world.ask(label=None, quoting=above)))
        assert "Brazil gallery" in answers[1].text
        settle(bot)
        if how == "post deleted":
            world.instance.delete(above)
        else:
            world.ask(f"@dokocos {how}", label=None, by=carol, in_reply_to=answers[1])
        until(lambda: not held(world, answers))


@pytest.mark.usefixtures("_looks_often")
@pytest.mark.parametrize("how", ["deleted", "edited"])
def test_an_answer_goes_with_the_yes_that_it_needed(world: World, carol: Account, above: Status, how: str) -> None:
    with world.bot() as bot:
        _, answer = two_answers(world, bot, carol, above)
        yes = next(each for each in world.instance.statuses_of(carol) if "yes" in each.text)
        if how == "deleted":
            world.instance.delete(yes)
        else:
            world.instance.edit(yes, "@dokocos no")
        until(lambda: not held(world, [answer]))


@pytest.mark.usefixtures("_looks_often")
def test_delete_takes_the_consent_back_too(world: World, carol: Account, above: Status) -> None:
    with world.bot() as bot:
        _, answer = two_answers(world, bot, carol, above)
        world.ask("@dokocos delete", label=None, by=carol, in_reply_to=answer)
        until(lambda: not held(world, [answer]))
        assert refusal(bot, ask(world, above)) == ASKED_BEFORE


@pytest.mark.usefixtures("_looks_often")
def test_answers_stay_while_the_photo_does(world: World, carol: Account, above: Status) -> None:
    with world.bot() as bot:
        answers = two_answers(world, bot, carol, above)
        world.instance.edit(above, "a better text")
        n_before = bot.withdrawal._n_looks
        until(lambda: bot.withdrawal._n_looks > n_before + 2)
        assert held(world, answers) == answers


def test_only_who_is_shown_or_asked_can_delete_an_answer(world: World, carol: Account, above: Status) -> None:
    mallory = world.person("mallory")
    world.instance.post(mallory, "mine", attachments=[world.photo(of=mallory)], in_reply_to=above)
    with world.bot() as bot:
        answers = two_answers(world, bot, carol, above)
        for answer in answers:
            refusal(bot, world.ask("@dokocos delete", label=None, by=mallory, in_reply_to=answer))
    assert held(world, answers) == answers


def test_the_author_can_delete_an_answer_of_which_the_record_is_lost(
    world: World, carol: Account, above: Status
) -> None:
    question = ask(world, above)
    reply = world.instance.post(world.me, "@alice an answer of last year", in_reply_to=question)
    with world.bot():
        world.ask("@dokocos delete", label=None, by=carol, in_reply_to=reply)
        until(lambda: not held(world, [reply]))


def test_the_author_cannot_delete_the_request_and_is_not_asked_again(
    world: World, carol: Account, above: Status
) -> None:
    with world.bot() as bot:
        request = world.answer(ask(world, above))
        refusal(bot, world.ask("@dokocos delete", label=None, by=carol, in_reply_to=request))
        assert held(world, [request]) == [request]
        assert refusal(bot, ask(world, above)) == ASKED_BEFORE


@pytest.mark.usefixtures("_looks_often")
def test_an_answer_on_its_way_while_the_author_opts_out_is_taken_back(
    world: World, carol: Account, above: Status
) -> None:
    with world.bot() as bot:
        two_answers(world, bot, carol, above)
        slow = Fault(kind="store_then_delay", path="/api/v1/statuses", methods=("POST",), times=1, seconds=1.0)
        world.instance.faults.add(slow)
        question = ask(world, above)
        world.answer(question)  # it is posted, but the bot has no response yet
        world.ask("@dokocos stop", label=None, by=carol)
        until(lambda: not world.answers(question))
        settle(bot)
        entry = bot.store.inbox.by_status(str(question.id))
        assert entry is not None
        assert entry.state == "refused"


@pytest.mark.usefixtures("_looks_often")
def test_answers_are_taken_back_although_the_server_limits_deletions(
    world: World, carol: Account, above: Status
) -> None:
    with world.bot(bot={"retry_pause_s": 0.01}) as bot:
        answers = two_answers(world, bot, carol, above)
        full = Fault(kind="rate_limit", path=r"/api/v1/statuses/\d+", methods=("DELETE",), share=0.5, seconds=0.5)
        world.instance.faults.add(full)
        world.ask("@dokocos delete", label=None, by=carol, in_reply_to=answers[1])
        until(lambda: not held(world, answers))


def test_links_and_consents_are_pruned(world: World, carol: Account, above: Status) -> None:
    with world.bot() as bot:
        two_answers(world, bot, carol, above)
        bot.operations.jobs.now = lambda: 4e9
        bot.operations.jobs.prune(True)
    with sqlite3.connect(world.data_dir / "bot.sqlite3") as db:
        assert db.execute("SELECT (SELECT count(*) FROM shown) + (SELECT count(*) FROM consents)").fetchone() == (0,)


# Moving


def moved(world: World, old: Account, acct: str) -> Account:
    """The account that an old one has moved to, as its server tells."""
    old.moved_to = world.person(acct)
    return old.moved_to


def test_an_account_that_moved_keeps_its_stop_until_it_says_start(world: World, carol: Account) -> None:
    new = moved(world, carol, "carol@other.example")
    with world.bot() as bot:
        world.answer(world.ask("@dokocos stop", label=None, by=carol))
        bot.withdrawal.look()
        assert refusal(bot, world.ask(by=new)) == "opted out"
        world.answer(world.ask("@dokocos start", label=None, by=new))
        bot.withdrawal.look()
        world.answer(world.ask(by=new))
        assert refusal(bot, world.ask(by=carol)) == "opted out"


def test_photos_of_the_account_before_the_move_are_left_alone_too(world: World, carol: Account, above: Status) -> None:
    new = moved(world, carol, "carol@other.example")
    with world.bot() as bot:
        world.answer(world.ask("@dokocos stop", label=None, by=new))
        assert refusal(bot, ask(world, above)) == "the photo's author wants no bots"


def test_every_opted_out_account_is_looked_up_in_turn(world: World) -> None:
    people = [world.person(f"person{n}") for n in range(2 * withdrawal.MAX_MOVES + 1)]
    with world.bot() as bot:
        for person in people:
            bot.store.opt_outs.add(str(person.id))
        bot.store.opt_outs.add("404")
        for person in people:
            moved(world, person, f"{person.username}@other.example")
        for _ in range(6):
            bot.withdrawal.look()
        assert all(str(person.moved_to.id) in bot.store.opt_outs for person in people if person.moved_to)
