"""When a job rolls out: start and end times, and maintenance windows by AWS's cron expressions. Pure.

Times are seconds since the epoch, and every schedule is read in UTC.

Sources: AWS IoT API reference, SchedulingConfig, MaintenanceWindow; Amazon EventBridge user guide, "Cron expressions".
"""

from __future__ import annotations

import calendar
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from foreshore.errors import AwsError

Json = Any
Document = dict[str, Any]
DayTest = Callable[[date], bool]

LEAST_S = 30 * 60
YEAR_S = 365 * 24 * 3600
SHOWN_WINDOWS = 7
_MONTHS = {name.upper(): number for number, name in enumerate(calendar.month_abbr) if name}
_DAYS = {"SUN": 1, "MON": 2, "TUE": 3, "WED": 4, "THU": 5, "FRI": 6, "SAT": 7}
_HORIZON_DAYS = 366 * 5


def _bad(text: str) -> AwsError:
    return AwsError("InvalidRequestException", text, 400)


def moment_of(text: str) -> float:
    """A time of a scheduling configuration, such as `2030-01-31T08:30`. Raises AwsError InvalidRequestException."""
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        raise _bad(f"{text} is no time of the form YYYY-MM-DDTHH:MM") from None
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()


def check(config: Mapping[str, Json], now: float, *, continuous: bool) -> None:
    """Check a SchedulingConfig. Raises AwsError InvalidRequestException."""
    start = moment_of(config["startTime"]) if config.get("startTime") else None
    end = moment_of(config["endTime"]) if config.get("endTime") else None
    if start is not None and not now + LEAST_S <= start <= now + YEAR_S:
        raise _bad("startTime has to be at least thirty minutes and at most a year from now")
    if end is not None and not (start if start is not None else now) + LEAST_S <= end <= now + 2 * YEAR_S:
        raise _bad("endTime has to be at least thirty minutes after startTime and at most two years from now")
    if config.get("endBehavior") and end is None:
        raise _bad("endBehavior needs an endTime")
    if config.get("maintenanceWindows") and not continuous:
        raise _bad("maintenanceWindows are for continuous jobs")
    check_windows(config.get("maintenanceWindows"))


def check_windows(windows: list[Document] | None) -> None:
    """Check maintenance windows. Raises AwsError InvalidRequestException."""
    for window in windows or ():
        cron(window["startTime"])


def is_begun(config: Mapping[str, Json], now: float) -> bool:
    """Whether the start has come: the start time, and a first maintenance window where there are any."""
    start = config.get("startTime")
    return (start is None or now >= moment_of(start)) and is_open(config, now)


def is_over(config: Mapping[str, Json], now: float) -> bool:
    """Whether the end time has come."""
    end = config.get("endTime")
    return end is not None and now >= moment_of(end)


def is_open(config: Mapping[str, Json], now: float) -> bool:
    """Whether devices may be given the job now: always without maintenance windows, else within one."""
    windows = config.get("maintenanceWindows")
    if not windows:
        return True
    return any(_is_within(window, now) for window in windows)


def _is_within(window: Mapping[str, Json], now: float) -> bool:
    length = int(window["durationInMinutes"]) * 60
    first = next(cron(window["startTime"]).after(now - length), None)
    return first is not None and first <= now


def next_windows(config: Mapping[str, Json], now: float) -> list[str]:
    """The starts of the next seven maintenance windows, as DescribeJob shows them."""
    starts = set()
    for window in config.get("maintenanceWindows") or ():
        upcoming = cron(window["startTime"]).after(now)
        starts |= {moment for _, moment in zip(range(SHOWN_WINDOWS), upcoming, strict=False)}
    return [datetime.fromtimestamp(each, UTC).strftime("%Y-%m-%dT%H:%M") for each in sorted(starts)[:SHOWN_WINDOWS]]


# Cron expressions: cron(minutes hours day-of-month month day-of-week year)


