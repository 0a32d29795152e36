"""Counts a status' length as Mastodon does: grapheme clusters, a URL as 23 characters, `@user@host` as `@user`.

Other servers count code points, and names and URLs whole. What is counted `strictly` fits on either.

Source: https://github.com/mastodon/mastodon/blob/main/app/validators/status_length_validator.rb
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import regex

BYTES_PER_CHARACTER = 16  # on average; a flag has 8, a family of emoji 25
_URL = re.compile(r"https?://\S+")
_REMOTE_MENTION = re.compile(r"(@\w+)@[\w.-]+\w")
_CLUSTER = regex.compile(r"\X")
# Since Unicode 15.1 joined consonants of Indic scripts are one cluster; the Ruby of older servers counts each.
_CONJUNCT = regex.compile(r"(?<=[\p{M}\u200d])(?=\p{InCB=Consonant})")


def length(text: str, *, characters_per_url: int = 23, strictly: bool = False) -> int:
    """The length of a text in a status; the larger number if versions of Mastodon differ."""
    shortened = _REMOTE_MENTION.sub(r"\1", _URL.sub("x" * characters_per_url, text))
    n_clusters = sum(1 for _ in clusters(shortened))
    return max(n_clusters, len(text)) if strictly else n_clusters


def cut(text: str, limit: int, *, strictly: bool = False) -> str:
    """The text if it fits, else its beginning with an ellipsis; never cuts a cluster.

    It has `BYTES_PER_CHARACTER * limit` bytes at most: one cluster alone may have any number of them.
    """
    # Reads no further than needed: `\X` counts all flags before each flag again.
    used = at = end = n_bytes = 0  # end: of what leaves room for the ellipsis
    for cluster in clusters(text):
        used += len(cluster) if strictly else 1
        n_bytes += len(cluster.encode(errors="surrogatepass"))
        if used > limit or n_bytes > BYTES_PER_CHARACTER * limit:
            return text[:end] + "…"[:limit]
        at += len(cluster)
        end = at if used < limit else end
    return text


def clusters(text: str) -> Iterator[str]:
    """The grapheme clusters of a text, in order, by Unicode Standard Annex 29."""
    for part in _CONJUNCT.splititer(text):
        yield from (match[0] for match in _CLUSTER.finditer(part))
