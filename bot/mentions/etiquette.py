"""Decides who is answered, and about whose photo; pure.

The bot classifies the asker's own photo, in the mention itself or in the status it quotes or replies to. It classifies
somebody else's photo only if that person agrees in the thread, and asks for that once.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from bot.entities import Account, Status, Thread

NEW_ACCOUNT = timedelta(days=1)
# What people write in their profile to opt out of bots or AI: "#NoBot", "#no-ai", "#NoBots", "AI学習禁止", ...
_TAG = r"#no[_-]?(?:bots?|(?:image[_-]?)?ai|ml|machine[_-]?learning)(?![^\W_])"
_NO_BOTS = re.compile(rf"{_TAG}|(?:bot|ai(?:の?学習)?)(?:は|利用)?禁止", re.IGNORECASE)
_NO_BOTS_TAG = re.compile(_TAG, re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Subject:
    """What to do about a mention.

    Attributes:
        action: classify (the photos in `status`), ask (its author for consent), help, or refuse.
        reason: why refused, in a few words.
    """

    action: Literal["classify", "ask", "help", "refuse"]
    status: Status | None = None
    reason: str = ""


def wants_no_bots(account: Account) -> bool:
    """Whether a profile asks bots to stay away."""
    return _NO_BOTS.search(unicodedata.normalize("NFKC", account.profile)) is not None


def has_no_bots_tag(description: str) -> bool:
    """Whether an instance's description asks bots to stay away, by a tag: in words it may mean spam bots alone."""
    return _NO_BOTS_TAG.search(unicodedata.normalize("NFKC", description)) is not None


def is_new(account: Account, *, now: datetime) -> bool:
    """Whether an account is younger than a day; False if its age is unknown."""
    return account.created_at is not None and now - account.created_at < NEW_ACCOUNT


def refusal_reason(status: Status, *, me: Account, now: datetime, max_age: timedelta) -> str | None:
    """Why a mention gets no answer, whatever its text; None if it may get one."""
    if status.account.id == me.id:
        return "from ourselves"
    if status.is_boost:
        return "a boost"
    if status.account.bot:
        return "from another bot"
    if now - status.created_at > max_age:
        return "too old"
    if wants_no_bots(status.account):
        return "the profile asks bots to stay away"
    return None


def own_answer(status: Status, thread: Thread, *, me: Account) -> Status | None:
    """The bot's answer to a status in its thread, or None."""
    answers = (each for each in thread.descendants if each.account.id == me.id and each.in_reply_to_id == status.id)
    return next(answers, None)


def n_own_answers(thread: Thread, *, me: Account) -> int:
    """How many of the bot's statuses are among a mention's ancestors."""
    return sum(each.account.id == me.id for each in thread.ancestors)


def media_ids(status: Status) -> frozenset[str]:
    """The ids of a status' attachments."""
    return frozenset(attachment.id for attachment in status.attachments)


def above(status: Status, thread: Thread) -> Status | None:
    """The status that another one replies to, if it is among its ancestors."""
    return next((each for each in thread.ancestors if each.id == status.in_reply_to_id), None)


def answered_above(status: Status, thread: Thread, *, me: Account) -> Status | None:
    """The mention whose answer by the bot a status replies to; None if it replies to something else."""
    ours = above(status, thread)
    return above(ours, thread) if ours is not None and ours.account.id == me.id else None


def shown_by(ours: Status, thread: Thread) -> Status | None:
    """The status with photos that the bot's reply to a mention is about, if it is not the mention itself."""
    question = above(ours, thread)
    if question is None or question.attachments:
        return None
    if question.quoted is not None and question.quoted.attachments:
        return question.quoted
    photo = above(question, thread)
    return photo if photo is not None and photo.attachments else None


def subject(status: Status, thread: Thread, *, me: Account, was_classified: Callable[[str], bool]) -> Subject:
    """What a mention asks about.

    Clients copy mentions into replies, so a reply to a status that mentions the bot mentions it too, unintentionally.
    Text in such a reply asks for nothing, unless the photos above are the asker's own and not classified yet.

    Args:
        thread: the mention's.
        was_classified: whether the photos in the status with this id were classified before.

    Returns:
        For "ask" the status with somebody else's photos; `consent` says whether that person has agreed already.
    """
    if status.attachments:
        return Subject("classify", status)
    if status.quoted is not None and status.quoted.attachments:
        return _quoted(status.quoted, asker=status.account, me=me)
    own = [each for each in thread.ancestors if each.account.id == status.account.id and each.attachments]
    parent = above(status, thread)
    if parent is None:
        return Subject("help")
    if parent in own and not (me.id in parent.mentioned_ids and was_classified(parent.id)):
        return Subject("classify", parent)
    if parent.account.id == me.id:
        return Subject("refuse", reason="only words in answer to us")
    if me.id in parent.mentioned_ids:
        return Subject("refuse", reason="only words in a conversation that names us")
    if not parent.attachments:
        return Subject("help")
    if parent.account.bot or wants_no_bots(parent.account):
        return Subject("refuse", reason="the photo's author wants no bots")
    return Subject("ask", parent)


def _quoted(photo: Status, *, asker: Account, me: Account) -> Subject:
    """What a mention asks about that quotes a status with photos; unlike replies, quotes copy no mentions."""
    if photo.account.id == asker.id:
        return Subject("classify", photo)
    if photo.account.id == me.id:
        return Subject("refuse", reason="only words about an answer of ours")
    if photo.account.bot or wants_no_bots(photo.account):
        return Subject("refuse", reason="the photo's author wants no bots")
    return Subject("ask", photo)


def consent(photo: Status, below: Thread, *, me: Account, is_request: Callable[[Status], bool]) -> Subject:
    """What to do about somebody else's photo that nobody has agreed to: ask, unless that was done.

    Args:
        below: the thread of the photo's status.
        is_request: whether a status of the bot asked for consent.
    """
    if any(each.account.id == me.id and is_request(each) for each in below.descendants):
        return Subject("refuse", reason="the photo's author was asked before")
    return Subject("ask", photo)
