"""The jobs of one bot, without its loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from bot.admin.jobs import Jobs
from bot.admin.outbox import Outbox
from bot.storage.records import DAY_S, Records
from bot.storage.store import Store
from tests.bot.conftest import World
from tests.bot.storage.test_store import Clock
from trainer.errors import ProjectError


class Office:
    """The jobs of one bot, without its loops."""

    def __init__(self, world: World) -> None:
        self.clock = Clock()
        self.data_dir = world.data_dir
        self.data_dir.mkdir(parents=True)
        path = self.data_dir / "bot.sqlite3"
        self.store, self.records = Store(path, now=self.clock), Records(path, now=self.clock)
        self.settings = world.settings(schedule={"min_new_photos": 10})
        client = world.client()
        self.outbox = Outbox(client, self.records, admins=["alice"], max_characters=500, now=self.clock)
        subprocesses = world.subprocesses(self.settings.schedule)
        self.jobs = Jobs(self.settings, self.store, self.records, subprocesses, self.outbox, now=self.clock)

    def waiting(self) -> list[str]:
        """Returns the messages in the outbox and removes them."""
        letters = self.records.queued()
        for letter in letters:
            self.records.sent(letter)
        return [letter.text for letter in letters]

    def run(self, name: str, *, asked: bool = False) -> str:
        """Runs a job once and records it as the schedule does."""
        actions: dict[str, Callable[[bool], str]] = {"scrape": self.jobs.scrape, "train": self.jobs.train}
        try:
            outcome, detail = "done", actions[name](asked)
        except ProjectError as error:
            outcome, detail = "failed", str(error)
        self.records.note(name, outcome, detail)
        self.clock.now += DAY_S
        return detail


@pytest.fixture
def office(world: World) -> Iterator[Office]:
    office = Office(world)
    yield office
    office.store.close()
    office.records.close()
