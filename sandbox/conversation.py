"""Defines the questions of the demo, and checks the bot's answers.

The answers are read from the instance, not from the bot's database. The kind of an answer is recognised by parts of its
text that are the same in every language: percentages, the site's name, the name of a file format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from sandbox.gallery import Gallery
from sandbox.instance import Account, Instance, Status

Kind = Literal["gallery", "help", "unreadable"]
KINDS: dict[Kind, str] = {
    "gallery": "the name of a gallery, with percentages",
    "help": "a help text",
    "unreadable": "a message that the file cannot be read",
}
_SINCE = timedelta(days=365)  # account age; not a new account


@dataclass(frozen=True, slots=True)
class Question:
    """A mention of the bot, and the expected answer.

    Attributes:
        photo: the bytes of the attached file, also invalid ones; None means no attachment.
    """

    asker: str
    text: str
    kind: Kind
    photo: bytes | None = None
    description: str = ""
    language: str = "en"


def questions(gallery: Gallery, seed: int) -> tuple[Question, ...]:
    """The questions: photos, a photo with Japanese text, a broken file, and no photo; no photo is from the gallery."""
    photos = [gallery.draw_fresh(gallery.labels[number % len(gallery.labels)], seed + number) for number in range(5)]
    broken = photos[4][: len(photos[4]) // 3]
    return (
        Question("alice", "which gallery does my costume look like?", "gallery", photos[0], "Me in my new costume"),
        Question("bob", "and mine?", "gallery", photos[1], "A mascot on a stage"),
        Question("chie", "I sewed this one last week!", "gallery", photos[2], "A costume with a hood"),
        Question("dan", "hello, what can you do?", "help"),
        Question("eve", "my upload broke off, I think", "unreadable", broken),
        Question(
            "fumi", "この衣装はどこのコスプレに似ていますか？", "gallery", photos[3], "手作りの衣装です", language="ja"
        ),
    )


def ask(instance: Instance, question: Question, bot: Account) -> Status:
    """Post a question; creates the account of the asker if it is missing."""
    try:
        asker = instance.account(question.asker)
    except KeyError:
        created_at = instance.host.now() - _SINCE
        asker = instance.add_account(question.asker, display_name=question.asker.capitalize(), created_at=created_at)
    attachments = []
    if question.photo is not None:
        attachments.append(instance.attach(asker, question.photo, description=question.description))
    return instance.post(asker, f"@{bot.username} {question.text}", attachments=attachments, language=question.language)


def answers(instance: Instance, status: Status, bot: Account) -> list[Status]:
    """The bot's answers to a status, oldest first."""
    return [reply for reply in instance.replies_to(status) if reply.account is bot]


def kind_of(text: str) -> Kind | None:
    """The kind of an answer; None if it is not recognised."""
    if "%" in text:
        return "gallery"
    if "Cure WorldCosplay" in text:
        return "help"
    if "JPEG" in text:
        return "unreadable"
    return None


def find_problems(instance: Instance, asked: Mapping[Question, Status], bot: Account) -> list[str]:
    """Describe each question whose answer is not as expected; empty if all are."""
    problems = (
        (question.asker, _problem(question, answers(instance, status, bot))) for question, status in asked.items()
    )
    return [f"@{asker}: {problem}" for asker, problem in problems if problem]


def _problem(question: Question, replies: Sequence[Status]) -> str | None:
    expected = KINDS[question.kind]
    if not replies:
        return f"no answer came; expected {expected}"
    if len(replies) > 1:
        return f"{len(replies)} answers came; expected one"
    (reply,) = replies
    if kind_of(reply.text) != question.kind:
        return f"the answer is not {expected}: {reply.text!r}"
    if reply.language != question.language:
        return f"the answer is in {reply.language!r}; expected {question.language!r}"
    return None
