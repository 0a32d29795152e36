"""Nobody silences the bot: what one account or one host asks leaves room for all others."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import requests

from bot.app import Bot
from bot.instance import parse
from bot.instance.limits import Limits
from bot.shares import asker
from bot.storage.inbox import Entry
from sandbox.faults import Fault
from sandbox.instance import Account, InstanceSettings, Status
from sandbox.instance.settings import RateLimit
from tests.bot.conftest import World, photo, settle, until
from tests.fakes import FakeDecoder, Pixels
from trainer.config import WebSettings
from trainer.web.fetch import SMALL_BYTES, Fetcher

CONTEXTS = Fault(kind="delay", path=r"/api/v1/statuses/\d+/context", seconds=0.0)  # counts these calls


@pytest.fixture
def hanging_url() -> Iterator[str]:
    """The address of a photo whose server takes the request and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/photo.jpg"


def ask_with(world: World, by: Account, url: str) -> Status:
    return world.ask(by=by, attachments=[world.instance.attach(by, photo(), url=url)])


def entries(bot: Bot, who: Account) -> list[Entry]:
    return [entry for entry in bot.store.inbox.entries(limit=1000) if entry.account_id == str(who.id)]


def states(bot: Bot, *people: Account) -> Counter[str]:
    return Counter(entry.state for who in people for entry in entries(bot, who))


def test_one_account_with_photos_that_hang_has_two_mentions_in_progress(world: World, hanging_url: str) -> None:
    mallory, bob = world.person("mallory"), world.person("bob")
    with world.bot(web={"total_timeout_s": 20.0}) as bot:
        for _ in range(20):
            ask_with(world, mallory, hanging_url)
        until(lambda: states(bot, mallory).total() == 20)
        world.answer(world.ask(by=bob))
        assert states(bot, mallory) == {"working": 2, "new": 18}


def test_photos_that_hang_hold_no_hand(world: World, hanging_url: str) -> None:
    people = [world.person(f"asker{number}") for number in range(7)]
    with world.bot(web={"total_timeout_s": 20.0}) as bot:  # it has four hands
        for who in people:
            ask_with(world, who, hanging_url)
        until(lambda: states(bot, *people)["working"] == 7)
        world.answer(world.ask())


def test_the_mentions_of_one_host_leave_half_of_all_to_others(world: World, hanging_url: str) -> None:
    crowd = [world.person(f"asker{number}@far.example") for number in range(20)]
    with world.bot(web={"total_timeout_s": 20.0}) as bot:
        for who in crowd:
            ask_with(world, who, hanging_url)
        until(lambda: states(bot, *crowd)["working"] == 8)  # of 16 that may be in progress with four hands
        world.answer(world.ask())
        assert states(bot, *crowd) == {"working": 8, "new": 12}


def test_mentions_that_end_in_silence_count_and_cost_no_call_above_the_limit(world: World) -> None:
    carol, mallory = world.person("carol"), world.person("mallory")
    above = world.instance.post(carol, "my costume", attachments=[world.photo(of=carol)])
    with world.bot(bot={"max_answers_per_hour": 3}) as bot:
        world.answer(world.ask(label=None, in_reply_to=above))
        settle(bot)
        time.sleep(2.0)  # the threads of mentions from before the start are looked into
        world.instance.faults.add(CONTEXTS)
        questions = [world.ask(label=None, by=mallory, in_reply_to=above) for _ in range(20)]
        until(lambda: states(bot, mallory)["refused"] == 20)
        reasons = Counter(entry.reason for entry in entries(bot, mallory))
    assert reasons == {"the photo's author was asked before": 3, "over the limit": 17}
    assert world.instance.faults.fired["delay"] == 3 * 2
    assert not any(world.answers(question) for question in questions)


def test_an_account_over_its_limit_may_still_delete_its_answers(world: World) -> None:
    with world.bot(bot={"max_answers_per_hour": 2}) as bot:
        replies = [world.answer(world.ask()) for _ in range(2)]
        for reply in replies:
            world.ask("@dokocos delete", label=None, in_reply_to=reply)
        until(lambda: not any(each.account is world.me for each in world.instance.statuses.all()))
        settle(bot)


def test_a_host_may_use_no_more_posts_than_remain_for_all_others(world: World) -> None:
    world.instance.settings = InstanceSettings(rate_limits={"statuses": RateLimit(12, 10**9)})
    crowd = [world.person(f"asker{number}@far.example") for number in range(10)]
    with world.bot(bot={"concurrent_mentions": 2}) as bot:  # one hand for a host, so the count is exact
        for who in crowd:
            world.ask(by=who, label=None)
        until(lambda: states(bot, *crowd)["answered"] == 6 and bot.worker.blocked_hosts() == {"far.example"})
        for _ in range(3):
            world.answer(world.ask())
        assert states(bot, *crowd)["answered"] == 6


def test_an_admins_order_gets_through_when_the_share_of_its_host_is_used_up(world: World) -> None:
    world.instance.settings = InstanceSettings(rate_limits={"statuses": RateLimit(6, 10**9)})
    world.instance.follow(world.me, world.alice)  # so that her direct mentions are not filtered
    with world.bot(bot={"concurrent_mentions": 2, "admins": ["alice"]}) as bot:
        people = [world.person(f"asker{number}") for number in range(5)]
        for who in people:
            world.ask(by=who, label=None)
        until(lambda: bot.worker.blocked_hosts() == {""})
        world.answer(world.ask("@dokocos help", label=None, visibility="direct"))


def headers(remaining: int, *, ahead_s: int) -> dict[str, str]:
    return {"X-RateLimit-Remaining": str(remaining), "X-RateLimit-Reset": str(ahead_s)}


