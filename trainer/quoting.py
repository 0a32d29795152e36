"""Makes texts of strangers safe to show: without controls, on one line, and marked as theirs.

A server, a file or a name may hold line breaks (a forged log line), escape sequences (which a terminal obeys) and
direction marks (which turn the rest of a line around).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import regex

MAX_QUOTED = 200
MAX_MARKS = 8  # combining marks on one letter; Tibetan, Thai and Vietnamese need up to five
_FLAG = "\U0001f3f4[\U000e0020-\U000e007f]{1,8}"  # e.g. of Scotland
_INVISIBLE = regex.compile(rf"({_FLAG})|[[\p{{Cf}}\p{{Cs}}\u034f\u115f\u1160\u3164\uffa0]--[\u200c\u200d]]", regex.V1)
_MARKS = regex.compile(rf"(\p{{M}}{{{MAX_MARKS}}})\p{{M}}+")
# Their look-alikes in a quoted text, so that it cannot end its own quotation.
_QUOTES = str.maketrans("“”", "''")


def escaped(text: str) -> str:
    r"""The text on one line of printable characters; all others become `\x1b`, `\u202e` and the like.

    These are controls (C0 and C1), line and paragraph separators, direction marks and other invisible characters, lone
    surrogates, and spaces other than U+0020.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def visible(text: str) -> str:
    """The text without characters that cannot be seen, e.g. direction marks, and with few marks on each letter.

    Joiners stay, as emoji, Persian and Indic scripts need them; so do the tags of flags. White space stays.
    """
    return _MARKS.sub(r"\1", _INVISIBLE.sub(r"\1", text))


def escaped_lines(lines: Iterable[str]) -> str:
    """Each line escaped, then joined by line breaks."""
    return "\n".join(map(escaped, lines))


def quoted(text: str, limit: int = MAX_QUOTED) -> str:
    """A stranger's text in quotation marks, on one line and at most `limit` characters long; "" for an empty one."""
    line = escaped(" ".join(text[: 4 * limit].split())).translate(_QUOTES)
    if len(line) > limit:
        line = f"{line[: limit - 1]}…"
    return f"“{line}”" if line else ""


class LineFormatter(logging.Formatter):
    """One line for a record; those of its traceback are indented, so that none passes for another record."""

    def format(self, record: logging.LogRecord) -> str:
        """The lines of a record, escaped."""
        record.message = record.getMessage()
        record.asctime = self.formatTime(record)
        lines = [self.formatMessage(record)]
        if record.exc_info:
            lines += [f"    {line}" for line in self.formatException(record.exc_info).splitlines()]
        return escaped_lines(lines)
