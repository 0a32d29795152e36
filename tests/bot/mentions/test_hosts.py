"""Whose instance is blocked, or asks bots to stay away, gets no answer and has no photo looked at."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import ValidationError

from bot.config import BotSettings
from bot.instance import neighbours
from bot.instance.neighbours import Neighbours
from bot.mentions.etiquette import has_no_bots_tag
from sandbox.instance import InstanceSettings
from tests.bot.conftest import World
from tests.bot.mentions.test_etiquette import refusal
from tests.bot.storage.test_store import Clock
from tests.web import Exchange, Server, serving
from trainer.config import WebSettings
from trainer.web.fetch import Fetcher

BLOCKED = {"blocked_domains": ["evil.example", "@*.Bücher.example."]}
NO_BOTS = "the instance asks bots to stay away"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Plays every other instance; a path begins with the host."""
    with serving({}) as server:
        monkeypatch.setattr(neighbours, "ADDRESSES", (f"{server.url}/{{host}}/v2", f"{server.url}/{{host}}/v1"))
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def asker(elsewhere: Server, clock: Clock) -> Iterator[Neighbours]:
    web = WebSettings(allow_private_addresses=True, max_attempts=1, total_timeout_s=5.0)
    assert elsewhere.url
    with Fetcher(web) as fetcher:
        yield Neighbours(fetcher, now=clock)


@pytest.mark.parametrize(
    "acct",
    [
        "mallory@evil.example",
        "m@sub.Evil.example",
        "m@bücher.example",
        "m@a.b.xn--bcher-kva.example",
        "m@BÜCHER.example",
    ],
)
def test_accounts_of_a_blocked_instance_get_no_answer(world: World, acct: str) -> None:
    mallory = world.person(acct)
    with world.bot(bot=BLOCKED) as bot:
        assert refusal(bot, world.ask(by=mallory)) == "from a blocked instance"
        assert refusal(bot, world.ask("@dokocos stop", label=None, by=mallory)) == "from a blocked instance"
        assert not world.instance.statuses_of(world.me)


@pytest.mark.parametrize("acct", ["bob@notevil.example", "bob@evil.example.org", "evil.example", "bob@example"])
def test_accounts_of_similar_names_are_answered(world: World, acct: str, elsewhere: Server) -> None:
    assert elsewhere.url
    bob = world.person(acct)
    with world.bot(bot=BLOCKED):
        world.answer(world.ask(by=bob))


def test_photos_of_a_blocked_instance_are_not_asked_for(world: World) -> None:
    mallory = world.person("mallory@evil.example")
    above = world.instance.post(mallory, "my costume", attachments=[world.photo("brazil", of=mallory)])
    with world.bot(bot=BLOCKED) as bot:
        said = refusal(bot, world.ask(label=None, in_reply_to=above))
    assert said == "the instance of the photo's author wants no bots"
    assert not world.instance.statuses_of(world.me)


def test_the_own_instance_can_be_blocked(world: World) -> None:
    with world.bot(bot={"blocked_domains": ["127.0.0.1"]}) as bot:
        assert refusal(bot, world.ask()) == "from a blocked instance"


@pytest.mark.parametrize("wrong", ["https://evil.example", "evil.example/about", "a b", "", "*", "evil..example"])
def test_a_blocked_domain_that_is_no_name_is_an_error(wrong: str) -> None:
    with pytest.raises(ValidationError, match="expected"):
        BotSettings(blocked_domains=(wrong,))


@pytest.mark.parametrize(
    "description", ["Please, #nobot here.", "<p>＃ＮｏＢｏｔ</p>", '<a class="hashtag">#<span>noai</span></a>']
)
def test_an_instance_whose_description_has_the_tag_is_left_alone(
    world: World, elsewhere: Server, description: str
) -> None:
    elsewhere.answers["/shy.example/v2"] = json.dumps({"description": description}).encode()
    elsewhere.answers["/bold.example/v1"] = json.dumps(
        {"short_description": "bots? sure", "description": None}
    ).encode()
    shy, bold = world.person("carol@shy.example"), world.person("bob@bold.example")
    above = world.instance.post(shy, "my costume", attachments=[world.photo(of=shy)])
    with world.bot() as bot:
        assert refusal(bot, world.ask(by=shy)) == NO_BOTS
        assert refusal(bot, world.ask(label=None, in_reply_to=above)).startswith("the instance of the photo's author")
        for _ in range(2):
            world.answer(world.ask(by=bold))
    asked = [request.path for request in elsewhere.requests]
    assert sorted(asked) == ["/bold.example/v1", "/bold.example/v2", "/shy.example/v2"]
    assert all("Authorization" not in request.headers for request in elsewhere.requests)


def test_an_own_instance_whose_description_has_the_tag_is_left_alone(world: World) -> None:
    world.instance.settings = InstanceSettings(description="We want #NoBots here.")
    with world.bot() as bot:
        assert refusal(bot, world.ask()) == NO_BOTS


def test_no_instance_is_asked_if_the_settings_say_so(world: World, elsewhere: Server) -> None:
    carol = world.person("carol@shy.example")
    with world.bot(bot={"ask_instances": False}):
        world.answer(world.ask(by=carol))
    assert elsewhere.requests == []


def hang_up(exchange: Exchange) -> None:
    exchange.close_connection = True
    exchange.connection.close()


@pytest.mark.parametrize("answer", [None, b"<html>", b"[]", b"null", b'{"description": 7}', b"[" * 100_000, hang_up])
def test_an_instance_that_does_not_say_anything_readable_is_asked_once_a_day(
    asker: Neighbours, elsewhere: Server, clock: Clock, answer: bytes | None
) -> None:
    if answer is not None:
        elsewhere.answers["/odd.example/v2"] = answer
    assert not has_no_bots_tag(asker.description("odd.example"))
    n_requests = len(elsewhere.requests)
    assert n_requests <= 2
    clock.now += 23 * 3600
    asker.description("odd.example")
    assert len(elsewhere.requests) == n_requests
    clock.now += 2 * 3600
    elsewhere.answers["/odd.example/v2"] = b'{"description": "#nobot"}'
    assert has_no_bots_tag(asker.description("odd.example"))


def test_two_mentions_at_once_ask_an_instance_once(asker: Neighbours, elsewhere: Server) -> None:
    gate = threading.Event()

    def slow(exchange: Exchange) -> None:
        gate.wait(5)
        exchange.reply(b'{"description": "#nobot"}')

    elsewhere.answers["/slow.example/v2"] = slow
    with ThreadPoolExecutor(3) as pool:
        found = [pool.submit(asker.description, "slow.example") for _ in range(3)]
        gate.set()
        assert {each.result(5) for each in found} == {"#nobot"}
    assert len(elsewhere.requests) == 1


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "localhost", "[::1]"])
def test_an_instance_in_the_own_network_is_not_asked(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving({}) as server:
        port = server.url.rpartition(":")[2]
        monkeypatch.setattr(neighbours, "ADDRESSES", (f"http://{{host}}:{port}/",))
        with Fetcher(WebSettings(max_attempts=1)) as fetcher:
            assert Neighbours(fetcher).description(address) == ""
        assert server.requests == []


def test_words_in_a_description_are_not_taken_for_the_tag() -> None:
    assert not has_no_bots_tag("スパムbot禁止。AI学習禁止。 No bots without permission. #nobotany")
