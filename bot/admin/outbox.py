"""Sends reports and warnings to admins by direct message, and announcements to everybody.

Messages are stored until they are posted, so an outage or a restart loses none. In quiet hours the admins' messages
wait too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from bot.admin.messages import Message
from bot.entities import Reply, Visibility
from bot.errors import InstanceError, NotFound, RateLimited, Refused
from bot.instance.client import Client
from bot.reply.length import clusters, length
from bot.reply.writer import harmless
from bot.storage.records import QueuedMessage, Records
from trainer.errors import StorageError

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 20
UPLOAD_TIMEOUT_S = 20.0
QUIET_UNTIL = "quiet_until"
ANNOUNCE = "announce"


class Outbox:
    """Stores and sends messages.

    Args:
        admins: the admins' accts.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        client: Client,
        records: Records,
        *,
        admins: Sequence[str],
        max_characters: int,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.admins = tuple(admins)
        self._client = client
        self._records = records
        self._max_characters = max_characters
        self._now = now

    def tell_admins(self, message: Message) -> None:
        """Stores a message to each admin, in as many parts as needed; the picture goes with the first part."""
        for acct in self.admins:
            link = f"\n{message.link}" if message.link else ""
            room = self._max_characters - length(f"@{acct} {link}", strictly=True)
            for number, part in enumerate(parts(message.text, room)):
                picture = message.picture if number == 0 else None
                alt_text = message.alt_text if number == 0 else ""
                self._records.write(part + link, acct=acct, picture=picture, alt_text=alt_text)

    def warn(self, kind: str, text: str, *, again_after_s: float) -> None:
        """Tells the admins about a fault; again only after `again_after_s`, or after it was resolved."""
        if self._records.should_report(kind, again_after_s=again_after_s):
            logger.error("fault kind=%s %s", kind, text)
            self.tell_admins(Message(f"⚠ {text}"))

    def resolved(self, kind: str, text: str) -> None:
        """Tells the admins that a fault is over, if they were told about it."""
        if self._records.resolved(kind):
            logger.info("resolved kind=%s", kind)
            self.tell_admins(Message(text))

    def announce(self, message: Message) -> None:
        """Stores a public post, if the admins have switched announcements on."""
        if self._records.switch(ANNOUNCE) == "on":
            for part in parts(message.text, self._max_characters):
                self._records.write(part, acct=None)

    def send(self) -> int:
        """Posts waiting messages, oldest first; returns how many. After an error the rest waits for the next call.

        Raises:
            StorageError: the outbox cannot be read.
        """
        n_sent = 0
        for queued in self._records.queued():
            if queued.acct is not None and self._is_quiet():
                continue
            try:
                self._post(queued)
            except (Refused, NotFound) as error:
                logger.error("message dropped to=%s reason=%s", queued.acct or "everybody", error)
            except InstanceError as error:
                if not isinstance(error, RateLimited):
                    self._records.tried(queued)
                if queued.attempts < MAX_ATTEMPTS:
                    logger.warning("messages wait n=%d reason=%s", len(self._records.queued()), error)
                    break
                logger.error("message dropped to=%s reason=%s", queued.acct or "everybody", error)
            else:
                n_sent += 1
                logger.info("message sent to=%s", queued.acct or "everybody")
            self._records.sent(queued)
        return n_sent

    def _is_quiet(self) -> bool:
        until = self._records.switch(QUIET_UNTIL)
        return until is not None and self._now() < float(until)

    def _post(self, queued: QueuedMessage) -> None:
        visibility: Visibility = "public" if queued.acct is None else "direct"
        head = "" if queued.acct is None else f"@{queued.acct} "
        reply = Reply(head + queued.text, visibility, spoiler_text="", sensitive=False, language="en")
        self._client.poster.post(
            reply, in_reply_to=None, idempotency_key=queued.idempotency_key, media_ids=self._upload(queued)
        )

    def _upload(self, queued: QueuedMessage) -> list[str]:
        """Uploads the picture; returns no id if that fails, as a message without picture is better than none."""
        if queued.picture is None:
            return []
        try:
            media_id = self._client.poster.upload(
                queued.picture, description=queued.alt_text, timeout_s=UPLOAD_TIMEOUT_S
            )
        except (InstanceError, StorageError) as error:
            logger.warning("sending a message without its picture: %s", error)
            return []
        return [media_id] if media_id else []


def parts(text: str, room: int) -> list[str]:
    """Splits a text into parts, at line ends if possible; no part can mention, tag or link.

    Args:
        room: characters for each part, counted strictly.
    """
    lines = [piece for line in text.splitlines() for piece in _pieces(harmless(line), room)]
    found: list[str] = []
    for line in lines:
        if found and length(found[-1], strictly=True) + 1 + length(line, strictly=True) <= room:
            found[-1] += f"\n{line}"
        else:
            found.append(line)
    return found or [""]


def _pieces(line: str, room: int) -> list[str]:
    pieces = [""]
    for letter in clusters(line):
        if pieces[-1] and len(pieces[-1] + letter) > room:
            pieces.append("")
        pieces[-1] += letter
    return pieces
