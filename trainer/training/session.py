"""Runs a long command: one at a time, with a journal, and with pauses if --gentle is given."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.lock import only_one
from trainer.training.crash_report import explain_crash
from trainer.training.journal import Journal, Run
from trainer.training.training_data import Watcher

logger = logging.getLogger(__name__)

LOCK = "train.lock"
SCRAPING = "scrape"  # name of the step in the journal
MAX_REST_S = 10.0  # maximum pause between two batches


class Session:
    """A running command."""

    def __init__(self, journal: Journal, *, gentle: bool, last: Run | None) -> None:
        """Private; use `session`."""
        self.journal = journal
        self._gentle = gentle
        self._last = last

    @property
    def resumes_scrape(self) -> bool:
        """Whether the previous run was interrupted during its scrape."""
        return self._last is not None and self._last.ended is None and self._last.step == SCRAPING

    def watcher(
        self,
        shown: Watcher,
        *,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> Watcher:
        """A watcher that writes the journal, adds pauses, and passes all calls on to `shown`."""
        return _SessionWatcher(shown, self.journal, rest=sleep if self._gentle else None, clock=clock)


@contextmanager
def session(data_dir: Path, command: str, *, gentle: bool = False) -> Iterator[Session]:
    """Start a run; logs a warning if the previous run crashed.

    Args:
        command: subcommand of `python -m trainer`.
        gentle: pause after each batch for as long as it took, which halves the load on power supply and cooling.

    Raises:
        StorageError: another training is running, or the disk is full.
    """
    with only_one(data_dir / LOCK, "training"):
        journal = Journal(data_dir)
        runs = journal.runs()
        sudden_end = explain_crash(runs)
        if sudden_end is not None:
            logger.warning("%s Finished work was kept; this run continues from there.", sudden_end)
        with journal.run(command, gentle=gentle):
            yield Session(journal, gentle=gentle, last=runs[-1] if runs else None)


class _SessionWatcher:
    def __init__(
        self,
        shown: Watcher,
        journal: Journal,
        *,
        rest: Callable[[float], object] | None,
        clock: Callable[[], float],
    ) -> None:
        self._shown = shown
        self._journal = journal
        self._rest = rest
        self._clock = clock
        self._worked_from = clock()

    def step(self, name: str, total: int | None = None) -> None:
        self._journal.step(name)
        self._shown.step(name, total)
        self._worked_from = self._clock()

    def update(self, done: int, total: int) -> None:
        self._shown.update(done, total)
        if self._rest is not None:
            self._rest(min(self._clock() - self._worked_from, MAX_REST_S))
            self._worked_from = self._clock()
