"""What the last review found, and where its page is: two small files in data_dir, which the bot reads too.

The page's address is written without its token: whoever may read the file still cannot open the page.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from trainer.files import read_file, storage_error, write_file

FOUND = "review.json"
PAGE = "review_page"
MAX_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class LastReview:
    """The numbers of a review.

    Attributes:
        looked_at: when the photos were read; aware.
        n_photos: how many there were.
        by_kind: kind of reason -> number of suspects, the most frequent first.
        by_label: the same, by label.
    """

    looked_at: datetime
    n_photos: int
    by_kind: Mapping[str, int] = field(default_factory=dict)
    by_label: Mapping[str, int] = field(default_factory=dict)

    @property
    def n_suspects(self) -> int:
        return sum(self.by_kind.values())


def save_review(data_dir: Path, found: LastReview) -> None:
    """Replace the numbers of the review before. Raises StorageError."""
    values = {
        "looked_at": found.looked_at.isoformat(),
        "n_photos": found.n_photos,
        "by_kind": dict(found.by_kind),
        "by_label": dict(found.by_label),
    }
    write_file(data_dir / FOUND, lambda file: file.write(json.dumps(values, ensure_ascii=False).encode()))


def last_review(data_dir: Path) -> LastReview | None:
    """The numbers of the last review; None if there is none, or its file cannot be read."""
    try:
        values = json.loads(read_file(data_dir / FOUND, max_bytes=MAX_BYTES))
        return LastReview(
            datetime.fromisoformat(values["looked_at"]),
            int(values["n_photos"]),
            {str(kind): int(n) for kind, n in values["by_kind"].items()},
            {str(label): int(n) for label, n in values["by_label"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


@contextmanager
def page_served(data_dir: Path, address: str) -> Iterator[None]:
    """Tell the bot, while the context lasts, that the page is served; a killed process tells nothing any more.

    Args:
        address: host and port, without the token.

    Raises:
        StorageError: the file cannot be written.
    """
    path = data_dir / PAGE
    try:
        file = path.open("a+")
    except OSError as error:
        raise storage_error(path, error) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_SH)  # shared: `page_address` tries the other kind for a moment
        file.truncate(0)
        file.write(address)
        file.flush()
        yield


def page_address(data_dir: Path) -> str | None:
    """Host and port of the page that is served now, without its token; None if none is."""
    try:
        with (data_dir / PAGE).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read(MAX_BYTES).strip() or None
    except (OSError, UnicodeDecodeError):
        return None
    return None
