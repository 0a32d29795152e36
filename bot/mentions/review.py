"""Looks again at mentions read before, for edits and deletions that no stream told of.

A server shows a mention in its list as it is now, edited, and leaves a deleted one out. So a few pages of the list tell
what has changed, whatever the number of mentions.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from cachetools import LRUCache, TTLCache

from bot.entities import Status
from bot.errors import NoSuchPage, NotFound
from bot.instance.client import Client
from bot.mentions.intake import Intake
from bot.storage.inbox import Entry, Inbox

logger = logging.getLogger(__name__)

EVERY_S = 120.0  # while there is no stream, or one that is not trusted
STREAMING_EVERY_S = 900.0  # a stream may have been closed at the wrong moment; not each tells of edits
MAX_PAGES = 3
MAX_CHECKS = 10  # of statuses that are not in the list any more, in one review
CHECKED_FOR_S = 3600.0  # one that exists, though it is not in the list, is not asked for again for so long
MAX_KNOWN = 10_000


class Review:
    """Compares the newest mentions with how they were.

    Args:
        max_age_s: older mentions are left as they are.
        now: seconds since the epoch.
    """

    def __init__(
        self, client: Client, inbox: Inbox, intake: Intake, *, max_age_s: float, now: Callable[[], float] = time.time
    ) -> None:
        self._client = client
        self._inbox = inbox
        self._intake = intake
        self._max_age_s = max_age_s
        self._now = now
        self._looked_at = -STREAMING_EVERY_S  # by a clock that is never set
        self._versions: LRUCache[str, tuple[object, int]] = LRUCache(MAX_KNOWN)
        self._existing: TTLCache[str, bool] = TTLCache(MAX_KNOWN, CHECKED_FOR_S)

    def look_if_due(self, *, streaming: bool) -> None:
        """Looks if the last time is long enough ago.

        Raises:
            InstanceError, StorageError: reading failed.
        """
        if time.monotonic() - self._looked_at >= (STREAMING_EVERY_S if streaming else EVERY_S):
            self._looked_at = time.monotonic()
            self._look()

    def _look(self) -> None:
        shown: dict[str, Status] = {}
        oldest = self._now() - self._max_age_s
        for n_pages, page in enumerate(self._client.reader.backwards(), start=1):
            shown |= {mention.status.id: mention.status for mention in page.mentions}
            if n_pages == MAX_PAGES:  # there may be more
                oldest = max(oldest, min((each.created_at.timestamp() for each in shown.values()), default=oldest))
                break
        for status in shown.values():
            self._compare(status)
        self._check([entry for entry in self._inbox.followed_since(oldest) if entry.status_id not in shown], oldest)

    def _compare(self, status: Status) -> None:
        version = (status.edited_at, len(status.attachments))
        before = self._versions.get(status.id, (None, len(status.attachments)))
        self._versions[status.id] = version
        if version != before:
            self._intake.edited(status)

    def _check(self, absent: list[Entry], oldest: float) -> None:
        """Asks for statuses that should be in the list and are not: deleted, or only the notification is."""
        doubtful = [each for each in absent if each.mentioned_at >= oldest and each.status_id not in self._existing]
        for entry in doubtful[-MAX_CHECKS:]:
            try:
                self._client.reader.status(entry.status_id)
            except NotFound:
                self._intake.deleted(entry.status_id)
            except NoSuchPage as error:
                if error.outage:
                    raise
                logger.debug("unclear whether gone status=%s error=%s", entry.status_id, error)
            self._existing[entry.status_id] = True