def test_a_post_counts_as_a_call_and_a_new_window_starts_anew() -> None:
    now = 1000.0
    limits = Limits(now=lambda: now)
    limits.note("call", headers(10, ahead_s=300), status=200)
    limits.note("post", headers(99, ahead_s=10_000), status=200)
    for _ in range(10):
        limits.note("post", headers(89, ahead_s=10_000), status=200, host="far.example")
    assert limits.share_used_until("post", "far.example") == now + 300
    assert limits.share_used_until("post", "near.example") is None
    assert limits.blocked_until("post") is None
    now += 301
    limits.note("call", headers(3, ahead_s=300), status=200)
    assert limits.share_used_until("post", "far.example") is None


class CountingDecoder(FakeDecoder):
    """Counts the photos that are in it at the same time, by account."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    @contextmanager
    def counted(self) -> Iterator[None]:
        who = asker()
        assert who is not None
        with self._lock:
            self.now[who.account_id] += 1
            self.most[who.account_id] = max(self.most[who.account_id], self.now[who.account_id])
        try:
            yield
        finally:
            with self._lock:
                self.now[who.account_id] -= 1

    def prepare(self, data: bytes, view: str) -> Pixels:
        with self.counted():
            return super().prepare(data, view)


def test_one_account_holds_one_decoder_and_another_is_free(world: World) -> None:
    world.decoder = decoder = CountingDecoder()
    decoder.gate.clear()
    mallory, bob = world.person("mallory"), world.person("bob")
    with world.bot() as bot:
        for _ in range(4):
            world.ask(by=mallory, attachments=[world.photo(of=mallory) for _ in range(4)])
        until(lambda: states(bot, mallory)["working"] == 2 and decoder.now.total() == 1)
        question = world.ask(by=bob)
        until(lambda: decoder.now.total() == 2)
        decoder.gate.set()
        world.answer(question)
        until(lambda: states(bot, mallory)["answered"] == 4)
    assert decoder.most == {str(mallory.id): 1, str(bob.id): 1}


def test_large_files_wait_for_room_in_memory_one_of_an_account_and_two_of_a_host(world: World) -> None:
    heavy = photo() + bytes(SMALL_BYTES)
    world.decoder = decoder = CountingDecoder()
    crowd = [world.person(f"asker{number}@far.example") for number in range(4)]
    held: list[int] = []
    with world.bot(images={"max_bytes": SMALL_BYTES + 5000}, bot={"concurrent_mentions": 16}) as bot:
        shares = bot.photo_reader._bytes
        decoder.gate.clear()
        for who in crowd:
            media = [world.instance.attach(who, heavy, preview=b"") for _ in range(2)]
            world.ask(by=who, attachments=media)
        until(lambda: len(shares._wishes) == 2 and decoder.now.total() == 2)
        held.append(shares._by_host["far.example"])
        decoder.gate.set()
        until(lambda: states(bot, *crowd)["answered"] == 4)
    assert held[0] <= 2 * (SMALL_BYTES + 5000)
    assert shares._by_account.total() == 0


def test_room_is_made_for_a_large_body_and_a_small_one_needs_none(world: World) -> None:
    rooms: list[int] = []
    with Fetcher(WebSettings(allow_private_addresses=True)) as fetcher:
        for size in (1000, SMALL_BYTES, SMALL_BYTES + 1, SMALL_BYTES + 300_000):
            media = world.instance.attach(world.alice, bytes(size), preview=b"")
            url = world.instance.entities.media(media)["url"]
            assert len(requests.get(url, timeout=5).content) == size
            assert len(fetcher.get(url, max_bytes=10**7, make_room=rooms.append).body) == size
    assert rooms == [SMALL_BYTES + 1, SMALL_BYTES + 300_000]


def status_json(**more: object) -> dict[str, object]:
    account = {"id": "1", "username": "mallory", "acct": "mallory@far.example"}
    return {"id": "2", "account": account, "created_at": datetime.now(UTC).isoformat(), **more}


def test_texts_and_lists_are_cut_on_arrival() -> None:
    long = "gallery " * 62_500
    account = {"id": "1", "acct": "m", "note": long, "display_name": long, "fields": [{"name": long}] * 999}
    found = parse.status(
        status_json(
            content=f"<p>@dokocos {long}</p>",
            spoiler_text=long,
            media_attachments=[{"type": "image", "url": "https://a.example"}] * 9999,
            mentions=[{"id": str(number)} for number in range(9999)],
            account=account,
        )
    )
    assert found.text.startswith("gallery gallery")
    assert max(map(len, (found.text, found.spoiler_text))) <= parse.MAX_TEXT
    assert len(found.account.profile) <= 2 * parse.MAX_TEXT + 1
    assert len(found.attachments) == len(found.mentioned_ids) == parse.MAX_ITEMS


def test_tags_that_never_end_are_left_out() -> None:
    found = parse.status(status_json(content="<p>which?</p>" + "<a " * 6000))
    assert found.text == "which?"


def test_a_stream_goes_on_after_an_event_that_is_too_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.instance.listener.MAX_LINE_BYTES", 300_000)
    with world.bot(mastodon={"poll_every_s": 60.0}) as bot:
        until(lambda: bot.stream.is_open)
        mallory = world.person("mallory", created_at=datetime.now(UTC) - timedelta(days=9))
        world.instance.post(mallory, "@dokocos which?", spoiler_text="x" * 500_000)
        world.answer(world.ask("@dokocos " + "コスプレ" * 10_000))
        assert bot.stream.n_connections == 1
