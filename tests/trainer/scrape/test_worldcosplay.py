"""The site as known to its clients from 2012 to 2023: all item formats, and all kinds of refusal."""

import json
import logging
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.web import Server, in_turn, serving, status
from trainer.config import Country, ImageSettings, WebSettings, WorldCosplaySettings
from trainer.errors import FetchError
from trainer.scrape.sites.robots import OUR_NAME, parse_robots
from trainer.scrape.sites.site import Page, SiteRefusalError, SourceImage, Unusable
from trainer.scrape.sites.worldcosplay import WorldCosplaySite, item_from, parse_listing, resized
from trainer.web.fetch import Fetcher

HOST = "https://wc-ahba9see.c.sakurastorage.jp"
LETTERS = "abcdefghijklmnopqrstuvwxyzabcdefghijklmn"
IMAGE = f"{HOST}/23345/{LETTERS}"
SETTINGS = WorldCosplaySettings()
COUNTRIES = {"japan": Country(region=19, country=114), "brazil": Country(region=9, country=31)}
LISTING = "/api/regions/19/countries/114/photos.json"

SLIM: dict[str, Any] = {
    "photo": {
        "id": 6551257,
        "url": "/photo/6551257",
        "subject": "Miku",
        "sq150_url": f"{IMAGE}-175.jpg",
        "sq300_url": f"{IMAGE}-350.jpg",
        "viewable": True,
    }
}
FULL: dict[str, Any] = {
    "character": {"name": "Miku"},
    "member": {
        "id": 23345,
        "global_name": "someone",
        "icon_url": f"{HOST}/23345/icon-100.jpg",
        "national_flag_url": "/img/flags/jp.gif",
    },
    "photo": {
        "id": "6551257",
        "url": "/photo/6551257",
        "thumbnail_url_display": f"{IMAGE}-350x600.jpg",
        "thumbnail_width": "350",
        "large_url": f"{IMAGE}-740.jpg",
        "good_cnt": "2942",
        "created_at": "2014-10-02 20:26",
        "viewable": True,
    },
}
FLAT: dict[str, Any] = {
    "id": 6551257.0,
    "subject": "Miku",
    "img_url": f"{IMAGE}-740.jpg",
    "member": {"id": "23345"},
    "tag_arr": [],
}
OF_2012 = {
    "member": {"id": "23345", "nickname": "someone"},
    "photo": {"id": "6551257", "thumbnail_url_display": f"{IMAGE}-350x600.jpg", "thumbnail_height": "525"},
}
SHAPES = {"slim": SLIM, "full": FULL, "flat": FLAT, "of 2012": OF_2012}


def envelope(*items: object, next_page: object = None, has_error: object = 0) -> bytes:
    pager = {"next_page": next_page, "previous_page": None, "current_page": "1", "indexes": [1, 2, "3"]}
    return json.dumps({"pager": pager, "has_error": has_error, "list": items}).encode()


def parse(body: bytes) -> Page:
    return parse_listing(body, label="japan", number=1, settings=SETTINGS)


def item(value: object, **settings: Any) -> SourceImage:
    found = item_from(value, label="japan", settings=SETTINGS.model_copy(update=settings))
    assert isinstance(found, SourceImage), found
    return found


def reason(value: object) -> str:
    found = item_from(value, label="japan", settings=SETTINGS)
    assert isinstance(found, Unusable), found
    return found.reason


# Items


@pytest.mark.parametrize("shape", SHAPES)
def test_a_photo_is_the_same_in_every_item_format(shape: str) -> None:
    found = item(SHAPES[shape])
    assert found.photo_id == "6551257"
    assert found.member_id == "23345"
    assert found.page_url == "https://worldcosplay.net/photo/6551257"
    assert found.image_urls[0] == f"{IMAGE}-350x600.jpg"


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.sampled_from([int, str, float]))
def test_numbers_can_be_strings(photo_id: int, member_id: int, kind: Any) -> None:
    full = item(FULL | {"photo": {**FULL["photo"], "id": kind(photo_id)}, "member": {"id": kind(member_id)}})
    flat = item(FLAT | {"id": photo_id, "member": {"id": str(member_id)}})
    assert (full.photo_id, full.member_id) == (flat.photo_id, flat.member_id) == (str(photo_id), str(member_id))


