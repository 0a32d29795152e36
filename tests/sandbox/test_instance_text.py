"""The HTML of a status text, and its length."""

from __future__ import annotations

import re
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.instance.text import Mentioned, Parsed, count, parse

KNOWN: dict[tuple[str, str | None], Mentioned] = {
    ("dokocos", None): Mentioned(1, "dokocos", "dokocos", "http://x/@dokocos"),
    ("bob", "far.example"): Mentioned(2, "bob", "bob@far.example", "https://far.example/@bob"),
}


def parsed(text: str) -> Parsed:
    return parse(text, lambda name, host: KNOWN.get((name, host)), tag_base="http://x/tags/")


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("abc", 3),
        ("どこコス", 4),
        ("🇯🇵🇨🇳", 2),
        ("👩‍👩‍👧‍👦", 1),
        ("👍🏽", 1),
        ("e\u0301", 1),
        ("が", 1),
        ("a\r\nb", 3),
        ("https://example.com/" + "x" * 200, 23),
        ("see http://a.jp.", 4 + 23 + 1),
        ("@dokocos hi", 11),
        ("@bob@far.example hi", 7),
        ("🏴\U000e0067\U000e0062\U000e007f", 1),
    ],
)
def test_characters_are_counted_as_mastodon_does(text: str, n: int) -> None:
    assert count(text) == n


def test_the_content_warning_counts() -> None:
    assert count("abc", "wx") == 5


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("@dokocos hi", (1,)),
        ("hi @dokocos, and @bob@far.example!", (1, 2)),
        ("@dokocos @dokocos", (1,)),
        ("mail a@dokocos", ()),
        ("https://x.jp/@dokocos", ()),
        ("@nobody", ()),
        ("(@dokocos)", (1,)),
        ("どこコス?@dokocos", (1,)),
    ],
)
def test_mentions_are_found_where_mastodon_finds_them(text: str, ids: tuple[int, ...]) -> None:
    assert parsed(text).mention_ids == ids


def test_a_mention_has_the_html_of_the_real_server() -> None:
    assert parsed("@dokocos hi").html == (
        '<p><span class="h-card" translate="no"><a href="http://x/@dokocos" class="u-url mention">'
        "@<span>dokocos</span></a></span> hi</p>"
    )


def test_lines_and_paragraphs_are_kept() -> None:
    assert parsed("a\nb\n\nc").html == "<p>a<br />b</p><p>c</p>"


def test_a_long_link_is_shortened() -> None:
    html = parsed("https://example.com/a/very/long/path/indeed").html
    assert 'class="ellipsis">example.com/a/very/long/path/i<' in html
    assert 'href="https://example.com/a/very/long/path/indeed"' in html


def test_hashtags_are_found_but_numbers_are_not_hashtags() -> None:
    assert parsed("#NoBot #2026 #コスプレ").tags == ("nobot", "コスプレ")


@given(st.text())
def test_text_is_always_escaped(text: str) -> None:
    html = parsed(text).html
    tags = {name.lower() for name in re.findall(r"</?(\w+)", html)}
    assert tags <= {"p", "br", "a", "span"}
    assert "<script" not in html


@given(st.text(alphabet=st.characters(blacklist_characters="@#\r\n", blacklist_categories=["Cs", "Z", "Cc"])))
def test_plain_text_can_be_read_back(text: str) -> None:
    if "://" not in text:
        assert unescape(parsed(text).html) == (f"<p>{text}</p>" if text.strip() else "")
