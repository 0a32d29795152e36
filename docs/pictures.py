"""`python -m docs.pictures` creates the screenshots in docs/images, with a trained bot and headless Chromium.

It needs `chromium` (or `chromium-browser`, `google-chrome`) and a Japanese font on the machine, e.g. fonts-noto-cjk.
They show a real run: photos drawn by the sandbox, VGG16 with seeded random weights, and a head trained on them.
"""

from __future__ import annotations

import contextlib
import random
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import requests
from PIL import Image, ImageChops

from benchmarks.browser import BROWSERS, QUIET, find_browser
from benchmarks.home import Home, running, until
from benchmarks.studio import Silent
from bot.monitor.pages import DAYS_SHOWN
from bot.storage.store import DATABASE
from sandbox.child import source_settings
from sandbox.gallery import Gallery
from sandbox.gallery import create_app as create_gallery
from sandbox.instance import NO_RATE_LIMITS, Account, Instance, InstanceSettings, Status, create_app
from sandbox.instance.people import YOU
from sandbox.server import HOST, serve
from trainer.config import Settings, load_settings
from trainer.photos.decode import Decoder
from trainer.registry.registry import Registry
from trainer.review.page import ReviewPage
from trainer.review.pictures import Pictures
from trainer.review.settling import Settling
from trainer.review.suspects import Review, find_suspects
from trainer.web.local_server import LocalServer

