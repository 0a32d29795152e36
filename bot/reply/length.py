"""How long a status is as Mastodon counts it.

Grapheme clusters, a URL as 23 characters, `@user@host` as `@user`. Where this count differs from the server's it is
the larger one: only flags, joined emoji and combining marks are counted together, which is all that our texts hold.

Source: https://github.com/mastodon/mastodon/blob/main/app/validators/status_length_validator.rb
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_URL = re.compile(r"https?://\S+")
_REMOTE_MENTION = re.compile(r"(@\w+)@[\w.-]+\w")
_JOINER = "\u200d"


def length(text: str, *, characters_per_url: int = 23) -> int:
    """The number of characters that a text takes up in a status."""
    shortened = _REMOTE_MENTION.sub(r"\1", _URL.sub("x" * characters_per_url, text))
    return sum(1 for _ in clusters(shortened))


def cut(text: str, limit: int) -> str:
    """The text itself when it fits, else its beginning with an ellipsis, never through a cluster."""
    found = list(clusters(text))
    return text if len(found) <= limit else "".join(found[: max(0, limit - 1)]) + "…"[:limit]


def clusters(text: str) -> Iterator[str]:
    """The grapheme clusters of a text, in order."""
    cluster = ""
    for letter in unicodedata.normalize("NFC", text):
        if cluster and not _continues(cluster, letter):
            yield cluster
            cluster = ""
        cluster += letter
    if cluster:
        yield cluster


def _continues(cluster: str, letter: str) -> bool:
    if letter == "\n" or cluster == "\n":
        return False
    if cluster[-1] == _JOINER:
        return True
    if _is_regional(letter):  # a flag is two of them
        return len(cluster) == 1 and _is_regional(cluster)
    modifier = "\U0001f3fb" <= letter <= "\U0001f3ff"  # skin tones
    return letter == _JOINER or modifier or unicodedata.category(letter) in ("Mn", "Me", "Mc")


def _is_regional(letter: str) -> bool:
    return "\U0001f1e6" <= letter <= "\U0001f1ff"
