"""When a job is due: a cron line or an interval in words -> moments; pure.

APScheduler's trigger reads the cron line and knows the clock of a time zone. It counts weekdays from Monday, cron from
Sunday: here numbers mean what cron means by them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger

WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")  # as cron numbers them; 7 is Sunday again
LEAST_INTERVAL_S = 1.0
_INTERVAL = re.compile(r"every (\d+(?:\.\d+)?) ?(s|min|h|d)")
_UNITS_S = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_WEEKDAY_PART = re.compile(r"(?P<first>\*|[0-7]|[a-z]{3})(-(?P<last>[0-7]|[a-z]{3}))?(/(?P<step>[1-7]))?")


class Timetable:
    """The moments at which a job is due.

    Args:
        when: a cron line ("0 3 * * sun": minute, hour, day, month, weekday), or an interval ("every 6 h"), in s, min,
            h or d.
        time_zone: whose clock the cron line means, e.g. "Asia/Tokyo".
        jitter_s: each moment comes later by up to so many seconds.
        draw: a number in 0..1, for the jitter.

    Raises:
        ValueError: neither a cron line nor an interval; no moment fits it; or there is no such time zone.
    """

    def __init__(
        self,
        when: str,
        *,
        time_zone: str = "UTC",
        jitter_s: float = 0.0,
        draw: Callable[[], float] = random.random,
    ) -> None:
        zone = _zone(time_zone)
        self._interval = _interval(when)
        self._cron = None if self._interval else _cron(when, zone)
        self._jitter_s = jitter_s
        self._draw = draw

    def after(self, moment: datetime) -> datetime:
        """The first moment after another one (both aware); an interval is counted from there."""
        late = timedelta(seconds=self._jitter_s * self._draw())
        if self._cron is None:
            return moment + (self._interval or timedelta()) + late
        found: datetime = self._cron.get_next_fire_time(None, moment + timedelta(microseconds=1))
        return found.astimezone(UTC) + late


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{name!r} is no time zone; write it like Asia/Tokyo or UTC") from error


def _interval(when: str) -> timedelta | None:
    """None for what is no interval."""
    found = _INTERVAL.fullmatch(when.strip())
    if found is None:
        return None
    return timedelta(seconds=max(LEAST_INTERVAL_S, float(found[1]) * _UNITS_S[found[2]]))


def _cron(when: str, zone: ZoneInfo) -> CronTrigger:
    try:
        minute, hour, day, month, weekdays = when.split()
        trigger = CronTrigger(
            minute=minute, hour=hour, day=day, month=month, day_of_week=_weekdays(weekdays.lower()), timezone=zone
        )
        ever = trigger.get_next_fire_time(None, datetime(2000, 1, 1, tzinfo=UTC))
    except ValueError as error:
        raise ValueError(
            f"{when!r} is no time; write a cron line (minute hour day month weekday, e.g. '0 3 * * sun') or 'every 6 h'"
        ) from error
    if ever is None:
        raise ValueError(f"{when!r} never comes")
    return trigger


def _weekdays(field: str) -> str:
    """Cron's weekdays as a list of names, which mean the same to everybody."""
    if field == "*":
        return field
    days: set[int] = set()
    for part in field.split(","):
        found = _WEEKDAY_PART.fullmatch(part)
        if found is None:
            raise ValueError(f"{part!r} is no weekday")
        first = 0 if found["first"] == "*" else _number(found["first"])
        open_ended = found["first"] == "*" or (found["step"] and not found["last"])
        last = 6 if open_ended else _number(found["last"] or found["first"])
        if found["last"] and last < first:
            last += 7
        days |= {day % 7 for day in range(first, last + 1, int(found["step"] or 1))}
    return ",".join(WEEKDAYS[day] for day in sorted(days))


def _number(day: str) -> int:
    return int(day) if day.isdigit() else WEEKDAYS.index(day)
