"""The gallery's web site answers a scraper like Cure WorldCosplay."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import requests

from sandbox.faults import Fault, Faults
from sandbox.gallery import Gallery, Options, create_app
from sandbox.gallery.items import Shape
from sandbox.server import serve

JAPAN = "/api/regions/19/countries/114/photos.json"


class Site:
    """A served gallery."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> requests.Response:
        return requests.get(path if path.startswith("http") else self.url + path, params=params, timeout=30)


@pytest.fixture
def gallery() -> Gallery:
    return Gallery(seed=5, members_per_label=6, photos_per_member=6)


@pytest.fixture
def options() -> Options:
    return Options()


@pytest.fixture
def site(gallery: Gallery, options: Options) -> Iterator[Site]:
    with serve(create_app(gallery, options)) as url:
        yield Site(url)


def ids_on(page: dict[str, Any]) -> list[int]:
    return [entry.get("photo", entry)["id"] for entry in page["list"]]


def read_all(site: Site, limit: int) -> list[int]:
    """Read all pages."""
    seen: list[int] = []
    page: int | None = 1
    while page is not None:
        answer = site.get(JAPAN, params={"limit": limit, "page": page, "p3_photo_list": "true"}).json()
        seen += ids_on(answer)
        page = answer["pager"]["next_page"]
    return seen


@pytest.mark.parametrize("path", [JAPAN, JAPAN.removesuffix(".json"), f"/ja{JAPAN}", f"/en{JAPAN}"])
def test_the_file_extension_and_a_language_prefix_are_optional(site: Site, path: str) -> None:
    assert len(site.get(path).json()["list"]) == 16


def test_the_pager_mixes_numbers_and_strings_as_the_site_does(site: Site) -> None:
    pager = site.get(JAPAN, params={"limit": 4, "page": 3}).json()["pager"]
    assert pager == {"next_page": 4, "previous_page": 2, "current_page": "3", "indexes": [1, 2, "3", 4, 5]}


def test_reading_all_pages_gives_every_photo_once(site: Site, gallery: Gallery) -> None:
    assert read_all(site, limit=7) == [photo.photo_id for photo in gallery.photos("japan")]


def test_a_page_past_the_end_is_empty(site: Site) -> None:
    answer = site.get(JAPAN, params={"page": 999}).json()
    assert answer["list"] == []
    assert answer["pager"]["next_page"] is None


def test_a_page_has_at_most_24_items(site: Site) -> None:
    assert len(site.get(JAPAN, params={"limit": 100}).json()["list"]) == 24


def test_an_invalid_number_is_ignored(site: Site) -> None:
    assert site.get(JAPAN, params={"limit": "many", "page": "-1"}).json()["pager"]["current_page"] == "1"


def test_new_photos_while_reading_make_others_appear_twice(site: Site, options: Options) -> None:
    options.uploads_per_page = 2
    seen = read_all(site, limit=8)
    assert len(seen) > len(set(seen))


@pytest.mark.parametrize("path", ["/api/regions/1/countries/2/photos.json", "/photo/1", "/member/1"])
def test_unknown_paths_are_404(site: Site, path: str) -> None:
    assert site.get(path).status_code == 404


def test_a_site_error_has_status_200_and_no_photos(site: Site, options: Options) -> None:
    options.has_error = 1
    answer = site.get(JAPAN)
    assert answer.status_code == 200
    assert answer.json()["has_error"] == 1
    assert answer.json()["list"] == []


def test_the_slim_format_has_no_member(site: Site, options: Options) -> None:
    options.shape = "slim"
    (entry, *_) = site.get(JAPAN).json()["list"]
    assert set(entry) == {"photo"}
    assert {"id", "url", "subject", "sq150_url", "sq300_url", "viewable"} == set(entry["photo"])


def test_the_full_format_has_strings_for_some_numbers(site: Site) -> None:
    (entry, *_) = site.get(JAPAN).json()["list"]
    assert set(entry) == {"character", "member", "photo"}
    assert isinstance(entry["photo"]["id"], int)
    assert entry["photo"]["good_cnt"].isdecimal()
    assert entry["member"]["national_flag_url"] == "/img/flags/jp.gif"


def test_the_flat_format_has_one_image_url(site: Site, options: Options) -> None:
    options.shape = "flat"
    (entry, *_) = site.get(JAPAN).json()["list"]
    assert set(entry) == {"id", "subject", "img_url", "tag_arr", "member"}


def test_mixed_alternates_the_three_formats(site: Site, options: Options) -> None:
    options.shape = "mixed"
    entries = site.get(JAPAN, params={"limit": 3}).json()["list"]
    assert [set(entry) & {"member", "photo"} for entry in entries] == [{"photo"}, {"member", "photo"}, {"member"}]


