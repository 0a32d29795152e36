"""No address of anybody's photo is written anywhere: not to the log, the database, an admin's messages or the inbox."""

from __future__ import annotations

import gzip
import logging
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from bot.log import set_up
from sandbox.instance import Status
from tests.bot.conftest import ROOT, World, photo, until
from tests.web import Answer, Exchange, Server, serving, status
from trainer.config import LogSettings, WebSettings
from trainer.errors import FetchError
from trainer.web.fetch import Fetcher

MARK = "SECRETFOLDER"


def raw(answer: bytes) -> Callable[[Exchange], object]:
    """Sends bytes that are no proper response, and hangs up."""

    def send(exchange: Exchange) -> None:
        exchange.wfile.write(answer)
        exchange.close_connection = True

    return send


def echo(answer: bytes) -> Callable[[Exchange], object]:
    """The same, with the requested path in it."""
    return lambda exchange: raw(answer.replace(b"PATH", exchange.path.encode()))(exchange)


ANSWERS: dict[str, Answer] = {
    "404": status(404),
    "410": status(410),
    "429": status(429, Retry_After="0"),
    "500": status(500),
    "loop": lambda exchange: exchange.reply(status=302, Location=f"{exchange.path}?{MARK}"),
    "redirect to nothing": status(302, Location=f"http://nowhere.invalid/{MARK}"),
    "redirect to another scheme": status(302, Location=f"ftp://a.example/{MARK}"),
    "redirect to no URL": status(302, Location=f"http://[{MARK}/"),
    "too large": photo(size=(200, 200)) * 40,
    "html": lambda exchange: exchange.reply(b"<html>" + MARK.encode(), Content_Type="text/html"),
    "no image": b"nothing " * 9,
    "empty": b"",
    "cut photo": photo()[:300],
    "cut": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nab"),
    "no status line": echo(b"PATH\r\n\r\n"),
    "status that is no number": echo(b"HTTP/1.1 PATH ok\r\n\r\n"),
    "headers that are none": echo(b"HTTP/1.1 404 no\r\nX: 1\r\nPATH\r\nY : 2\r\n\r\n"),
    "long header": echo(b"HTTP/1.1 200 OK\r\nX: PATH" + b"x" * 70_000 + b"\r\n\r\n"),
    "no gzip": lambda exchange: exchange.reply(MARK.encode() * 9, Content_Encoding="gzip"),
    "half a gzip": lambda exchange: exchange.reply(gzip.compress(MARK.encode() * 99)[:20], Content_Encoding="gzip"),
    "wrong chunks": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
}


def addresses(server: Server) -> dict[str, str]:
    """Addresses of photos that cannot be fetched, each with the mark."""
    other = {
        "no such host": f"http://nowhere.invalid/{MARK}/1.jpg?{MARK}",
        "refused": f"http://127.0.0.1:1/{MARK}/1.jpg?{MARK}",
        "no TLS": f"{server.url.replace('http', 'https')}/{MARK}/1.jpg?{MARK}",
        "no scheme": f"{MARK}/1.jpg",
        "another scheme": f"file:///{MARK}/1.jpg",
        "user and password": f"http://{MARK}:{MARK}@127.0.0.1/{MARK}",  # pragma: allowlist secret
        "a space": f"{server.url}/a {MARK}/1.jpg",
        "a port that is none": f"http://127.0.0.1:{MARK}/1.jpg",
        "a control character": f"{server.url}/\x01{MARK}",
    }
    return other | {name: f"{server.url}/{MARK}/{at}.jpg?{MARK}" for at, name in enumerate(ANSWERS)}


@pytest.mark.parametrize("private", [True, False])
def test_errors_of_a_private_fetcher_hold_a_host_at_most(private: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    web = WebSettings(allow_private_addresses=True, max_attempts=2, backoff_s=0.0, total_timeout_s=5.0)
    told = {}
    with serving() as server, Fetcher(web, private=private, sleep=lambda _: None) as fetcher:
        answer_all(server)
        for name, url in addresses(server).items():
            try:
                fetcher.get(url, max_bytes=10_000)
            except FetchError as error:
                told[name] = str(error)
    assert len(told) > 20
    marked = {name for name, text in told.items() if MARK.lower() in text.lower()}
    if private:
        assert marked == set()
        assert MARK.lower() not in caplog.text.lower()
        assert told["500"] == "127.0.0.1: HTTP 500"
        assert told["too large"] == "127.0.0.1: too large"
        assert told["no such host"] == "nowhere.invalid: gaierror"
        assert told["refused"] == "127.0.0.1: ConnectionRefusedError"
    else:
        assert "404" in marked  # a scrape's errors tell which photo of a public gallery it was


def answer_all(server: Server) -> None:
    for at, answer in enumerate(ANSWERS.values()):
        server.answers[f"/{MARK}/{at}.jpg"] = answer


def test_no_address_of_a_photo_is_written_anywhere(world: World) -> None:
    """The bot is a real process with a log of level DEBUG; each photo fails in another way."""
    world.client().home.accept_private_mentions()
    limits: dict[str, Any] = {
        "LOG__LEVEL": "DEBUG",
        "BOT__ADMINS": '["alice"]',
        "BOT__RETRY_PAUSE_S": "0.05",
        "BOT__MAX_RETRY_PAUSE_S": "0.1",
        "BOT__MAX_ATTEMPTS": "3",
        "BOT__MAX_ANSWERS_PER_HOUR": "1000",
        "WEB__BACKOFF_S": "0.01",
        "WEB__TOTAL_TIMEOUT_S": "3",
        "IMAGES__MAX_BYTES": "20000",
        "SCHEDULE__SCRAPE__ENABLED": "false",
        "SCHEDULE__TRAIN__ENABLED": "false",
    }
    bob = world.person("bob")
    with serving() as server:
        answer_all(server)
        questions: list[Status] = []
        for url in addresses(server).values():
            media = world.photo(of=bob)
            media.url = media.remote_url = url
            media.preview = b"no preview"
            questions.append(world.ask(by=bob, attachments=[media], visibility="direct"))
        process = world.spawn(**{f"DOKOCOS_{name}": value for name, value in limits.items()})
        try:
            for question in questions:
                until(partial(world.answers, question))
            orders = [world.ask(f"@dokocos {text}", label=None, visibility="direct") for text in ("log", "inbox")]
            for order in orders:
                until(partial(world.answers, order))
            command = [sys.executable, "-m", "bot", "inbox"]
            listed = subprocess.run(command, cwd=ROOT, env=world.environment(), capture_output=True, check=True)
        finally:
            process.terminate()
            process.wait()
    files = {path: path.read_bytes() for path in world.data_dir.rglob("*") if path.is_file()}
    said = "\n".join(each.text for each in world.instance.statuses_of(world.me))
    written = {"log": world.log.read_bytes(), "inbox": listed.stdout + listed.stderr, "messages": said.encode()}
    found = {str(name) for name, content in (files | written).items() if MARK.lower().encode() in content.lower()}
    assert found == set()
    assert b"not fetched kind=" in written["log"]
    assert b"127.0.0.1: HTTP 500" in written["log"]


def test_libraries_warnings_about_addresses_are_not_logged(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        kept = set_up(LogSettings(level="DEBUG"))
        logging.getLogger("urllib3.connection").warning("Failed to parse headers (url=%s)", f"https://a/{MARK}")
        logging.getLogger("urllib3.connectionpool").debug("GET /%s", MARK)
        assert MARK not in capfd.readouterr().err
        assert not [line for line in kept.lines() if MARK in line]
    finally:
        root.handlers[:], root.level = before