IMAGES = Path(__file__).parent / "images"
OPTIONS = (
    *QUIET,
    "--headless=new",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
WIDE_PX, PHONE_PX = 760, 430
MAX_HEIGHT_PX = 4000  # of the window; the empty part below is cropped
SCALE = 1.25
MARGIN_PX = 24
COLOURS = 256  # size of the palette, which reduces the file to a third


def main() -> None:
    """Create all screenshots."""
    with tempfile.TemporaryDirectory(prefix="dokocos-pictures-") as folder, _world(Path(folder)) as (place, gallery):
        for command in ("scrape", "train"):
            subprocess.run([sys.executable, "-m", "trainer", command], env=place.environment(), check=True)
        with running(place):
            _threads(place, gallery)
            _orders(place, gallery)
            _impostor(place)
            _spread_over_days(place)
            shoot(f"http://127.0.0.1:{place.settings['BOT__HTTP_PORT']}/", "status", height_px=1100)
        report = (Registry(place.data_dir).champion() or sys.exit("no champion")).folder / "report.html"
        shoot(report.as_uri(), "report", width_px=PHONE_PX, height_px=1500)
        shoot(report.as_uri(), "report_dark", width_px=PHONE_PX, height_px=1500, dark=True)
        settings = load_settings(Settings, environ=place.environment(), root=place.data_dir)
        review(settings, find_suspects(settings, Silent()))


@contextmanager
def _world(folder: Path) -> Iterator[tuple[Home, Gallery]]:
    instance = Instance(InstanceSettings(rate_limits=NO_RATE_LIMITS))
    gallery = Gallery(0, members_per_label=24, photos_per_member=3)
    instance.add_account(YOU, display_name="You")
    me = instance.add_account("dokocos", display_name="dokocos どこコス", bot=True)
    with serve(create_app(instance)) as url, serve(create_gallery(gallery)) as gallery_url:
        settings = source_settings(gallery, gallery_url) | {
            "FEATURES__VIEWS": "[whole]",
            "BOT__ADMINS": f"[{YOU}]",
            "BOT__HTTP_PORT": str(_free_port()),
            "SCHEDULE__CHILD_NICENESS": "0",
            "MASTODON__CATCH_UP_EVERY_S": "2",
        }
        yield Home(instance, url, me, folder, settings), gallery


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _threads(place: Home, gallery: Gallery) -> None:
    """Screenshots of a question and its answer, in English and Japanese."""
    for name, label, shown, text, alt_text, language in (
        ("thread", "brazil", "Alice", "which gallery does my costume look like?", "My new costume", "en"),
        ("thread_ja", "japan", "Fumi", "この衣装はどこのコスプレに似ていますか？", "手作りの衣装です", "ja"),
    ):
        asker = place.instance.add_account(shown.lower(), display_name=shown)
        photo = place.instance.attach(asker, gallery.draw_fresh(label, 4), description=alt_text)
        question = place.instance.post(asker, f"@dokocos {text}", attachments=[photo], language=language)
        place.wait_for_answer(question)
        shoot(_address(place, question, language), name)


def _orders(place: Home, gallery: Gallery) -> None:
    """Screenshots of an admin's commands and the replies, newest first."""
    you = place.instance.account(YOU)
    status = _order(place, you, "status")
    shoot(_address(place, status), "status_order")
    for label in gallery.labels:
        gallery.grow(label, members=4, photos=12)
    _order(place, you, "scrape")
    until(lambda: _unasked(place, "Scrape done"), timeout_s=300)
    _order(place, you, "train")
    until(lambda: _unasked(place, "Training done"), timeout_s=900)
    shoot(_address(place, _unasked(place, "Training done")[0]), "verdict")


def _impostor(place: Home) -> None:
    """Screenshot of a command from the same name on another host, which is answered as a question."""
    impostor = place.instance.add_account(f"{YOU}@evil.example", display_name="You")
    with mock.patch("sandbox.instance.page.YOU", impostor.acct):
        shoot(_address(place, _order(place, impostor, "pause")), "impostor")


def _spread_over_days(place: Home) -> None:
    """Post many questions and spread their times over the last days, to fill the chart."""
    people = [place.person(f"guest{number}") for number in range(8)]
    asked = [place.ask(people[number % len(people)], None, text="@dokocos hello") for number in range(60)]
    until(lambda: all(place.answers(question) for question in asked))
    with contextlib.closing(sqlite3.connect(place.data_dir / DATABASE, isolation_level=None, timeout=30)) as database:
        rng = random.Random(0)  # noqa: S311 - not for security
        moves = [(rng.randrange(DAYS_SHOWN), row) for (row,) in database.execute("SELECT rowid FROM inbox")]
        database.executemany("UPDATE inbox SET finished_at = finished_at - 86400 * ? WHERE rowid = ?", moves)


def _order(place: Home, by: Account, text: str, *, language: str = "en") -> Status:
    order = place.instance.post(by, f"@dokocos {text}", visibility="direct", language=language)
    place.wait_for_answer(order)
    return order


def _unasked(place: Home, words: str) -> list[Status]:
    return [each for each in place.instance.statuses_of(place.me) if words in each.text]


def _address(place: Home, status: Status, language: str = "en") -> str:
    return f"{place.url}/@{status.account.acct}/{status.id}?lang={language}"


def review(settings: Settings, found: Review) -> None:
    """The review page at the first contradicted label, wide and on a phone."""
    labels = tuple(each for each in found.suspects if each.kind == "label")
    settling = Settling(replace(found, suspects=labels), settings.source.kind, settings.data_dir)
    with Decoder.in_bulk(settings.images) as decoder:
        pictures = Pictures(settings, decoder)
        for name, width_px in (("review", 1000), ("review_phone", 500)):
            page = ReviewPage(settling, pictures)
            server = LocalServer(HOST, 0, page.answer, posts=True)
            server.start()
            shoot(page.address(server.url), name, width_px=width_px, height_px=1000)
            server.stop()


def shoot(url: str, name: str, *, width_px: int = WIDE_PX, height_px: int = MAX_HEIGHT_PX, dark: bool = False) -> None:
    """Take a screenshot of a page and compress it."""
    browser = find_browser()
    if browser is None:
        sys.exit(f"none of {', '.join(BROWSERS)} is installed; install one")
    if url.startswith("http") and "?token=" not in url:  # such an address works once
        requests.get(url, timeout=30).raise_for_status()
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        subprocess.run(
            [
                browser,
                *OPTIONS,
                f"--user-data-dir={folder}/profile",
                f"--force-device-scale-factor={SCALE}",
                f"--window-size={width_px},{height_px}",
                f"--blink-settings=preferredColorScheme={0 if dark else 1}",
                "--virtual-time-budget=2000",
                f"--screenshot={shot}",
                url,
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )
        with Image.open(shot) as picture:
            trimmed = _trimmed(picture.convert("RGB"))
            small = trimmed.quantize(palette=trimmed.quantize(COLOURS), dither=Image.Dither.FLOYDSTEINBERG)
        small.save(IMAGES / f"{name}.png", optimize=True)
    print(f"{name}.png  {(IMAGES / f'{name}.png').stat().st_size / 1000:.0f} kB")


def _trimmed(picture: Image.Image) -> Image.Image:
    """Crop the empty part at the bottom."""
    ground = Image.new("RGB", picture.size, picture.getpixel((0, picture.height - 1)))
    box = ImageChops.difference(picture, ground).getbbox()
    return picture if box is None else picture.crop((0, 0, picture.width, min(picture.height, box[3] + MARGIN_PX)))


if __name__ == "__main__":
    main()