def test_a_missing_member_is_taken_from_the_image_url() -> None:
    assert item(SLIM).member_id == "23345"
    assert item({"id": 1, "img_url": f"{HOST}/23345/max-740/{LETTERS}-740.jpg"}).member_id == "23345"
    assert item({"id": 1, "img_url": f"{HOST}/max-740/23345/{LETTERS}-740.jpg"}).member_id == "23345"
    assert item({"id": 1, "img_url": f"{HOST}/photos/{LETTERS}-740.jpg"}).member_id is None
    assert item({"id": 1, "img_url": f"{HOST}/{LETTERS}-740.jpg"}).member_id is None


def test_relative_urls_belong_to_the_site() -> None:
    found = item({"id": 1, "img_url": f"/23345/{LETTERS}-740.jpg"}, base_url="http://127.0.0.1:8000/en")
    assert found.image_urls[0] == f"http://127.0.0.1:8000/23345/{LETTERS}-350x600.jpg"
    assert item({"id": 1, "img_url": f"//{HOST[8:]}/1/x-740.jpg"}).image_urls[-1] == f"{HOST}/1/x-740.jpg"


def test_the_configured_size_is_first_and_listed_sizes_are_fallbacks() -> None:
    assert item(FULL, image_size="740").image_urls == (f"{IMAGE}-740.jpg", f"{IMAGE}-350x600.jpg")
    assert item(SLIM, image_size="740").image_urls == (f"{IMAGE}-740.jpg", f"{IMAGE}-350.jpg", f"{IMAGE}-175.jpg")
    assert item({"id": 1, "img_url": f"{HOST}/1/photo.jpg"}).image_urls == (f"{HOST}/1/photo.jpg",)


@pytest.mark.parametrize(
    ("url", "size", "expected"),
    [
        ("/1/a-175.jpg", "740", "/1/a-740.jpg"),
        ("/1/a-350x600.JPG?v=2", "3000", "/1/a-3000.JPG?v=2"),
        ("/1/a-sq150.png", "350x600", "/1/a-350x600.png"),
        ("/max-740/1/a-350x600.jpg", "740", "/max-740/1/a-740.jpg"),
        ("/max-740/1/a-350x600.jpg", "3000", None),
        ("/max-400/1/a-175.jpg", "350x600", None),
        ("/1/a.jpg", "740", None),
    ],
)
def test_a_url_is_rewritten_to_another_size_if_it_exists(url: str, size: str, expected: str | None) -> None:
    assert resized(HOST + url, size) == (HOST + expected if expected else None)


def test_the_flag_of_a_member_is_kept() -> None:
    assert item(FULL).flag == "jp"
    assert item(SLIM).flag is None


@pytest.mark.parametrize("viewable", [False, 0, 0.0, "0", "false", "False", ""])
def test_a_photo_that_is_not_viewable_is_skipped(viewable: object) -> None:
    assert reason({"photo": {**SLIM["photo"], "viewable": viewable}}) == "not viewable"


@pytest.mark.parametrize("viewable", [True, 1, "1", "true", None, "yes"])
def test_any_other_photo_is_listed(viewable: object) -> None:
    assert item({"photo": {**SLIM["photo"], "viewable": viewable}})


@pytest.mark.parametrize("photo_id", [None, "", "abc", True, -1, 1.5, [], {}, "1" * 30, "١"])
def test_an_item_without_an_id_is_skipped(photo_id: object) -> None:
    assert reason({"photo": {**SLIM["photo"], "id": photo_id}}) == "no photo id"


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        5,
        "http://[",
        "javascript:1",
        "data:image/gif;base64,R0",
        "http:///x",
        "https://a:b/",
        "/a\n.jpg",
        "\ud800",
    ],
)
def test_an_item_without_an_image_is_skipped(url: object) -> None:
    assert reason({"id": 1, "img_url": url}) == "no image address"


