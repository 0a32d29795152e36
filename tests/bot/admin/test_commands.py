"""Parsing of admins' commands; help and README list the same commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.admin import commands
from bot.admin.commands import WORDS, Command, parse
from bot.reply.texts import load_texts

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("status", Command("status")),
        ("  STATUS! ", Command("status")),
        ("ｓｔａｔｕｓ", Command("status")),
        ("状態", Command("status")),
        ("学習して。", Command("train")),
        ("promote 2026-11-23-2", Command("promote", "2026-11-23-2")),
        ("採用 ２０２６-11-23-2", Command("promote", "2026-11-23-2")),
        ("quiet 8", Command("quiet", "8")),
        ("静かに 12", Command("quiet", "12")),
        ("announce ON", Command("announce", "on")),
        ("お知らせ オフ", Command("announce", "off")),
        ("retry", Command("retry")),
        ("retry 8841", Command("retry", "8841")),
        ("help promote", Command("help", "promote")),
        ("help nonsense", Command("help")),
        ("yes", Command("yes")),
        ("はい", Command("yes")),
    ],
)
def test_a_command_is_understood(text: str, expected: Command) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "!", "which gallery?", "status of my photo", "please train", "training", "trains"]
)
def test_other_text_is_not_a_command(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    "text", ["promote", "promote best", "promote ../../etc", "quiet", "quiet for long", "announce"]
)
def test_a_command_without_its_argument_becomes_a_request_for_its_help(text: str) -> None:
    assert parse(text) == Command("help", text.split()[0])


@given(st.text())
def test_any_text_can_be_parsed(text: str) -> None:
    command = parse(text)
    assert command is None or command.name in {word.name for word in (*WORDS, commands.YES, commands.NO)}


def test_each_spelling_means_one_command_and_is_no_request_of_ordinary_users() -> None:
    spellings = [spelling for word in WORDS for spelling in (word.name, *word.japanese)]
    assert len(spellings) == len(set(spellings))
    assert not [spelling for spelling in spellings if load_texts().request(spelling)]
    assert all(word.japanese for word in WORDS)


def test_help_names_every_command_in_both_languages() -> None:
    assert len(commands.help_text("en").splitlines()) == len(commands.help_text("ja").splitlines()) == len(WORDS)
    assert commands.help_text("en", "quiet") == "quiet HOURS: no reports and warnings for HOURS hours"


def test_a_misspelt_command_gets_the_nearest_one_suggested() -> None:
    assert commands.nearest("satus") == "status"
    assert commands.nearest("promot 2026-11-23-1") == "promote V"
    assert commands.nearest("good morning") is None


def test_the_readme_shows_the_same_commands() -> None:
    assert commands.table() in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("notification_id", ["01JDABCxyz", "9c1f0f3e-7a4b", "1764193000/mention/9C1F", "17"])
def test_an_id_is_taken_as_it_was_written(notification_id: str) -> None:
    assert parse(f"Retry {notification_id}") == Command("retry", notification_id)
