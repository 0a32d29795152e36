"""Converts the HTML of a status or a profile to plain text; it is never shown or run as markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from trainer.quoting import visible

# @user or @user@host in a status' text that is not a link. Names and hosts end where letters of another script begin:
# Japanese is written without a space after them.
_MENTION = re.compile(r"(?<![A-Za-z0-9_/])@[A-Za-z0-9_][A-Za-z0-9_.-]*(?:@[A-Za-z0-9.-]*[A-Za-z0-9])?")
# The parser takes seconds for many tags of which none ends.
_MAX_OPEN_END = 500
_BREAKS = frozenset({"br", "p", "li", "div"})


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._in_mention = False

    def handle_data(self, data: str) -> None:
        if not self._in_mention:
            self.parts.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _BREAKS:
            self.parts.append("\n")
        if tag == "a":
            classes = (dict(attrs).get("class") or "").split()
            self._in_mention = "mention" in classes and "hashtag" not in classes

    def handle_endtag(self, tag: str) -> None:
        if tag == "a" and self._in_mention:
            self._in_mention = False
            self.parts.append(" ")


def plain_text(html: str) -> str:
    """The text of HTML as it is seen, one line for each paragraph or break, without links that are mentions."""
    ended = html.rfind(">") + 1
    text, _, unfinished = html[ended:].partition("<")
    parser = _Text()
    parser.feed(html if len(unfinished) <= _MAX_OPEN_END else html[:ended] + text)
    parser.close()
    return visible("".join(parser.parts)).strip()


def without_mentions(text: str) -> str:
    """The text without mentions, its white space collapsed."""
    return " ".join(_MENTION.sub(" ", text).split())
