"""Who is answered, about whose photo, how often, and when answers are deleted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import requests

from bot.app import Bot
from bot.instance import parse
from bot.mentions import etiquette
from bot.storage.inbox import Entry
from sandbox.faults import Fault
from sandbox.instance import Status
from tests.bot.conftest import World, entry_of, photo, settle, until


def refusal(bot: Bot, question: Status) -> str:
    """Waits for the bot's refusal; returns its reason."""

    def refused() -> Entry | None:
        entry = entry_of(bot, question)
        return entry if entry and entry.state == "refused" else None

    entry: Entry = until(refused)
    return entry.reason


@pytest.mark.every_profile
def test_a_mention_without_a_photo_gets_help(world: World) -> None:
    with world.bot():
        assert "Mention me with a cosplay photo" in world.answer(world.ask(label=None)).text


@pytest.mark.every_profile
def test_another_bot_is_not_answered(world: World) -> None:
    robot = world.person("robot", bot=True)
    with world.bot() as bot:
        assert refusal(bot, world.ask(by=robot)) == "from another bot"


@pytest.mark.every_profile
def test_two_bots_do_not_talk_forever(world: World) -> None:
    """A bot that answers every mention and is not marked as a bot gets only a few answers."""
    with world.bot(bot={"max_answers_in_a_row": 3}) as bot:
        question = world.ask()
        for _ in range(3):
            reply = world.answer(question)
            question = world.ask(in_reply_to=reply)
        assert refusal(bot, question) == "enough answers in this thread"


@pytest.mark.parametrize(
    "tag", ["#nobot", "#NoBots", "#noai", "#no_ai", "＃nobot", "＃ＮｏＢｏｔ", "#no-bots", "無断転載・AI学習禁止です"]
)
def test_a_profile_that_asks_bots_to_stay_away_is_respected(world: World, tag: str) -> None:
    shy = world.person("shy", note=f"cosplayer {tag} she/her")
    with world.bot() as bot:
        assert refusal(bot, world.ask(by=shy)) == "the profile asks bots to stay away"


@pytest.mark.parametrize(
    "raw",
    [
        {"display_name": "shy #nobot"},
        {"fields": [{"name": "rules", "value": '<a class="mention hashtag" href="x">#<span>NoBot</span></a>'}]},
        {"fields": [{"name": "#noAI", "value": None}]},
        {"note": '<p>she/her<br /><a class="mention hashtag">#<span>noai</span></a></p>'},
    ],
)
def test_an_opt_out_tag_is_found_anywhere_in_a_profile(raw: dict[str, object]) -> None:
    assert etiquette.wants_no_bots(parse.account({"id": 1, "acct": "shy"} | raw))


def test_a_profile_with_only_a_similar_tag_is_answered(world: World) -> None:
    bold = world.person("bold", note="I like #nobotany and #noaiko")
    with world.bot():
        world.answer(world.ask(by=bold))


@pytest.mark.every_profile
@pytest.mark.parametrize("how", ["muting", "blocking"])
def test_a_muted_or_blocked_account_is_not_answered(world: World, how: str) -> None:
    question = world.ask()  # before, as the server hides later mentions
    getattr(world.me, how).add(world.alice.id)
    with world.bot() as bot:
        assert refusal(bot, question) == "blocked or muted"


def test_whether_an_account_is_muted_is_cached_for_a_while(world: World) -> None:
    with world.bot():
        world.answer(world.ask())
        world.instance.faults.add(Fault(kind="answer", path="/api/v1/accounts/relationships"))
        world.answer(world.ask())
    assert not world.instance.faults.fired


@pytest.mark.every_profile
def test_an_old_mention_is_not_answered(world: World) -> None:
    now = datetime.now(UTC).timestamp()
    question = world.ask()
    question.created_at = datetime.fromtimestamp(now, UTC) - timedelta(hours=49)
    with world.bot() as bot:
        assert refusal(bot, question) == "too old"


