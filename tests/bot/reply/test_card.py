"""Answers have a picture while the server allows uploads; without one they are not delayed."""

from __future__ import annotations

import io
import re

import pytest
from PIL import Image

from sandbox.faults import Fault
from tests.bot.conftest import World, photo

UPLOADS = r"/api/v[12]/media"
PICTURES = {"pictures": True}


@pytest.mark.parametrize(("language", "word"), [("en", "heat map"), ("ja", "ヒートマップ")])
def test_an_answer_carries_a_picture_with_alt_text_in_its_language(world: World, language: str, word: str) -> None:
    with world.bot(bot=PICTURES):
        reply = world.answer(world.ask(language=language))
    (picture,) = reply.media
    assert Image.open(io.BytesIO(picture.data)).size == (800, 420)
    assert word in picture.description
    assert re.search(r"🇯🇵 \S+ \d+%", picture.description)


def test_each_classified_photo_has_its_picture(world: World) -> None:
    photos = [world.photo("japan"), world.instance.attach(world.alice, b"broken"), world.photo("china")]
    with world.bot(bot=PICTURES):
        reply = world.answer(world.ask(attachments=photos))
    assert len(reply.media) == 2


@pytest.mark.parametrize("kind", ["answer", "cut", "rate_limit", "html"])
def test_without_an_upload_the_answer_comes_as_text(world: World, kind: str) -> None:
    world.instance.faults.add(Fault.model_validate({"kind": kind, "path": UPLOADS, "methods": ("POST",)}))
    with world.bot(bot=PICTURES):
        reply = world.answer(world.ask())
    assert not reply.media
    assert "Japan gallery" in reply.text


def test_the_last_uploads_of_a_rate_limit_are_not_used(world: World) -> None:
    with world.bot(bot=PICTURES | {"spare_uploads": 28}):
        answers = [world.answer(world.ask()) for _ in range(4)]
    assert [len(answer.media) for answer in answers] == [1, 1, 0, 0]  # of 30 in half an hour


def test_a_sensitive_photo_stays_hidden_in_its_picture(world: World) -> None:
    with world.bot(bot=PICTURES):
        reply = world.answer(world.ask(sensitive=True, attachments=[world.instance.attach(world.alice, photo())]))
    assert reply.media
    assert reply.sensitive
