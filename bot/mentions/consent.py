"""Finds and records consent: only an answer to the bot's own request gives it, for that photo and that asker."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from bot.entities import Account, Status, Thread
from bot.errors import NotFound
from bot.instance.client import Client
from bot.mentions import etiquette
from bot.mentions.etiquette import Subject
from bot.reply.texts import Texts
from bot.storage.store import Store

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class ConsentKeeper:
    """Knows whose photos may be looked at, and for whom.

    Raises (all methods):
        InstanceError, StorageError: a call to the server, or the database, failed.
    """

    client: Client
    store: Store
    texts: Texts

    def __post_init__(self) -> None:
        said = (self.texts.say(language, "consent") for language in self.texts.templates)
        self._requests = {" ".join(text.split()) for text in said}

    def is_opted_out(self, account: Account) -> bool:
        """Whether an account wants no answers, or has moved to one that wants none."""
        opt_outs = self.store.opt_outs
        return account.id in opt_outs or (account.moved_to is not None and account.moved_to in opt_outs)

    def given(self, status: Status, thread: Thread, *, me: Account) -> Status | None:
        """Records the consent that a mention gives; returns the status with the photos, or None if it gives none."""
        request = etiquette.above(status, thread)
        if request is None or request.account.id != me.id or not self.agrees(status.text):
            return None
        question, photo = etiquette.above(request, thread), etiquette.shown_by(request, thread)
        if question is None or photo is None or photo.account.id != status.account.id or not self.is_request(request):
            return None
        self.store.consents.add(
            photo_id=photo.id,
            asker_id=question.account.id,
            author_id=status.account.id,
            yes_id=status.id,
            media_ids=etiquette.media_ids(photo),
        )
        logger.info("consent photo=%s asker=%s yes=%s", photo.id, question.account.id, status.id)
        return photo

    def find(self, photo: Status, *, asker_id: str, me: Account) -> Subject:
        """Whether the bot may classify somebody else's photo for this asker, has to ask, or has asked before.

        Consent is for the photos that were in the status then, and as long as the author's "yes" stands.
        """
        given = self.store.consents.find(photo_id=photo.id, asker_id=asker_id)
        if given and etiquette.media_ids(photo) <= given.media_ids and self._stands(given.yes_id, photo.account.id):
            return Subject("classify", photo)
        return etiquette.consent(photo, self.client.reader.thread(photo.id), me=me, is_request=self.is_request)

    def _stands(self, yes_id: str, author_id: str) -> bool:
        """Whether the author still says yes in that status."""
        try:
            yes = self.client.reader.status(yes_id)
        except NotFound:
            return False
        return yes.account.id == author_id and self.agrees(yes.text)

    def agrees(self, text: str) -> bool:
        """Whether a text says yes and nothing else."""
        return self.texts.request(text) == "agree"

    def is_request(self, ours: Status) -> bool:
        """Whether a status of the bot asks for consent, also if its record was lost."""
        answered = self.store.inbox.by_reply(ours.id)
        return ours.text in self._requests or (answered is not None and answered.kind == "consent")
