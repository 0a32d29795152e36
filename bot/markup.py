"""HTML of a status or a profile -> plain text; nothing of it is ever shown or run as markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser

# A bare name or one with its host, as it stands in a status' text.
_MENTION = re.compile(r"(?<![\w/])@\w[\w.-]*(?:@[\w.-]*\w)?")
_BREAKS = frozenset({"br", "p", "li", "div"})


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - the base's names
        if tag in _BREAKS:
            self.parts.append("\n")


def plain_text(html: str) -> str:
    """The words of a piece of HTML, one line for each paragraph or break."""
    parser = _Text()
    parser.feed(html)
    parser.close()
    return "".join(parser.parts).strip()


def without_mentions(text: str) -> str:
    """The text without the names it mentions, its white space collapsed."""
    return " ".join(_MENTION.sub(" ", text).split())