@pytest.mark.every_profile
def test_stop_and_start_work(world: World) -> None:
    with world.bot() as bot:
        assert "not answer you any more" in world.answer(world.ask("@dokocos stop", label=None)).text
        assert refusal(bot, world.ask()) == "opted out"
        assert "Good to have you back" in world.answer(world.ask("@dokocos start", label=None)).text
        world.answer(world.ask())


def test_stop_and_start_work_in_japanese(world: World) -> None:
    with world.bot() as bot:
        reply = world.answer(world.ask("@dokocos やめて！", label=None, language="ja"))
        assert "もうお返事しません" in reply.text
        assert refusal(bot, world.ask()) == "opted out"
        world.answer(world.ask("@dokocos はじめて", label=None, language="ja"))


@pytest.mark.every_profile
def test_confirmations_of_stop_and_start_count_against_the_limit(world: World) -> None:
    with world.bot(bot={"max_answers_per_hour": 2}) as bot:
        world.answer(world.ask("@dokocos stop", label=None))
        world.answer(world.ask("@dokocos start", label=None))
        assert refusal(bot, world.ask("@dokocos stop", label=None)) == "over the limit"
        assert refusal(bot, world.ask()) == "opted out"


@pytest.mark.every_profile
@pytest.mark.parametrize("word", ["delete", "消して"])
def test_delete_under_an_answer_removes_it(world: World, word: str) -> None:
    with world.bot() as bot:
        question = world.ask()
        reply = world.answer(question)
        request = world.ask(f"@dokocos {word}", label=None, in_reply_to=reply)
        until(lambda: not world.answers(question))
        assert refusal(bot, request) == "asked us to delete an answer"
        assert refusal(bot, question) == "answer deleted when asked to"


def test_an_answer_without_a_record_is_deleted_when_its_asker_says_so(world: World) -> None:
    mallory = world.person("mallory")
    question = world.ask("its notification was forgotten long ago")
    reply = world.instance.post(world.me, "@alice an answer of last year", in_reply_to=question)
    with world.bot() as bot:
        refusal(bot, world.ask("@dokocos delete", label=None, by=mallory, in_reply_to=reply))
        assert world.answers(question) == [reply]
        world.ask("@dokocos delete", label=None, in_reply_to=reply)
        until(lambda: not world.answers(question))


def test_nobody_else_can_delete_an_answer(world: World) -> None:
    mallory = world.person("mallory")
    with world.bot() as bot:
        question = world.ask()
        reply = world.answer(question)
        request = world.ask("@dokocos delete", label=None, by=mallory, in_reply_to=reply)
        refusal(bot, request)
    assert world.answers(question) == [reply]


def test_an_answer_is_deleted_with_its_question(world: World) -> None:
    with world.bot() as bot:
        until(lambda: bot.stream.is_open)
        question = world.ask()
        reply = world.answer(question)
        settle(bot)
        world.instance.delete(question)
        until(lambda: reply not in world.instance.statuses_of(world.me))


def test_a_question_deleted_while_the_bot_was_away_is_found_by_the_sweep(world: World) -> None:
    with world.bot() as bot:
        gone, kept = world.ask(), world.ask()
        reply, other = world.answer(gone), world.answer(kept)
        settle(bot)
    world.instance.delete(gone)
    with world.bot() as bot:
        assert bot.cleanup.sweep() == 1
    assert world.instance.statuses_of(world.me) == [other]
    assert reply is not other


def test_a_photo_added_by_an_edit_replaces_the_help_by_an_answer(world: World) -> None:
    world.instance.follow(world.me, world.alice)
    with world.bot() as bot:
        until(lambda: bot.stream.is_open)
        question = world.ask(label=None)
        first = world.answer(question)
        settle(bot)
        world.add_photo(question)
        until(lambda: world.answers(question) and world.answers(question) != [first])
        settle(bot)
        (reply,) = world.answers(question)
    assert "China gallery" in reply.text


