"""Understands what people say back to an answer, and notes it; nothing is learned from it.

Two kinds of accounts count: who asked, and whose photo the answer is about. A gallery that is named is compared with
the answer's and not kept: which country somebody names is nobody's label.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from bot.admin.sampling import sample_number
from bot.entities import Account, Status, Thread
from bot.mentions import etiquette
from bot.mentions.answered import Answered
from bot.reply.writer import Writer
from bot.storage.inbox import Entry
from bot.storage.store import Store

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Feedback:
    """Notes opinions of askers and authors, and admins' words about samples.

    Raises (all methods):
        StorageError: the database failed.
    """

    store: Store
    writer: Writer

    def hear(self, status: Status, thread: Thread, above: Answered, *, me: Account) -> bool | None:
        """Notes what a reply to an answer says about it.

        Returns:
            Whether it is the account's first word about that answer, to be thanked for; None if it is no opinion that
            counts.
        """
        answered = above.mention
        is_right = self._verdict(status, answered)
        if is_right is None or not self._counts(status.account, above.answer, answered, thread, me=me):
            return None
        return self._note(status, answered, is_right=is_right)

    def edited(self, status: Status) -> None:
        """Lets an opinion follow its status, which was edited; one that says something else now is deleted."""
        notification_id = self.store.opinions.about(status.id)
        answered = self.store.inbox.entry(notification_id) if notification_id else None
        if answered is None:
            return
        is_right = self._verdict(status, answered)
        if is_right is None:
            self.store.opinions.forget(status.id)
        else:
            self._note(status, answered, is_right=is_right)

    def judge(self, status: Status, thread: Thread, *, me: Account) -> str | None:
        """Records what an admin says below a message with a sample; returns the answer, or None if it is none."""
        message = etiquette.above(status, thread)
        number = None if message is None or message.account.id != me.id else sample_number(message.text)
        if number is None:
            return None
        label = self.store.opinions.sampled(number)
        if label is None:
            return f"Sample {number} is gone: its answer was deleted, or is older than bot.keep_days."
        is_right = self._is_right(status.text, label)
        if is_right is None:
            return None
        self.store.opinions.judge(number, is_right=is_right)
        return f"Sample {number} is noted as {'right' if is_right else 'wrong'}."

    def _note(self, status: Status, answered: Entry, *, is_right: bool) -> bool:
        is_first = self.store.opinions.note(
            answered.notification_id,
            account_id=status.account.id,
            status_id=status.id,
            is_right=is_right,
            said_at=(status.edited_at or status.created_at).timestamp(),
        )
        logger.info("opinion answer=%s status=%s right=%s", answered.reply_id, status.id, is_right)
        return is_first

    def _verdict(self, status: Status, answered: Entry) -> bool | None:
        """Whether a status calls the answer right; None if it says nothing about it, or asks about another photo."""
        if answered.label is None or status.attachments or (status.quoted and status.quoted.attachments):
            return None
        return self._is_right(status.text, answered.label)

    def _is_right(self, text: str, label: str) -> bool | None:
        request = self.writer.texts.request(text)
        if request in ("right", "wrong"):
            return request == "right"
        names = {name: each for each in (*self.writer.labels, label) for name in self._names(each)}
        said = None if request else self.writer.texts.named_in(text, names)
        return None if said is None else names[said] == label

    def _names(self, label: str) -> Iterator[str]:
        """What people may call a gallery: the label, and its names in all languages."""
        yield label
        yield from {self.writer.name(label, language) for language in self.writer.texts.templates}

    def _counts(self, account: Account, ours: Status, answered: Entry, thread: Thread, *, me: Account) -> bool:
        """Whether this account asked for an answer about one photo, or that photo is its own."""
        shown = self.store.shown.by_reply(ours.id)
        question = etiquette.above(ours, thread)
        n_photos = len(shown.media_ids) if shown else len(question.attachments) if question else 0
        concerned = {answered.account_id}
        if shown:
            concerned.add(shown.author_id)
        if shown and question and answered.account_id == shown.author_id:  # it says yes to somebody's question
            asked = etiquette.answered_above(question, thread, me=me)
            concerned |= {asked.account.id} if asked else set()
        return n_photos == 1 and account.id in concerned
