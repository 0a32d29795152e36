"""What a site tells machines about itself: robots.txt and X-Robots-Tag, both obeyed.

Python's `urllib.robotparser` takes the first rule that matches and knows no wildcards, so it reads many of today's
files as allowing what they forbid. This follows RFC 9309: the longest matching rule counts, `*` and `$` mean something.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from trainer.errors import FetchError
from trainer.scrape.sites.site import SiteRefusalError
from trainer.web.fetch import Fetcher, safe_url

OUR_NAME = "dokocos"
MAX_BYTES = 500 * 1024  # RFC 9309, section 2.5: what a crawler must be ready to read
MAX_CRAWL_DELAY_S = 600.0
UNWANTED_TAGS = frozenset({"noai", "noimageai", "none"})
# Directives about search results that take a value, which may be "none" too.
OTHER_TAGS = frozenset({"max-image-preview", "max-snippet", "max-video-preview", "unavailable_after"})


@dataclass(frozen=True, slots=True)
class Rules:
    """The part of a robots.txt that is meant for us.

    Attributes:
        lines: (allowed, pattern) in the order of the file.
        crawl_delay_s: seconds between two requests that the site asks for.
    """

    lines: tuple[tuple[bool, str], ...] = ()
    crawl_delay_s: float = 0.0

    def allow(self, url: str) -> bool:
        """Whether a URL of the site may be fetched; the longest matching rule decides, "allow" when two are as long."""
        parts = urlsplit(url)
        target = _normal((parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        verdicts = [(len(pattern), allowed) for allowed, pattern in self.lines if _matches(pattern, target)]
        return max(verdicts, default=(0, True))[1]


def parse_robots(text: str, name: str = OUR_NAME) -> Rules:
    """The rules of a robots.txt for one crawler: the groups that name it, else the groups for all.

    Source: https://www.rfc-editor.org/rfc/rfc9309
    """
    ours: list[tuple[str, str]] = []
    for_all: list[tuple[str, str]] = []
    named = False
    agents: list[str] = []
    in_rules = True
    for line in text.splitlines():
        key, colon, value = line.partition("#")[0].partition(":")
        key, value = key.strip().lower(), value.strip()
        if not colon:
            continue
        if key == "user-agent":
            if in_rules:
                agents, in_rules = [], False
            agents.append(value.lower())
            named = named or value.lower() == name
        elif key in ("allow", "disallow", "crawl-delay"):
            in_rules = True
            if name in agents:
                ours.append((key, value))
            if "*" in agents:
                for_all.append((key, value))
    mine = ours if named else for_all
    lines = tuple((key == "allow", _normal(value)) for key, value in mine if key != "crawl-delay" and value)
    delays = [float(value) for key, value in mine if key == "crawl-delay" and re.fullmatch(r"\d{1,6}(\.\d+)?", value)]
    return Rules(lines, min(max(delays, default=0.0), MAX_CRAWL_DELAY_S))


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
        self._rules: dict[str, Rules | FetchError] = {}

    def check(self, url: str) -> None:
        """Returns when a URL may be fetched.

        Raises:
            SiteRefusalError: it may not.
            FetchError: the host's robots.txt cannot be read, so for now nothing of that host may be.
        """
        if not self._of(url).allow(url):
            raise SiteRefusalError(f"{safe_url(url)}: forbidden by the site's robots.txt")

    def crawl_delay_s(self, url: str) -> float:
        """Seconds between two requests that the URL's host asks for; 0 when it does not say. Raises `FetchError`."""
        return self._of(url).crawl_delay_s

    def _of(self, url: str) -> Rules:
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        with self._lock:
            if origin not in self._rules:
                self._rules[origin] = self._fetch(f"{origin}/robots.txt")
            rules = self._rules[origin]
        if isinstance(rules, FetchError):
            raise rules
        return rules

    def _fetch(self, url: str) -> Rules | FetchError:
        try:
            fetched = self._fetcher.get(url, max_bytes=MAX_BYTES)
        except FetchError as error:
            if error.status in (401, 403):
                return Rules(lines=((False, "/"),))
            if error.status is not None and 400 <= error.status < 500 and error.retry_after_s is None:
                return Rules()
            return FetchError(
                f"robots.txt cannot be read, so nothing is fetched from there for now: {error}",
                retry_after_s=error.retry_after_s,
                status=error.status,
            )
        return parse_robots(fetched.body.decode("utf-8", errors="replace").removeprefix("\ufeff"))


def _normal(path: str) -> str:
    """A path with its escapes written in one way; `*` and `$` stay what they are."""
    return quote(unquote(path), safe="/?*$=&;:@+,!'()~%")


def _matches(pattern: str, target: str) -> bool:
    """Whether a rule's path, with its wildcards, fits the beginning of a target.

    Each piece between two wildcards is matched as early as it can be and not tried again elsewhere (an atomic group),
    so that no pattern takes long.
    """
    anchored = pattern.endswith("$")
    first, *rest = (re.escape(piece) for piece in pattern.removesuffix("$").split("*"))
    middle = "".join(f"(?>.*?{piece})" for piece in rest[:-1])
    last = f".*{rest[-1]}" if rest else ""
    return re.match(first + middle + last + ("$" if anchored else ""), target, re.DOTALL) is not None