def test_a_photo_added_while_the_help_is_being_written_is_answered(world: World) -> None:
    late = Fault(kind="store_then_delay", path="/api/v1/statuses", methods=("POST",), times=1, seconds=1.0)
    world.instance.faults.add(late)
    world.instance.follow(world.me, world.alice)
    with world.bot(mastodon={"request_timeout_s": 10.0}) as bot:
        until(lambda: bot.stream.is_open)
        question = world.ask(label=None)
        help_ = world.answer(question)  # it is posted, but the bot has no response yet
        world.add_photo(question)
        assert "China gallery" in world.other_answer(question, help_).text


@pytest.mark.every_profile
def test_the_limit_is_explained_once_then_mentions_get_no_reply(world: World) -> None:
    with world.bot(bot={"max_answers_per_hour": 2, "concurrent_mentions": 1}) as bot:
        texts = [world.answer(world.ask()).text for _ in range(3)]
        assert refusal(bot, world.ask()) == "over the limit"
    assert ["a lot of photos" in text for text in texts] == [False, False, True]


@pytest.mark.every_profile
def test_a_new_account_has_a_stricter_limit(world: World) -> None:
    newcomer = world.person("newcomer", created_at=datetime.now(UTC))
    with world.bot(bot={"max_answers_per_hour_new": 1}):
        world.answer(world.ask(by=newcomer))
        assert "a lot of photos" in world.answer(world.ask(by=newcomer)).text
        assert "gallery" in world.answer(world.ask()).text


@pytest.mark.every_profile
def test_the_askers_own_photo_in_the_status_above_is_classified(world: World) -> None:
    above = world.instance.post(world.alice, "my costume", attachments=[world.photo("brazil")])
    with world.bot():
        assert "Brazil gallery" in world.answer(world.ask(label=None, in_reply_to=above)).text


@pytest.mark.every_profile
def test_somebody_elses_photo_is_classified_only_after_they_agreed(world: World) -> None:
    carol = world.person("carol")
    above = world.instance.post(carol, "my costume", attachments=[world.photo("brazil", of=carol)])
    with world.bot() as bot:
        request = world.answer(world.ask(label=None, in_reply_to=above))
        assert "somebody else's" in request.text
        assert request.mentions == (world.alice,)
        dave = world.person("dave")
        asked_again = world.ask(label=None, by=dave, in_reply_to=above)
        assert refusal(bot, asked_again) == "the photo's author was asked before"
        consent = world.ask("@dokocos OK!", label=None, by=carol, in_reply_to=request)
        assert "Brazil gallery" in world.answer(consent).text
        third = world.ask(label=None, in_reply_to=above)
        assert "Brazil gallery" in world.answer(third).text


@pytest.mark.every_profile
def test_somebody_elses_yes_does_not_count(world: World) -> None:
    carol, mallory = world.person("carol"), world.person("mallory")
    above = world.instance.post(carol, "my costume", attachments=[world.photo("brazil", of=carol)])
    with world.bot() as bot:
        request = world.answer(world.ask(label=None, in_reply_to=above))
        yes = world.ask("@dokocos ok", label=None, by=mallory, in_reply_to=request)
        assert refusal(bot, yes) == "only words in answer to us"


def test_an_author_who_wants_no_bots_is_not_asked(world: World) -> None:
    carol = world.person("carol", note="#nobot")
    above = world.instance.post(carol, "my costume", attachments=[world.photo("brazil", of=carol)])
    with world.bot() as bot:
        assert refusal(bot, world.ask(label=None, in_reply_to=above)) == "the photo's author wants no bots"


def test_an_author_who_opted_out_or_is_muted_is_not_asked(world: World) -> None:
    carol, dave = world.person("carol"), world.person("dave")
    photos = [world.instance.post(who, "me", attachments=[world.photo(of=who)]) for who in (carol, dave)]
    world.me.muting.add(dave.id)
    with world.bot() as bot:
        world.answer(world.ask("@dokocos stop", label=None, by=carol))
        for above in photos:
            question = world.ask(label=None, in_reply_to=above)
            assert refusal(bot, question) == "the photo's author wants no bots"