def test_an_image_on_an_unknown_host_is_skipped_unless_all_are_allowed() -> None:
    strange = {"id": 1, "img_url": f"https://tracker.example/1/{LETTERS}-740.jpg"}
    assert reason(strange) == "image on tracker.example, which source.worldcosplay.image_hosts does not name"
    assert item(strange, image_hosts=()).image_urls
    assert item(strange, image_hosts=("TRACKER.example",)).image_urls
    assert item({"id": 1, "img_url": "https://worldcosplay.net/1/a-740.jpg"}).image_urls


# Pages


def test_a_page_is_the_last_if_the_pager_says_so_or_it_is_empty() -> None:
    assert not parse(envelope(SLIM, next_page=2)).last
    assert not parse(envelope(SLIM, next_page="2")).last
    assert parse(envelope(SLIM, next_page=None)).last
    assert parse(envelope(next_page=2)).last
    assert not parse(json.dumps({"list": [SLIM]}).encode()).last


def test_the_same_photo_twice_on_a_page_counts_once() -> None:
    page = parse(envelope(SLIM, FULL, {**FLAT, "id": 5}))
    assert [image.photo_id for image in page.images] == ["6551257", "5"]


def test_an_invalid_item_does_not_fail_the_page() -> None:
    page = parse(envelope(None, 5, "x", [], {}, {"photo": 3}, FULL))
    assert len(page.images) == 1
    assert [unusable.reason for unusable in page.unusable] == ["no photo id"] * 6


@pytest.mark.parametrize("has_error", [1, "1", True, "broken", [0]])
def test_has_error_is_an_error(has_error: object) -> None:
    with pytest.raises(FetchError, match="has_error"):
        parse(envelope(SLIM, has_error=has_error))


@pytest.mark.parametrize("has_error", [0, "0", False, None, 0.0, "false", ""])
def test_a_false_has_error_is_no_error(has_error: object) -> None:
    assert parse(envelope(SLIM, has_error=has_error)).images


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>maintenance</html>",
        b"[]",
        b"{}",
        b'{"list": {}}',
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b"9" * 5000,
    ],
)
def test_a_page_that_is_not_a_listing_says_that_the_site_may_have_changed(body: bytes) -> None:
    with pytest.raises(FetchError, match="the site may have changed"):
        parse(body)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda body: b"\xef\xbb\xbf" + body,  # a byte order mark
        lambda body: body.replace(b"Miku", b"Mi\xe3\x81"),  # a letter cut in half by a column's length
        lambda body: body.replace(b"Miku", b"Mi\tku\x00"),
        lambda body: body.replace(b"Miku", b"\\ud83d"),
    ],
)
def test_invalid_text_does_not_fail_the_page(spoil: Callable[[bytes], bytes]) -> None:
    assert [image.photo_id for image in parse(spoil(envelope(SLIM))).images] == ["6551257"]


KEYS = st.sampled_from(["id", "photo", "member", "img_url", "list", "pager", "next_page", "url"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("https://a.example/1/b-740.jpg")
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYS | st.text(), inner), max_leaves=20)


@given(JSON)
def test_any_json_raises_only_fetch_error(value: object) -> None:
    item_from(value, label="japan", settings=SETTINGS)
    for page in (
        value,
        {"list": value},
        {"list": [value], "pager": value},
        {"list": [{"photo": value}, {"id": 1, "img_url": value}]},
    ):
        try:
            parse(json.dumps(page).encode())
        except FetchError:
            continue


@given(st.binary())
def test_any_bytes_raise_only_fetch_error(body: bytes) -> None:
    with pytest.raises(FetchError):
        parse(body)


