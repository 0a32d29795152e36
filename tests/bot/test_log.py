"""Log lines: whatever a stranger's text holds, a record is one line that says who wrote it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot import log
from trainer.config import LogSettings
from trainer.quoting import escaped, quoted

# A forged line, an escape sequence, its one-byte form, separators that some viewers break at, a lone surrogate,
# direction marks, a zero-width space, delete.
HOSTILE = "a\r\n2026-11-27 ERROR bot: forged\x1b[2J\x9b2J\x85\u2028\u2029\ud800\u202e\u2066\u200b\x7f\0"
FORMATS = ("plain", "json")


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Restores the root logger's handlers."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize("format_", FORMATS)
def test_a_record_is_one_printable_line_in_every_format(format_: str, capsys: pytest.CaptureFixture[str]) -> None:
    last = log.set_up(LogSettings.model_validate({"format": format_}))
    logging.getLogger(f"bot.{HOSTILE}").warning("not fetched error=%s", HOSTILE)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    assert "forged" in line
    (kept,) = last.lines()
    assert kept.isprintable()


def test_a_json_line_still_holds_the_text_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up(LogSettings(format="json"))
    logging.getLogger("bot.test").warning("写真 %s \U000e0041", HOSTILE)
    line = json.loads(capsys.readouterr().err)
    assert line["message"] == f"写真 {HOSTILE} \U000e0041"


def test_a_traceback_cannot_pass_for_another_line(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up(LogSettings())
    error = ValueError(HOSTILE)
    error.add_note(HOSTILE)
    # Another handler, as a test's or a library's, may have formatted it already.
    record = logging.LogRecord("bot", logging.ERROR, "", 0, "it failed", (), (ValueError, error, None))
    record.exc_text = HOSTILE
    logging.getLogger().handle(record)
    first, *rest = capsys.readouterr().err.splitlines()
    assert "it failed" in first
    assert len(rest) >= 2
    assert all(line.startswith("    ") and line.isprintable() for line in rest)


@given(st.text(st.characters(), max_size=30))
def test_what_is_escaped_is_printable_and_the_printable_stays(text: str) -> None:
    assert escaped(text).isprintable()
    assert escaped(text) == text or not text.isprintable()


@given(st.text(st.characters(), max_size=80), st.integers(2, 40))
def test_a_quotation_is_marked_short_and_cannot_end_itself(text: str, limit: int) -> None:
    shown = quoted(text, limit)
    if shown:
        assert shown[0] == "“"
        assert shown[-1] == "”"
        assert len(shown) <= limit + 2
        assert not {"“", "”"} & set(shown[1:-1])
        assert shown.isprintable()
    else:
        assert not text.strip()
