"""Scrapes of real servers and folders: stored, refused and known photos, and the state after a crash."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tests.fakes import FakeDecoder
from tests.web import Exchange, Server, serving, status
from trainer.config import Settings
from trainer.errors import StorageError
from trainer.lock import only_one
from trainer.photos.manifest import FILE_NAME, Manifest, Photo
from trainer.scrape.maintenance import VerifyReport, forget, named, verify
from trainer.scrape.progress import LOG_EVERY_S, progress, summary
from trainer.scrape.scrape import MAX_FAILURES, Scrape, ScrapeReport
from trainer.scrape.sites.choose import open_site
from trainer.vgg16.cache import FeatureCache
from trainer.web.fetch import Fetcher

COUNTRIES = {"japan": {"region": 19, "country": 114}, "brazil": {"region": 9, "country": 31}}
NOW = datetime(2026, 3, 2, tzinfo=UTC)


def jpeg(seed: int, *, side: int = 40) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 4, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize((side, side * 3 // 2), Image.Resampling.BICUBIC).save(out, "JPEG")
    return out.getvalue()


class Gallery:
    """A site with a few photos that a test can change between scrapes.

    Attributes:
        photos: ids by label, newest first.
        moved: photo id -> host of its image in the listing, if it is another host.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.photos: dict[str, list[int]] = {"japan": [], "brazil": []}
        self.page_size = 4
        self.moved: dict[int, str] = {}
        server.answers["/robots.txt"] = b""
        for label, pair in COUNTRIES.items():
            path = f"/api/regions/{pair['region']}/countries/{pair['country']}/photos.json"
            server.answers[path] = self._listing(label)

    def post(self, label: str, *photo_ids: int) -> None:
        """Add photos, each newer than the one before."""
        self.photos[label] = [*reversed(photo_ids), *self.photos[label]]
        for photo_id in photo_ids:
            self.server.answers[f"/{photo_id % 10}/{photo_id}-350x600.jpg"] = jpeg(photo_id)

    def answer(self, photo_id: int, answer: bytes | Callable[[Exchange], object]) -> None:
        self.server.answers[f"/{photo_id % 10}/{photo_id}-350x600.jpg"] = answer

    def fetched(self) -> list[int]:
        """Ids of the photos fetched since the last call, sorted."""
        ids = sorted(int(path.split("/")[-1].split("-")[0]) for path in self.server.paths if path.endswith(".jpg"))
        self.server.requests.clear()
        return ids

    def pages(self) -> list[str]:
        """Listing pages fetched since the last call, as "114/1"."""
        paths = [path for path in self.server.paths if path.startswith("/api/")]
        return [f"{path.split('/')[5]}/{path.rpartition('=')[2]}" for path in paths]

    def _listing(self, label: str) -> Callable[[Exchange], object]:
        def answer(exchange: Exchange) -> None:
            page = int(exchange.path.rpartition("=")[2])
            ids = self.photos[label][(page - 1) * self.page_size : page * self.page_size]
            more = len(self.photos[label]) > page * self.page_size
            items = [
                {"id": photo_id, "img_url": f"{self.moved.get(photo_id, '')}/{photo_id % 10}/{photo_id}-350x600.jpg"}
                for photo_id in ids
            ]
            body = {"has_error": 0, "list": items, "pager": {"next_page": page + 1 if more else None}}
            exchange.reply(json.dumps(body).encode())

        return answer


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def gallery(server: Server) -> Gallery:
    return Gallery(server)


@pytest.fixture
def manifest(tmp_path: Path) -> Iterator[Manifest]:
    with Manifest(tmp_path / "data" / FILE_NAME) as manifest:
        yield manifest


def settings_for(source: str | Path, tmp_path: Path, **scrape: Any) -> Settings:
    if isinstance(source, Path):
        kind: dict[str, Any] = {"kind": "folder", "folder": {"path": str(source)}}
    else:
        kind = {"worldcosplay": {"base_url": source, "countries": COUNTRIES, "image_hosts": []}}
    return Settings.model_validate(
        {
            "data_dir": str(tmp_path / "data"),
            "web": {"allow_private_addresses": True, "max_attempts": 1, "total_timeout_s": 20},
            "source": kind,
            "scrape": {"page_pause_s": 0, "image_pause_s": 0} | scrape,
        }
    )