# The site itself


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def site(server: Server) -> Iterator[WorldCosplaySite]:
    with Fetcher(WebSettings(allow_private_addresses=True, backoff_s=0), sleep=lambda _: None) as fetcher:
        yield site_at(server.url, fetcher)


def site_at(url: str, fetcher: Fetcher) -> WorldCosplaySite:
    return WorldCosplaySite(
        WorldCosplaySettings(base_url=url, countries=COUNTRIES, image_hosts=()), ImageSettings(), fetcher
    )


def listing(page: int, *, path: str = LISTING) -> str:
    return f"{path}?limit=16&p3_photo_list=true&page={page}"


def image_at(*urls: str) -> SourceImage:
    return SourceImage("japan", "1", None, "", urls)


def test_pages_are_read_until_the_pager_ends(server: Server, site: WorldCosplaySite) -> None:
    server.answers |= {listing(1): envelope(SLIM, next_page=2), listing(2): envelope({**FLAT, "id": 2}, next_page=None)}
    pages = list(site.pages("japan"))
    assert [(page.number, page.images[0].photo_id, page.last) for page in pages] == [
        (1, "6551257", False),
        (2, "2", True),
    ]
    assert server.paths == ["/robots.txt", listing(1), listing(2)]


def test_reading_can_be_resumed_at_a_page(server: Server, site: WorldCosplaySite) -> None:
    server.answers[listing(7)] = envelope(SLIM)
    assert [page.number for page in site.pages("japan", start=7)] == [7]


def test_an_empty_page_and_a_404_are_the_end(server: Server, site: WorldCosplaySite) -> None:
    server.answers[listing(1)] = envelope(SLIM, next_page=2)
    assert len(list(site.pages("japan"))) == 1  # 404
    server.answers[listing(2)] = envelope(next_page=3)
    assert len(list(site.pages("japan"))) == 1


def test_an_unknown_country_is_an_error_that_names_the_setting(site: WorldCosplaySite) -> None:
    with pytest.raises(FetchError, match=r"source\.worldcosplay\.countries\.japan") as caught:
        next(site.pages("japan"))
    assert caught.value.retry_after_s is None


def test_mixed_flags_are_logged_once(server: Server, site: WorldCosplaySite, caplog: pytest.LogCaptureFixture) -> None:
    items = [
        {"id": n, "img_url": f"/{n}/a-740.jpg", "member": {"national_flag_url": f"/f/{flag}.gif"}}
        for n, flag in enumerate(["jp", "jp", "tw", "cn"])
    ]
    server.answers[listing(1)] = envelope(*items)
    with caplog.at_level(logging.WARNING):
        list(site.pages("japan"))
    assert [record.getMessage() for record in caplog.records] == [
        "mixed flags label=japan flags=jp,tw; check source.worldcosplay.countries.japan"
    ]


def test_labels_with_the_same_flag_are_logged(
    server: Server, site: WorldCosplaySite, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (LISTING, LISTING.replace("19", "9", 1).replace("114", "31")):
        server.answers[path] = envelope({"id": 1, "img_url": "/1/a-740.jpg", "member": FULL["member"]})
    with caplog.at_level(logging.WARNING):
        assert len([*site.pages("japan"), *site.pages("brazil")]) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "two labels with the same flag labels=japan,brazil flag=jp; check source.worldcosplay.countries"
    ]


def test_a_missing_size_is_replaced_by_another(server: Server, site: WorldCosplaySite) -> None:
    server.answers["/1/a-175.jpg"] = b"small"
    url = f"{server.url}/1/a"
    assert site.read(image_at(f"{url}-740.jpg", f"{url}-175.jpg")) == (f"{url}-175.jpg", b"small")


def test_an_image_that_is_gone_in_all_sizes_is_gone(server: Server, site: WorldCosplaySite) -> None:
    with pytest.raises(FetchError) as caught:
        site.read(image_at(f"{server.url}/a-1.jpg", f"{server.url}/a-2.jpg"))
    assert caught.value.status == 404


