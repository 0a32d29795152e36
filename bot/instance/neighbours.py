"""What other instances say about themselves, asked at most once a day each."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from cachetools import TTLCache

from bot.instance.markup import plain_text
from bot.instance.parse import Json
from trainer.errors import FetchError
from trainer.web.fetch import Fetcher

logger = logging.getLogger(__name__)

ADDRESSES = ("https://{host}/api/v2/instance", "https://{host}/api/v1/instance")  # some servers have the older alone
KEPT_S = 24 * 3600.0
MAX_HOSTS = 1000  # cached
MAX_BYTES = 1024 * 1024
DEADLINE_S = 5.0
NO_SUCH_PAGE = frozenset({404, 410})


class Neighbours:
    """Reads descriptions of instances; may be used from any thread.

    Args:
        fetcher: without retries, as an answer waits for it.
        now: seconds since the epoch.
    """

    def __init__(self, fetcher: Fetcher, *, now: Callable[[], float] = time.time) -> None:
        self._fetcher = fetcher
        self._asked: TTLCache[str, Future[str]] = TTLCache(maxsize=MAX_HOSTS, ttl=KEPT_S, timer=now)
        self._lock = threading.Lock()

    def description(self, host: str) -> str:
        """What an instance says about itself, as plain text; empty if it does not answer, or says nothing."""
        with self._lock:
            asked = self._asked.get(host)
            if asked is None:
                mine: Future[str] = Future()
                self._asked[host] = mine
        if asked is not None:
            return asked.result()  # another thread may still be asking
        try:
            mine.set_result(self._ask(host))
        finally:
            if not mine.done():
                mine.set_result("")
        return mine.result()

    def _ask(self, host: str) -> str:
        for address in ADDRESSES:
            try:
                found = self._fetcher.get(address.format(host=host), max_bytes=MAX_BYTES, deadline_s=DEADLINE_S)
                return description(json.loads(found.body))
            except FetchError as error:
                logger.debug("no description host=%s error=%s", host, error)
                if error.status not in NO_SUCH_PAGE:
                    return ""
            except (ValueError, AttributeError, RecursionError) as error:
                logger.debug("unreadable description host=%s error=%r", host, error)
                return ""
        return ""


def description(raw: Json) -> str:
    """The description in what `/api/v1/instance` or `/api/v2/instance` answer, as plain text."""
    return plain_text("\n".join(str(raw.get(name) or "") for name in ("short_description", "description")))