@pytest.mark.every_profile
def test_an_author_who_agreed_and_then_opted_out_is_left_alone(world: World) -> None:
    carol = world.person("carol")
    above = world.instance.post(carol, "my costume", attachments=[world.photo(of=carol)])
    with world.bot() as bot:
        request = world.answer(world.ask(label=None, in_reply_to=above))
        world.answer(world.ask("@dokocos ok", label=None, by=carol, in_reply_to=request))
        world.answer(world.ask("@dokocos stop", label=None, by=carol))
        assert refusal(bot, world.ask(label=None, in_reply_to=above)) == "the photo's author wants no bots"


@pytest.mark.every_profile
def test_two_mentions_of_the_same_photo_at_once_ask_its_author_once(world: World) -> None:
    carol, dave = world.person("carol"), world.person("dave")
    above = world.instance.post(carol, "my costume", attachments=[world.photo(of=carol)])
    slow = Fault(kind="delay", path="/api/v1/statuses", methods=("POST",), seconds=0.5)
    world.instance.faults.add(slow)
    asked = [world.ask(by=who, label=None, in_reply_to=above) for who in (world.alice, dave)]
    with world.bot() as bot:
        until(lambda: bot.store.inbox.counts() == {"answered": 1, "refused": 1})
    assert sum(len(world.answers(question)) for question in asked) == 1


@pytest.mark.every_profile
def test_a_conversation_about_an_answered_photo_gets_no_reply(world: World) -> None:
    bob = world.person("bob")
    with world.bot() as bot:
        question = world.ask()
        world.answer(question)
        settle(bot)
        cute = world.ask("@alice @dokocos cute!", label=None, by=bob, in_reply_to=question)
        assert refusal(bot, cute) == "only words in a conversation that names us"
        thanks = world.ask("@bob @dokocos thanks!", label=None, in_reply_to=cute)
        assert refusal(bot, thanks) == "only words in a conversation that names us"
        more = world.ask("@dokocos I made it myself", label=None, in_reply_to=question)
        assert refusal(bot, more) == "only words in a conversation that names us"


@pytest.mark.every_profile
def test_thanks_for_an_answer_get_no_reply(world: World) -> None:
    with world.bot() as bot:
        reply = world.answer(world.ask())
        assert (
            refusal(bot, world.ask("@dokocos thanks!", label=None, in_reply_to=reply)) == "only words in answer to us"
        )


@pytest.mark.every_profile
def test_a_sensitive_photo_is_answered_behind_its_warning(world: World) -> None:
    with world.bot():
        reply = world.answer(world.ask(sensitive=True, spoiler_text="blood, @carol"))
    assert reply.sensitive
    assert reply.spoiler_text == "blood, ＠carol"
    assert reply.mentions == (world.alice,)


def test_sensitive_photos_can_be_declined(world: World) -> None:
    with world.bot(bot={"answer_sensitive": False}):
        assert "sensitive" in world.answer(world.ask(sensitive=True)).text


@pytest.mark.parametrize("type_", ["video", "gifv"])
def test_the_preview_of_a_video_is_classified(world: World, type_: str) -> None:
    clip = world.instance.attach(world.alice, b"\0\0\0\x18ftypmp42", "video/mp4", type=type_, preview=photo("china"))
    with world.bot():
        assert "China gallery" in world.answer(world.ask(attachments=[clip])).text


def test_audio_gets_a_polite_refusal(world: World) -> None:
    sound = world.instance.attach(world.alice, b"ID3", "audio/mpeg", type="audio")
    with world.bot():
        assert "only look at photos" in world.answer(world.ask(attachments=[sound])).text


