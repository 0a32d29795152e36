"""The reply to a mention with a photo: its text, mention, visibility and language."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest

from sandbox.faults import Fault
from sandbox.instance.records import Media
from tests.bot.conftest import World, photo, until

pytestmark = pytest.mark.every_profile


def test_a_photo_mention_is_answered_in_its_thread(world: World) -> None:
    with world.bot():
        question = world.ask(label="japan")
        reply = world.answer(question)
    name, _, text = reply.text.partition(" ")
    assert name in ("@alice", f"@alice@{world.instance.settings.domain}")
    assert text.startswith("This photo looks like the 🇯🇵 Japan gallery.")
    assert "🇯🇵 Japan ████" in reply.text
    assert "(version v1)" in reply.text
    assert reply.mentions == (world.alice,)


@pytest.mark.parametrize(
    ("language", "words"), [("en", "looks like nothing that I have learned"), ("ja", "どの写真にも似ていない")]
)
def test_a_photo_like_nothing_that_was_learned_is_told_no_gallery(world: World, language: str, words: str) -> None:
    with world.bot(bot={"pictures": True}) as bot:
        reply = world.answer(world.ask(label="unknown", language=language))
        until(lambda: bot.store.inbox.counts() == {"answered": 1})
        (entry,) = bot.store.inbox.entries()
        assert (entry.kind, entry.label) == ("unknown", None)
        assert 'dokocos_answers_total{kind="unknown"} 1.0' in bot.metrics.page().decode()
    assert words in reply.text
    (picture,) = reply.media
    for text in (reply.text, picture.description):
        assert not any(name in text for name in ("Japan", "China", "Brazil", "日本", "中国", "ブラジル", "%"))


def test_beside_a_known_photo_only_that_one_has_a_gallery(world: World) -> None:
    with world.bot() as bot:
        reply = world.answer(world.ask(attachments=[world.photo("unknown"), world.photo("china")]))
        until(lambda: bot.store.inbox.counts() == {"answered": 1})
        (entry,) = bot.store.inbox.entries()
    assert (entry.kind, entry.label) == ("answer", "china")
    assert "Photo 1: This looks like nothing that I have learned from" in reply.text
    assert "Photo 2: This photo looks like the 🇨🇳 China gallery." in reply.text


def test_naming_no_gallery_can_be_switched_off(world: World) -> None:
    with world.bot(bot={"refuse_unknown": False}):
        assert "gallery." in world.answer(world.ask(label="unknown")).text


def test_a_photo_with_more_bytes_than_are_fetched_is_called_too_large(world: World) -> None:
    with world.bot(images={"max_bytes": 100}):
        assert "too large" in world.answer(world.ask()).text


def fault_in(world: World, media: Media, kind: str, *, preview: bool = False, times: int | None = None) -> None:
    """Makes requests for an attachment, or for its preview, go wrong."""
    url = world.instance.entities.media(media)["preview_url" if preview else "url"]
    world.instance.faults.add(
        Fault.model_validate({"path": re.escape(urlsplit(url).path), "times": times, "kind": kind, "keep": 0})
    )


@pytest.mark.parametrize("kind", ["html", "truncate"])  # a web page; no bytes at all
def test_what_comes_in_a_photos_place_is_tried_again_until_the_photo_is_there(world: World, kind: str) -> None:
    question = world.ask()
    fault_in(world, question.media[0], kind, times=2)
    fault_in(world, question.media[0], kind, times=2, preview=True)
    with world.bot():
        assert "Japan gallery" in world.answer(question).text


@pytest.mark.parametrize("kind", ["html", "truncate", "answer"])
def test_a_good_preview_beside_it_is_used(world: World, kind: str) -> None:
    question = world.ask(attachments=[world.instance.attach(world.alice, photo("brazil", size=(900, 900)))])
    fault_in(world, question.media[0], kind)
    with world.bot():
        assert "Brazil gallery" in world.answer(question).text


def test_a_video_that_is_its_own_preview_is_called_too_large(world: World) -> None:
    clip = world.instance.attach(world.alice, bytes(20_000), "video/mp4", type="video", preview=bytes(20_000))
    with world.bot(images={"max_bytes": 10_000}):
        assert "too large" in world.answer(world.ask(attachments=[clip])).text


def test_a_large_photo_with_a_small_preview_is_answered(world: World) -> None:
    large = world.instance.attach(world.alice, photo("china") + bytes(20_000), preview=photo("china"))
    with world.bot(images={"max_bytes": 10_000}):
        assert "China gallery" in world.answer(world.ask(attachments=[large])).text


@pytest.mark.parametrize(
    "page", [b"<!DOCTYPE html><p>Log in", b'\xef\xbb\xbf\n{"error": "blocked"}', b"<?xml version='1.0'?><Error/>"]
)
def test_a_page_that_is_called_an_image_gives_way_to_the_preview(world: World, page: bytes) -> None:
    """AWS answers an expired address with XML, for one."""
    medium = world.instance.attach(world.alice, page, "image/jpeg", preview=photo("brazil"))
    with world.bot():
        assert "Brazil gallery" in world.answer(world.ask(attachments=[medium])).text


def test_a_photo_that_is_called_a_web_page_is_the_photo(world: World) -> None:
    medium = world.instance.attach(world.alice, photo("brazil"), "text/html", preview=photo("china"))
    with world.bot():
        assert "Brazil gallery" in world.answer(world.ask(attachments=[medium])).text
