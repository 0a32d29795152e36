"""Only whoever posted a photo lets the bot learn from it, and can take that back in any way that people try."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from PIL import Image

from bot.app import Bot
from bot.mentions import contributions, withdrawal
from sandbox.faults import Fault
from sandbox.instance import Account, Status
from sandbox.instance.records import Media
from tests.bot.conftest import World, photo, settle, until
from tests.bot.mentions.test_consent import agree
from tests.bot.mentions.test_etiquette import refusal
from trainer.errors import FetchError, StorageError
from trainer.photos.contributions import Contribution, Contributions
from trainer.review_state import LastReview, save_review
from trainer.training.contributed import tidy

ASK = {"contributions": "ask"}
KEPT, NOT_KEPT = "I keep a small copy", "I did not keep this photo"
WORDS = "only words in answer to us"


def folder(world: World) -> Contributions:
    return Contributions(world.data_dir)


def held(world: World) -> list[Contribution]:
    return folder(world).all()


def learn(world: World, answer: Status, by: Account | None = None, text: str = "learn from this") -> Status:
    """The word below an answer that the bot may learn from its photo."""
    return world.ask(f"@dokocos {text}", label=None, in_reply_to=answer, by=by or world.alice)


def picture(world: World, number: int, of: Account | None = None) -> Media:
    """A photo like no other."""
    return world.instance.attach(of or world.alice, photo("china", size=(96, 100 + number)))


def contribute(world: World, **options: object) -> tuple[Status, Status, Status, Status]:
    """A question with a photo, its answer, the word, and the thanks."""
    question = world.ask(**options)  # type: ignore[arg-type]
    answer = world.answer(question)
    word = learn(world, answer)
    return question, answer, word, world.answer(word)


@pytest.mark.every_profile
@pytest.mark.parametrize("text", ["learn from this", "学習していいよ！"])
def test_an_authors_photo_is_kept_small_and_drawn_anew_until_a_person_decides(world: World, text: str) -> None:
    large = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    Image.new("RGB", (900, 1200), (40, 60, 220)).save(large, "JPEG", exif=exif)
    attached = world.instance.attach(world.alice, large.getvalue())
    with world.bot(bot=ASK) as bot:
        answer = world.answer(world.ask(attachments=[attached]))
        word = learn(world, answer, text=text)
        assert KEPT in world.answer(word).text
        (found,) = held(world)
        data = (world.data_dir / found.path).read_bytes()
        with Image.open(io.BytesIO(data)) as kept:
            assert (kept.format, kept.size, dict(kept.getexif())) == ("JPEG", (350, 467), {})
        assert b"taken at home" not in data
        assert (found.width, found.height, found.label) == (350, 467, "japan")
        assert refusal(bot, learn(world, answer)) == contributions.AGAIN
        assert held(world) == [found]
        assert tidy(world.settings(), now=datetime.now(UTC)) == 0
        (readable,) = folder(world).photos()  # by the trainer, which has measured it
        assert (readable.photo_id, len(readable.phash)) == (found.id, 64)


def test_it_is_off_by_default(world: World) -> None:
    with world.bot() as bot:
        assert refusal(bot, learn(world, world.answer(world.ask()))) == WORDS
    assert folder(world).is_empty()


def test_nobody_but_the_photos_author_lets_the_bot_learn_from_it(world: World) -> None:
    carol, bob = world.person("carol"), world.person("bob")
    above = world.instance.post(carol, "my costume", attachments=[world.photo("brazil", of=carol)])
    with world.bot(bot=ASK) as bot:
        own = world.answer(world.ask())
        assert refusal(bot, learn(world, own, bob)) == WORDS
        answer = agree(world, world.answer(world.ask(label=None, in_reply_to=above)), carol)
        for person in (world.alice, bob):  # who asked, and a bystander
            assert refusal(bot, learn(world, answer, person)) == WORDS
        assert held(world) == []
        assert KEPT in world.answer(learn(world, answer, carol)).text
        (found,) = held(world)
        assert (found.label, found.photo_id) == ("brazil", str(above.id))


def test_the_word_elsewhere_or_with_more_words_is_none(world: World) -> None:
    with world.bot(bot=ASK) as bot:
        answer = world.answer(world.ask())
        between = world.instance.post(world.alice, "@dokocos hm", in_reply_to=answer)
        help_ = world.answer(world.ask(label=None))
        refusal(bot, learn(world, between))
        refusal(bot, learn(world, help_))
        refusal(bot, learn(world, answer, text="do not learn from this"))
        assert "China" in world.answer(world.ask("@dokocos learn from this", "china", in_reply_to=answer)).text
        assert held(world) == []


@pytest.mark.parametrize("what", ["direct", "private", "sensitive", "two photos", "edited", "gone"])
def test_what_is_not_public_single_and_unchanged_is_not_kept(
    world: World, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    options: dict[str, object] = {"visibility": what} if what in ("direct", "private") else {}
    if what == "two photos":
        options["attachments"] = [world.photo(), world.photo("china")]
    if what == "sensitive":
        options["sensitive"] = True
    with world.bot(bot=ASK, mastodon={"catch_up_every_s": 0.2}) as bot:  # no stream brings strangers' direct posts
        question = world.ask(**options)  # type: ignore[arg-type]
        answer = world.answer(question)
        if what == "edited":
            question.media[:] = [world.photo("china")]
            world.instance.edit(question, "@dokocos another one")
        if what == "gone":
            monkeypatch.setattr(bot.photo_reader.fetcher, "get", gone)
        assert NOT_KEPT in world.answer(learn(world, answer)).text
    assert folder(world).is_empty()


def gone(*_: object, **__: object) -> None:
    raise FetchError("HTTP 404", status=404)


def test_of_an_account_five_photos_are_kept_and_of_all_none_twice(world: World) -> None:
    bob = world.person("bob")
    with world.bot(bot=ASK | {"max_answers_per_hour": 100}):
        for number in range(6):
            *_, thanks = contribute(world, attachments=[picture(world, number)])
            assert (KEPT if number < 5 else NOT_KEPT) in thanks.text
        copied = world.answer(world.ask(attachments=[picture(world, 0, bob)], by=bob))
        assert NOT_KEPT in world.answer(learn(world, copied, bob)).text
        own = world.answer(world.ask(attachments=[picture(world, 9, bob)], by=bob))
        assert KEPT in world.answer(learn(world, own, bob)).text
    assert len(held(world)) == 6


def _delete_under_thanks(world: World, bot: Bot, posts: tuple[Status, ...]) -> None:  # noqa: ARG001
    world.ask("@dokocos 消して", label=None, in_reply_to=posts[3])


def _delete_under_answer(world: World, bot: Bot, posts: tuple[Status, ...]) -> None:  # noqa: ARG001
    world.ask("@dokocos delete", label=None, in_reply_to=posts[1])


def _photo_deleted(world: World, bot: Bot, posts: tuple[Status, ...]) -> None:  # noqa: ARG001
    world.instance.delete(posts[0])


def _photo_edited_out(world: World, bot: Bot, posts: tuple[Status, ...]) -> None:  # noqa: ARG001
    posts[0].media[:] = [world.photo("china")]
    world.instance.edit(posts[0], "@dokocos another one")


def _photo_now_sensitive(world: World, bot: Bot, posts: tuple[Status, ...]) -> None:  # noqa: ARG001
    posts[0].sensitive = True
    world.instance.edit(posts[0], "@dokocos which gallery?")


def _word_deleted(world: World, bot: Bot, posts: tuple[Status, ...]) -> None:  # noqa: ARG001
    world.instance.delete(posts[2])


def _word_edited(world: World, bot: Bot, posts: tuple[Status, ...]) -> None:  # noqa: ARG001
    world.instance.edit(posts[2], "@dokocos rather not")


def _stop(world: World, bot: Bot, posts: tuple[Status, ...]) -> None:  # noqa: ARG001
    world.ask("@dokocos やめて", label=None)


def _tag_in_the_profile(world: World, bot: Bot, posts: tuple[Status, ...]) -> None:  # noqa: ARG001
    world.alice.note = "#nobot"


def _opted_out_by_move(world: World, bot: Bot, posts: tuple[Status, ...]) -> None:  # noqa: ARG001
    bot.store.opt_outs.add(str(world.alice.id))


def _answer_deleted(world: World, bot: Bot, posts: tuple[Status, ...]) -> None:  # noqa: ARG001
    world.instance.delete(posts[1])


WAYS = (
    _delete_under_thanks,
    _delete_under_answer,
    _photo_deleted,
    _photo_edited_out,
    _photo_now_sensitive,
    _word_deleted,
    _word_edited,
    _stop,
    _tag_in_the_profile,
    _opted_out_by_move,
    _answer_deleted,
)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.strip("_"))
def test_a_photo_is_taken_back_in_every_way(
    world: World, monkeypatch: pytest.MonkeyPatch, way: Callable[[World, Bot, tuple[Status, ...]], None]
) -> None:
    monkeypatch.setattr(withdrawal, "LOOK_EVERY_S", 0.2)
    with world.bot(bot=ASK) as bot:
        posts = contribute(world)
        settle(bot)
        (found,) = held(world)
        way(world, bot, posts)
        until(lambda: not held(world) and not (world.data_dir / found.path).exists())
        until(folder(world).is_empty)  # the trainer was started, and has removed all traces


def test_what_others_take_back_takes_no_photo_of_somebody_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(withdrawal, "LOOK_EVERY_S", 0.2)
    bob = world.person("bob")
    with world.bot(bot=ASK) as bot:
        _, answer, _, thanks = contribute(world)
        for parent in (answer, thanks):
            refusal(bot, world.ask("@dokocos delete", label=None, in_reply_to=parent, by=bob))
        world.answer(world.ask("@dokocos stop", label=None, by=bob))
        n_looks = bot.withdrawal._n_looks
        until(lambda: bot.withdrawal._n_looks > n_looks + 2)
        assert len(held(world)) == 1


def test_an_outage_takes_nothing_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(withdrawal, "LOOK_EVERY_S", 0.1)
    with world.bot(bot=ASK) as bot:
        contribute(world)
        settle(bot)
        for fault in (Fault(kind="answer"), Fault(kind="answer", status=404, html=True)):
            world.instance.faults.add(fault.model_copy(update={"path": "/api/v1/statuses.*", "times": 10}))
        n_looks = bot.withdrawal._n_looks
        until(lambda: bot.withdrawal._n_looks > n_looks + 5)
        assert len(held(world)) == 1


def test_photos_that_are_held_can_be_taken_back_after_a_restart_and_after_it_was_switched_off(world: World) -> None:
    with world.bot(bot=ASK):
        *_, thanks = contribute(world)
    with world.bot(bot={"contributions": "off"}):
        assert len(held(world)) == 1
        world.ask("@dokocos delete", label=None, in_reply_to=thanks)
        until(lambda: not held(world))


def test_a_full_disk_keeps_nothing_and_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StorageError("the disk is full")

    with world.bot(bot=ASK):
        answer = world.answer(world.ask())
        monkeypatch.setattr(Contributions, "put", full)
        assert NOT_KEPT in world.answer(learn(world, answer)).text
    assert folder(world).is_empty()


def test_a_bot_killed_after_it_kept_a_photo_thanks_once_and_keeps_it_once(world: World) -> None:
    with world.bot(bot=ASK) as bot:
        answer = world.answer(world.ask())
        world.instance.faults.add(Fault(kind="store_then_cut", path="/api/v1/statuses", methods=("POST",), times=1))
        word = learn(world, answer)
        until(lambda: bot.store.inbox.counts().get("answered") == 2)
        settle(bot)
        assert len(world.answers(word)) == 1
    assert len(held(world)) == 1


def test_an_admin_hears_how_many_wait_and_sees_none(world: World) -> None:
    bob = world.person("bob")
    if world.instance.settings.profile.filters_notifications:
        world.client().home.accept_private_mentions()
    save_review(world.data_dir, LastReview(datetime.now(UTC), 0))
    with world.bot(bot=ASK | {"admins": ["bob"]}):
        contribute(world)
        told = world.answer(world.ask("@dokocos review", label=None, by=bob, visibility="direct"))
    assert "Contributed by their authors, and waiting for a decision: 1." in told.text
    assert told.media == []


def test_every_photo_is_checked_in_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contributions, "PER_LOOK", 1)
    with world.bot(bot=ASK) as bot:
        for number in range(3):
            contribute(world, attachments=[picture(world, number)])
        settle(bot)
        keeper = bot.withdrawal._contributions
        keeper._last = ""
        seen = [each.id for _ in range(4) for each in keeper._next()]
        assert seen[:3] == sorted(each.id for each in held(world))