# Rules for crawlers


def test_urls_forbidden_by_robots_txt_are_not_requested(server: Server, site: WorldCosplaySite) -> None:
    server.answers["/robots.txt"] = b"User-agent: *\nDisallow: /api/\nDisallow: /*-740.jpg$\n"
    with pytest.raises(SiteRefusalError, match=r"robots\.txt"):
        next(site.pages("japan"))
    with pytest.raises(SiteRefusalError, match=r"robots\.txt"):
        site.read(image_at(f"{server.url}/1/a-740.jpg"))
    assert server.paths == ["/robots.txt"]


@pytest.mark.parametrize("code", [401, 403])
def test_a_locked_robots_txt_forbids_everything(server: Server, site: WorldCosplaySite, code: int) -> None:
    server.answers |= {"/robots.txt": status(code), listing(1): envelope(SLIM)}
    with pytest.raises(SiteRefusalError):
        next(site.pages("japan"))


def test_an_unreachable_robots_txt_forbids_everything_for_now(server: Server, site: WorldCosplaySite) -> None:
    server.answers |= {"/robots.txt": status(500), listing(1): envelope(SLIM)}
    for _ in range(2):
        with pytest.raises(FetchError, match="for now") as caught:
            next(site.pages("japan"))
    assert caught.value.retry_after_s is not None
    assert set(server.paths) == {"/robots.txt"}


def test_an_endless_robots_txt_forbids_everything_for_now(server: Server, site: WorldCosplaySite) -> None:
    server.answers |= {"/robots.txt": b"User-agent: *\nAllow: /\n" + b"# more\n" * 100_000, listing(1): envelope(SLIM)}
    with pytest.raises(FetchError, match=r"nothing is fetched from there for now.*more than 512,000 bytes"):
        next(site.pages("japan"))


def test_the_image_host_has_its_own_robots_txt(server: Server, site: WorldCosplaySite) -> None:
    server.answers |= {"/robots.txt": b"User-agent: *\nDisallow:\n", listing(1): envelope(SLIM)}
    with serving({"/robots.txt": b"User-agent: dokocos\nDisallow: /\n", "/1/a-1.jpg": b"x"}) as images:
        next(site.pages("japan"))
        with pytest.raises(SiteRefusalError):
            site.read(image_at(f"{images.url}/1/a-1.jpg"))


def test_a_crawl_delay_is_passed_on(server: Server, site: WorldCosplaySite) -> None:
    server.answers["/robots.txt"] = b"User-agent: *\nCrawl-delay: 30\n"
    assert site.page_pause_s() == 30
    assert site.image_pause_s(image_at(f"{server.url}/a.jpg")) == 30


@pytest.mark.parametrize(
    "tag", ["noai", "noimageai", "noindex, NoAI", "none", "dokocos: noimageai", "max-snippet: 5, noai", "gptbot: noai"]
)
def test_an_image_with_a_noai_tag_is_refused(server: Server, site: WorldCosplaySite, tag: str) -> None:
    server.answers["/a.jpg"] = status(200, b"x", X_Robots_Tag=tag)
    with pytest.raises(SiteRefusalError, match="X-Robots-Tag"):
        site.read(image_at(f"{server.url}/a.jpg"))


def test_a_listing_with_a_noai_tag_is_refused(server: Server, site: WorldCosplaySite) -> None:
    server.answers[listing(1)] = status(200, envelope(SLIM), X_Robots_Tag="noai")
    with pytest.raises(SiteRefusalError, match="X-Robots-Tag"):
        next(site.pages("japan"))


@pytest.mark.parametrize(
    "tag", ["noindex, nofollow", "max-image-preview:large", "max-image-preview: none", "bot: max-snippet: none", ""]
)
def test_tags_for_search_engines_are_ignored(server: Server, site: WorldCosplaySite, tag: str) -> None:
    server.answers["/a.jpg"] = in_turn(status(200, b"x", X_Robots_Tag=tag))
    assert site.read(image_at(f"{server.url}/a.jpg"))[1] == b"x"


