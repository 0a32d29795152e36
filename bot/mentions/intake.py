"""Puts mentions into the inbox, from the stream and from the catch-up."""

from __future__ import annotations

import logging
from dataclasses import KW_ONLY, dataclass
from typing import Protocol

from bot.entities import Mention, Status
from bot.mentions.cleanup import Cleanup
from bot.mentions.withdrawal import Withdrawal
from bot.mentions.worker import Worker

logger = logging.getLogger(__name__)


class MentionCounter(Protocol):
    """Counts mentions: `bot.monitor.metrics.Metrics`."""

    def received(self) -> None:
        """Counts a mention that was put into the inbox."""


@dataclass(eq=False)
class Intake:
    """Receives mentions and events about their statuses; every method returns at once.

    Args:
        asked_before: the start, in seconds since the epoch by the server's clock. An earlier run may have answered an
            older mention and lost the record (power cut, restored backup), so its thread is checked first.
    """

    worker: Worker
    cleanup: Cleanup
    withdrawal: Withdrawal
    counter: MentionCounter
    _: KW_ONLY
    asked_before: float

    def received(self, mention: Mention) -> None:
        """Puts a mention into the inbox; does nothing if it is there already."""
        look_first = mention.status.created_at.timestamp() <= self.asked_before
        if self.worker.receive(mention, look_first=look_first):
            self.counter.received()
            logger.info(
                "received notification=%s status=%s visibility=%s attachments=%d",
                mention.notification_id,
                mention.status.id,
                mention.status.visibility,
                len(mention.status.attachments),
            )

    def edited(self, status: Status) -> None:
        """Handles an edited status."""
        self.cleanup.edited(status)
        self.withdrawal.changed(status.id)

    def deleted(self, status_id: str) -> None:
        """Handles a deleted status."""
        self.cleanup.deleted(status_id)
        self.withdrawal.changed(status_id)
