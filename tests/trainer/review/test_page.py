"""The review page obeys the person who has its address, and nobody else; each decision is on the disk at once."""

from __future__ import annotations

import shutil
import string
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import requests

from benchmarks.browser import QUIET, find_browser
from tests.trainer.collection import Silent, gather, paint_photos, settings_for
from tests.trainer.training.test_contributed import offer
from trainer.config import Settings
from trainer.errors import StorageError
from trainer.photos.decisions import Decisions
from trainer.photos.decode import Decoder
from trainer.photos.manifest import FILE_NAME, Manifest
from trainer.review.command import serve_page
from trainer.review.contributed import waiting
from trainer.review.giveaways import IN_WORDS
from trainer.review.page import TEXTS, ReviewPage
from trainer.review.pictures import Pictures
from trainer.review.settling import Settling
from trainer.review.suspects import Review, Suspect, find_suspects
from trainer.review.words import Words, texts
from trainer.review_state import PAGE, page_address
from trainer.training.contributed import held
from trainer.web.local_server import LocalServer

N_SUSPECTS = 12


@pytest.fixture(scope="module")
def reviewed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Review]:
    """A data folder, and a review that suspects its first photos; not modified."""
    folder = tmp_path_factory.mktemp("photos")
    paint_photos(folder, per_label=12)
    settings = settings_for(folder, tmp_path_factory.mktemp("data"))
    gather(settings)
    found = find_suspects(settings, Silent())
    items = {item.sha256: item for item in found.examined.dataset.items}
    suspects = tuple(
        Suspect(photo, items[photo.sha256].split, "label",
                Words("label", {"label": photo.label, "own": 0.05, "other": "japan", "score": 0.9}), 0.9, "relabel",
                "japan" if photo.label != "japan" else "china", neighbours=found.examined.used[-3:],
                scores=(0.05, 0.05, 0.9))
        for photo in found.examined.used[:N_SUSPECTS]
    )  # fmt: skip
    return settings, Review(suspects, found.examined)


class Place:
    """A served page, and the browser of a person who has opened it."""

    def __init__(self, settings: Settings, review: Review, decoder: Decoder) -> None:
        self.settings = settings
        self.settling = Settling(review, settings.source.kind, settings.data_dir)
        self.page = ReviewPage(self.settling, Pictures(settings, decoder))
        self.server = LocalServer("127.0.0.1", 0, self.page.answer, posts=True)
        self.server.start()
        self.url = self.server.url
        self.browser = requests.Session()
        self.browser.trust_env = False
        self.address = self.page.address(self.url)

    def open(self) -> requests.Response:
        return self.browser.get(self.address, timeout=20)

    def post(self, path: str, *, headers: dict[str, str] | None = None, **form: object) -> requests.Response:
        own = {"Origin": self.url, "Sec-Fetch-Site": "same-origin"}
        return self.browser.post(self.url + path, data=form, headers=own if headers is None else headers, timeout=20)

    def decided(self) -> dict[str, tuple[str, str | None]]:
        with Manifest(self.settings.data_dir / FILE_NAME) as manifest:
            standing = Decisions(manifest).standing(self.settings.source.kind, at=datetime.now(UTC))
        return {photo_id: (each.verdict, each.label) for photo_id, each in standing.of_id.items()}

    def id_of(self, at: int) -> str:
        return self.settling.suspects[at].photo.photo_id


@pytest.fixture
def place(reviewed: tuple[Settings, Review], tmp_path: Path) -> Iterator[Place]:
    settings, review = reviewed
    shutil.copytree(settings.data_dir, tmp_path / "data")
    with Decoder.in_bulk(settings.images, n_children=1) as decoder:
        found = Place(settings.model_copy(update={"data_dir": tmp_path / "data"}), review, decoder)
        yield found
        found.server.stop()


class Alts(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str | None] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.found.append(dict(attributes).get("alt"))


def test_the_address_works_once_and_is_gone_from_the_browser(place: Place) -> None:
    page = place.open()
    assert page.status_code == 200
    assert page.url == f"{place.url}/"
    cookie = page.history[0].headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    again = requests.get(place.address, timeout=20)
    assert again.status_code == 403
    assert "was used before" in again.text


def test_while_the_page_is_served_its_address_is_known_without_the_token(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str | None] = []
    data_dir = place.settings.data_dir
    serve_page(place.settling.review, place.settings, wait=lambda: seen.append(page_address(data_dir)))
    printed = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("http://"))
    assert [printed.partition("/start?token=")[0]] == [f"http://{each}" for each in seen]
    assert page_address(data_dir) is None
    assert "token" not in (data_dir / PAGE).read_text()


