"""What the demo's people ask the bot, and what counts as an answer.

The instance is looked at, never the bot's own books. The kind of an answer is told by marks that its texts have in
every language: percentages, the site's name, the name of a file format.
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
    "unreadable": "a word that the file cannot be read",
}
_SINCE = timedelta(days=365)  # the age of an account that nobody takes for a newcomer's


@dataclass(frozen=True, slots=True)
class Question:
    """A mention of the bot, and the answer it should get.

    Attributes:
        photo: the attached file's bytes, whatever they are; None: nothing is attached.
    """

    asker: str
    text: str
    kind: Kind
    photo: bytes | None = None
    description: str = ""
    language: str = "en"


def questions(gallery: Gallery, seed: int) -> tuple[Question, ...]:
    """Three photos, no photo, a broken file, and a photo with Japanese words; no photo is in the gallery."""
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
    """Post a question as its asker, who is given an account if there is none."""
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
    """What kind of answer a text is; None for one that is no kind of ours."""
    if "%" in text:
        return "gallery"
    if "Cure WorldCosplay" in text:
        return "help"
    if "JPEG" in text:
        return "unreadable"
    return None


def what_is_missing(instance: Instance, asked: Mapping[Question, Status], bot: Account) -> list[str]:
    """One line about each question whose answer is not as expected; nothing where all is well."""
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
