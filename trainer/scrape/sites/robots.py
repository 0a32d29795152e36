"""Obeys robots.txt, read by Protego, and X-Robots-Tag."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from urllib.parse import urlsplit

from protego import Protego

from trainer.errors import FetchError
from trainer.scrape.sites.site import SiteRefusalError
from trainer.web.fetch import Fetcher, invalid_url, safe_url

OUR_NAME = "dokocos"
MAX_BYTES = 500 * 1024  # RFC 9309, section 2.5: what a crawler must be ready to read
MAX_CRAWL_DELAY_S = 600.0
UNWANTED_TAGS = frozenset({"noai", "noimageai", "none"})
# Directives about search results that take a value, which may be "none" too.
OTHER_TAGS = frozenset({"max-image-preview", "max-snippet", "max-video-preview", "unavailable_after"})

# Nothing in it is tried twice, so that no line takes long.
_OTHER_CRAWLER = re.compile(
    rf"^\s*+user(-|\s++)?agent(?=[\s:])(?!\s*+:?\s*+(\*|{OUR_NAME})\s*+(#|$)).*", re.IGNORECASE | re.DOTALL
)


def parse_robots(text: str) -> Protego:
    """The rules of a robots.txt; those for other crawlers count as one crawler's.

    Protego keeps a copy of each rule for each crawler of its group: without this, a file of 100 kB can take 1 GB.
    It also takes a crawler's name that ours merely begins with for ours.

    Source: https://www.rfc-editor.org/rfc/rfc9309
    """
    lines = text.removeprefix("\ufeff").splitlines()
    return Protego.parse("\n".join(_OTHER_CRAWLER.sub("User-agent: another", line) for line in lines))


def check_tags(headers: Mapping[str, str], url: str) -> None:
    """Raises `SiteRefusalError` when an answer's X-Robots-Tag keeps it from machine learning.

    A no that names another crawler is taken for a no all the same: where several such headers came, nothing tells any
    more where that crawler's part ends, and whoever says it to one, means the use.

    Source: https://www.deviantart.com/team/journal/UPDATE-All-Deviations-Are-Opted-Out-of-AI-Datasets-934500371
    """
    words: set[str] = set()
    for directive in headers.get("x-robots-tag", "").lower().split(","):
        parts = {part.strip() for part in directive.split(":")}
        if not parts & OTHER_TAGS:
            words |= parts
    if unwanted := sorted(words & UNWANTED_TAGS):
        raise SiteRefusalError(f"{safe_url(url)}: X-Robots-Tag: {', '.join(unwanted)}")


class Robots:
    """The robots.txt of every host that is asked about, each read once. Threads may share one."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._lock = threading.Lock()
        self._rules: dict[str, Protego | FetchError] = {}

    def check(self, url: str) -> None:
        """Returns when a URL may be fetched.

        Raises:
            SiteRefusalError: it may not.
            FetchError: the host's robots.txt cannot be read, so for now nothing of that host may be.
        """
        try:
            may = self._of(url).can_fetch(url, OUR_NAME)
        except ValueError as error:
            raise invalid_url(url, error) from error
        if not may:
            raise SiteRefusalError(f"{safe_url(url)}: forbidden by the site's robots.txt")

    def crawl_delay_s(self, url: str) -> float:
        """Seconds between two requests that the URL's host asks for; 0 when it does not say. Raises `FetchError`."""
        return min(self._of(url).crawl_delay(OUR_NAME) or 0.0, MAX_CRAWL_DELAY_S)

    def _of(self, url: str) -> Protego:
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise invalid_url(url, error) from error
        origin = f"{parts.scheme}://{parts.netloc}"
        with self._lock:
            if origin not in self._rules:
                self._rules[origin] = self._fetch(f"{origin}/robots.txt")
            rules = self._rules[origin]
        if isinstance(rules, FetchError):
            raise rules
        return rules

    def _fetch(self, url: str) -> Protego | FetchError:
        try:
            fetched = self._fetcher.get(url, max_bytes=MAX_BYTES)
        except FetchError as error:
            if error.status in (401, 403):
                return parse_robots("User-agent: *\nDisallow: /")
            if error.status is not None and 400 <= error.status < 500 and error.retry_after_s is None:
                return parse_robots("")
            return FetchError(
                f"robots.txt cannot be read, so nothing is fetched from there for now: {error}",
                retry_after_s=error.retry_after_s,
                status=error.status,
            )
        return parse_robots(fetched.body.decode("utf-8", errors="replace"))
