"""A month in minutes: nightly scrapes, weekly trainings, and mentions all the while; the schedule's clock is handed in.

The gallery grows, fails for some nights, and comes back with more; one challenger is worse, one better, one training
crashes. Bot, instance, schedule, child processes, manifest and registry are the real ones. What runs in the children
stands for the trainer (`tests.fake_trainer`); so does the classifier, which reads its version off the registry.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.home import draw_photos, until
from benchmarks.result import Figure, Goal, Result
from bot.app import Bot
from bot.children import Children
from bot.chores import Chores
from bot.client import Client
from bot.config import Settings
from bot.outbox import Outbox
from bot.records import Records
from bot.schedule import Schedule
from bot.store import Store
from sandbox.instance import NO_RATE_LIMITS, Account, Instance, InstanceSettings, Status, create_app
from sandbox.server import serve
from tests.fake_trainer import add_version, plan
from tests.fakes import FakeClassifier, FakeDecoder
from trainer.registry import Registry

MONDAY = datetime(2027, 1, 4, tzinfo=UTC)
ROOT = Path(__file__).parent.parent
MENTIONS_A_DAY = 3
JOBS = ("scrape", "train", "report", "prune", "sweep", "catch_up", "watch")


class RegistryLoader:
    """A classifier with the champion's name."""

    def __init__(self, data_dir: Path) -> None:
        self._registry = Registry(data_dir)

    def stamp(self) -> object:
        """Changes with the champion."""
        return self._registry.champion_name()

    def load(self) -> FakeClassifier:
        """The champion's stand-in."""
        champion = self._registry.champion()
        assert champion is not None
        return FakeClassifier(champion.name)


class Month:
    """The schedule and its jobs, by a clock of their own."""

    def __init__(self, settings: Settings, client: Client, folder: Path) -> None:
        self.now = MONDAY
        clock = self.clock
        database = folder / "month.sqlite3"
        self.store, self.records = Store(database, now=clock), Records(database, now=clock)
        outbox = Outbox(client, self.records, admins=["admin"], max_characters=500, now=clock)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("DOKOCOS_")}
        command = (sys.executable, "-m", "tests.fake_trainer", str(settings.data_dir))
        children = Children(
            settings.schedule, folder / "log", command=command, environ=environ | {"PYTHONPATH": str(ROOT)}
        )
        chores = Chores(settings, self.store, self.records, children, outbox, now=clock)
        self._schedule = Schedule(self.records, between=outbox.send, now=clock)
        self._schedule.add("scrape", chores.scrape, lane="long")
        self._schedule.add("train", chores.train, lane="long")
        self._schedule.add("report", chores.report)
        self._schedule.add("watch", chores.watch)
        self._schedule.plan(settings.schedule)
        self._send = outbox.send

    def clock(self) -> float:
        """Seconds since the epoch, in the simulated month."""
        return self.now.timestamp()

    def day(self) -> None:
        """Twenty-four hours pass."""
        for _ in range(24):
            self.now += timedelta(hours=1)
            self._schedule.run_due("long")
            self._schedule.run_due("short")
            self._send()