@pytest.mark.every_profile
def test_up_to_four_photos_get_one_reply(world: World) -> None:
    photos = [world.photo(label) for label in ("japan", "china", "brazil", "unsure")]
    photos[1].data = b"broken"
    with world.bot():
        text = world.answer(world.ask(attachments=photos)).text
    assert "Photo 1: This photo looks like the 🇯🇵 Japan gallery." in text
    assert "Photo 2: I cannot read this file." in text
    assert "Photo 3: This photo looks like the 🇧🇷 Brazil gallery." in text
    assert "Photo 4: I am not sure." in text


@pytest.mark.parametrize(
    ("asked", "widest", "expected"),
    [
        ("public", "unlisted", "unlisted"),
        ("public", "public", "public"),
        ("unlisted", "public", "unlisted"),
        ("private", "unlisted", "direct"),  # private: the bot's own followers would see it
        ("direct", "public", "direct"),
        ("public", "direct", "direct"),
    ],
)
def test_a_reply_is_no_wider_than_its_mention_or_config(world: World, asked: str, widest: str, expected: str) -> None:
    with world.bot(bot={"visibility": widest}, mastodon={"catch_up_every_s": 0.2}):
        assert world.answer(world.ask(visibility=asked)).visibility == expected


@pytest.mark.every_profile
def test_a_reply_is_no_wider_than_the_status_with_the_photo(world: World) -> None:
    world.instance.follow(world.me, world.alice)
    above = world.instance.post(world.alice, "for friends", attachments=[world.photo()], visibility="private")
    with world.bot():
        assert world.answer(world.ask(label=None, in_reply_to=above, visibility="public")).visibility == "direct"


def test_a_japanese_mention_is_answered_in_japanese(world: World) -> None:
    with world.bot():
        told = world.answer(world.ask("@dokocos どこの国？", language="ja"))
        guessed = world.answer(world.ask("@dokocos どこの国？", language=None))
    assert "🇯🇵 日本のギャラリー" in told.text
    assert told.language == "ja"
    assert "🇯🇵 日本のギャラリー" in guessed.text


def test_who_follows_the_bot_does_not_see_an_answer_to_a_photo_for_followers(world: World) -> None:
    watcher = world.instance.add_account("watcher")
    world.instance.follow(watcher, world.me)
    with world.bot():
        reply = world.answer(world.ask(visibility="private"))
    assert not world.instance.statuses.can_see(watcher, reply)
    assert world.instance.statuses.can_see(world.alice, reply)


@pytest.mark.every_profile
def test_the_picture_of_an_answer_is_gone_with_it(world: World) -> None:
    with world.bot(bot={"pictures": True}):
        reply = world.answer(world.ask())
        (picture,) = reply.media
        address = world.instance.entities.media(picture)["url"]
        assert requests.get(address, timeout=5).ok
        world.ask("@dokocos delete", label=None, in_reply_to=reply)
        until(lambda: requests.get(address, timeout=5).status_code == 404)


@pytest.mark.every_profile
def test_many_mentions_of_one_account_at_once_get_one_notice_of_the_limit(world: World) -> None:
    questions = [world.ask() for _ in range(10)]
    with world.bot(bot={"max_answers_per_hour": 2, "max_answers_per_hour_new": 2, "concurrent_mentions": 10}) as bot:
        until(lambda: sum(bot.store.inbox.counts().get(state, 0) for state in ("answered", "refused")) == 10)
        kinds = [entry.kind for entry in bot.store.inbox.entries() if entry.state == "answered"]
    assert sorted(kinds) == ["answer", "answer", "limit"]
    assert sum(len(world.answers(question)) for question in questions) == 3


@pytest.mark.every_profile
def test_a_quoted_photo_of_the_askers_own_is_classified_where_there_are_quotes(world: World) -> None:
    mine = world.instance.post(world.alice, "my costume", attachments=[world.photo("brazil")], spoiler_text="feathers")
    with world.bot():
        reply = world.answer(world.ask(label=None, quoting=mine))
    if world.instance.settings.profile.quotes:
        assert "Brazil gallery" in reply.text
        assert reply.spoiler_text == "feathers"
    else:
        assert "Mention me with" in reply.text


