"""What the bot may know of a review is in two files; a page that was killed is not taken for one that is open."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from trainer.review_state import FOUND, LastReview, last_review, page_address, page_served, save_review

SERVE = """
import sys, time
from pathlib import Path
from trainer.review_state import page_served
with page_served(Path(sys.argv[1]), "127.0.0.1:9"):
    print("open", flush=True)
    time.sleep(600)
"""


def test_numbers_are_read_as_they_were_written(tmp_path: Path) -> None:
    found = LastReview(datetime(2026, 11, 27, 12, tzinfo=UTC), 40, {"label": 2, "blank": 1}, {"ブラジル": 3})
    assert last_review(tmp_path) is None
    save_review(tmp_path, found)
    assert last_review(tmp_path) == found
    assert found.n_suspects == 3


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"looked_at": 3}'])
def test_a_file_that_cannot_be_read_is_no_review(tmp_path: Path, content: str) -> None:
    (tmp_path / FOUND).write_text(content)
    assert last_review(tmp_path) is None


def test_the_page_is_open_while_it_is_served_and_the_newest_of_two_is_named(tmp_path: Path) -> None:
    assert page_address(tmp_path) is None
    with page_served(tmp_path, "127.0.0.1:1"), page_served(tmp_path, "127.0.0.1:22"):
        assert page_address(tmp_path) == "127.0.0.1:22"
        assert page_address(tmp_path) == "127.0.0.1:22"  # looking ends nothing
    assert page_address(tmp_path) is None


def test_a_killed_page_is_not_open(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SERVE, str(tmp_path)], stdout=subprocess.PIPE, text=True) as page:
        assert page.stdout is not None
        assert page.stdout.readline() == "open\n"
        assert page_address(tmp_path) == "127.0.0.1:9"
        page.kill()
    assert page_address(tmp_path) is None
