"""Headers and URLs of strangers never raise anything but our own errors, and say nothing unmarked."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.odd_web import HEADERS, URLS, RawServer, any_url, any_value, head
from trainer.config import ImageSettings, WebSettings, WorldCosplaySettings
from trainer.errors import FetchError
from trainer.scrape.sites.robots import MAX_CRAWL_DELAY_S, Robots, check_tags
from trainer.scrape.sites.worldcosplay import URL_KEYS, WorldCosplaySite, parse_listing
from trainer.web.fetch import Fetcher, safe_url

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="module", autouse=True)
def _no_name_server() -> Iterator[None]:
    """Only addresses are looked up; all else that a look-up does with a name stays."""
    real = socket.getaddrinfo

    def look_up(host: str, port: int, family: int = 0, type: int = 0, *_: int, **__: int) -> object:  # noqa: A002
        (first, *_rest) = real(host, port, family, type, 0, socket.AI_NUMERICHOST)
        return [first if first[4][0] == "127.0.0.1" else (socket.AF_INET, first[1], 6, "", ("127.0.0.1", 1))]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", look_up)
        yield


@pytest.fixture(scope="module")
def server() -> Iterator[RawServer]:
    server = RawServer()
    yield server
    server.close()


@contextmanager
def only_our_errors() -> Iterator[None]:
    """Passes our own errors, whose words are one printable line; any other error goes on."""
    try:
        yield
    except FetchError as error:
        words, wait_s = str(error), error.retry_after_s
    else:
        return
    assert words.isprintable()
    assert wait_s is None or wait_s >= 0


@pytest.fixture(scope="module")
def fetcher() -> Iterator[Fetcher]:
    web = WebSettings(allow_private_addresses=True, max_attempts=1, total_timeout_s=2.0)
    with Fetcher(web, now=lambda: NOW) as fetcher:
        yield fetcher


STATUSES = [b"200 OK", b"302 Found", b"429 \x9bm", b"503 Busy", b"204 No", b"999 \x1b[2J", b"007", b"-1"]
BODIES = [b"", b"x", b"5\r\nhello\r\n0\r\n\r\n", b"-5\r\n", b"\x1f\x8b\x08", b"ffffffffffff\r\nx"]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(STATUSES),
    st.lists(st.tuples(st.sampled_from(HEADERS), any_value), max_size=5),
    st.sampled_from(BODIES),
)
@example(b"503 Busy", [("Retry-After", "Wed, 21 Oct 2015 07:28:00 " + "9" * 5000)], b"")
@example(b"503 Busy", [("Retry-After", "Wed, 21 Oct 2015 07:28:00 +999999")], b"")
@example(b"503 Busy", [("X-RateLimit-Reset", "0001-01-01T00:00:00+23:59")], b"")
@example(b"200 OK", [("Set-Cookie", "a=b; max-age=" + "9" * 400)], b"")
@example(b"302 Found", [("Location", "http://8080\\[.\\80@")], b"")
def test_no_header_raises_anything_but_our_own_error(
    server: RawServer, fetcher: Fetcher, status: bytes, headers: list[tuple[str, str]], body: bytes
) -> None:
    server.answer = head(status, headers) + body
    with only_our_errors():
        fetcher.get(server.url, max_bytes=1000)


@settings(max_examples=300, deadline=None)
@given(any_url)
def test_no_url_raises_anything_but_our_own_error(fetcher: Fetcher, url: str) -> None:
    with only_our_errors():
        fetcher.get(url, max_bytes=1000)
    assert safe_url(url).isprintable()


@pytest.mark.parametrize("url", URLS)
def test_no_odd_url_raises_anything_but_our_own_error(url: str, server: RawServer, fetcher: Fetcher) -> None:
    with only_our_errors():
        fetcher.get(url, max_bytes=1000)
    server.answer = head(b"302 Found", [("Location", url), ("Content-Length", "0")])
    with only_our_errors():
        fetcher.get(server.url, max_bytes=1000)


NAMES = ["User-agent", "Disallow", "Allow", "Crawl-delay", "Request-rate", "Visit-time", "Sitemap", "x"]
VALUES = ["*", "dokocos", "nan", "inf", "-inf", "-5", "1/0s", "0/0", "*" * 200, "/*$*"]
RULES = st.lists(st.tuples(st.sampled_from(NAMES), any_value | st.sampled_from(VALUES)), max_size=8)


@settings(max_examples=300, deadline=None)
@given(RULES, any_url)
@example([("User-agent", "*"), ("Crawl-delay", "nan")], "http://127.0.0.1/")
@example([("User-agent", "*"), ("Crawl-delay", "-5")], "http://127.0.0.1/")
def test_no_robots_txt_raises_anything_but_our_own_error(
    server: RawServer, fetcher: Fetcher, rules: list[tuple[str, str]], url: str
) -> None:
    body = "\n".join(f"{name}: {value}" for name, value in rules).encode("utf-8", "surrogatepass")
    server.answer = b"HTTP/1.1 200 OK\r\n\r\n" + body
    robots = Robots(fetcher)
    for each in (server.url, server.url + url, url):
        with only_our_errors():
            robots.check(each)
        with only_our_errors():
            assert 0 <= robots.crawl_delay_s(each) <= MAX_CRAWL_DELAY_S


@given(any_value, any_url)
def test_no_robots_tag_raises_anything_but_our_own_error(value: str, url: str) -> None:
    with only_our_errors():
        check_tags({"x-robots-tag": value}, url)


JSON: st.SearchStrategy[object] = any_url | st.none() | st.integers() | st.floats() | st.just([]) | st.just({})


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([*URL_KEYS, "url"]), any_url), JSON, JSON, st.booleans())
def test_no_listing_raises_anything_but_our_own_error(
    fetcher: Fetcher, urls: dict[str, str], flag: object, next_page: object, any_host: bool
) -> None:
    configured = WorldCosplaySettings(image_hosts=() if any_host else ("127.0.0.1", "a.example:80"))
    item = {"photo": {"id": 7, **urls}, "member": {"id": flag, "national_flag_url": flag}}
    body = json.dumps({"list": [item, flag], "pager": {"next_page": next_page}}).encode()
    page = parse_listing(body, label="japan", number=1, settings=configured)
    assert all(each.reason.isprintable() for each in page.unusable)
    site = WorldCosplaySite(configured, ImageSettings(), fetcher)
    for image in page.images:
        with only_our_errors():
            site.image_pause_s(image)
            site.read(image)