def test_a_photo_in_the_mention_itself_comes_before_a_quoted_one(world: World) -> None:
    mine = world.instance.post(world.alice, "my costume", attachments=[world.photo("brazil")])
    with world.bot():
        assert "China gallery" in world.answer(world.ask(label="china", quoting=mine)).text


def test_a_quoted_photo_of_somebody_else_is_classified_only_after_they_agreed(world: World) -> None:
    carol, mallory = world.person("carol"), world.person("mallory")
    hers = world.instance.post(carol, "my costume", attachments=[world.photo("brazil", of=carol)])
    with world.bot() as bot:
        request = world.answer(world.ask(label=None, quoting=hers))
        assert "somebody else's" in request.text
        assert request.mentions == (world.alice,)
        no_consent = world.ask("@dokocos ok", label=None, by=mallory, in_reply_to=request)
        assert refusal(bot, no_consent) == "only words in answer to us"
        consent = world.ask("@dokocos OK!", label=None, by=carol, in_reply_to=request)
        assert "Brazil gallery" in world.answer(consent).text


def test_a_photo_whose_author_agreed_below_it_may_be_asked_about_by_a_quote(world: World) -> None:
    carol = world.person("carol")
    hers = world.instance.post(carol, "my costume", attachments=[world.photo("brazil", of=carol)])
    with world.bot():
        request = world.answer(world.ask(label=None, in_reply_to=hers))
        world.answer(world.ask("@dokocos ok", label=None, by=carol, in_reply_to=request))
        assert "Brazil gallery" in world.answer(world.ask(label=None, quoting=hers)).text


@pytest.mark.parametrize(
    "state", ["pending", "rejected", "revoked", "deleted", "unauthorized", "blocked_account", "muted_account"]
)
def test_a_quote_that_its_author_has_not_accepted_shows_no_photo(world: World, state: str) -> None:
    mine = world.instance.post(world.alice, "my costume", attachments=[world.photo("brazil")])
    with world.bot():
        assert "Mention me with" in world.answer(world.ask(label=None, quoting=mine, quote_state=state)).text


def test_who_wants_no_bots_is_not_asked_about_a_quoted_photo(world: World) -> None:
    shy, robot, stopped = world.person("shy", note="#nobot"), world.person("robot", bot=True), world.person("stopped")
    with world.bot() as bot:
        world.answer(world.ask("@dokocos stop", label=None, by=stopped))
        for author in (shy, robot, stopped):
            theirs = world.instance.post(author, "me", attachments=[world.photo(of=author)])
            assert refusal(bot, world.ask(label=None, quoting=theirs)) == "the photo's author wants no bots"


def test_words_about_a_quoted_answer_of_the_bot_get_no_reply(world: World) -> None:
    with world.bot(bot={"pictures": True}) as bot:
        reply = world.answer(world.ask())
        assert reply.media
        wow = world.ask("look what @dokocos says", label=None, quoting=reply)
        assert refusal(bot, wow) == "only words about an answer of ours"


def test_an_answer_is_no_wider_than_the_quoted_status(world: World) -> None:
    mine = world.instance.post(world.alice, "me", attachments=[world.photo()], visibility="private")
    with world.bot():
        assert world.answer(world.ask(label=None, quoting=mine)).visibility == "direct"


@pytest.mark.parametrize(
    "quote",
    [
        None,
        "text",
        {},
        {"state": "accepted"},
        {"state": "accepted", "quoted_status": None},
        {"state": "accepted", "quoted_status": {"id": "1"}},
        {"state": "accepted", "quoted_status_id": "7"},
        {"id": "9", "account": {"id": 1, "acct": "a"}, "created_at": "2026-01-01T00:00:00Z"},  # a bare status
    ],
)
def test_a_quote_that_cannot_be_read_is_as_if_there_were_none(quote: object) -> None:
    raw = {"id": "2", "account": {"id": 1, "acct": "a"}, "created_at": "2026-01-01T00:00:00Z", "quote": quote}
    assert parse.status(raw).quoted is None
