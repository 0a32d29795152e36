"""Monitoring: heartbeat, systemd, metrics, status page, tables, and reloading of settings."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from bot.admin.operations import changed
from bot.monitor import health
from bot.monitor.health import Heartbeat, problem
from bot.monitor.pages import status_page
from bot.monitor.server import Pages
from bot.storage.inbox import Tally
from tests.bot.conftest import ROOT, World, settle, until
from tests.fake_trainer import add_version
from trainer.web.local_server import HEAD_TIMEOUT_S, HEADERS, MAX_CONNECTIONS, Page

NOW = 1_800_000_000.0


def beating(tmp_path: Path, *, alive: bool = True, **environ: str) -> Heartbeat:
    return Heartbeat(tmp_path, lambda: alive, environ=environ, now=lambda: NOW)


def test_a_fresh_heartbeat_means_alive_and_an_old_one_does_not(tmp_path: Path) -> None:
    assert "no heartbeat" in str(problem(tmp_path, now=NOW))
    assert beating(tmp_path).beat()
    assert problem(tmp_path, now=NOW + 60) is None
    assert "hangs or was killed" in str(problem(tmp_path, now=NOW + health.STALE_AFTER_S + 1))


def test_a_bot_with_a_dead_part_sends_no_heartbeat(tmp_path: Path) -> None:
    assert not beating(tmp_path, alive=False).beat()
    assert problem(tmp_path, now=NOW) is not None


def test_systemd_is_notified_of_each_step(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        heart = beating(tmp_path, NOTIFY_SOCKET=str(path))
        heart.notify("READY=1")
        heart.beat()
        heart.stop()
        assert [systemd.recv(100).decode() for _ in range(3)] == ["READY=1", "WATCHDOG=1", "STOPPING=1"]


def test_a_missing_systemd_socket_does_no_harm(tmp_path: Path) -> None:
    assert beating(tmp_path, NOTIFY_SOCKET=str(tmp_path / "gone")).beat()


def test_the_health_command_sees_a_running_and_a_stopped_bot(world: World) -> None:
    def check() -> tuple[int, str]:
        command = [sys.executable, "-m", "bot", "health"]
        done = subprocess.run(command, cwd=ROOT, env=world.environment(), capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    with world.bot() as bot:
        until(lambda: (world.data_dir / health.FILE_NAME).exists())
        assert check() == (0, "alive\n")
        assert bot.is_alive()
    assert check()[0] == 1


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "dokocos.service").read_text()
    for needed in ("Type=notify", "WatchdogSec=", "RestartPreventExitStatus=3", "OOMPolicy=continue"):
        assert needed in text
    here = text.replace("/srv/dokocos/.venv/bin/python", sys.executable)  # systemd-analyze checks that it exists
    unit = tmp_path / "dokocos.service"
    unit.write_text(here)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],  # noqa: S607 - wherever it is
        capture_output=True,
        text=True,
        check=False,
    )
    assert "dokocos.service" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def samples(text: str) -> dict[tuple[str, str], float]:
    """(name, value of the first label) -> value, parsed by Prometheus' own parser."""
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_port_serves_health_metrics_and_a_status_page(world: World) -> None:
    world.data_dir.mkdir(parents=True)
    version = add_version(world.data_dir, right=0.8, promoted=True, created_at=datetime(2026, 1, 2, tzinfo=UTC))
    with world.bot(bot={"http_port": free_port()}) as bot:
        assert bot.pages is not None
        url = bot.pages.url
        world.answer(world.ask())
        world.answer(world.ask(label=None))
        settle(bot)
        assert requests.get(f"{url}/healthz", timeout=10).status_code == 200
        assert requests.get(f"{url}/../etc/passwd", timeout=10).status_code == 404
        found = samples(requests.get(f"{url}/metrics", timeout=10).text)
        assert found["dokocos_mentions_total", ""] == 2
        assert found["dokocos_answers_total", "answer"] == found["dokocos_answers_total", "help"] == 1
        assert found["dokocos_answer_seconds_count", ""] == 2
        assert found["dokocos_inbox_depth", ""] == 0
        assert found["dokocos_champion_balanced_accuracy", ""] == pytest.approx(0.8)
        assert found["dokocos_champion_info", version] == 1
        page = requests.get(f"{url}/", timeout=10)
        assert page.headers["Content-Type"].startswith("text/html")
        assert f"Champion {version}" in page.text
        assert re.search(r"<td>brazil</td>\s*<td class=\"number\">0\.80</td>", page.text)
        assert "alice" not in page.text
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/healthz", timeout=10)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool here")
def test_promtool_finds_no_fault_with_the_metrics(world: World) -> None:
    world.data_dir.mkdir(parents=True)
    add_version(world.data_dir, right=0.8, promoted=True, created_at=datetime(2026, 1, 2, tzinfo=UTC))
    with world.bot() as bot:
        world.answer(world.ask())
        settle(bot)
        page = bot.metrics.page()
    command = ["promtool", "check", "metrics"]  # found in PATH
    done = subprocess.run(command, input=page, capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")


def test_no_port_is_opened_by_default(world: World) -> None:
    with world.bot() as bot:
        assert bot.pages is None


def test_the_grafana_dashboard_uses_metrics_that_exist(world: World) -> None:
    board = json.loads((ROOT / "deploy" / "grafana.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    with world.bot() as bot:
        world.answer(world.ask())
        text = bot.metrics.page().decode()
    named = {name for query in queries for name in re.findall(r"dokocos_\w+", query)}
    conditional = {"dokocos_champion_recall", "dokocos_champion_balanced_accuracy"}  # with a champion on disk
    assert {name for name in named - conditional if f"# TYPE {name}" not in text and f"\n{name}" not in text} == set()


def test_the_chart_shows_the_last_days_as_bars_and_as_text(world: World) -> None:
    with world.bot() as bot:
        view = bot.operations.status_reader.read()
    jobs = ["train: <off> (last Jan 10 04:00, done, v2 is the champion now (better))"]
    page = status_page(view, [Tally("2027-01-15", "answered", "", 4)], jobs, now=NOW).body.decode()
    assert "2027-01-15 4 answered, 0 refused, 0 failed" in page
    assert "<td>train</td><td>&lt;off&gt;</td><td>Jan 10 04:00, done, v2 is the champion now (better)</td>" in page


def test_jobs_and_stats_are_shown_as_tables(world: World) -> None:
    with world.bot() as bot:
        world.answer(world.ask())
        settle(bot)
        bot.operations.schedule.ask("prune")
        until(lambda: bot.operations.records.runs(limit=1, job="prune"))

    def say(name: str) -> str:
        command = [sys.executable, "-m", "bot", name]
        return subprocess.run(
            command, cwd=ROOT, env=world.environment(), capture_output=True, text=True, check=True
        ).stdout

    assert "0 mentions, 0 runs deleted" in say("jobs")
    assert "champion: none yet" in say("stats")


def test_metrics_status_page_and_stats_show_what_people_say_about_answers(world: World) -> None:
    with world.bot() as bot:
        answer = world.answer(world.ask())
        world.answer(world.ask("@dokocos wrong", label=None, in_reply_to=answer))
        settle(bot)
        metrics = bot.metrics.page().decode()
        page = status_page(bot.operations.status_reader.read(), [], [], now=NOW).body.decode()
    of = 'label="japan",source="volunteers",'
    assert f'dokocos_opinions{{{of}verdict="wrong",version="v1"}} 1.0' in metrics
    assert f'dokocos_agreement{{figure="high",{of}version="v1"}} 0.79' in metrics
    assert '<td>japan</td><td>v1</td><td class="number">0 of 1 (0.00 to 0.79)</td>' in page
    assert "Only who wants to says so" in page
    command = [sys.executable, "-m", "bot", "stats"]
    said = subprocess.run(command, cwd=ROOT, env=world.environment(), capture_output=True, text=True, check=True).stdout
    assert "japan, version v1: 0 of 1 (0.00 to 0.79)" in said


def test_sighup_reloads_settings_and_names_those_that_need_a_restart(world: World) -> None:
    config = world.data_dir.parent / "config.yaml"
    config.write_text("log: {level: INFO}\n")
    script = (
        "import bot.photos.predict, bot.__main__\nfrom tests.fakes import FakeLoader\n"
        "bot.photos.predict.ServingLoader = lambda settings: FakeLoader()\n"
        f"bot.__main__.app(['run', '--config', {str(config)!r}])"
    )
    environ = world.environment(DOKOCOS_MASTODON__ACCESS_TOKEN=world.me.token)
    with world.log.open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env=environ, stderr=log)
        try:
            until(lambda: "ready took_s" in world.log.read_text())
            config.write_text("log: {level: INFO}\nbot: {max_images: 2, admins: [alice]}\n")
            process.send_signal(signal.SIGHUP)
            until(lambda: "a restart is needed for: bot.max_images" in world.log.read_text())
            assert "admin acct=alice" in world.log.read_text()
            config.write_text("bot: {max_images: many}\n")
            process.send_signal(signal.SIGHUP)
            until(lambda: "settings not reloaded, keeping the old ones" in world.log.read_text())
            world.client().home.accept_private_mentions()
            assert "Inbox: " in world.answer(world.ask("@dokocos inbox", label=None, visibility="direct")).text
        finally:
            process.terminate()
            assert process.wait(20) == 0


def test_only_settings_that_need_a_restart_are_named(world: World) -> None:
    before = world.settings()
    after = world.settings(bot={"admins": ["bob"], "keep_days": 3}, schedule={"scrape": {"enabled": True}})
    assert changed(before, after) == ["bot.keep_days"]


@pytest.fixture
def pages() -> Iterator[Pages]:
    def fail() -> Page:
        raise RuntimeError("no")

    found = Pages("127.0.0.1", 0, {"/": lambda: Page(b"here\n"), "/fails": fail}, names=["Bot.example"])
    found.start()
    yield found
    found.stop()


def ask(pages: Pages, *lines: str) -> str:
    """Sends a request as it is; returns the whole answer."""
    port = int(pages.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1"))
        answer = b""
        while data := sock.recv(65536):
            answer += data
    return answer.decode()


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.:9464", "127.0.0.1:1", "127.8.9.1", "[::1]:80", "192.0.2.7", "bot.example:80"]
)
def test_the_status_page_answers_under_addresses_and_known_names(pages: Pages, host: str) -> None:
    assert ask(pages, "GET / HTTP/1.1", f"Host: {host}").endswith("here\n")


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Host:"],
        ["Host: rebound.example"],
        ["Host: localhost.evil.example"],
        ["Host: evil.example:127.0.0.1"],
        ["Host: localhost", "Host: evil.example"],
        ["Host: [evil.example]"],
        ["Host: \xe9\x9b31m"],
        ["Host: localhost@evil.example"],
    ],
)
def test_the_status_page_answers_under_no_other_name(pages: Pages, lines: list[str]) -> None:
    answer = ask(pages, "GET / HTTP/1.1", *lines)
    assert answer.startswith("HTTP/1.0 421 ")
    assert "here" not in answer