class Cron(NamedTuple):
    """One expression, read."""

    minutes: frozenset[int]
    hours: frozenset[int]
    months: frozenset[int]
    years: frozenset[int]
    is_day: DayTest

    def after(self, moment: float) -> Iterator[float]:
        """Every moment later than a given one, in order, for about five years."""
        first = datetime.fromtimestamp(moment, UTC)
        day = first.date()
        for _ in range(_HORIZON_DAYS):
            if day.year in self.years and day.month in self.months and self.is_day(day):
                for hour in sorted(self.hours):
                    for minute in sorted(self.minutes):
                        found = datetime(day.year, day.month, day.day, hour, minute, tzinfo=UTC).timestamp()
                        if found > moment:
                            yield found
            day += timedelta(days=1)


@lru_cache(maxsize=256)
def cron(text: str) -> Cron:
    """Read `cron(0 8 ? * MON-FRI *)`. Raises AwsError InvalidRequestException."""
    inner = text.strip()
    if not inner.startswith("cron(") or not inner.endswith(")"):
        raise _bad(f"{text} is no cron expression: cron(minutes hours day-of-month month day-of-week year)")
    fields = inner[5:-1].upper().split()
    if len(fields) != 6:
        raise _bad(f"{text} has {len(fields)} fields where a cron expression has six")
    minutes, hours, month_day, months, week_day, years = fields
    if (month_day == "?") == (week_day == "?"):
        raise _bad(f"{text}: exactly one of day-of-month and day-of-week has to be ?")
    try:
        return Cron(
            _numbers(minutes, 0, 59), _numbers(hours, 0, 23), _numbers(months, 1, 12, _MONTHS),
            _numbers(years, 1970, 2199), _week_day(week_day) if month_day == "?" else _month_day(month_day),
        )  # fmt: skip
    except ValueError:
        raise _bad(f"{text} is no valid cron expression") from None


def _numbers(field: str, low: int, high: int, names: Mapping[str, int] | None = None) -> frozenset[int]:
    """The values of a field: `*`, lists, ranges, steps. Raises ValueError."""
    found: set[int] = set()
    for part in field.split(","):
        span, slash, step = part.partition("/")
        if span == "*":
            first, last = low, high
        else:
            begin, dash, end = span.partition("-")
            first = _number(begin, names)
            last = _number(end, names) if dash else high if slash else first
        if not low <= first <= last <= high or (slash and int(step) < 1):
            raise ValueError(field)
        found.update(range(first, last + 1, int(step) if slash else 1))
    return frozenset(found)


def _number(text: str, names: Mapping[str, int] | None) -> int:
    return names[text] if names and text in names else int(text)


def _month_day(field: str) -> DayTest:
    if field == "L":
        return lambda day: day.day == calendar.monthrange(day.year, day.month)[1]
    if field.endswith("W"):
        wanted = int(field[:-1])
        return lambda day: day == _nearest_weekday(day.year, day.month, wanted)
    days = _numbers(field, 1, 31)
    return lambda day: day.day in days


def _nearest_weekday(year: int, month: int, wanted: int) -> date | None:
    last = calendar.monthrange(year, month)[1]
    if wanted > last:
        return None
    day = date(year, month, wanted)
    if day.weekday() == 5:
        return day - timedelta(days=1) if wanted > 1 else day + timedelta(days=2)
    if day.weekday() == 6:
        return day + timedelta(days=1) if wanted < last else day - timedelta(days=2)
    return day


def _week_day(field: str) -> DayTest:
    if field.endswith("L") and field != "L":
        wanted = _number(field[:-1], _DAYS)
        return lambda day: _aws_day(day) == wanted and day.day + 7 > calendar.monthrange(day.year, day.month)[1]
    if "#" in field:
        name, _, nth = field.partition("#")
        wanted, count = _number(name, _DAYS), int(nth)
        return lambda day: _aws_day(day) == wanted and (day.day - 1) // 7 + 1 == count
    days = _numbers("7" if field == "L" else field, 1, 7, _DAYS)
    return lambda day: _aws_day(day) in days


def _aws_day(day: date) -> int:
    """1 for Sunday to 7 for Saturday."""
    return (day.weekday() + 1) % 7 + 1
