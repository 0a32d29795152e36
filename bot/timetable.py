"""Computes when a job is due, from a cron line or an interval in words; pure.

cronsim reads the cron line. Daylight saving follows Debian's cron. A job with a fixed hour and minute runs once on each
matching local date: at the end of the gap if its time is skipped, at the first of two equal times. A job with a
wildcard there runs whenever the clock shows a matching time.

Source: https://manpages.debian.org/stable/cron/cron.8.en.html (Debian specific)
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

MIN_INTERVAL_S = 1.0
N_FIELDS = 5
_INTERVAL = re.compile(r"every (\d+(?:\.\d+)?) ?(s|min|h|d)")
_UNITS_S = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_WEEKDAY_RANGE = re.compile(r"\b([0-7]|[a-z]{3})-([0-7]|[a-z]{3})\b")
_SECOND = timedelta(seconds=1)


class Timetable:
    """The times at which a job is due.

    Args:
        when: a cron line ("0 3 * * sun": minute, hour, day, month, weekday), or an interval ("every 6 h"), in s, min,
            h or d.
        time_zone: of the cron line, e.g. "Asia/Tokyo".
        jitter_s: each time is delayed by up to this many seconds.
        draw: returns a random number in 0..1, for the jitter.

    Raises:
        ValueError: `when` is neither a cron line nor an interval, no time matches it, or the time zone is unknown.
    """

    def __init__(
        self, when: str, *, time_zone: str = "UTC", jitter_s: float = 0.0, draw: Callable[[], float] = random.random
    ) -> None:
        self._zone = _zone(time_zone)
        self._interval = _interval(when)
        self._cron = "" if self._interval else _cron(when)
        self._jitter_s = jitter_s
        self._draw = draw

    def after(self, moment: datetime) -> datetime:
        """The first due time after `moment` (aware; result in UTC); an interval is counted from `moment`."""
        late = timedelta(seconds=self._jitter_s * self._draw())
        if self._interval is not None:
            return moment.astimezone(UTC) + self._interval + late
        minute, hour, *_ = self._cron.split()
        is_fixed = not minute.startswith("*") and not hour.startswith("*")
        found = self._fixed(moment) if is_fixed else self._whenever_shown(moment)
        return found + late

    def _fixed(self, moment: datetime) -> datetime:
        """The next time of a line with a fixed hour and minute; each local time counts once."""
        wall = moment.astimezone(self._zone).replace(tzinfo=None)
        # Start a day earlier: a clock that was set back shows times again that were due already.
        moments = (self._first(each) for each in CronSim(self._cron, wall - timedelta(days=1)))
        return next(found for found in moments if found > moment)

    def _first(self, wall: datetime) -> datetime:
        """The first moment at which the clock shows a local time; if it is skipped, the moment of the change."""
        local = wall.replace(tzinfo=self._zone)
        found = local.astimezone(UTC)
        if found.astimezone(self._zone).replace(tzinfo=None) == wall:
            return found
        # With the offset before the gap (fold 0) the time is after the change, with the other (fold 1) before it.
        return self._first_change(local.replace(fold=1).astimezone(UTC), found) or found

    def _whenever_shown(self, moment: datetime) -> datetime:
        """The next time of a line with a wildcard for hour or minute; searches from one offset change to the next."""
        since, offset = moment.astimezone(UTC), self._offset(moment)
        wall = (since + offset).replace(tzinfo=None)
        while True:
            found = (next(CronSim(self._cron, wall)) - offset).replace(tzinfo=UTC)
            change = self._first_change(since, found)
            if change is None:
                return found
            since, offset = change, self._offset(change)
            wall = (change + offset).replace(tzinfo=None) - _SECOND  # the moment of the change itself may match

    def _offset(self, moment: datetime) -> timedelta:
        return moment.astimezone(self._zone).utcoffset() or timedelta()

    def _first_change(self, since: datetime, until: datetime) -> datetime | None:
        """The first moment after `since`, up to `until`, with another offset from UTC, to the second."""
        offset, before = self._offset(since), since
        while before < until:
            after = min(before + timedelta(days=1), until)
            if self._offset(after) == offset:
                before = after
                continue
            while after - before > _SECOND:
                middle = before + (after - before) / 2
                before, after = (middle, after) if self._offset(middle) == offset else (before, middle)
            return after.replace(microsecond=0)
        return None


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{name!r} is not a time zone; write it like Asia/Tokyo or UTC") from error


def _interval(when: str) -> timedelta | None:
    """Parses an interval; None if `when` is not one."""
    found = _INTERVAL.fullmatch(when.strip())
    if found is None:
        return None
    return timedelta(seconds=max(MIN_INTERVAL_S, float(found[1]) * _UNITS_S[found[2]]))


def _cron(when: str) -> str:
    """Checks a cron line and adapts it to cronsim. Raises ValueError."""
    fields = when.lower().split()
    try:
        if len(fields) != N_FIELDS:
            raise ValueError(f"{len(fields)} fields, not {N_FIELDS}")
        line = " ".join([*fields[:-1], _WEEKDAY_RANGE.sub(_unwrapped, fields[-1])])
        simulation = CronSim(line, datetime(2000, 1, 1))  # noqa: DTZ001 - any calendar
    except (CronSimError, ValueError) as error:
        raise ValueError(
            f"{when!r} is not a timetable ({error}); write a cron line (minute hour day month weekday, e.g. "
            "'0 3 * * sun') or 'every 6 h'"
        ) from error
    if next(simulation, None) is None:
        raise ValueError(f"{when!r} matches no date")
    return line


def _unwrapped(found: re.Match[str]) -> str:
    """Rewrites a range of weekdays, also one like fri-mon, with cron's numbers: from Sunday, 0, to Sunday, 7."""
    first, last = (_WEEKDAYS.index(day) if day in _WEEKDAYS else int(day) for day in found.groups())
    if first <= last:
        return f"{first}-{last}"
    return f"{first}-7" + (f",1-{last}" if last else "")