class Clock:
    """A clock that advances only by `sleep`."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


def run(settings: Settings, manifest: Manifest, clock: Clock | None = None, **more: Any) -> ScrapeReport:
    clock = clock or Clock()
    with Fetcher(settings.web, sleep=clock.sleep) as fetcher:
        site = open_site(settings, fetcher)
        return Scrape(
            site,
            manifest,
            settings,
            FakeDecoder(settings.images),
            sleep=clock.sleep,
            monotonic=lambda: clock.time,
            **more,
        ).run()


def held(manifest: Manifest) -> list[int]:
    return sorted(int(photo.photo_id) for photo in manifest.photos())


# Stored photos


def test_photos_are_stored_with_their_source(gallery: Gallery, manifest: Manifest, tmp_path: Path) -> None:
    gallery.post("japan", 17)
    gallery.post("brazil", 18)
    report = run(settings_for(gallery.server.url, tmp_path), manifest, now=lambda: NOW)
    photo = next(manifest.photos())
    data = jpeg(17)
    assert (tmp_path / "data" / photo.path).read_bytes() == data
    assert photo == Photo(
        sha256=photo.sha256,
        label="japan",
        source="worldcosplay",
        photo_id="17",
        member_id="7",
        page_url=f"{gallery.server.url}/photo/17",
        image_url=f"{gallery.server.url}/7/17-350x600.jpg",
        path=Path(f"images/japan/{photo.sha256}.jpeg"),
        n_bytes=len(data),
        width=40,
        height=60,
        phash=photo.phash,
        split=None,
        fetched_at=NOW,
    )
    assert report.kept == report.held == Counter(japan=1, brazil=1)
    assert not report.problems


def test_labels_alternate_page_by_page(gallery: Gallery, manifest: Manifest, tmp_path: Path) -> None:
    gallery.post("japan", *range(12))
    gallery.post("brazil", *range(20, 28))
    run(settings_for(gallery.server.url, tmp_path), manifest)
    assert gallery.pages() == ["114/1", "31/1", "114/2", "31/2", "114/3"]
    order = [photo.photo_id for photo in manifest.photos()]
    assert order[:10] == ["11", "10", "9", "8", "27", "26", "25", "24", "7", "6"]


def test_the_goal_is_not_exceeded(gallery: Gallery, manifest: Manifest, tmp_path: Path) -> None:
    gallery.post("japan", *range(12))
    gallery.post("brazil", 20)
    gallery.answer(11, b"broken")
    run(settings_for(gallery.server.url, tmp_path, photos_per_label=6), manifest)
    assert held(manifest) == [5, 6, 7, 8, 9, 10, 20]
    gallery.server.requests.clear()
    run(settings_for(gallery.server.url, tmp_path, photos_per_label=6), manifest)
    assert gallery.pages() == ["31/1"]
    run(settings_for(gallery.server.url, tmp_path, photos_per_label=9), manifest)
    assert held(manifest) == [*range(2, 11), 20]


def test_known_photos_are_not_fetched_again(gallery: Gallery, manifest: Manifest, tmp_path: Path) -> None:
    gallery.post("japan", 1, 2, 3)
    gallery.post("brazil", 20)
    settings = settings_for(gallery.server.url, tmp_path)
    run(settings, manifest)
    assert gallery.fetched() == [1, 2, 3, 20]
    gallery.post("japan", 4)
    report = run(settings, manifest)
    assert gallery.fetched() == [4]
    assert (report.known, report.kept) == (Counter(japan=3, brazil=1), Counter(japan=1))


def test_a_listing_is_stopped_after_enough_known_photos(gallery: Gallery, manifest: Manifest, tmp_path: Path) -> None:
    gallery.post("japan", *range(40))
    gallery.post("brazil", 50)
    settings = settings_for(gallery.server.url, tmp_path, stop_after_known=8)
    run(settings, manifest)
    gallery.server.requests.clear()
    gallery.post("japan", 60)
    run(settings, manifest)
    assert gallery.pages() == ["114/1", "31/1", "114/2", "114/3", "114/10", "114/11"]  # and a look at the end
    assert 60 in held(manifest)


def test_an_early_end_of_a_listing_is_detected_by_the_next_scrape(
    gallery: Gallery, manifest: Manifest, tmp_path: Path
) -> None:
    path = "/api/regions/19/countries/114/photos.json"
    gallery.post("japan", *range(40))
    gallery.post("brazil", 50)
    settings = settings_for(gallery.server.url, tmp_path, stop_after_known=8)
    gallery.server.answers[f"{path}?limit=16&p3_photo_list=true&page=6"] = b'{"list": [], "has_error": 0}'
    run(settings, manifest)
    assert held(manifest) == [*range(20, 40), 50]
    del gallery.server.answers[f"{path}?limit=16&p3_photo_list=true&page=6"]
    run(settings, manifest)
    assert held(manifest) == [*range(40), 50]


def test_a_listing_that_shifts_while_it_is_read_gives_each_photo_once(
    gallery: Gallery, manifest: Manifest, tmp_path: Path
) -> None:
    gallery.post("japan", *range(20))
    gallery.post("brazil", 50)
    new = iter(range(100, 200))
    run(settings_for(gallery.server.url, tmp_path), manifest, on_photo=lambda _: gallery.post("japan", next(new)))
    assert set(range(20)) <= set(held(manifest))
    ids = gallery.fetched()
    assert len(ids) == len(set(ids))


def test_a_listing_that_repeats_pages_is_stopped(gallery: Gallery, manifest: Manifest, tmp_path: Path) -> None:
    path = "/api/regions/19/countries/114/photos.json"
    gallery.post("brazil", 20)
    gallery.server.answers["/1/1-350x600.jpg"] = jpeg(1)
    body = {"list": [{"id": 1, "img_url": "/1/1-350x600.jpg"}], "pager": {"next_page": 2}}
    gallery.server.answers[path] = json.dumps(body).encode()
    run(settings_for(gallery.server.url, tmp_path), manifest)
    assert held(manifest) == [1, 20]


def test_photos_of_a_renamed_label_are_kept(gallery: Gallery, manifest: Manifest, tmp_path: Path) -> None:
    gallery.post("japan", *range(12))
    gallery.post("brazil", 20)
    settings = settings_for(gallery.server.url, tmp_path, stop_after_known=8)
    run(settings, manifest)
    gallery.fetched()
    countries = settings.source.worldcosplay.countries
    site = settings.source.worldcosplay.model_copy(
        update={"countries": {"nippon": countries["japan"], "brazil": countries["brazil"]}}
    )
    renamed = settings.model_copy(update={"source": settings.source.model_copy(update={"worldcosplay": site})})
    report = run(renamed, manifest)
    assert gallery.fetched() == []
    assert report.held == Counter(nippon=12, brazil=1, japan=0)
    assert all((tmp_path / "data" / photo.path).exists() for photo in manifest.photos())
    assert run(renamed, manifest).held == report.held


# Interruptions


class PowerCut(BaseException):
    """Simulates a power failure."""


def cut_after(n_photos: int) -> Callable[[ScrapeReport], None]:
    def watch(report: ScrapeReport) -> None:
        if report.kept.total() >= n_photos:
            raise PowerCut

    return watch


def test_an_interrupted_scrape_is_resumed(gallery: Gallery, manifest: Manifest, tmp_path: Path) -> None:
    gallery.post("japan", *range(60))
    gallery.post("brazil", 70)
    settings = settings_for(gallery.server.url, tmp_path, stop_after_known=8)
    with pytest.raises(PowerCut):
        run(settings, manifest, on_photo=cut_after(34))
    gallery.server.requests.clear()
    gallery.post("japan", 100, 101)
    run(settings, manifest)
    assert held(manifest) == [*range(60), 70, 100, 101]
    pages = [page for page in gallery.pages() if page.startswith("114/")]
    assert "114/5" not in pages  # known, and skipped
    assert len(pages) < 16


def test_a_gap_after_an_interruption_is_filled(gallery: Gallery, manifest: Manifest, tmp_path: Path) -> None:
    gallery.post("japan", *range(20))
    gallery.post("brazil", 50)
    settings = settings_for(gallery.server.url, tmp_path, stop_after_known=8)
    run(settings, manifest)
    gallery.post("japan", *range(100, 130))
    with pytest.raises(PowerCut):
        run(settings, manifest, on_photo=cut_after(14))
    run(settings, manifest)
    assert held(manifest) == [*range(20), 50, *range(100, 130)]


def test_a_scrape_killed_at_any_time_can_be_completed(gallery: Gallery, tmp_path: Path) -> None:
    """Kill a real process after each of its first photos; no row may be without its complete file."""
    gallery.post("japan", *range(8))
    gallery.post("brazil", *range(20, 26))
    served = Counter[str]()

    def slowly(photo_id: int) -> Callable[[Exchange], object]:
        def answer(exchange: Exchange) -> None:
            served["images"] += 1
            if served["images"] % 3 == 0 and served["images"] < 20:
                os.kill(process.pid, signal.SIGKILL)
            exchange.reply(jpeg(photo_id))

        return answer

    for photo_id in [*range(8), *range(20, 26)]:
        gallery.answer(photo_id, slowly(photo_id))
    config = tmp_path / "config.yaml"
    config.write_text(settings_for(gallery.server.url, tmp_path).model_dump_json())
    exits = []
    for _ in range(12):
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer", "--config", str(config), "scrape"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        exits.append(process.wait(timeout=120))
        with Manifest(tmp_path / "data" / FILE_NAME) as manifest:
            for photo in manifest.photos():
                assert (tmp_path / "data" / photo.path).read_bytes() == jpeg(int(photo.photo_id))
            if exits[-1] == 0:
                assert held(manifest) == [*range(8), *range(20, 26)]
                break
    assert exits.count(-signal.SIGKILL) >= 3
    assert exits[-1] == 0
    assert not list((tmp_path / "data").rglob("*.tmp"))


def test_files_left_by_a_crash_are_deleted(gallery: Gallery, manifest: Manifest, tmp_path: Path) -> None:
    gallery.post("japan", 1)
    gallery.post("brazil", 2)
    folder = tmp_path / "data/images/japan"
    half, whole, foreign = folder / ".abc.jpeg.77.tmp", folder / f"{'a' * 64}.jpeg", folder / "holiday.jpeg"
    for path in (half, whole, foreign):
        picture(path, 5)
    settings = settings_for(gallery.server.url, tmp_path)
    run(settings, manifest)
    assert (half.exists(), whole.exists()) == (False, True)  # a manifest without a row may be a new one
    run(settings, manifest)
    assert (whole.exists(), foreign.exists()) == (False, True)
    assert all((tmp_path / "data" / photo.path).exists() for photo in manifest.photos())


def test_two_scrapes_at_once_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scrape.lock"
    with (
        only_one(path, "scrape"),
        pytest.raises(StorageError, match="another scrape is running"),
        only_one(path, "scrape"),
    ):
        pass
    with only_one(path, "scrape"):
        pass


# Refused photos


def test_a_file_that_is_not_a_photo_is_refused_and_tried_twice_more(
    gallery: Gallery, manifest: Manifest, tmp_path: Path
) -> None:
    gallery.post("japan", 1, 2, 3)
    gallery.post("brazil", 20)
    gallery.answer(1, jpeg(1)[:300])
    gallery.answer(2, jpeg(2)[:300])
    settings = settings_for(gallery.server.url, tmp_path)
    report = run(settings, manifest)
    assert report.refused == Counter({("japan", "truncated"): 2})
    gallery.fetched()
    gallery.answer(2, jpeg(2))
    run(settings, manifest)
    assert gallery.fetched() == [1, 2]
    run(settings, manifest)
    assert gallery.fetched() == [1]
    run(settings, manifest)
    assert gallery.fetched() == []
    assert held(manifest) == [2, 3, 20]
    assert [(refusal.photo_id, refusal.attempts, refusal.final) for refusal in manifest.refusals()] == [("1", 3, True)]


@pytest.mark.parametrize("code", [404, 410, 451])
def test_a_deleted_photo_is_not_requested_again(
    gallery: Gallery, manifest: Manifest, tmp_path: Path, code: int
) -> None:
    gallery.post("japan", 1, 2)
    gallery.post("brazil", 20)
    gallery.answer(1, status(code))
    settings = settings_for(gallery.server.url, tmp_path)
    assert run(settings, manifest).refused == Counter({("japan", "gone"): 1})
    gallery.fetched()
    run(settings, manifest)
    assert gallery.fetched() == []


@pytest.mark.parametrize("code", [403, 429, 500, 503])
def test_a_failed_fetch_is_repeated_by_each_scrape(
    gallery: Gallery, manifest: Manifest, tmp_path: Path, code: int
) -> None:
    gallery.post("japan", 1, 2)
    gallery.post("brazil", 20)
    gallery.answer(1, status(code))
    settings = settings_for(gallery.server.url, tmp_path)
    for _ in range(5):
        assert run(settings, manifest).refused == Counter({("japan", "not fetched"): 1})
        assert 1 in gallery.fetched()


def test_a_photo_with_a_noai_tag_is_refused(gallery: Gallery, manifest: Manifest, tmp_path: Path) -> None:
    gallery.post("japan", 1, 2)
    gallery.post("brazil", 20)
    gallery.answer(1, status(200, jpeg(1), X_Robots_Tag="noai"))
    report = run(settings_for(gallery.server.url, tmp_path), manifest)
    assert report.refused == Counter({("japan", "the site asks machines not to"): 1})
    assert held(manifest) == [2, 20]


def test_broken_links_and_pipes_are_skipped(manifest: Manifest, tmp_path: Path) -> None:
    for label in ("a", "b"):
        picture(tmp_path / "photos" / label / "z.jpg", ord(label))
    for number in range(2 * MAX_FAILURES):
        (tmp_path / f"photos/a/{number}.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "photos/b/pipe.jpg")
    report = run(settings_for(tmp_path / "photos", tmp_path), manifest)
    assert report.held == Counter(a=1, b=1)
    assert report.refused == {
        ("a", "neither a file nor a link to one"): 2 * MAX_FAILURES,
        ("b", "neither a file nor a link to one"): 1,
    }
    assert not report.problems


def test_many_non_image_files_do_not_stop_a_folder_scrape(manifest: Manifest, tmp_path: Path) -> None:
    for label in ("a", "b"):
        picture(tmp_path / "photos" / label / "z.jpg", ord(label))
    for number in range(100):
        (tmp_path / f"photos/a/{number}.jpg").write_bytes(b"<html>")
    assert run(settings_for(tmp_path / "photos", tmp_path), manifest).held == Counter(a=1, b=1)


def test_duplicate_files_are_stored_once(gallery: Gallery, manifest: Manifest, tmp_path: Path) -> None:
    gallery.post("japan", 1, 2)
    gallery.post("brazil", 20)
    gallery.answer(1, jpeg(2))
    report = run(settings_for(gallery.server.url, tmp_path), manifest)
    assert held(manifest) == [2, 20]
    assert report.refused == Counter({("japan", "duplicate"): 1})


def test_the_same_file_under_two_labels_is_not_stored(gallery: Gallery, manifest: Manifest, tmp_path: Path) -> None:
    gallery.post("japan", 1, 2)
    gallery.post("brazil", 20, 21)
    for photo_id in (20, 21):
        gallery.answer(photo_id, jpeg(2))
    settings = settings_for(gallery.server.url, tmp_path)
    report = run(settings, manifest)
    assert held(manifest) == [1]
    assert {refusal.photo_id for refusal in manifest.refusals()} == {"2", "20", "21"}
    assert len(list((tmp_path / "data/images").rglob("*.jpeg"))) == 1
    assert +report.held == Counter(japan=1)
    gallery.fetched()
    run(settings, manifest)
    assert gallery.fetched() == []


# A site with problems


def with_image_hosts(settings: Settings, *hosts: str) -> Settings:
    site = settings.source.worldcosplay.model_copy(update={"image_hosts": hosts})
    return settings.model_copy(update={"source": settings.source.model_copy(update={"worldcosplay": site})})


def test_web_pages_instead_of_images_stop_the_scrape_and_refuse_no_photo_finally(
    gallery: Gallery, manifest: Manifest, tmp_path: Path
) -> None:
    gallery.page_size = 24
    gallery.post("japan", *range(40))
    gallery.post("brazil", 50)
    for photo_id in range(40):
        gallery.answer(photo_id, b"<html>Just a moment...</html>")
    settings = settings_for(gallery.server.url, tmp_path)
    for _ in range(4):
        report = run(settings, manifest)
        assert f"{MAX_FAILURES} images in a row" in report.problems[0]
        assert len(gallery.fetched()) <= 24  # the page that was begun, of 40
    for photo_id in range(40):
        gallery.answer(photo_id, jpeg(photo_id))
    run(settings, manifest)
    assert held(manifest) == [*range(40), 50]


@pytest.mark.parametrize("page_size", [4, 16])
def test_a_listing_with_only_refusals_is_stopped_and_resumed_later(
    gallery: Gallery, manifest: Manifest, tmp_path: Path, page_size: int
) -> None:
    gallery.page_size = page_size
    gallery.post("japan", *range(160))
    gallery.post("brazil", 500)
    gallery.moved = dict.fromkeys(range(100), "https://elsewhere.example")
    settings = settings_for(gallery.server.url, tmp_path, stop_after_known=8)
    settings = with_image_hosts(settings, "images.example")
    report = run(settings, manifest)
    (problem,) = report.problems
    assert "elsewhere.example, which source.worldcosplay.image_hosts does not name" in problem
    n_pages = len([page for page in gallery.pages() if page.startswith("114/")])
    assert 100 <= n_pages * page_size <= 120  # of 160
    assert held(manifest) == [*range(100, 160), 500]
    gallery.moved.clear()
    run(settings, manifest)
    assert held(manifest) == [*range(160), 500]


def test_a_failing_page_does_not_stop_other_labels(gallery: Gallery, manifest: Manifest, tmp_path: Path) -> None:
    path = "/api/regions/19/countries/114/photos.json"
    gallery.post("japan", *range(20))
    gallery.post("brazil", *range(100, 120))
    gallery.server.answers[f"{path}?limit=16&p3_photo_list=true&page=2"] = status(500)
    report = run(settings_for(gallery.server.url, tmp_path), manifest)
    assert held(manifest) == [*range(16, 20), *range(100, 120)]
    assert len(report.problems) == 1
    assert report.problems[0].startswith("japan: ")


@pytest.mark.parametrize("answer", [status(429, Retry_After="3000"), status(429)])
def test_too_many_requests_stop_all_labels(
    gallery: Gallery, manifest: Manifest, tmp_path: Path, answer: Callable[[Exchange], object]
) -> None:
    gallery.post("japan", 1)
    gallery.post("brazil", 20)
    gallery.server.answers["/api/regions/19/countries/114/photos.json"] = answer
    report = run(settings_for(gallery.server.url, tmp_path), manifest)
    assert len(report.problems) == 1
    assert gallery.pages() == ["114/1"]


def test_a_site_that_is_down_changes_nothing_and_is_reported_once(
    gallery: Gallery, manifest: Manifest, tmp_path: Path
) -> None:
    gallery.post("japan", 1)
    gallery.post("brazil", 20)
    settings = settings_for(gallery.server.url, tmp_path)
    run(settings, manifest)
    before = list(manifest.photos())
    for path in list(gallery.server.answers):
        gallery.server.answers[path] = status(503)
    report = run(settings, manifest)
    assert list(manifest.photos()) == before
    assert len(report.problems) == 1
    assert "503" in report.problems[0]


@pytest.mark.parametrize("body", [b"<html>new site</html>", b'{"has_error": 1, "list": []}', b'{"data": []}'])
def test_a_changed_site_format_changes_nothing(
    gallery: Gallery, manifest: Manifest, tmp_path: Path, body: bytes
) -> None:
    gallery.post("japan", 1)
    gallery.post("brazil", 20)
    settings = settings_for(gallery.server.url, tmp_path)
    run(settings, manifest)
    before = list(manifest.photos())
    gallery.server.answers["/api/regions/19/countries/114/photos.json"] = body
    gallery.post("brazil", 21)
    report = run(settings, manifest)
    assert [photo for photo in manifest.photos() if photo.photo_id != "21"] == before
    assert report.kept == Counter(brazil=1)  # the other label is read all the same
    assert len(report.problems) == 1
    assert report.problems[0].startswith("japan: ")


def test_an_empty_listing_changes_nothing(gallery: Gallery, manifest: Manifest, tmp_path: Path) -> None:
    gallery.post("japan", 1)
    gallery.post("brazil", 20)
    settings = settings_for(gallery.server.url, tmp_path)
    run(settings, manifest)
    gallery.photos["japan"] = []
    assert run(settings, manifest).problems == ["japan: the listing is empty; stored photos are kept"]
    assert held(manifest) == [1, 20]


def test_an_image_host_that_is_down_stops_the_scrape_soon(gallery: Gallery, manifest: Manifest, tmp_path: Path) -> None:
    gallery.page_size = 24
    gallery.post("japan", *range(40))
    gallery.post("brazil", 50)
    for photo_id in range(40):
        gallery.answer(photo_id, status(502))
    settings = settings_for(gallery.server.url, tmp_path)
    report = run(settings, manifest)
    assert len(report.problems) == 1
    assert f"{MAX_FAILURES} images in a row" in report.problems[0]
    assert (
        len(gallery.fetched()) <= gallery.page_size
    )  # images of one page are fetched concurrently, but not those of the next
    gallery.post("japan", *range(40))
    gallery.photos["japan"] = list(range(40))
    assert run(settings, manifest).kept.total() == 41


def test_a_full_disk_is_an_error_and_stored_photos_are_complete(
    gallery: Gallery, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery.post("japan", *range(8))
    gallery.post("brazil", 20)
    settings = settings_for(gallery.server.url, tmp_path)
    real, left = os.fsync, iter(range(9))

    def fsync(descriptor: int) -> None:
        if next(left, None) is None:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError, match="the disk is full"):
        run(settings, manifest)
    monkeypatch.undo()
    photos = list(manifest.photos())
    assert 0 < len(photos) < 9
    assert all((tmp_path / "data" / photo.path).stat().st_size == photo.n_bytes for photo in photos)
    run(settings, manifest)
    assert held(manifest) == [*range(8), 20]


# Politeness


def test_pages_and_images_are_fetched_at_the_configured_pace(
    gallery: Gallery, manifest: Manifest, tmp_path: Path
) -> None:
    gallery.post("japan", *range(8))
    gallery.post("brazil", 20)
    clock = Clock()
    settings = settings_for(gallery.server.url, tmp_path, page_pause_s=10, image_pause_s=0.5, concurrent_images=1)
    run(settings, manifest, clock)
    assert clock.slept.count(0.5) == 9
    assert sum(clock.slept) >= 2 * 10  # three pages


def test_a_longer_crawl_delay_of_robots_txt_is_respected(gallery: Gallery, manifest: Manifest, tmp_path: Path) -> None:
    gallery.server.answers["/robots.txt"] = b"User-agent: *\nCrawl-delay: 7\n"
    gallery.post("japan", *range(8))
    gallery.post("brazil", 20)
    clock = Clock()
    run(settings_for(gallery.server.url, tmp_path, concurrent_images=2), manifest, clock)
    assert clock.slept.count(14) == 9  # each of two connections waits twice as long


# Stored files


def check(settings: Settings, manifest: Manifest) -> VerifyReport:
    with Fetcher(settings.web) as fetcher:
        return verify(open_site(settings, fetcher), manifest, settings, FakeDecoder(), sleep=lambda _: None)


def test_verify_restores_files_that_are_damaged_or_missing(
    gallery: Gallery, manifest: Manifest, tmp_path: Path
) -> None:
    gallery.post("japan", 1, 2, 3)
    gallery.post("brazil", 20)
    settings = settings_for(gallery.server.url, tmp_path)
    run(settings, manifest)
    paths = {photo.photo_id: tmp_path / "data" / photo.path for photo in manifest.photos()}
    paths["1"].write_bytes(jpeg(1)[:100])
    paths["2"].unlink()
    gallery.fetched()
    report = check(settings, manifest)
    assert (report.n_checked, sorted(report.restored), report.problems) == (4, ["1", "2"], [])
    assert gallery.fetched() == [1, 2]
    assert paths["1"].read_bytes() == jpeg(1)
    assert paths["2"].read_bytes() == jpeg(2)


def test_verify_reports_a_file_that_cannot_be_fetched_and_keeps_its_row(
    gallery: Gallery, manifest: Manifest, tmp_path: Path
) -> None:
    gallery.post("japan", 1)
    gallery.post("brazil", 20)
    settings = settings_for(gallery.server.url, tmp_path)
    run(settings, manifest)
    path = tmp_path / "data" / next(manifest.photos()).path
    path.write_bytes(b"damaged")
    gallery.answer(1, status(503))
    problem = check(settings, manifest).problems[0]
    assert problem.startswith(f"{path}: 7 bytes, but the manifest has {len(jpeg(1)):,}")
    assert held(manifest) == [1, 20]
    gallery.answer(1, status(404))
    assert check(settings, manifest).dropped == ["1"]
    assert held(manifest) == [20]


@pytest.mark.parametrize("kind", ["photo", "member"])
def test_forgotten_photos_are_never_fetched_again(
    gallery: Gallery, manifest: Manifest, tmp_path: Path, kind: Any
) -> None:
    gallery.post("japan", 1, 11, 2)
    gallery.post("brazil", 20)
    settings = settings_for(gallery.server.url, tmp_path)
    run(settings, manifest)
    paths = {photo.photo_id: tmp_path / "data" / photo.path for photo in manifest.photos()}
    sha256s = [photo.sha256 for photo in manifest.photos()]
    features = tmp_path / "data/features/some-backbone"
    FeatureCache(features, views=["whole"], n_features=2).append(sha256s, np.ones((4, 1, 2), np.float32))
    photos = named(manifest, "worldcosplay", kind, "1")
    n_photos = len(photos)
    forget(manifest, settings, "worldcosplay", kind, "1", photos, now=NOW)
    gallery.post("japan", 21)
    gallery.fetched()
    run(settings, manifest)
    assert not paths["1"].exists()
    assert len(FeatureCache(features, views=["whole"], n_features=2)) == 4 - n_photos
    if kind == "photo":
        assert (n_photos, held(manifest)) == (1, [2, 11, 20, 21])
    else:
        assert (n_photos, held(manifest)) == (2, [2, 20])
        assert gallery.fetched() == []


# A folder of photos


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg(seed))


def ids(manifest: Manifest) -> list[str]:
    return sorted(photo.photo_id for photo in manifest.photos())


def test_photos_of_a_folder_are_used_in_place(manifest: Manifest, tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    picture(root / "a/1.jpg", 1)
    picture(root / "b/1.jpg", 2)
    (root / "b/notes.txt").write_text("no photo")
    report = run(settings_for(root, tmp_path), manifest)
    photos = list(manifest.photos())
    assert [(photo.path, photo.member_id, photo.label) for photo in photos] == [
        (root / "a/1.jpg", None, "a"),
        (root / "b/1.jpg", None, "b"),
    ]
    assert report.refused == Counter({("b", "not an image"): 1})
    assert not (tmp_path / "data/images").exists()


def test_changed_moved_and_deleted_files_are_detected(manifest: Manifest, tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    for n in range(5):
        picture(root / f"a/{n}.jpg", n)
        picture(root / f"b/{n}.jpg", 10 + n)
    settings = settings_for(root, tmp_path)
    run(settings, manifest)
    before = {photo.photo_id: photo.sha256 for photo in manifest.photos()}
    picture(root / "a/1.jpg", 100)
    (root / "a/2.jpg").unlink()
    (root / "a/3.jpg").rename(root / "a/moved.jpg")
    report = run(settings, manifest)
    after = {photo.photo_id: photo.sha256 for photo in manifest.photos()}
    assert after["a/1.jpg"] != before["a/1.jpg"]
    assert after["a/moved.jpg"] == before["a/3.jpg"]
    assert after.keys() == before.keys() - {"a/2.jpg", "a/3.jpg"} | {"a/moved.jpg"}
    assert (report.vanished, report.known, report.held) == (Counter(a=2), Counter(a=2, b=5), Counter(a=4, b=5))


def test_an_unreadable_file_is_removed_until_it_is_fixed(manifest: Manifest, tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    picture(root / "a/1.jpg", 1)
    picture(root / "b/1.jpg", 2)
    settings = settings_for(root, tmp_path)
    run(settings, manifest)
    (root / "a/1.jpg").write_bytes(b"no picture")
    for _ in range(5):
        run(settings, manifest)
        assert ids(manifest) == ["b/1.jpg"]
    picture(root / "a/1.jpg", 1)
    run(settings, manifest)
    assert ids(manifest) == ["a/1.jpg", "b/1.jpg"]


def test_of_copies_in_two_splits_the_evaluation_copy_is_kept(manifest: Manifest, tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    for name, label, seed in (("train", "a", 1), ("test", "a", 1), ("train", "b", 2)):
        picture(root / name / label / "1.jpg", seed)
    run(settings_for(root, tmp_path), manifest)
    assert ids(manifest) == ["test/a/1.jpg", "train/b/1.jpg"]


def test_another_folder_replaces_the_first(manifest: Manifest, tmp_path: Path) -> None:
    for at, name in enumerate(("one", "two")):
        picture(tmp_path / name / "a/1.jpg", 10 * at)
        picture(tmp_path / name / "b/1.jpg", 10 * at + 1)
        run(settings_for(tmp_path / name, tmp_path), manifest)
        assert {photo.path.parent.parent for photo in manifest.photos()} == {tmp_path / name}


# Output


def test_the_summary_has_stored_photos_and_reasons_of_refusals() -> None:
    report = ScrapeReport(
        labels=("japan", "brazil"),
        kept=Counter(japan=1200),
        held=Counter(japan=1300),
        refused=Counter({("japan", "truncated"): 3}),
    )
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(summary(report))
    text = console.export_text()
    assert "1,200" in text
    assert "1,300" in text
    assert "truncated" in text


def test_without_a_terminal_progress_is_logged_every_few_seconds(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.time)
    report = ScrapeReport(labels=("japan",), goal=100, held=Counter(japan=40), kept=Counter(japan=10))
    with progress(Console(file=io.StringIO())) as on_photo:
        for _ in range(4):
            clock.time += LOG_EVERY_S / 2
            on_photo(report)
    assert [record.getMessage() for record in caplog.records] == [
        "scraping held: japan=40 kept=10 refused=0 rate=2.0/s min_left=0",
        "scraping held: japan=40 kept=10 refused=0 rate=1.0/s min_left=1",
    ]


def test_a_terminal_shows_a_bar_for_each_label() -> None:
    out = io.StringIO()
    report = ScrapeReport(labels=("japan", "brazil"), goal=100, held=Counter(japan=40), kept=Counter(japan=10))
    with progress(Console(file=out, force_terminal=True, width=100)) as on_photo:
        on_photo(report)
    assert "japan" in out.getvalue()
    assert "40/100" in out.getvalue()


def test_the_command_ends_with_the_problems_and_no_traceback(gallery: Gallery, tmp_path: Path) -> None:
    gallery.server.answers["/robots.txt"] = status(500)
    config = tmp_path / "config.yaml"
    config.write_text(settings_for(gallery.server.url, tmp_path).model_dump_json())
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "--config", str(config), "scrape"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "robots.txt cannot be read" in done.stderr
    assert "Traceback" not in done.stderr
