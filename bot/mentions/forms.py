"""Posts a reply; in another form if the server refuses it, and never twice."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from bot.entities import Reply, Status
from bot.errors import Refused
from bot.instance.client import Client
from bot.mentions import etiquette
from bot.storage.inbox import Entry

logger = logging.getLogger(__name__)

FORBIDDEN = 403
# In what servers say of a text that is too long: "character limit of 500 exceeded", "status too long", "length", ...
_ABOUT_LENGTH = ("character", "long", "length", "limit", "size")


def deliver(client: Client, entry: Entry, status: Status, reply: Reply, media_ids: Sequence[str]) -> str:
    """Posts the reply to a mention; returns its id.

    Of what may be the reason of a refusal, the likelier is left out first: the pictures, or a part of the text. Before
    each repeat the thread is looked into, as an answer that says "refused" may have come from a proxy. A repeat has an
    Idempotency-Key of its own: some servers remember refusals too.

    Args:
        entry: the mention's, in the state "posting".
        status: the mention's.

    Raises:
        InstanceError: it could not be posted; `Refused` if the server refuses every form of it.
    """
    forms = [reply, *(replace(reply, text=text) for text in reply.shorter)]
    key, n_refusals = entry.idempotency_key, 0
    while True:
        try:
            return client.poster.post(forms[0], in_reply_to=status.id, idempotency_key=key, media_ids=media_ids)
        except Refused as error:
            may_shorten = len(forms) > 1 and error.status != FORBIDDEN
            if may_shorten and (not media_ids or _is_about_length(error)):
                del forms[0]
            elif media_ids:
                media_ids = []
            else:
                raise
            n_refusals += 1
            logger.warning("answering in another form notification=%s error=%s", entry.notification_id, error)
        posted = etiquette.own_answer(status, client.reader.thread(status.id), me=client.home.me())
        if posted is not None:
            return posted.id
        key = f"{entry.idempotency_key}-form{n_refusals}"


def _is_about_length(error: Refused) -> bool:
    return any(word in str(error).lower() for word in _ABOUT_LENGTH)