@pytest.mark.parametrize("path", ["/", "/0/photo.jpg", "/0/0.jpg", "/language?to=ja", "/start?token=", "/start"])
def test_without_the_cookie_nothing_is_shown(place: Place, path: str) -> None:
    place.open()
    found = requests.get(place.url + path, timeout=20)
    assert found.status_code == 403
    assert "labelled" not in found.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://127.0.0.1:1", "Sec-Fetch-Site": "same-site"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "none"},
        {},
    ],
)
def test_no_other_page_can_post_to_it(place: Place, headers: dict[str, str]) -> None:
    place.open()
    assert place.post("/decide", headers=headers, at=0, verdict="drop").status_code == 403
    assert place.decided() == {}


def test_a_browser_that_says_only_its_origin_may_post(place: Place) -> None:
    place.open()
    assert place.post("/decide", headers={"Origin": place.url}, at=0, verdict="drop").status_code == 200
    assert place.decided() == {place.id_of(0): ("drop", None)}


def test_another_name_for_this_machine_is_refused(place: Place) -> None:
    place.open()
    found = place.browser.get(f"{place.url}/", headers={"Host": "evil.example"}, timeout=20)
    assert found.status_code == 421
    policy = place.browser.get(f"{place.url}/", timeout=20).headers
    assert "default-src 'none'" in policy["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy["Content-Security-Policy"]
    assert policy["X-Content-Type-Options"] == "nosniff"
    assert policy["Cache-Control"] == "no-store"


def test_each_decision_is_on_the_disk_and_can_be_undone(place: Place) -> None:
    place.open()
    place.post("/decide", at=0, verdict="keep")
    place.post("/decide", at=1, verdict="drop")
    label = place.settling.labels[0]
    shown = place.post("/decide", at=2, verdict="relabel", label=label)
    assert f"3 of {N_SUSPECTS} settled" in shown.text
    assert place.decided() == {
        place.id_of(0): ("keep", None),
        place.id_of(1): ("drop", None),
        place.id_of(2): ("relabel", label),
    }
    for _ in range(2):  # a double tap
        back = place.post("/undo", step=3)
    assert back.url.endswith("/")
    assert set(place.decided()) == {place.id_of(0), place.id_of(1)}
    place.post("/decide", at=0, verdict="drop")  # a double tap, late
    assert place.decided()[place.id_of(0)] == ("keep", None)
    again = Settling(place.settling.review, place.settings.source.kind, place.settings.data_dir)
    assert len(again.suspects) == N_SUSPECTS - 2  # what a person settled does not come again


def test_what_is_skipped_comes_again_when_asked_for(place: Place) -> None:
    place.open()
    for at in range(N_SUSPECTS):
        last = place.post("/skip", at=at)
    assert TEXTS["en"]["done"] in last.text
    assert place.decided() == {}
    assert f"photo 1 of {N_SUSPECTS}" in place.post("/again").text


@pytest.mark.parametrize(
    "form",
    [
        {"at": N_SUSPECTS, "verdict": "drop"},
        {"at": "-1", "verdict": "drop"},
        {"at": "0", "verdict": "burn"},
        {"at": "0", "verdict": "relabel", "label": "atlantis"},
        {"at": "0", "verdict": "relabel"},
        {"at": "²", "verdict": "keep"},
    ],
)
def test_an_impossible_decision_is_refused(place: Place, form: dict[str, Any]) -> None:
    place.open()
    assert place.post("/decide", **form).status_code == 400
    assert place.decided() == {}


def test_photos_are_shown_as_new_jpegs_and_a_lost_one_is_told(place: Place) -> None:
    place.open()
    photo = place.browser.get(f"{place.url}/0/photo.jpg", timeout=20)
    assert photo.headers["Content-Type"] == "image/jpeg"
    assert photo.content[:2] == b"\xff\xd8"
    assert place.browser.get(f"{place.url}/0/1.jpg", timeout=20).status_code == 200
    lost = place.settings.data_dir / place.settling.suspects[1].photo.path
    kept = lost.rename(lost.with_suffix(".away"))
    try:
        assert place.browser.get(f"{place.url}/1/photo.jpg", timeout=20).status_code == 404
        assert place.browser.get(f"{place.url}/?at=1", timeout=20).status_code == 200
    finally:
        kept.rename(lost)
    for path in ("/0/9.jpg", "/99/photo.jpg", "/0/map.jpg", "/x/../photo.jpg", "/nowhere"):
        assert place.browser.get(place.url + path, timeout=20).status_code == 404


def test_the_page_speaks_both_languages_and_has_a_text_for_each_picture(place: Place) -> None:
    page = place.open().text
    assert Alts(page).found == [
        f"photo 1 of {N_SUSPECTS}, labelled {place.settling.suspects[0].photo.label}",
        *(f"a similar photo, labelled {each.label}" for each in place.settling.suspects[0].neighbours),
    ]
    assert 'lang="ja"' in place.browser.get(f"{place.url}/", headers={"Accept-Language": "ja-JP"}, timeout=20).text
    chosen = place.browser.get(f"{place.url}/language?to=ja", timeout=20).text
    assert TEXTS["ja"]["keep"] in chosen
    label = place.settling.suspects[0].photo.label
    assert f"labelled {label} (5%), but looks like japan (90%)" in page
    assert f"ラベルは{label}（5%）ですが、japan（90%）に見えます" in chosen


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_all_is_said_in_both_languages_with_the_same_facts() -> None:
    english, japanese = texts()["en"], texts()["ja"]
    assert english.keys() == japanese.keys()
    assert english["said"].keys() == japanese["said"].keys()
    for name, text in english["said"].items():
        assert fields(text) == fields(japanese["said"][name]), name
    for pair in IN_WORDS.values():
        assert set(pair) <= english["said"].keys()


def test_members_and_labels_as_a_whole_are_told_below_the_photos_in_both_languages(place: Place) -> None:
    odd = Words("odd_member", {"member": "7", "label": "china", "n": 3, "photos": 4})
    lit = Words("giveaway", {"label": "china", "how": Words("brighter"), "share": 0.93})
    place.page._as_a_whole = {"oddities": (odd,), "giveaways": (lit,)}
    place.open()
    page = place.browser.get(f"{place.url}/", timeout=20).text
    assert "member 7 of china: 3 of 4 photos are suspects" in page
    assert "photos of china are brighter than the others: 93% of pairs" in page
    chosen = place.browser.get(f"{place.url}/language?to=ja", timeout=20).text
    assert "chinaのメンバー7：4枚中3枚に疑問があります" in chosen
    assert "chinaの写真はほかより明るいです（組の93%）" in chosen


def test_a_contributed_photo_is_shown_with_what_its_author_allows(place: Place) -> None:
    made = offer(place.settings)
    review = replace(place.settling.review, suspects=waiting(place.settings, now=datetime.now(UTC)))
    with Decoder.in_bulk(place.settings.images, n_children=1) as decoder:
        other = Place(place.settings, review, decoder)
        page = other.open().text
        assert TEXTS["en"]["contributed"] in page
        assert "the bot&#39;s answer was china" in page
        assert other.browser.get(f"{other.url}/0/photo.jpg", timeout=20).status_code == 200
        other.post("/decide", at=0, verdict="keep")
        other.server.stop()
    assert [each.state for each in held(place.settings, now=datetime.now(UTC))] == ["accepted as china"]
    assert held(place.settings, now=datetime.now(UTC))[0].contribution == made


def test_photos_that_are_held_out_are_marked(place: Place) -> None:
    place.open()
    for at, suspect in enumerate(place.settling.suspects):
        page = place.browser.get(f"{place.url}/?at={at}", timeout=20).text
        assert ("counted and told in the report" in page) == (suspect.split in ("validation", "holdout"))


def test_a_decision_that_cannot_be_recorded_is_said_and_nothing_is_settled(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.open()

    def fail(*_: object) -> None:
        raise StorageError("manifest.sqlite3: the disk is full")

    monkeypatch.setattr(Decisions, "put", fail)
    shown = place.post("/decide", at=0, verdict="drop")
    assert shown.status_code == 503
    assert "not recorded, try it again: manifest.sqlite3: the disk is full" in shown.text
    assert f"photo 1 of {N_SUSPECTS}" in shown.text
    assert place.settling.n_settled == 0


def test_the_token_is_in_no_log(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    token = place.address.partition("token=")[2]
    place.browser.post(place.address, timeout=20)
    place.open()
    assert "/start" in caplog.text
    assert token not in "".join(line.getMessage() for line in caplog.records if line.name.startswith("trainer"))


def test_ten_photos_are_settled_by_keys_in_a_browser(place: Place) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    browser = find_browser()
    if browser is None:
        pytest.skip("there is no Chromium here")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(
            executable_path=browser,
            args=list(QUIET),
        )
        page = chromium.new_page(viewport={"width": 390, "height": 844})
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
        page.goto(place.address)
        assert "token" not in page.url
        page.evaluate("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'd', repeat: true}))")
        for number, key in enumerate("kdkdskdkdkd"):
            with page.expect_navigation():
                page.keyboard.press(key)
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), number
        with page.expect_navigation():
            page.keyboard.press("u")
        with page.expect_navigation():
            page.keyboard.press("d")
        chromium.close()
    assert faults == []
    assert len(place.decided()) == 10
