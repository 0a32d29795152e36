"""The bot on other servers with Mastodon's API: other ids, other times, fewer endpoints."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bot import check
from bot.app import Bot
from bot.config import Settings
from tests.bot.conftest import QUICK, settle, until
from tests.bot.stranger import ALICE, TOKEN, Stranger, Ways, at_home, mixed, number, ulid
from tests.fakes import FakeDecoder, FakeLoader


@contextmanager
def bot_at(stranger: Stranger, data_dir: Path, **sections: dict[str, Any]) -> Iterator[Bot]:
    """Runs a bot on such a server."""
    merged = {name: values | sections.get(name, {}) for name, values in QUICK.items()}
    merged["mastodon"] = {"base_url": stranger.url} | merged["mastodon"]
    settings = Settings.model_validate({"data_dir": data_dir} | merged)
    bot = Bot(settings, TOKEN, FakeLoader(), FakeDecoder())
    try:
        bot.start()
        yield bot
    finally:
        bot.stop()


def answer(stranger: Stranger, question: int) -> dict[str, Any]:
    """Waits for the one reply to a status."""
    until(lambda: stranger.answers(question))
    (only,) = stranger.answers(question)
    return only


@pytest.mark.parametrize(
    "ways",
    [
        Ways(),
        Ways(id=number),
        Ways(id=ulid),
        Ways(notification_id=mixed),
        Ways(time="%Y-%m-%dT%H:%M:%SZ"),
        Ways(time="%Y-%m-%dT%H:%M:%S"),
        Ways(time="%Y-%m-%dT%H:%M:%S.%f000+00:00"),
        Ways(describes={"version": "2.7.2 (compatible; Pleroma 2.6)", "max_toot_chars": 5000, "urls": None}),
        Ways(describes={"configuration": {"statuses": {"max_characters": "5000"}}}),
        Ways(refuses_parameters=True),
        Ways(refuses_relations=401),
        Ways(refuses_relations=403),
        Ways(streams="\n"),
        Ways(streams="\r\n"),
    ],
    ids=str,
)
def test_a_mention_on_a_server_that_is_not_mastodon_is_answered_once(ways: Ways, tmp_path: Path) -> None:
    with at_home(ways) as stranger, bot_at(stranger, tmp_path, mastodon={"catch_up_every_s": 0.2}) as bot:
        before = stranger.ask(tell=False)
        reply = answer(stranger, before)
        until(lambda: bot.stream.is_open or not ways.streams)
        answer(stranger, stranger.ask())
        settle(bot)
        assert len(stranger.answers(before)) == 1
    assert reply["content"].startswith("@alice This photo looks like the 🇯🇵 Japan gallery.")
    assert reply["visibility"] == "direct"  # the server does not give the question's visibility


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_stream_is_read_by_the_standard_not_only_as_mastodon_writes_it(end: str, tmp_path: Path) -> None:
    patient = {"mastodon": {"poll_every_s": 60.0, "catch_up_every_s": 60.0}}
    with at_home(Ways(streams=end, id=ulid)) as stranger, bot_at(stranger, tmp_path, **patient) as bot:
        until(lambda: bot.stream.is_open)
        for odd in ("this is no JSON", '{"status": 7}'):
            stranger.say("notification", odd)
        stranger.say("delete", "01JDNOTJSON")
        stranger.say("something.new", "")
        answer(stranger, stranger.ask())
        assert bot.stream.n_connections == 1


@pytest.mark.parametrize("scheme", ["ws:", "http:"])
def test_a_stream_on_another_host_is_read_there(scheme: str, tmp_path: Path) -> None:
    patient = {"mastodon": {"poll_every_s": 60.0, "catch_up_every_s": 60.0}}
    with at_home(Ways(streams="\n")) as streaming:
        address = scheme + streaming.url.removeprefix("http:")
        home = Ways(describes={"urls": {"streaming_api": address}})
        with at_home(home) as stranger, bot_at(stranger, tmp_path, **patient) as bot:
            until(lambda: bot.stream.is_open)
            question = stranger.ask(tell=False)
            streaming.say("notification", json.dumps(stranger.notifications[-1][1]))
            answer(stranger, question)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-RateLimit-Limit": "many", "X-RateLimit-Remaining": "some", "X-RateLimit-Reset": "soon"},
        {"X-RateLimit-Limit": "300", "X-RateLimit-Remaining": "299", "X-RateLimit-Reset": "2020-01-01T00:00:00Z"},
        {"X-RateLimit-Limit": "300", "X-RateLimit-Remaining": "\xb2", "X-RateLimit-Reset": "99999999999999999999"},
    ],
    ids=["words", "past", "numbers out of range"],
)
def test_senseless_rate_limit_headers_delay_nothing(headers: dict[str, str], tmp_path: Path) -> None:
    with at_home(Ways(headers=headers)) as stranger, bot_at(stranger, tmp_path) as bot:
        question = stranger.ask()
        answer(stranger, question)
        settle(bot)
        assert len(stranger.answers(question)) == 1
        assert {entry.attempts for entry in bot.store.inbox.entries()} == {1}


@pytest.mark.parametrize("id_", [str, ulid, mixed])
@pytest.mark.parametrize("knows_min_id", [True, False])
def test_all_mentions_of_a_long_absence_are_read_on_any_server(
    knows_min_id: bool, id_: Callable[[int], object], tmp_path: Path
) -> None:
    with at_home(Ways(knows_min_id=knows_min_id, notification_id=id_)) as stranger:
        with bot_at(stranger, tmp_path):
            answer(stranger, stranger.ask())
        asked = [stranger.ask() for _ in range(95)]
        with bot_at(stranger, tmp_path, bot={"max_answers_per_hour": 1}) as bot:
            until(lambda: sum(bot.store.inbox.counts().values()) == len(asked) + 1)


def test_a_deleted_question_is_recorded_as_gone_even_without_an_api_error(tmp_path: Path) -> None:
    with at_home() as stranger, bot_at(stranger, tmp_path, bot={"max_attempts": 3}) as bot:
        gone = stranger.ask()
        stranger.forget(gone)
        good = stranger.ask()
        answer(stranger, good)
        until(lambda: bot.store.inbox.counts() == {"answered": 1, "refused": 1})
        entry = bot.store.inbox.by_status(str(gone))
    assert entry is not None
    assert entry.reason == "the question is gone"


def test_check_passes_on_a_server_that_is_not_mastodon_and_changes_nothing(tmp_path: Path) -> None:
    with at_home() as stranger:
        mastodon = {"base_url": stranger.url, "allow_http": True, "access_token": TOKEN}
        settings = Settings.model_validate({"data_dir": tmp_path, "mastodon": mastodon})
        results = list(check.online(settings))
    assert [result.text for result in results if result.level == "fault"] == []
    assert not any("could not be checked" in result.text for result in results)
    assert stranger.statuses == {}


def test_a_question_that_may_be_gone_does_not_stop_the_sweep(tmp_path: Path) -> None:
    with at_home() as stranger, bot_at(stranger, tmp_path) as bot:
        doubtful = stranger.ask()
        answer(stranger, doubtful)
        answer(stranger, stranger.ask())
        settle(bot)
        stranger.forget(doubtful)
        assert bot.cleanup.sweep() == 0
        assert answer(stranger, doubtful)  # a page that is not from the API proves nothing


def test_pictures_are_uploaded_to_a_server_without_media_v2(tmp_path: Path) -> None:
    with at_home(Ways(media_path="/api/v1/media")) as stranger, bot_at(stranger, tmp_path, bot={"pictures": True}):
        replies = [answer(stranger, stranger.ask()) for _ in range(2)]
    assert [len(reply["media"]) for reply in replies] == [1, 1]
    assert len(stranger.media) == 2


@pytest.mark.parametrize(("looks", "n_pictures"), [(2, 1), (1000, 0)])
def test_a_slow_upload_is_waited_for_but_not_for_long(
    looks: int, n_pictures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.instance.posting.MEDIA_PAUSE_S", 0.01)
    monkeypatch.setattr("bot.mentions.answer.UPLOAD_TIMEOUT_S", 0.5)
    with at_home(Ways(looks_for_media=looks)) as stranger, bot_at(stranger, tmp_path, bot={"pictures": True}):
        assert len(answer(stranger, stranger.ask())["media"]) == n_pictures


def test_a_single_401_does_not_end_a_bot_with_a_valid_token(tmp_path: Path) -> None:
    with at_home(Ways(refuses_relations=401)) as stranger, bot_at(stranger, tmp_path) as bot:
        answer(stranger, stranger.ask())
        settle(bot)
        assert bot.failure is None


def test_stop_without_a_space_after_the_mention_is_understood(tmp_path: Path) -> None:
    with at_home() as stranger, bot_at(stranger, tmp_path) as bot:
        reply = answer(stranger, stranger.ask("やめて！", photos=0, language="ja"))
        assert "もうお返事しません" in reply["content"]
        assert "2" in bot.store.opt_outs


LONG_NAME = {"username": "alice_with_a_long_name", "acct": "alice_with_a_long_name@a-server-with-a-long-name.example"}


def test_on_another_server_than_mastodon_an_answer_fits_by_code_points_at_once(tmp_path: Path) -> None:
    limit = 420  # between what Mastodon counts of scores in one line, and what this server counts
    described = {"version": "0.20.0", "configuration": {"statuses": {"max_characters": limit}}}
    with at_home(Ways(describes=described, max_code_points=limit)) as stranger:
        stranger.accounts[ALICE] |= LONG_NAME
        with bot_at(stranger, tmp_path):
            reply = answer(stranger, stranger.ask(photos=4))
        assert stranger.n_refused == 0
    assert str(reply["content"]).count("Japan gallery") == 4


@pytest.mark.parametrize("caches_refusals", [False, True])
@pytest.mark.parametrize(
    "too_long",
    [
        {"status": 422, "error": "Validation failed: Text character limit of 500 exceeded"},
        {"status": 400, "error": "Bad Request: status too long, 515 characters provided but limit is 500"},
        {"status": 413, "error": "no"},
    ],
)
def test_a_refused_answer_is_said_more_shortly(too_long: dict[str, Any], caches_refusals: bool, tmp_path: Path) -> None:
    """This one says that it is Mastodon, and counts in its own way."""
    ways = Ways(describes={"version": "4.5.0"}, max_code_points=125, too_long=too_long, caches_refusals=caches_refusals)
    with at_home(ways) as stranger, bot_at(stranger, tmp_path) as bot:
        reply = answer(stranger, stranger.ask())
        settle(bot)
        assert bot.store.inbox.counts() == {"answered": 1}
        assert stranger.n_refused == 1
    assert "Japan gallery" in reply["content"]
    assert str(reply["content"]).count("%") == 3
    assert "█" not in reply["content"]  # in one line


def test_an_answer_that_is_said_more_shortly_keeps_its_picture(tmp_path: Path) -> None:
    ways = Ways(describes={"version": "4.5.0"}, max_code_points=125)
    with at_home(ways) as stranger, bot_at(stranger, tmp_path, bot={"pictures": True}):
        assert len(answer(stranger, stranger.ask())["media"]) == 1
        assert stranger.n_refused == 1


def test_an_answer_that_was_stored_though_it_was_refused_is_not_posted_again(tmp_path: Path) -> None:
    ways = Ways(describes={"version": "4.5.0"}, max_code_points=125, stores_what_it_refuses=True)
    with at_home(ways) as stranger, bot_at(stranger, tmp_path) as bot:
        question = stranger.ask()
        until(lambda: bot.store.inbox.counts() == {"answered": 1})
        settle(bot)
        assert len(stranger.answers(question)) == 1
        assert stranger.n_refused == 1


def test_an_answer_that_is_refused_in_every_form_is_set_aside(tmp_path: Path) -> None:
    with at_home(Ways(max_code_points=10)) as stranger, bot_at(stranger, tmp_path) as bot:
        question = stranger.ask()
        until(lambda: bot.store.inbox.counts() == {"failed": 1})
        assert not stranger.answers(question)
        assert stranger.n_refused <= 5


@pytest.mark.parametrize(
    ("version", "is_mastodon"),
    [
        ("4.5.15", True),
        ("4.6.0-beta.1", True),
        ("4.5.2+glitch", True),
        ("0.20.0+git-8f2b1c3", False),
        ("2.7.2 (compatible; Pleroma 2.6.0)", False),
        ("4.0.0 (not true; really snac/2.68)", False),
        ("takahe/0.11.0", False),
    ],
)
def test_mastodon_and_its_forks_are_told_by_their_version(version: str, is_mastodon: bool, tmp_path: Path) -> None:
    with at_home(Ways(describes={"version": version})) as stranger, bot_at(stranger, tmp_path) as bot:
        assert bot.client.home.instance().is_mastodon == is_mastodon