@pytest.mark.parametrize("shape", ["slim", "full", "flat", "mixed"])
@pytest.mark.parametrize("relative", [False, True])
def test_every_url_of_a_listing_returns_its_photo(
    site: Site, gallery: Gallery, options: Options, shape: Shape, relative: bool
) -> None:
    options.shape, options.relative_urls = shape, relative
    sound = {photo.photo_id for photo in gallery.photos() if photo.flaw is None}
    page = site.get(JAPAN, params={"limit": 6}).json()
    for photo_id, entry in zip(ids_on(page), page["list"], strict=True):
        fields = entry.get("photo", entry)
        addresses = [value for key, value in fields.items() if key.endswith("_url") or key.startswith("thumbnail_url")]
        assert addresses
        for address in addresses:
            assert address.startswith("/" if relative else f"{site.url}/")
            assert re.search(r"/\d+/[a-z]{40}-(175|350|350x600|740)\.jpg$", address)
        if photo_id in sound:
            answer = site.get(addresses[0])
            assert answer.headers["content-type"] == "image/jpeg"
            assert answer.content.startswith(b"\xff\xd8\xff")


def test_a_photo_is_not_found_under_another_member(site: Site, gallery: Gallery) -> None:
    photo = next(photo for photo in gallery.photos() if photo.flaw is None)
    own = f"/{photo.member.member_id}/{photo.letters}-175.jpg"
    assert site.get(own).status_code == 200
    assert site.get(f"/max-300{own.replace('175', '740')}").status_code == 200
    assert site.get(f"/1{own}").status_code == 404
    assert site.get(own.replace("-175", "-0")).status_code == 404


def test_html_instead_of_an_image_has_the_content_type_of_html(site: Site, gallery: Gallery) -> None:
    photo = next(photo for photo in gallery.photos() if photo.flaw == "html")
    answer = site.get(f"/{photo.member.member_id}/{photo.letters}-350x600.jpg")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")


def test_robots_txt_is_as_configured(site: Site, options: Options) -> None:
    assert site.get("/robots.txt").text == "User-agent: *\nAllow: /\n"
    options.robots_txt = "User-agent: *\nDisallow: /api/\n"
    assert site.get("/robots.txt").text == "User-agent: *\nDisallow: /api/\n"
    options.robots_txt = None
    assert site.get("/robots.txt").status_code == 404


def test_photos_can_have_a_robots_tag(site: Site, gallery: Gallery, options: Options) -> None:
    photo = gallery.photos()[0]
    path = f"/{photo.member.member_id}/{photo.letters}-175.jpg"
    assert "x-robots-tag" not in site.get(path).headers
    options.robots_tag = "noai, noimageai"
    assert site.get(path).headers["x-robots-tag"] == "noai, noimageai"


def test_the_pages_show_photos_and_their_members(site: Site, gallery: Gallery) -> None:
    photo = gallery.photos("japan")[0]
    page = site.get(f"/photo/{photo.photo_id}").text
    assert photo.member.name in page
    assert photo.letters in page
    assert photo.letters in site.get("/").text


def test_names_are_escaped_on_the_page(options: Options) -> None:
    gallery = Gallery(labels=("<b>", "plain"), members_per_label=1, photos_per_member=2)
    with serve(create_app(gallery, options)) as url:
        page = Site(url).get("/").text
    assert "<b>" not in page
    assert "&lt;b&gt;" in page


def test_labels_without_known_ids_get_new_ids() -> None:
    gallery = Gallery(labels=("maples", "birches", "oaks"), members_per_label=2, photos_per_member=3)
    with serve(create_app(gallery)) as url:
        for label, (region, country) in gallery.countries.items():
            answer = Site(url).get(f"/api/regions/{region}/countries/{country}/photos", {"limit": 24}).json()
            assert ids_on(answer) == [photo.photo_id for photo in gallery.photos(label)][:24]


def test_faults_can_be_set_on_the_site(gallery: Gallery) -> None:
    faults = Faults()
    faults.add(Fault(kind="answer", path=".*/photos.json", status=503, times=1))
    faults.add(Fault(kind="truncate", path=r"/\d+/.*"))
    photo = next(photo for photo in gallery.photos() if photo.flaw is None)
    path = f"/{photo.member.member_id}/{photo.letters}-175.jpg"
    with serve(create_app(gallery, faults=faults)) as url:
        site = Site(url)
        assert [site.get(JAPAN).status_code for _ in range(2)] == [503, 200]
        assert not site.get(path).content.endswith(b"\xff\xd9")
        requests.post(f"{url}/sandbox/faults", json={"clear": True}, timeout=30)
        assert site.get(path).content.endswith(b"\xff\xd9")
