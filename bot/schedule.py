"""The bot's recurring jobs, run by APScheduler: sweep for deleted questions, forget old mentions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from trainer.errors import ProjectError

logger = logging.getLogger(__name__)

# A run that is late by less still takes place; APScheduler's own default is one second.
MISFIRE_GRACE_S = 3600


class Schedule:
    """Runs jobs at intervals, each never beside itself; one that fails is said so and runs again next time."""

    def __init__(self) -> None:
        self._scheduler = BackgroundScheduler(timezone=UTC)

    def add(self, name: str, job: Callable[[], object], *, every: timedelta, first_in: timedelta) -> None:
        """Run a job every so often; a run missed while the machine slept takes place once."""
        self._scheduler.add_job(
            _guarded(name, job),
            IntervalTrigger(seconds=int(every.total_seconds()), timezone=UTC),
            id=name,
            next_run_time=datetime.now(UTC) + first_in,
            misfire_grace_time=MISFIRE_GRACE_S,
            coalesce=True,
            max_instances=1,
        )

    def start(self) -> None:
        """Let the jobs run."""
        self._scheduler.start()

    def stop(self) -> None:
        """Start no more jobs; one that is running is not waited for."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)


def _guarded(name: str, job: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        try:
            outcome = job()
        except ProjectError as error:
            logger.warning("job failed, it runs again next time job=%s error=%s", name, error)
        except Exception:
            logger.exception("job failed job=%s", name)
        else:
            logger.info("job done job=%s outcome=%s", name, outcome)

    return run
