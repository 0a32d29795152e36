"""Parses the text of a status: mentions, HTML, and length."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape as html_escape

import regex

URL_LENGTH = 23  # every link counts as this many characters
SHOWN_URL_LENGTH = 30

# Source: app/models/account.rb, tag.rb and lib/twitter-text of Mastodon, simplified for links.
_NAME = r"[a-z0-9_]+(?:[a-z0-9_.-]+[a-z0-9_]+)?"
_PATTERN = re.compile(
    r"(?P<url>https?://[^\s<>\"]*[^\s<>\".,:;!?'()\]}、。」])"
    rf"|(?<![=/\w])@(?P<user>{_NAME})(?:@(?P<host>[\w.-]+\w))?"
    r"|(?<![=/\w])#(?P<tag>\w*[^\W\d]\w*)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Mentioned:
    """An account found in a text."""

    id: int
    username: str
    acct: str
    url: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """A parsed text."""

    html: str
    mention_ids: tuple[int, ...]  # without duplicates, in order of appearance
    tags: tuple[str, ...]


def escape(text: str) -> str:
    """Escape text for HTML, with the apostrophe as in Rails."""
    return html_escape(text).replace("&#x27;", "&#39;")


def parse(text: str, find: Callable[[str, str | None], Mentioned | None], *, tag_base: str) -> Parsed:
    """Convert a text to HTML as Mastodon does.

    Args:
        find: finds an account by user name and host (or None); if it returns None, the name stays plain text.
        tag_base: URL prefix of hashtags.
    """
    mention_ids: dict[int, None] = {}
    tags: dict[str, None] = {}
    parts: list[str] = []
    end = 0
    for match in _PATTERN.finditer(text):
        parts.append(escape(text[end : match.start()]))
        end = match.end()
        if match["url"]:
            parts.append(_link(match["url"]))
        elif match["tag"]:
            tags[match["tag"].lower()] = None
            parts.append(_tag(match["tag"], tag_base))
        elif (account := find(match["user"], match["host"])) is not None:
            mention_ids[account.id] = None
            parts.append(_mention(account))
        else:
            parts.append(escape(match.group()))
    parts.append(escape(text[end:]))
    return Parsed(_paragraphs("".join(parts)), tuple(mention_ids), tuple(tags))


def count(text: str, spoiler_text: str = "") -> int:
    """The length of a status in grapheme clusters; a link counts as 23, `@user@host` as `@user`."""

    def shorten(match: re.Match[str]) -> str:
        if match["url"]:
            return "x" * URL_LENGTH
        return f"@{match['user']}" if match["user"] else match.group()

    return sum(len(regex.findall(r"\X", part)) for part in (spoiler_text, _PATTERN.sub(shorten, text)))


def _paragraphs(html: str) -> str:
    """Make paragraphs at blank lines, and `<br />` at other line ends; empty text stays empty."""
    html = html.replace("\r\n", "\n").strip()
    if not html:
        return ""
    return "".join(f"<p>{part}</p>" for part in re.split(r"\n{2,}", html)).replace("\n", "<br />")


def _mention(account: Mentioned) -> str:
    return (
        f'<span class="h-card" translate="no"><a href="{escape(account.url)}" class="u-url mention">'
        f"@<span>{escape(account.username)}</span></a></span>"
    )


def _tag(name: str, tag_base: str) -> str:
    url = escape(tag_base + name.lower())
    return f'<a href="{url}" class="mention hashtag" rel="tag">#<span>{escape(name)}</span></a>'


def _link(url: str) -> str:
    scheme, rest = re.match(r"(https?://(?:www\.)?)(.*)", url, re.IGNORECASE).groups()  # type: ignore[union-attr]
    shown, hidden = rest[:SHOWN_URL_LENGTH], rest[SHOWN_URL_LENGTH:]
    ellipsis = "ellipsis" if hidden else ""
    return (
        f'<a href="{escape(url)}" target="_blank" rel="nofollow noopener" translate="no">'
        f'<span class="invisible">{escape(scheme)}</span><span class="{ellipsis}">{escape(shown)}</span>'
        f'<span class="invisible">{escape(hidden)}</span></a>'
    )
