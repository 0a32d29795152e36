"""Takes mentions into the inbox, from wherever they were heard of."""

from __future__ import annotations

import logging
from dataclasses import KW_ONLY, dataclass
from typing import Any, Protocol

from bot.entities import Mention
from bot.mentions.cleanup import Cleanup
from bot.mentions.worker import Worker
from bot.storage.inbox import Inbox

logger = logging.getLogger(__name__)


class Arrivals(Protocol):
    """Counts mentions: `bot.monitor.metrics.Metrics`."""

    def received(self) -> None:
        """A mention was taken into the inbox."""


@dataclass(eq=False)
class Intake:
    """Takes in mentions and what happens to their statuses; every method returns at once.

    Args:
        asked_before: seconds since the epoch by the server's clock. What was asked before this start may have been
            answered by an earlier run whose records are lost (a power cut, a restored backup): its thread is looked
            into first.
    """

    inbox: Inbox
    worker: Worker
    cleanup: Cleanup
    arrivals: Arrivals
    _: KW_ONLY
    asked_before: float

    def received(self, mention: Mention) -> None:
        """Take a mention into the inbox; one that is there already changes nothing."""
        look_first = mention.status.created_at.timestamp() <= self.asked_before
        if self.inbox.put(mention, look_first=look_first):
            self.arrivals.received()
            logger.info(
                "received notification=%s status=%s visibility=%s attachments=%d",
                mention.notification_id,
                mention.status.id,
                mention.status.visibility,
                len(mention.status.attachments),
            )
            self.worker.hand_over(mention)

    def edited(self, raw: dict[str, Any]) -> None:
        """A status was edited; `raw` is its JSON."""
        self.cleanup.edited(raw)

    def deleted(self, status_id: str) -> None:
        """A status was deleted."""
        self.cleanup.deleted(status_id)