@pytest.mark.parametrize(
    ("robots", "path", "allowed"),
    [
        ("", "/a", True),
        ("User-agent: *\nDisallow:", "/a", True),
        ("User-agent: *\nDisallow: /", "/a", False),
        ("user-AGENT : *  # all\n disallow : /a # b", "/ab", False),
        ("User-agent: *\nAllow: /\nDisallow: /api", "/api/x", False),  # the longest rule, not the first
        ("User-agent: *\nDisallow: /api\nAllow: /api/regions", "/api/regions/1", True),
        ("User-agent: *\nDisallow: /a\nAllow: /a", "/a", True),
        ("User-agent: googlebot\nDisallow: /", "/a", True),
        ("User-agent: *\nDisallow: /\n\nUser-agent: dokocos\nDisallow: /x", "/a", True),
        ("User-agent: a\nUser-agent: dokocos\nDisallow: /x\n", "/x", False),
        ("User-agent: DokoCos\nDisallow: /x\n\nUser-agent: dokocos\nDisallow: /y", "/y", False),
        ("User-agent: dokocos\n\nUser-agent: *\nDisallow: /", "/a", False),  # one group of two names
        ("User-agent: *\nDisallow: /*.jpg$", "/1/a.jpg", False),
        ("User-agent: *\nDisallow: /*.jpg$", "/1/a.jpg?x", True),
        ("User-agent: *\nDisallow: /*/max*-740", "/1/max/a-740.jpg", False),
        ("User-agent: doko\nDisallow: /", "/a", True),
        ("User agent *\nDisallow: /user agent: x/", "/user%20agent:%20x/", False),
        ("User-agent: *\nDisallow: /a%3cb", "/a<b", False),
        ("User-agent: *\nDisallow: /a%2a", "/ab", True),  # an encoded star is not a wildcard
        ("User-agent: *\nDisallow: /写真", "/%E5%86%99%E7%9C%9F/1", False),
        ("User-agent: *\nDisallow: /*?page=", "/list?limit=1&page=2", True),
        ("User-agent: *\nDisallow: /*page=", "/list?limit=1&page=2", False),
        ("Sitemap: x\nDisallow: /", "/a", True),
        ("<html>not found</html>", "/a", True),
        ("\ufeffUser-agent: *\nDisallow: /", "/a", False),
    ],
)
def test_robots_txt_is_read_as_the_rfc_says(robots: str, path: str, allowed: bool) -> None:
    assert parse_robots(robots).can_fetch(f"https://a.example{path}", OUR_NAME) is allowed


def test_many_rules_for_many_crawlers_take_little_memory() -> None:
    names = "".join(f"User-agent: {number}\n" for number in range(500))
    rules = "".join(f"Disallow: /{number}\n" for number in range(500))
    tracemalloc.start()
    try:
        robots = parse_robots(f"{names}User-agent: *\n{rules}")
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert not robots.can_fetch("https://a.example/499", OUR_NAME)


@pytest.mark.parametrize("line", ["user-agent{}x", " {}user-agent:", "user{}agent", "User-agent:{}dokocos{}x", "/{}"])
def test_no_line_takes_long(line: str) -> None:
    assert parse_robots(line.replace("{}", " " * 200_000)).can_fetch("https://a.example/a", OUR_NAME)


@given(st.text(alphabet="*$a/", max_size=60), st.text(alphabet="a/b", max_size=200))
def test_no_rule_takes_long_or_fails(pattern: str, path: str) -> None:
    parse_robots(f"User-agent: *\nDisallow: /{pattern}").can_fetch(f"https://a.example/{path}", OUR_NAME)


@given(st.text())
def test_any_text_is_a_robots_txt(text: str) -> None:
    parse_robots(text).can_fetch("https://a.example/a?b", OUR_NAME)
