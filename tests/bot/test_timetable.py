"""When jobs are due: cron lines as cron reads them, time zones, daylight saving and jitter."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
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
        ("0 3 * * 0", datetime(2026, 11, 29, 3, tzinfo=UTC)),  # cron: 0 is Sunday
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
def test_the_next_matching_time_is_found(when: str, expected: datetime) -> None:
    assert Timetable(when).after(MONDAY) == expected


@pytest.mark.parametrize(
    ("when", "zone", "asked", "expected"),
    [
        ("0 0 1 * *", "Europe/Berlin", "2026-03-20T12:00", "2026-04-01T00:00+02:00"),
        ("30 0 * * mon", "Europe/Berlin", "2026-03-24T12:00", "2026-03-30T00:30+02:00"),
        ("15 0 * * *", "Europe/Berlin", "2026-03-29T12:00", "2026-03-30T00:15+02:00"),
        ("59 0 * * *", "Europe/Berlin", "2026-10-25T12:00", "2026-10-26T00:59+01:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", "2026-10-25T02:30+02:00"),  # the first of two equal times
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T02:15+01:00", "2026-10-26T02:30+01:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", "2026-03-29T03:00+02:00"),  # 02:30 is skipped
        ("30 1 * * *", "America/New_York", "2026-11-01T01:30-04:00", "2026-11-02T01:30-05:00"),
        ("0 4 1 * sun", "UTC", "2026-11-23T12:00", "2026-11-29T04:00+00:00"),
        ("0 4 1 * sun", "UTC", "2026-11-29T12:00", "2026-12-01T04:00+00:00"),  # a Tuesday
        (
            "0 4 */2 * sun",
            "UTC",
            "2026-11-23T12:00",
            "2026-11-29T04:00+00:00",
        ),  # with a star both must match, as in cron
    ],
)
def test_daylight_saving_loses_no_run_and_repeats_none(when: str, zone: str, asked: str, expected: str) -> None:
    moment = datetime.fromisoformat(asked)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(zone))
    assert Timetable(when, time_zone=zone).after(moment) == datetime.fromisoformat(expected)


ZONES = ["Europe/Berlin", "America/New_York", "America/Santiago", "Australia/Lord_Howe", "Asia/Tokyo"]
YEAR = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))


def runs(when: str, zone: str) -> list[datetime]:
    """All due times of the year."""
    timetable, found = Timetable(when, time_zone=zone), [YEAR[0]]
    while found[-1] < YEAR[1]:
        found.append(timetable.after(found[-1]))
    return found[1:-1]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize(("hour", "minute"), [(0, 0), (0, 15), (1, 30), (2, 0), (2, 30), (23, 59)])
def test_a_fixed_time_is_due_once_on_each_date_of_a_year(zone: str, hour: int, minute: int) -> None:
    place = ZoneInfo(zone)
    found = [moment.astimezone(place) for moment in runs(f"{minute} {hour} * * *", zone)]
    assert [moment.date() for moment in found] == sorted({moment.date() for moment in found})
    assert len(found) in (364, 365)  # the year is in UTC
    for moment in found:
        asked = datetime(moment.year, moment.month, moment.day, hour, minute, tzinfo=place)
        exists = asked.astimezone(UTC).astimezone(place).replace(tzinfo=None) == asked.replace(tzinfo=None)
        if exists:
            assert moment == asked
            assert moment.fold == 0
        else:  # the end of the gap
            before = (moment.astimezone(UTC) - timedelta(minutes=1)).astimezone(place)
            assert (before.hour, before.minute) < (hour, minute) or before.date() < moment.date()
            assert (moment.hour, moment.minute) > (hour, minute)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("when", ["*/20 * * * *", "15 * * * *", "*/10 0-3 * 3,4,9,10,11 sun", "0 */2 * * *"])
def test_a_line_with_a_wildcard_is_due_whenever_the_clock_shows_its_time(zone: str, when: str) -> None:
    place = ZoneInfo(zone)
    line = CronSim(when.upper(), datetime(2026, 1, 1))  # noqa: DTZ001 - only its fields are read
    minutes = (YEAR[0] + timedelta(minutes=number) for number in range(1, 365 * 24 * 60))
    shown = ((moment, moment.astimezone(place)) for moment in minutes)
    expected = [
        moment
        for moment, local in shown
        if local.minute in line.minutes
        and local.hour in line.hours
        and local.month in line.months
        and line.match_day(local.date())
    ]
    assert runs(when, zone) == expected


def test_a_cron_line_means_the_clock_of_its_time_zone_in_summer_too() -> None:
    berlin = Timetable("0 9 * * *", time_zone="Europe/Berlin")
    assert berlin.after(datetime(2026, 1, 10, 12, tzinfo=UTC)).hour == 8
    assert berlin.after(datetime(2026, 7, 10, 12, tzinfo=UTC)).hour == 7


def test_jitter_only_delays() -> None:
    late = Timetable("0 2 * * *", jitter_s=600, draw=lambda: 0.5).after(MONDAY)
    assert late == datetime(2026, 11, 24, 2, 5, tzinfo=UTC)


@given(MOMENTS, st.sampled_from(["*/7 * * * *", "15 4 * * 1-5", "every 36 min", "0 0 29 2 *"]))
def test_the_next_time_is_always_later(moment: datetime, when: str) -> None:
    assert Timetable(when, jitter_s=30).after(moment) > moment


@pytest.mark.parametrize(
    "when", ["", "daily", "every day", "0 25 * * *", "* * * *", "0 0 0 * * *", "@daily", "0 0 * * 8", "0 0 31 2 *"]
)
def test_an_invalid_timetable_is_an_error_when_settings_are_read(when: str) -> None:
    with pytest.raises(ValueError, match=r"is not a time|matches no date"):
        Settings.model_validate({"schedule": {"train": {"when": when}}})


def test_an_unknown_time_zone_is_an_error_when_settings_are_read() -> None:
    with pytest.raises(ValueError, match="is not a time zone"):
        Settings.model_validate({"schedule": {"time_zone": "Europe/Tokyo"}})


def test_a_job_with_one_setting_given_keeps_its_other_defaults() -> None:
    jobs = Settings.model_validate({"schedule": {"train": {"enabled": False}}}).schedule
    assert jobs.train == Settings().schedule.train.model_copy(update={"enabled": False})
