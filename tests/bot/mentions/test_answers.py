"""The reply to a mention with a photo: its text, mention, visibility and language."""

from __future__ import annotations

from tests.bot.conftest import World


def test_a_photo_mention_is_answered_in_its_thread(world: World) -> None:
    with world.bot():
        question = world.ask(label="japan")
        reply = world.answer(question)
    assert reply.text.startswith("@alice This photo looks like the 🇯🇵 Japan gallery.")
    assert "🇯🇵 Japan ████" in reply.text
    assert "(version v1)" in reply.text
    assert reply.mentions == (world.alice,)
