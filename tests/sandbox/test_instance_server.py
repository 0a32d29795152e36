"""The server of an app on loopback: its address, and how it stops."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from sandbox.instance import Account, Instance, create_app
from sandbox.server import serve
from tests.sandbox.conftest import bearer, listen


def app_saying(text: str) -> Starlette:
    async def answer(_request: Request) -> PlainTextResponse:
        return PlainTextResponse(text)

    return Starlette(routes=[Route("/", answer)])


def test_it_listens_on_loopback_only() -> None:
    with serve(app_saying("hello")) as url:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
        assert requests.get(url, timeout=10).text == "hello"


def test_two_servers_run_side_by_side() -> None:
    with serve(app_saying("one")) as one, serve(app_saying("two")) as two:
        assert [requests.get(url, timeout=10).text for url in (one, two)] == ["one", "two"]


def test_after_the_stop_the_port_is_closed_and_can_be_reused() -> None:
    with serve(app_saying("first")) as url:
        requests.get(url, timeout=10)
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=10)
    with serve(app_saying("second"), port=int(url.rpartition(":")[2])) as again:
        assert again == url
        assert requests.get(url, timeout=10).text == "second"


def test_a_used_port_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):  # noqa: SIM117
        with serve(app_saying("x"), port=taken.getsockname()[1]):
            pass


def test_a_stop_ends_open_streams_cleanly() -> None:
    instance = Instance()
    bot = instance.add_account("dokocos")
    with serve(create_app(instance)) as url:
        context = listen(url, bot.token)
        stream = context.__enter__()
    assert stream.line() is None
    context.__exit__(None, None, None)
    assert instance.hub.listeners() == 0


def test_no_thread_is_left_behind() -> None:
    before = set(threading.enumerate())
    with serve(app_saying("x")) as url:
        requests.get(url, timeout=10)
        assert set(threading.enumerate()) - before
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "sandbox-server"]


def test_the_instance_knows_its_own_address(instance: Instance, instance_url: str, bot: Account) -> None:
    status = instance.post(bot, "hello")
    shown = requests.get(f"{instance_url}/api/v1/statuses/{status.id}", timeout=10).json()
    assert shown["url"] == f"{instance_url}/@dokocos/{status.id}"
    assert shown["account"]["avatar"].startswith(instance_url)


@pytest.fixture
def sandbox() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sandbox", "serve", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_prints_the_urls_and_stops_on_a_signal(sandbox: subprocess.Popen[str], number: signal.Signals) -> None:
    with sandbox:
        assert sandbox.stdout is not None
        found = json.loads(sandbox.stdout.readline())
        assert {urlsplit(found[name]).hostname for name in ("instance", "gallery")} == {"127.0.0.1"}
        assert set(found["tokens"]) == {"dokocos", "admin", "alice", "bob", "chie", "you"}
        address = f"{found['instance']}/api/v1/accounts/verify_credentials"
        bot = requests.get(address, headers=bearer(found["tokens"]["dokocos"]), timeout=10).json()
        assert (bot["acct"], bot["bot"]) == ("dokocos", True)
        assert requests.get(found["gallery"], timeout=10).ok
        sandbox.send_signal(number)
        assert sandbox.wait(20) == 0
