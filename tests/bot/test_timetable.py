"""When jobs are due: cron lines as cron means them, in the clock of a place, with a little lateness."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.config import Settings
from bot.timetable import Timetable

MONDAY = datetime(2026, 11, 23, 12, tzinfo=UTC)
MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("0 2 * * *", datetime(2026, 11, 24, 2, tzinfo=UTC)),
        ("30 * * * *", datetime(2026, 11, 23, 12, 30, tzinfo=UTC)),
        ("0 3 * * sun", datetime(2026, 11, 29, 3, tzinfo=UTC)),
        ("0 3 * * 0", datetime(2026, 11, 29, 3, tzinfo=UTC)),  # APScheduler alone would say Monday
        ("0 3 * * 7", datetime(2026, 11, 29, 3, tzinfo=UTC)),
        ("0 3 * * 6-7", datetime(2026, 11, 28, 3, tzinfo=UTC)),
        ("0 3 * * fri-mon", datetime(2026, 11, 27, 3, tzinfo=UTC)),
        ("0 3 * * */3", datetime(2026, 11, 25, 3, tzinfo=UTC)),
        ("0 3 1 1 *", datetime(2027, 1, 1, 3, tzinfo=UTC)),
        ("every 6 h", MONDAY + timedelta(hours=6)),
        ("every 90s", MONDAY + timedelta(seconds=90)),
        ("every 0 s", MONDAY + timedelta(seconds=1)),
    ],
)
def test_a_moment_is_the_next_that_fits(when: str, expected: datetime) -> None:
    assert Timetable(when).after(MONDAY) == expected


def test_a_cron_line_means_the_clock_of_its_time_zone_in_summer_too() -> None:
    berlin = Timetable("0 9 * * *", time_zone="Europe/Berlin")
    assert berlin.after(datetime(2026, 1, 10, 12, tzinfo=UTC)).hour == 8
    assert berlin.after(datetime(2026, 7, 10, 12, tzinfo=UTC)).hour == 7


def test_jitter_only_delays() -> None:
    late = Timetable("0 2 * * *", jitter_s=600, draw=lambda: 0.5).after(MONDAY)
    assert late == datetime(2026, 11, 24, 2, 5, tzinfo=UTC)


@given(MOMENTS, st.sampled_from(["*/7 * * * *", "15 4 * * 1-5", "every 36 min", "0 0 29 2 *"]))
def test_the_next_moment_is_always_a_later_one(moment: datetime, when: str) -> None:
    assert Timetable(when, jitter_s=30).after(moment) > moment


@pytest.mark.parametrize("when", ["", "daily", "every day", "0 25 * * *", "* * * *", "0 0 * * 8", "0 0 31 2 *"])
def test_what_is_no_time_is_said_when_settings_are_read(when: str) -> None:
    with pytest.raises(ValueError, match=r"is no time|never comes"):
        Settings.model_validate({"schedule": {"train": {"when": when}}})


def test_an_unknown_time_zone_is_said_when_settings_are_read() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        Settings.model_validate({"schedule": {"time_zone": "Europe/Tokyo"}})


def test_a_job_of_which_one_setting_is_given_keeps_its_own_others() -> None:
    jobs = Settings.model_validate({"schedule": {"train": {"enabled": False}}}).schedule
    assert jobs.train == Settings().schedule.train.model_copy(update={"enabled": False})
