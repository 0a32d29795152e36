"""Counts a status' length as Mastodon does: grapheme clusters, a URL as 23 characters, `@user@host` as `@user`.

Source: https://github.com/mastodon/mastodon/blob/main/app/validators/status_length_validator.rb
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

import regex

_URL = re.compile(r"https?://\S+")
_REMOTE_MENTION = re.compile(r"(@\w+)@[\w.-]+\w")
_CLUSTER = regex.compile(r"\X")
# Since Unicode 15.1 joined consonants of Indic scripts are one cluster; the Ruby of older servers counts each.
_CONJUNCT = regex.compile(r"(?<=[\p{M}\u200d])(?=\p{InCB=Consonant})")


def length(text: str, *, characters_per_url: int = 23) -> int:
    """The length of a text in a status; the larger number if servers differ."""
    shortened = _REMOTE_MENTION.sub(r"\1", _URL.sub("x" * characters_per_url, text))
    return sum(1 for _ in clusters(shortened))


def cut(text: str, limit: int) -> str:
    """The text if it fits, else its beginning with an ellipsis; never cuts a cluster."""
    # Reads no further than needed: `\X` counts all flags before each flag again.
    found = list(islice(clusters(text), max(0, limit + 1)))
    return text if len(found) <= limit else "".join(found[: max(0, limit - 1)]) + "…"[:limit]


def clusters(text: str) -> Iterator[str]:
    """The grapheme clusters of a text, in order, by Unicode Standard Annex 29."""
    for part in _CONJUNCT.splititer(text):
        yield from (match[0] for match in _CLUSTER.finditer(part))
