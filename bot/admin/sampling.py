"""Sends the admins a random sample of last week's answers as links, to be called right or wrong.

People who say something unasked are not like those who do not. A sample drawn at random tells how often answers are
right.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime, timedelta

from bot.admin.messages import Message
from bot.admin.outbox import Outbox
from bot.errors import NotFound
from bot.instance.client import Client
from bot.storage.opinions import Sample
from bot.storage.store import Store

WEEK = timedelta(days=7)
_NUMBER = re.compile(r"Sample (\d{1,9}):")

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Sampler:
    """Draws once a week (from Monday on, UTC), and sends what was drawn.

    Args:
        per_week: answers drawn at most in a week; 0: none.
        now: seconds since the epoch.
    """

    client: Client
    store: Store
    outbox: Outbox
    _: KW_ONLY
    per_week: int
    now: Callable[[], float] = time.time
    chance: random.Random = field(default_factory=random.SystemRandom)

    def run_job(self, _asked: bool) -> str:
        """Draws if this week's sample is not drawn yet, and sends what waits.

        Raises:
            InstanceError, StorageError: not all could be sent; the next run goes on.
        """
        if not self.per_week or not self.outbox.admins:
            return "off"
        self._draw()
        n_sent = sum(self._send(sample) for sample in self.store.opinions.unsent())
        return f"{n_sent} answers sent to the admins"

    def _draw(self) -> None:
        today = datetime.fromtimestamp(self.now(), UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        monday = today - timedelta(days=today.weekday())
        found = self.store.opinions.candidates(since=(monday - WEEK).timestamp(), before=monday.timestamp())
        n_left = self.per_week - self.store.opinions.n_drawn(since=monday.timestamp())
        self.store.opinions.draw(self.chance.sample(found, max(0, min(n_left, len(found)))))

    def _send(self, sample: Sample) -> bool:
        """Stores the message about a sample, unless its answer is gone, or is narrower than its question."""
        try:
            answer = self.client.reader.status(sample.reply_id)
        except NotFound:
            answer = None
        if answer is None or answer.visibility not in ("public", "unlisted") or not answer.url:
            self.store.opinions.drop(sample.number)
            return False
        # In this order a crash in between sends it twice, under the same number.
        self.outbox.tell_admins(Message(_text(sample), link=answer.url))
        self.store.opinions.sent(sample.number)
        return True


def sample_number(text: str) -> int | None:
    """The number of the sample that a message of the bot is about; None if it is about none."""
    found = _NUMBER.match(text.strip())
    return int(found[1]) if found else None


def _text(sample: Sample) -> str:
    return (
        f"Sample {sample.number}: “{sample.label}” was the answer of version {sample.version}. Is that right? Reply "
        "“right” or “wrong” to this message. If there are several photos, the first one is meant that has a gallery."
    )