@pytest.mark.parametrize(
    "request_line", ["GET / HTTP/1.1", "GET /none HTTP/1.1", "GET /fails HTTP/1.1", "POST / HTTP/1.1"]
)
def test_every_answer_of_the_status_page_has_the_headers_that_shut_it_in(pages: Pages, request_line: str) -> None:
    head, _, body = ask(pages, request_line, "Host: localhost").partition("\r\n\r\n")
    for name, value in HEADERS.items():
        assert f"\r\n{name}: {value}" in head
    assert "\r\nContent-Type: text/plain; charset=utf-8" in head
    assert "Python" not in head
    assert "<" not in body


def test_half_requests_hold_neither_threads_nor_others(pages: Pages) -> None:
    port = int(pages.url.rpartition(":")[2])
    n_before = threading.active_count()
    held = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(200)]
    try:
        for sock in held:
            with suppress(OSError):  # closed already
                sock.sendall(b"GET / HTTP/1.1\r\nHost: loc")
        until(lambda: threading.active_count() - n_before <= MAX_CONNECTIONS)
        deadline = time.monotonic() + HEAD_TIMEOUT_S + 10
        while time.monotonic() < deadline:  # one letter at a time does not help them
            for sock in held:
                with suppress(OSError):
                    sock.sendall(b"a")
            with suppress(OSError):
                if ask(pages, "GET / HTTP/1.1", "Host: localhost").endswith("here\n"):
                    break
            time.sleep(0.1)
        else:
            pytest.fail("the half requests hold the port")
    finally:
        for sock in held:
            sock.close()
    until(lambda: threading.active_count() <= n_before)
