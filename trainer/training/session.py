"""Runs a long command: one at a time, with a journal, and with pauses if --gentle is given."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainer.lock import only_one
from trainer.training.crash_report import explain_crash
from trainer.training.journal import Journal, Run
from trainer.training.training_data import Watcher

logger = logging.getLogger(__name__)

LOCK = "train.lock"
SCRAPING = "scrape"  # name of the step in the journal
MAX_REST_S = 10.0  # maximum pause between two batches


@dataclass(frozen=True, slots=True)
class Session:
    """A running command.

    Attributes:
        last: the run before it; None if there was none.
    """

    journal: Journal
    gentle: bool
    last: Run | None

    @property
    def resumes_scrape(self) -> bool:
        """Whether the previous run was interrupted during its scrape."""
        return self.last is not None and self.last.ended is None and self.last.step == SCRAPING

    def watcher(
        self,
        shown: Watcher,
        *,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> Watcher:
        """A watcher that writes the journal, adds pauses, and passes all calls on to `shown`."""
        return _SessionWatcher(shown, self.journal, sleep if self.gentle else None, clock)


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


@dataclass(eq=False)
class _SessionWatcher:
    shown: Watcher
    journal: Journal
    rest: Callable[[float], object] | None
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self.worked_from = self.clock()

    def step(self, name: str, total: int | None = None) -> None:
        self.journal.step(name)
        self.shown.step(name, total)
        self.worked_from = self.clock()

    def update(self, done: int, total: int) -> None:
        self.shown.update(done, total)
        if self.rest is not None:
            self.rest(min(self.clock() - self.worked_from, MAX_REST_S))
            self.worked_from = self.clock()
