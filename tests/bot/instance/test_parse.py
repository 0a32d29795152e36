"""Parsing of the API's JSON, with the variations of different servers."""

from __future__ import annotations

from typing import Any

import pytest

from bot.instance import parse

MENTION = '<a href="https://x.example/@dokocos" class="u-url mention">@<span>dokocos</span></a>'
STATUS: dict[str, Any] = {"id": 5, "account": {"id": 1, "username": "alice"}, "created_at": "2026-11-25T14:00:00Z"}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (f'<p><span class="h-card">{MENTION}</span> stop</p>', "stop"),
        (f"<p>{MENTION}やめて</p>", "やめて"),
        (f"{MENTION} {MENTION.replace('dokocos', 'ゲスト@例え.jp')}<br>delete<br/>it", "delete it"),
        ("@dokocos やめて", "やめて"),
        ("@dokocosやめて", "やめて"),
        ("@dokocos@friends.nicoやめて @bob stop", "やめて stop"),
        ("mail me at a@b.example", "mail me at a@b.example"),
        ('<p>#<a class="mention hashtag" href="x">cosplay</a> &lt;b&gt; &amp;</p>', "#cosplay <b> &"),
        ('<a class="mention">never closed', ""),
        ("<script>alert(1)</script> <b>x", "alert(1) x"),
        (None, ""),
    ],
)
def test_a_text_is_read_without_its_mentions(content: str | None, text: str) -> None:
    assert parse.status(STATUS | {"content": content}).text == text


def test_missing_and_null_fields_are_accepted() -> None:
    nulls = ("visibility", "language", "spoiler_text", "sensitive", "media_attachments", "mentions", "in_reply_to_id")
    for raw in (STATUS, STATUS | dict.fromkeys(nulls)):
        status = parse.status(raw)
        assert (status.id, status.account.acct, status.visibility) == ("5", "alice", "private")
        assert (status.attachments, status.mentioned_ids, status.in_reply_to_id) == ((), frozenset(), None)
        assert not status.account.bot


def test_statuses_without_an_author_are_left_out_of_a_thread() -> None:
    gone = {"id": "4", "account": None, "created_at": None}
    thread = parse.thread({"ancestors": [gone, STATUS], "descendants": None})
    assert [status.id for status in thread.ancestors] == ["5"]
    assert thread.descendants == ()


@pytest.mark.parametrize("visibility", ["local", "mutuals_only", "", 5])
def test_an_unknown_visibility_is_answered_narrowly_and_is_no_command(visibility: object) -> None:
    assert parse.status(STATUS | {"visibility": visibility}).visibility == "private"


@pytest.mark.parametrize("value", [1700000000000, "", "yesterday", {}, False])
def test_an_optional_time_that_cannot_be_read_counts_as_missing(value: object) -> None:
    account = {"id": 1, "username": "alice", "created_at": value}
    assert parse.status(STATUS | {"account": account}).account.created_at is None
