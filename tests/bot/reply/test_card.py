"""Answers have a picture while the server allows uploads; without one they are not delayed."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

from bot.entities import Prediction
from bot.reply.card import illustrate
from bot.reply.picture import Bar, draw_card
from bot.reply.texts import load_texts
from bot.reply.writer import Writer
from sandbox.faults import Fault
from tests import hostile
from tests.bot.conftest import World, photo
from tests.fakes import FakeClassifier
from trainer.config import FIGURE

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


@pytest.mark.parametrize(("language", "frame"), [("en", "A frame shows"), ("ja", "枠の中")])
def test_a_version_of_figures_gets_the_figure_alone_and_the_picture_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch, language: str, frame: str
) -> None:
    """Its decoder finds a figure in the upper half of every photo; below, this one looks like another gallery."""
    monkeypatch.setattr(FakeClassifier, "view", f"{FIGURE}/whole")
    halves = Image.new("RGB", (120, 160), "red")
    halves.paste((0, 0, 255), (0, 0, 120, 80))
    attached = world.instance.attach(world.alice, hostile.save(halves, "PNG"))
    with world.bot(bot=PICTURES):
        reply = world.answer(world.ask(attachments=[attached], language=language))
    assert "🇯🇵" in reply.text.splitlines()[0]
    assert frame in reply.media[0].description


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


@pytest.mark.parametrize(("label", "shown"), [("🐶", None), ("🐶 dog", "dog"), ("\U0001fae8", None)])
def test_a_gallery_that_cannot_be_written_is_not_left_out_of_its_sentence(label: str, shown: str | None) -> None:
    """ "Looks like the   gallery" would be said of an emoji that no font has."""
    thumbnail, heatmap = np.full((90, 60, 3), 128, np.uint8), np.zeros((2, 2), np.float32)
    shares = ((label, 0.9), ("cat", 0.1))
    prediction = Prediction(shares, sure=True, version="v1", view="whole", heatmap=heatmap, thumbnail=thumbnail)
    writer = Writer(load_texts(), {}, widest="public")
    card = illustrate(prediction, writer, language="en")
    assert card is not None
    bars = (Bar(shown, 0.9), Bar("cat", 0.1)) if shown else ()
    headline = f"This photo looks like the {shown} gallery." if shown else ""
    say = writer.texts.say
    scale = (say("en", "cold"), say("en", "hot"))
    footer = say("en", "version", version="v1")
    assert card[0] == draw_card(thumbnail, heatmap, bars, headline=headline, footer=footer, scale=scale)
    assert label in card[1]
