"""Which answer of the bot a status replies to, by the records."""

from __future__ import annotations

from dataclasses import dataclass

from bot.entities import Account, Status, Thread
from bot.errors import Transient
from bot.mentions import etiquette
from bot.storage.inbox import Entry, Inbox


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer of the bot, and the mention that it answers."""

    answer: Status
    mention: Entry


def find_answered(status: Status, thread: Thread, *, me: Account, inbox: Inbox) -> Answered | None:
    """The answer right above a status; None if something else is there, or the answer's record is lost.

    Raises:
        Transient: the answer is not recorded yet; somebody, or a program, is very quick.
        StorageError: the database failed.
    """
    ours = etiquette.above(status, thread)
    if ours is None or ours.account.id != me.id:
        return None
    mention = inbox.by_reply(ours.id)
    if mention is not None:
        return Answered(ours, mention)
    mention = None if ours.in_reply_to_id is None else inbox.by_status(ours.in_reply_to_id)
    if mention is not None and mention.state == "posting":
        raise Transient("the answer above is not recorded yet", outage=False)
    return None
