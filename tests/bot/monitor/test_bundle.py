"""The file for a bug report holds what helps, and nothing about a person or a place."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.config import Settings
from bot.entities import Mention
from bot.monitor.bundle import redacted, write_bundle
from bot.storage.inbox import Outcome
from bot.storage.records import Records
from bot.storage.store import DATABASE, Store
from tests.bot.storage.test_store import mention
from tests.bot.test_cli import run  # noqa: F401 - a fixture

NOW = 1_800_000_000.0
# Every kind of private thing, each with a word that stands nowhere in the program's code.
TOKEN, ACCT, HOST, ADDRESS = "tokenzebra", "annezebra@zebra.example", "zebra.social", "203.0.113.77"
TEXT, PATH, ID, LABEL = "zebra wrote this", "/home/zebra/secret.yaml", "901234567890", "zebracountry"
HIDDEN = re.compile(r"zebra|シマウマ|203\.0\.113|2001:db8|9012345|01JDZ|8c1f", re.IGNORECASE)


def private_settings(data_dir: Path) -> Settings:
    return Settings.model_validate(
        {
            "data_dir": data_dir,
            "web": {"contact": "mailto:zebra@zebra.example", "total_timeout_s": 12.5},
            "log": {"level": "DEBUG"},
            "mastodon": {"base_url": f"https://{HOST}", "access_token": TOKEN, "access_token_file": PATH},
            "bot": {
                "admins": [ACCT],
                "blocked_domains": [HOST],
                "texts": PATH,
                "labels": {LABEL: {"en": "Zebra", "ja": "シマウマ"}},
                "max_answers_per_hour": 7,
                "http_host": ADDRESS,
            },
            "source": {"kind": "folder", "folder": {"path": PATH}},
            "schedule": {"time_zone": "Africa/Nairobi"},
        }
    )


ERRORS = [
    f"Transient: the photo https://{HOST}/media/{ID}.jpg?key=zebra: HTTP 502 Bad Gateway",
    f"status {ID}: HTTP 404 Record not found",
    f"posting: HTTP 422 Validation failed: {TEXT}",
    f"FetchError: {HOST}: is {ADDRESS}, which is not a public internet address",
    "ConnectionError: 2001:db8::8c1f refused to @annezebra of zebra-social.example (シマウマ)",
    "the account zebra: said 'photo of zebra' and \"status mastodon\"; id 01JDZEBRA00000",
    f"{PATH}: cannot be read",
]


def asked(last_digits: str) -> Mention:
    """A mention by an account with a name of its own."""
    made = mention(int(ID + last_digits), account_id=ID)
    return replace(made, status=replace(made.status, account=replace(made.status.account, acct=ACCT)))


@pytest.fixture
def written(tmp_path: Path) -> str:
    """The bundle of a bot with something private in each place."""
    settings = private_settings(tmp_path)
    store, records = Store(tmp_path / DATABASE, now=lambda: NOW), Records(tmp_path / DATABASE, now=lambda: NOW)
    for number, error in enumerate(ERRORS):
        store.inbox.put(asked(str(number)), look_first=False)
        store.inbox.finish(f"{ID}{number}", Outcome("failed", reason=error))
    store.inbox.put(asked("98"), look_first=False)
    store.inbox.finish(f"{ID}98", Outcome("refused", reason="opted out"))
    store.inbox.put(asked("99"), look_first=False)
    store.inbox.finish(f"{ID}99", Outcome("answered", kind="answer", reply_id=ID, label=LABEL, score=0.5, version="v"))
    store.opt_outs.add(ID)
    records.write(TEXT, acct=ACCT)
    records.end(records.begin("scrape"), "failed", f"{HOST} answered 503: {TEXT}")
    store.close()
    records.close()
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "scrape.log").write_text(
        f"2026-01-01 00:00:00,000 WARNING trainer.scrape: retrying attempt=1 error=https://{HOST}/zebra: HTTP 500\n"
        f"FetchError: {HOST}: the server answered 503 Service Unavailable\nINFO zebra\n",
        encoding="utf-8",
    )
    (tmp_path / f"{DATABASE}.damaged-zebra").touch()
    return write_bundle(settings, [("fault", f"token: {PATH}: others can read it"), ("ok", "texts: en, ja")], now=NOW)


def test_a_bundle_holds_no_id_no_name_no_text_and_no_address(written: str) -> None:
    assert HIDDEN.findall(written) == []
    assert re.findall(r"\b\d{6,}\b", written) == []


def test_a_bundle_says_what_is_needed_to_find_a_fault(written: str) -> None:
    for expected in (
        "dokocos 0.",
        "Python 3.",
        "Mastodon.py 2.",
        "web.total_timeout_s: 12.5",
        "log.level: DEBUG",
        "bot.max_answers_per_hour: 7",
        "bot.admins: set",
        "mastodon.access_token: set",
        "fault: token: … others can read it",
        "inbox: 7 failed",
        "in 14 days: 1 refused opted out",
        "in 14 days: 1 answered",
        "messages that wait: 1",
        "damaged databases kept: 1",
        "Transient: the photo … HTTP 502 Bad Gateway",
        "HTTP 422 Validation failed: …",
        "FetchError: …: …, which is not a public internet address",
        "scrape: failed after 0 s … #: …",
        "the server answered # Service Unavailable",
    ):
        assert expected in written
    assert "max_images" not in written  # it has its default


@pytest.mark.parametrize(
    "message",
    [
        "status.photo.social",  # a host of the program's own words
        "@photo@mastodon.social",
        "the account status@photo",
        "“photo of the status”",
        "http://photo/status",
        "photo gallery limit status mastodon",  # words of the program that it does not say one after the other
    ],
)
def test_words_of_the_program_in_a_name_or_a_quotation_are_not_shown(message: str) -> None:
    assert not re.search("photo|mastodon|social", redacted(message))


def test_a_bundle_of_a_bot_that_never_ran_or_whose_database_is_damaged_is_written_too(tmp_path: Path) -> None:
    settings = private_settings(tmp_path)
    assert "no database yet" in write_bundle(settings, [], now=NOW)
    (tmp_path / DATABASE).write_bytes(b"this is no database" * 1000)
    damaged = write_bundle(settings, [], now=NOW)
    assert "could not be read" in damaged
    assert HIDDEN.findall(damaged) == []


def test_a_bundle_is_shown_before_it_is_written(run: Any, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "dokocos-bundle.txt"
    status, output = run("bundle")
    assert (status, file.exists()) == (3, False)
    assert "## Versions" in output
    assert "--yes" in output
    status, output = run("bundle", "--yes")
    assert (status, file.exists()) == (0, True)
    assert file.read_text(encoding="utf-8").strip() in output


@pytest.mark.parametrize(("typed", "is_written"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_a_bundle_is_written_after_a_yes_alone(
    run: Any,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    is_written: bool,
) -> None:
    monkeypatch.setattr("bot.__main__._is_terminal", lambda: True)
    run.typed = typed
    status, _ = run("bundle")
    assert status == (0 if is_written else 1)
    assert (tmp_path / "dokocos-bundle.txt").exists() == is_written
