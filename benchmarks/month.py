"""Simulates a month in minutes, with nightly scrapes, weekly trainings and mentions; only the clock is simulated.

The gallery grows, fails for three nights, and returns changed. One challenger is worse, one is better, and one training
is killed. Bot, instance, gallery, schedule, trainer and classifier are real, with a backbone of one layer. The short
version, run by the tests, has nine days and fakes for trainer and classifier (`tests.fake_trainer`): the real ones
would take more than a minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import yaml

from benchmarks.home import draw_photos, until
from benchmarks.month_sites import Night, Source, StandIn, Training, real_source
from benchmarks.result import Figure, Goal, Result
from bot.app import Bot
from bot.config import load_settings
from sandbox.instance import NO_RATE_LIMITS, Account, Instance, InstanceSettings, Status, create_app
from sandbox.server import serve
from tests.fakes import apscheduler_clock
from trainer.registry.registry import Registry

MENTIONS_A_DAY = 3
TRAININGS: tuple[Training, ...] = ("better", "worse", "crash", "any")
# Figure for each kind of message to an admin -> start of the message.
MESSAGES = {
    "messages_about_a_failed_scrape": "The scrape failed",
    "messages_that_it_works_again": "The source can be read again",
    "verdicts_told": "Training done",
    "crashes_told": "The training failed",
    "weekly_reports": "The last seven days",
}


class Clock:
    """The simulated time."""

    def __init__(self) -> None:
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        self.now = today + timedelta(days=7 - today.weekday())  # a Monday

    def __call__(self) -> float:
        """The simulated time in seconds since the epoch."""
        return self.now.timestamp()


def run(*, quick: bool, work_dir: Path, say: Callable[[str], None]) -> Result:
    """Run the benchmark.

    Args:
        quick: nine days with three trainings a week and fakes, with the same events.
        work_dir: an empty folder.
        say: prints a line of progress.
    """
    n_days, down, weekdays = (
        (9, range(5, 8), {1: "tue", 3: "thu", 5: "sat"}) if quick else (30, range(9, 12), {6: "sun"})
    )
    data_dir = work_dir / "data"
    clock = Clock()
    started = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(apscheduler_clock(clock))
        instance = Instance(InstanceSettings(rate_limits=NO_RATE_LIMITS, max_characters=5000))
        url = stack.enter_context(serve(create_app(instance)))
        source: Source = StandIn(data_dir) if quick else stack.enter_context(real_source(data_dir))
        config = work_dir / "config.yaml"
        _write_config(config, url, data_dir, source, ",".join(weekdays.values()))
        settings = load_settings(config, {})
        me, admin, asker = (_account(instance, name, bot=name == "dokocos") for name in ("dokocos", "admin", "asker"))
        source.install(config)
        say(f"installed after {time.monotonic() - started:.0f} s")
        loader, decoder = stack.enter_context(source.classifier_and_decoder(settings))
        subprocesses = source.subprocesses(settings, config)
        bot = Bot(settings, me.token, loader, decoder, subprocesses=subprocesses, now=clock)
        stack.callback(bot.stop)
        bot.start()
        photo = draw_photos(1)[0]
        questions: list[tuple[Status, set[str]]] = []
        for night in _nights(n_days, down, weekdays):
            before = _champion(data_dir)
            asked = [
                instance.post(asker, "@dokocos which?", attachments=[instance.attach(asker, photo)])
                for _ in range(MENTIONS_A_DAY)
            ]
            source.prepare(night)
            _simulate_day(bot, clock)
            until(lambda: bot.predictor.wait_until_ready().version == _champion(data_dir))
            questions += [(question, {before, _champion(data_dir)}) for question in asked]
            say(f"day {night.number + 1}: site {night.site}; champion {_champion(data_dir)}")
        until(lambda: all(instance.replies_to(question) for question, _ in questions))
        until(lambda: not bot.operations.records.queued())
        runs = bot.operations.records.run_counts()
        sent = [each for each in instance.statuses_of(me) if each.in_reply_to_id is None]
        reigned = [reign.version for reign in Registry(data_dir).history()]
        accuracies = source.accuracies(settings, reigned)
    verdicts = [version.metrics["verdict"] for version in map(Registry(data_dir).load, Registry(data_dir).names())][1:]
    answers = [(instance.replies_to(question), versions) for question, versions in questions]
    told = {name: sum(_is_about(words, each) for each in sent) for name, words in MESSAGES.items()}
    figures: dict[str, Figure] = {
        "days": n_days,
        "mentions": len(questions),
        "lost": sum(not replies for replies, _ in answers),
        "answered_twice": sum(len(replies) > 1 for replies, _ in answers),
        "answers_naming_another_version": sum(
            not any(version in replies[0].text for version in versions) for replies, versions in answers if replies
        ),
        "scrapes": _n_runs(runs, "scrape"),
        "scrapes_failed": runs.get(("scrape", "failed"), 0),
        "trainings": _n_runs(runs, "train"),
        "trainings_crashed": runs.get(("train", "failed"), 0),
        "challengers_promoted": len(reigned) - 1,
        "challengers_worse_and_kept_out": sum((each["gain"] or 0.0) < 0 and not each["promoted"] for each in verdicts),
        "champions_worse_than_the_one_before": sum(later < earlier for earlier, later in pairwise(accuracies)),
        "first_champion_right_in": accuracies[0],
        "last_champion_right_in": accuracies[-1],
        **told,
        "other_messages": len(sent) - sum(told.values()),
        "messages_not_to_the_admin_alone": sum(not _is_for(admin, each) for each in sent),
        "took_s": time.monotonic() - started,
    }
    exactly = {
        "lost": 0,
        "answered_twice": 0,
        "answers_naming_another_version": 0,
        "scrapes_failed": 3,
        "trainings": 4,
        "trainings_crashed": 1,
        "champions_worse_than_the_one_before": 0,
        "messages_about_a_failed_scrape": 1,
        "messages_that_it_works_again": 1,
        "verdicts_told": 3,
        "crashes_told": 0,  # one crash needs no action
        "weekly_reports": (n_days + 6) // 7,
        "other_messages": 0,
        "messages_not_to_the_admin_alone": 0,
    }
    goals = [Goal(name, at_least=value, at_most=value) for name, value in exactly.items()]
    goals += [Goal("challengers_promoted", at_least=1), Goal("challengers_worse_and_kept_out", at_least=1)]
    return Result(figures, tuple(goals))


def _nights(n_days: int, down: range, weekdays: dict[int, str]) -> Iterator[Night]:
    """The planned nights, from a Monday on."""
    trainings = iter(TRAININGS)
    for number in range(n_days):
        training = next(trainings) if number % 7 in weekdays else None
        yield Night(number, "down" if number in down else "back" if number == down.stop else "grows", training)


def _simulate_day(bot: Bot, clock: Clock) -> None:
    """Simulate 24 hours, and run the jobs due in each hour."""
    schedule = bot.operations.schedule
    for _ in range(24):
        clock.now += timedelta(hours=1)
        schedule.run_due()
        if not schedule.wait_until_idle(600):
            raise TimeoutError("a job did not end")


def _is_about(words: str, status: Status) -> bool:
    """Whether a message to an admin starts with these words, with or without a warning sign."""
    return status.text.removeprefix("@admin ").removeprefix("⚠ ").startswith(words)


def _is_for(account: Account, status: Status) -> bool:
    """Whether a status is a private mention of this account."""
    return status.visibility == "direct" and list(status.mentions) == [account]


def _champion(data_dir: Path) -> str:
    return Registry(data_dir).champion_name() or ""


def _write_config(config: Path, url: str, data_dir: Path, source: Source, trained_on: str) -> None:
    content = {
        "data_dir": str(data_dir),
        "mastodon": {"base_url": url, "allow_http": True},
        "web": {"allow_private_addresses": True, "backoff_s": 0.05},
        "bot": {"max_answers_per_hour": 1000, "admins": ["admin"]},
        "schedule": {
            "scrape": {"when": "0 1 * * *", "jitter_s": 0},
            "train": {"when": f"0 4 * * {trained_on}", "jitter_s": 0},
            "min_new_photos": source.min_new_photos,
            "child_niceness": 5,  # the clock stands still while a child runs or waits for CPU time
        },
        **source.settings,
    }
    config.write_text(yaml.safe_dump(content), encoding="utf-8")


def _account(instance: Instance, name: str, *, bot: bool) -> Account:
    return instance.add_account(name, bot=bot, created_at=datetime.now(UTC) - timedelta(days=400))


def _n_runs(runs: dict[tuple[str, str], int], job: str) -> int:
    return sum(n for (name, _), n in runs.items() if name == job)
