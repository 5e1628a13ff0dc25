"""Dates by Java's patterns: Joda-Time's letters for `parse_time`, java.time's for `time_to_epoch`.

Sources: Joda-Time `DateTimeFormat`, java.time `DateTimeFormatter` (letters, widths, the SMART resolver). English
names, as AWS's service gives. An invalid pattern, zone or text is Undefined to the caller, who gets None here.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import NamedTuple

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_PATTERN = 256

_OFFSET = re.compile(r"(?:UTC|GMT|UT)?([+-])(\d{1,2})(?::?(\d{2}))?(?::?(\d{2}))?")
_SHORT_ZONES = {
    "ACT": "Australia/Darwin", "AET": "Australia/Sydney", "AGT": "America/Argentina/Buenos_Aires",
    "AKDT": "America/Anchorage", "AKST": "America/Anchorage", "ART": "Africa/Cairo", "BET": "America/Sao_Paulo",
    "BST": "Europe/London", "CDT": "America/Chicago", "CEST": "Europe/Paris", "CET": "Europe/Paris",
    "CST": "America/Chicago", "CTT": "Asia/Shanghai", "EDT": "America/New_York", "EEST": "Europe/Athens",
    "EET": "Europe/Athens", "EST": "America/New_York", "HST": "Pacific/Honolulu", "IST": "Asia/Kolkata",
    "JST": "Asia/Tokyo", "KST": "Asia/Seoul", "MDT": "America/Denver", "MSK": "Europe/Moscow", "MST": "America/Denver",
    "NST": "Pacific/Auckland", "NZDT": "Pacific/Auckland", "NZST": "Pacific/Auckland", "PDT": "America/Los_Angeles",
    "PST": "America/Los_Angeles", "WEST": "Europe/Lisbon", "WET": "Europe/Lisbon",
}  # fmt: skip


class Piece(NamedTuple):
    """A run of one pattern letter, or (letter empty) literal text."""

    letter: str
    width: int
    text: str = ""


@lru_cache(maxsize=256)
def pieces(pattern: str) -> tuple[Piece, ...] | None:
    """Split a pattern; `''` is a quote, `'…'` literal text. None when a quote stays open or the pattern is too long."""
    if len(pattern) > MAX_PATTERN:
        return None
    found: list[Piece] = []
    position = 0
    while position < len(pattern):
        first = pattern[position]
        if first == "'":
            end = position + 1
            text = ""
            while True:
                close = pattern.find("'", end)
                if close < 0:
                    return None
                text += pattern[end:close]
                if pattern[close + 1 : close + 2] != "'" or close == position + 1:
                    break
                text, end = text + "'", close + 2
            found.append(Piece("", 0, text or "'"))
            position = close + 1
        elif first.isascii() and first.isalpha():
            end = position
            while end < len(pattern) and pattern[end] == first:
                end += 1
            found.append(Piece(first, end - position))
            position = end
        else:
            found.append(Piece("", 0, first))
            position += 1
    return tuple(found)


@lru_cache(maxsize=256)
def zone(name: str) -> tzinfo | None:
    """A zone by IANA name, offset (`+01:00`, `UTC+1`) or a common short name; None when unknown."""
    if name in ("UTC", "GMT", "UT", "Z", "Etc/UTC"):
        return UTC
    match = _OFFSET.fullmatch(name)
    if match:
        hours, minutes, seconds = int(match[2]), int(match[3] or 0), int(match[4] or 0)
        if hours > 18 or minutes > 59 or seconds > 59:
            return None
        delta = timedelta(hours=hours, minutes=minutes, seconds=seconds)
        return timezone(delta if match[1] == "+" else -delta)
    from zoneinfo import ZoneInfo

    if len(name) > 64 or not re.fullmatch(r"[A-Za-z][\w+\-/]*", name):
        return None
    try:
        return ZoneInfo(_SHORT_ZONES.get(name, name))
    except (OSError, ValueError, KeyError):
        return None


def _offset_text(moment: datetime, colon: bool) -> str:
    total = int((moment.utcoffset() or timedelta()).total_seconds()) // 60
    sign = "-" if total < 0 else "+"
    hours, minutes = divmod(abs(total), 60)
    return f"{sign}{hours:02}{':' if colon else ''}{minutes:02}"


def format_joda(pattern: str, epoch_ms: int, zone_name: str) -> str | None:
    """Write a time of `epoch_ms` milliseconds by a Joda-Time pattern."""
    where, parts = zone(zone_name), pieces(pattern)
    if where is None or parts is None:
        return None
    try:
        moment = (EPOCH + timedelta(milliseconds=epoch_ms)).astimezone(where)
    except (OverflowError, ValueError):
        return None
    texts = []
    for part in parts:
        text = part.text if not part.letter else _joda(part, moment, zone_name)
        if text is None:
            return None
        texts.append(text)
    return "".join(texts)


def _joda(part: Piece, moment: datetime, zone_name: str) -> str | None:
    letter, count = part.letter, part.width
    if letter in "yYx":
        year = moment.isocalendar()[0] if letter == "x" else moment.year
        return f"{year % 100:02}" if count == 2 else f"{year:0{count}}"
    if (letter == "M" and count >= 3) or letter == "E":
        name = MONTHS[moment.month - 1] if letter == "M" else DAYS[moment.weekday()]
        return name if count >= 4 else name[:3]
    if letter == "S":
        return f"{moment.microsecond // 1000:03}".ljust(count, "0")[:count]
    if letter == "G":
        return "AD"
    if letter == "a":
        return "AM" if moment.hour < 12 else "PM"
    if letter == "z":
        return _zone_text(moment, zone_name)
    if letter == "Z":
        return zone_name if count >= 3 else _offset_text(moment, count == 2)
    numbers = {
        "C": moment.year // 100,
        "w": moment.isocalendar()[1], "e": moment.isoweekday(), "D": moment.timetuple().tm_yday,
        "M": moment.month, "d": moment.day, "K": moment.hour % 12, "h": moment.hour % 12 or 12, "H": moment.hour,
        "k": moment.hour or 24, "m": moment.minute, "s": moment.second,
    }  # fmt: skip
    return f"{numbers[letter]:0{count}}" if letter in numbers else None


def _zone_text(moment: datetime, zone_name: str) -> str:
    if moment.tzinfo is UTC:
        return "UTC"
    name = moment.tzname() or zone_name
    return name if name[:1].isalpha() and not name.startswith("UTC") else _offset_text(moment, True)


# java.time

_ZONE_TEXT = r"(?:[A-Za-z][A-Za-z0-9_+\-/]*(?::\d\d)?|[+-]\d{1,2}(?::?\d\d)?)"
_NUMERIC = "yuDMLdQqYwWeFHhKkmsSAnN"
_RANGES = {
    "D": (1, 366), "M": (1, 12), "L": (1, 12), "d": (1, 31), "H": (0, 24), "h": (1, 12), "K": (0, 11), "k": (1, 24),
    "m": (0, 59), "s": (0, 59),
}  # fmt: skip
_SUPPORTED = frozenset("GuyDMLdEaHhKkmsSAnNVzOXxZ")


def _names(names: tuple[str, ...], full: bool) -> str:
    return "(" + "|".join(name if full else name[:3] for name in names) + ")"


def _group(part: Piece, adjacent: bool) -> str | None:
    """The regular expression of one run of letters; `adjacent` when the next run is of digits too."""
    letter, count = part.letter, part.width
    if letter in "ML" and count >= 3:
        return _names(MONTHS, count == 4) if count <= 4 else None
    if letter == "E":
        return _names(DAYS, count == 4) if count <= 4 else None
    if letter == "G":
        return "(AD|BC)" if count <= 3 else "(Anno Domini|Before Christ)"
    if letter == "a":
        return "(AM|PM)" if count == 1 else None
    if letter == "V":
        return f"({_ZONE_TEXT})" if count == 2 else None
    if letter == "z":
        return f"({_ZONE_TEXT})" if count <= 4 else None
    if letter in "XxZO":
        return _offset_pattern(letter, count)
    if letter == "S":
        return f"([0-9]{{{count}}})"
    if letter in "yu":
        if count == 2:
            return "([0-9]{2})"
        return f"([0-9]{{{count}}})" if adjacent else f"(-?[0-9]{{{count},9}})"
    if letter in "AnN":
        return f"([0-9]{{{count},19}})"
    return f"([0-9]{{{count}}})" if count > 1 or adjacent else "([0-9]{1,3})"


def _offset_pattern(letter: str, count: int) -> str | None:
    zero = "Z|" if letter == "X" else ""
    if letter == "O":
        return r"(GMT(?:[+-]\d{1,2}(?::\d\d)?)?)" if count in (1, 4) else None
    if letter == "Z":
        choices = {
            1: r"[+-]\d{4}",
            2: r"[+-]\d{4}",
            3: r"[+-]\d{4}",
            4: r"GMT(?:[+-]\d\d:\d\d)?",
            5: r"Z|[+-]\d\d:\d\d",
        }
    else:
        choices = {
            1: r"[+-]\d\d(?:\d\d)?", 2: r"[+-]\d{4}", 3: r"[+-]\d\d:\d\d", 4: r"[+-]\d{4}(?:\d\d)?",
            5: r"[+-]\d\d:\d\d(?::\d\d)?",
        }  # fmt: skip
    return f"({zero}{choices[count]})" if count in choices else None


class Reader(NamedTuple):
    """A java.time pattern as a regular expression and the letters of its groups."""

    expression: re.Pattern[str]
    letters: tuple[Piece, ...]


@lru_cache(maxsize=256)
def reader(pattern: str) -> Reader | None:
    """Compile a java.time pattern; None when it is invalid."""
    parts = pieces(pattern)
    if parts is None:
        return None
    source: list[str] = []
    letters: list[Piece] = []
    open_brackets = 0
    for place, part in enumerate(parts):
        if part.letter:
            following = parts[place + 1] if place + 1 < len(parts) else Piece("", 0)
            adjacent = bool(following.letter) and following.letter in _NUMERIC
            group = _group(part, adjacent) if part.letter in _SUPPORTED else None
            if group is None:
                return None
            source.append(group)
            letters.append(part)
        elif part.text == "[":
            source.append("(?:")
            open_brackets += 1
        elif part.text == "]":
            open_brackets -= 1
            if open_brackets < 0:
                return None
            source.append(")?")
        elif part.text in ("{", "}", "#"):
            return None
        else:
            source.append(re.escape(part.text))
    return Reader(re.compile("".join(source) + ")?" * open_brackets, re.ASCII), tuple(letters))


def parse_java(text: str, pattern: str) -> int | None:
    """Read a date by a java.time pattern: milliseconds since the epoch. A missing time is midnight, a zone UTC."""
    compiled = reader(pattern)
    match = compiled.expression.fullmatch(text) if compiled and len(text) <= 512 else None
    if compiled is None or match is None:
        return None
    fields: dict[str, str] = {}
    widths: dict[str, int] = {}
    for part, value in zip(compiled.letters, match.groups(), strict=True):
        if value is None:
            continue
        letter = {"L": "M", "u": "y"}.get(part.letter, part.letter)
        if fields.get(letter, value) != value:
            return None
        fields[letter] = value
        widths[letter] = part.width
    try:
        return _resolve(fields, widths)
    except (ValueError, OverflowError):
        return None


def _resolve(fields: dict[str, str], widths: dict[str, int]) -> int | None:
    numbers: dict[str, int] = {}
    for letter, (low, high) in _RANGES.items():
        if letter in fields:
            numbers[letter] = _number(letter, fields[letter])
            if not low <= numbers[letter] <= high:
                return None
    date = _date(fields, widths, numbers)
    time = _time(fields, numbers)
    where = _zone(fields)
    if date is None or time is None or where is None:
        return None
    if "E" in fields and not DAYS[date.weekday()].startswith(fields["E"]):
        return None
    moment = (date + time).replace(tzinfo=where)
    return (moment - EPOCH) // timedelta(milliseconds=1)


def _number(letter: str, text: str) -> int:
    if letter == "M" and not text.isdigit():
        return next(place for place, name in enumerate(MONTHS, 1) if name.startswith(text))
    return int(text)


def _date(fields: dict[str, str], widths: dict[str, int], numbers: dict[str, int]) -> datetime | None:
    if "y" not in fields:
        return None
    year = int(fields["y"]) + (2000 if widths["y"] == 2 else 0)
    if fields.get("G", "A")[0] == "B":
        year = 1 - year
    if "D" in numbers:
        date = datetime(year, 1, 1) + timedelta(days=numbers["D"] - 1)
        return date if date.year == year else None
    if "M" not in numbers or "d" not in numbers:
        return None
    for day in (numbers["d"], 30, 29, 28):
        # The SMART resolver takes 31 April for the month's last day.
        try:
            return datetime(year, numbers["M"], min(day, numbers["d"]))
        except ValueError:
            continue
    return None


def _time(fields: dict[str, str], numbers: dict[str, int]) -> timedelta | None:
    if "A" in fields:
        return timedelta(milliseconds=int(fields["A"]))
    if "N" in fields:
        return timedelta(microseconds=int(fields["N"]) // 1000)
    hour: int | None = numbers.get("H", numbers["k"] % 24 if "k" in numbers else None)
    if hour is None and ("h" in numbers or "K" in numbers):
        if "a" not in fields:
            return None
        hour = numbers.get("K", numbers.get("h", 0) % 12) + (12 if fields["a"] == "PM" else 0)
    minute, second = numbers.get("m", 0), numbers.get("s", 0)
    fraction = int(fields["S"][:6].ljust(6, "0")) if "S" in fields else int(fields.get("n", "0")) // 1000
    if hour is None and ("m" in numbers or "s" in numbers or fraction):
        return None
    if hour == 24 and (minute or second or fraction):
        return None
    return timedelta(hours=hour or 0, minutes=minute, seconds=second, microseconds=fraction)


def _zone(fields: dict[str, str]) -> tzinfo | None:
    for letter in "VzXxZO":
        if letter in fields:
            return zone(fields[letter])
    return UTC
