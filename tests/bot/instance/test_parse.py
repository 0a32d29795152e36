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


@pytest.mark.parametrize("acct", ["alice", "Alice_1", "a.b-c@x.example", "rin@例え.jp", "りん@x.example:3000"])
def test_a_name_that_mentions_one_account_is_taken(acct: str) -> None:
    assert parse.account({"id": 1, "acct": acct}).acct == acct


@pytest.mark.parametrize(
    "acct",
    [
        "bob @alice", "bob@x.example @alice", "bob@alice@x.example", "@bob", "bob\n", "bob@", "a b", "bob\u3000@alice",
        "bob\u202e", "bob\u200b", "\ud800", "bob/x", "#tag", "https://x.example", "b" * 400, "bob\x00", "bob:80",
        "bob@x.example:123456", "e\u0301" * 10, ["bob"], {"a": 1},
    ],
)  # fmt: skip
def test_a_name_that_would_mention_others_or_nobody_is_refused(acct: object) -> None:
    odd = STATUS | {"account": {"id": 2, "acct": acct}}
    with pytest.raises(ValueError, match="no name of an account"):
        parse.status(odd)
    thread = parse.thread({"ancestors": [odd, STATUS], "descendants": [odd]})
    assert [len(thread.ancestors), len(thread.descendants)] == [1, 0]


def test_words_are_read_as_they_are_seen() -> None:
    account = {"id": 1, "acct": "alice", "display_name": "#no\u200bbot", "note": "<p>#\u2060nobot\u202e</p>"}
    status = parse.status(STATUS | {"content": "<p>st\u200bop\u202e</p>", "account": account})
    assert status.text == "stop"
    assert status.account.profile == "#nobot\n#nobot"