def run(*, quick: bool, work_dir: Path, say: Callable[[str], None]) -> Result:
    """Take the figures.

    Args:
        quick: a fortnight with two trainings a week, in which the same happens.
        work_dir: an empty folder.
        say: shows a line of progress.
    """
    n_days, down, trained_on = (14, range(4, 6), "sun,wed") if quick else (30, range(9, 12), "sun")
    trainings = ["worse", "better", "crash", "worse"]
    data_dir = work_dir / "data"
    add_version(data_dir, right=0.6, promoted=True, created_at=MONDAY - timedelta(days=7))
    started = time.monotonic()
    with ExitStack() as stack:
        instance = Instance(InstanceSettings(rate_limits=NO_RATE_LIMITS))
        url = stack.enter_context(serve(create_app(instance)))
        me, admin, asker = (_account(instance, name, bot=name == "dokocos") for name in ("dokocos", "admin", "asker"))
        settings = _settings(url, data_dir, trained_on)
        off = settings.model_copy(
            update={"schedule": type(settings.schedule).model_validate({name: {"enabled": False} for name in JOBS})}
        )
        bot = Bot(off, me.token, RegistryLoader(data_dir), FakeDecoder())
        stack.callback(bot.stop)
        bot.start()
        month = Month(settings, bot.client, work_dir)
        stack.callback(month.records.close)
        stack.callback(month.store.close)
        photo = draw_photos(1)[0]
        questions: list[tuple[Status, str]] = []
        accuracies = []
        for day in range(n_days):
            scrape: Any = "the site answers 503" if day in down else 12 if day == down.stop else 5
            plan(data_dir, now=(month.now + timedelta(hours=2)).isoformat(), scrape=[scrape], train=trainings[:1])
            n_runs = month.records.run_counts()
            month.day()
            if _n_trainings(month.records.run_counts()) > _n_trainings(n_runs):
                trainings.pop(0)
            champion = Registry(data_dir).champion()
            assert champion is not None
            accuracies.append(champion.metrics["report"]["balanced_accuracy"]["value"])
            until(partial(_serves, bot, champion.name))
            for _ in range(MENTIONS_A_DAY):
                attachment = instance.attach(asker, photo)
                questions.append((instance.post(asker, "@dokocos which?", attachments=[attachment]), champion.name))
            say(f"day {day + 1}: champion {champion.name}, balanced accuracy {accuracies[-1]:.2f}")
        until(lambda: all(instance.replies_to(question) for question, _ in questions))
        answers = [(instance.replies_to(question), version) for question, version in questions]
        told = [each.text for each in instance.statuses_of(me) if each.visibility == "direct"]
        assert all(admin in each.mentions for each in instance.statuses_of(me) if each.visibility == "direct")
        runs = month.records.run_counts()
    figures: dict[str, Figure] = {
        "days": n_days,
        "mentions": len(questions),
        "lost": sum(not replies for replies, _ in answers),
        "answered_twice": sum(len(replies) > 1 for replies, _ in answers),
        "answers_naming_another_version": sum(
            version not in replies[0].text for replies, version in answers if replies
        ),
        "scrapes": sum(n for (job, _), n in runs.items() if job == "scrape"),
        "trainings": _n_trainings(runs),
        "champions_worse_than_the_one_before": sum(later < earlier for earlier, later in pairwise(accuracies)),
        "balanced_accuracy_at_the_end": accuracies[-1],
        "messages_about_a_failed_scrape": sum("The scrape failed" in text for text in told),
        "messages_that_it_works_again": sum("can be read again" in text for text in told),
        "verdicts_told": sum("Training done" in text for text in told),
        "crashes_told": sum("training failed" in text for text in told),
        "weekly_reports": sum("The last seven days" in text for text in told),
        "took_s": time.monotonic() - started,
    }
    exactly = {
        "lost": 0,
        "answered_twice": 0,
        "answers_naming_another_version": 0,
        "champions_worse_than_the_one_before": 0,
        "trainings": 4,
        "messages_about_a_failed_scrape": 1,
        "messages_that_it_works_again": 1,
        "verdicts_told": 3,
        "crashes_told": 0,  # one crash needs nobody
        "weekly_reports": (n_days + 6) // 7,
    }
    return Result(figures, tuple(Goal(name, at_least=value, at_most=value) for name, value in exactly.items()))


def _serves(bot: Bot, version: str) -> bool:
    return bot.predictor.wait_until_ready().version == version


def _settings(url: str, data_dir: Path, trained_on: str) -> Settings:
    return Settings.model_validate(
        {
            "data_dir": data_dir,
            "mastodon": {"base_url": url, "allow_http": True},
            "web": {"allow_private_addresses": True},
            "bot": {"pictures": False, "max_answers_per_hour": 1000},
            "schedule": {
                "scrape": {"when": "0 1 * * *", "jitter_s": 0},
                "train": {"when": f"0 4 * * {trained_on}", "jitter_s": 0},
                "min_new_photos": 5,
            },
        }
    )


def _account(instance: Instance, name: str, *, bot: bool) -> Account:
    return instance.add_account(name, bot=bot, created_at=datetime.now(UTC) - timedelta(days=400))


def _n_trainings(runs: dict[tuple[str, str], int]) -> int:
    return sum(n for (job, _), n in runs.items() if job == "train")
