"""The lines of a core's log files, letter for letter as the nucleus writes them, in text or JSON. Pure.

Sources: Greengrass developer guide, "Monitor AWS IoT Greengrass logs" and "Greengrass nucleus" (`logging`);
aws-greengrass-logging-java, GreengrassLogMessage: contexts are a Java HashMap of texts, whose order is that of the
keys' hashes.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import orjson

LEVELS = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR")
FORMATS = ("TEXT", "JSON")
COMMAND_CHARACTERS = 80
_KB = 1024


class LogSettings(NamedTuple):
    """`logging` of the nucleus's configuration: the lowest level that is written, and how much is kept in files."""

    level: str = "INFO"
    format: str = "TEXT"
    file_bytes: int = 1024 * _KB
    total_bytes: int = 10 * 1024 * _KB

    def takes(self, level: str) -> bool:
        """Whether a line of a level is written."""
        return LEVELS.index(level) >= LEVELS.index(self.level)


class LogLineParts(NamedTuple):
    """One line before it is formatted. `event` and `message` may be empty."""

    time_ns: int
    level: str
    thread: str
    logger: str
    event: str
    message: str
    contexts: Mapping[str, object]


def read_log_settings(logging: object) -> tuple[LogSettings, list[str]]:
    """Read the `logging` map of the nucleus's configuration; give what of it is wrong or has no effect here."""
    found = LogSettings()
    wrong: list[str] = []
    for key, value in logging.items() if isinstance(logging, Mapping) else ():
        name, text = str(key).lower(), str(value).upper()
        if name == "level" and text in LEVELS:
            found = found._replace(level=text)
        elif name == "format" and text in FORMATS:
            found = found._replace(format=text)
        elif name == "filesizekb" and text.isdecimal() and int(text) > 0:
            found = found._replace(file_bytes=int(text) * _KB)
        elif name == "totallogssizekb" and text.isdecimal() and int(text) > 0:
            found = found._replace(total_bytes=int(text) * _KB)
        elif name in ("level", "format", "filesizekb", "totallogssizekb"):
            wrong.append(f"logging.{key} {value!r} is not taken; it stays {_at(found, name)}")
        elif (name, text) != ("outputtype", "FILE"):
            wrong.append(f"logging.{key} has no effect here: logs are files in the core's logs folder")
    return found, wrong


def _at(settings: LogSettings, name: str) -> object:
    sizes = {"filesizekb": settings.file_bytes // _KB, "totallogssizekb": settings.total_bytes // _KB}
    return {"level": settings.level, "format": settings.format, **sizes}[name]


def format_line(parts: LogLineParts, kind: str) -> str:
    """One line with its end. `kind` is TEXT or JSON."""
    return _json_line(parts) if kind == "JSON" else _text_line(parts)


def log_time(time_ns: int) -> str:
    """A log line's time: UTC with milliseconds, which Java leaves out when they are zero (ISO_INSTANT)."""
    moment = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC)
    millis = time_ns // 1_000_000 % 1000
    return f"{moment:%Y-%m-%dT%H:%M:%S}" + (f".{millis:03d}Z" if millis else "Z")


def _text_line(parts: LogLineParts) -> str:
    """`time [LEVEL] (thread) logger: event. message. {key=value, …}`."""
    text = ". ".join(part for part in (parts.event, parts.message, context_text(parts.contexts)) if part)
    return f"{log_time(parts.time_ns)} [{parts.level}] ({parts.thread}) {parts.logger}: {text}\n"


def _json_line(parts: LogLineParts) -> str:
    line = {
        "thread": parts.thread,
        "level": parts.level,
        "eventType": parts.event or None,
        "message": parts.message or None,
        "contexts": {key: str(parts.contexts[key]) for key in java_order(parts.contexts)},
        "loggerName": parts.logger,
        "timestamp": parts.time_ns // 1_000_000,
        "cause": None,
    }
    return orjson.dumps(line).decode() + "\n"


def context_text(contexts: Mapping[str, object]) -> str:
    """`{key=value, …}` in the nucleus's order."""
    return "{" + ", ".join(f"{key}={contexts[key]}" for key in java_order(contexts)) + "}"


_orders: dict[tuple[str, ...], tuple[str, ...]] = {}


def java_order(keys: Mapping[str, object]) -> tuple[str, ...]:
    """Keys as a java.util.HashMap of sixteen buckets gives them (up to twelve keys)."""
    given = tuple(keys)
    found = _orders.get(given)
    if found is None:
        found = tuple(sorted(given, key=_bucket))
        if len(_orders) < 1000:
            _orders[given] = found
    return found


def _bucket(key: str) -> int:
    number = 0
    for char in key:
        number = (number * 31 + ord(char)) & 0xFFFFFFFF
    return (number ^ number >> 16) & 15


def command_text(script: str) -> str:
    """A step's command as the nucleus logs it: a quoted list, cut at eighty characters."""
    shown = []
    for char in script[:COMMAND_CHARACTERS]:
        if char in "\n\t":
            shown.append("\\n" if char == "\n" else "\\t")
        elif char < " " or ord(char) >= 0xFF or char in '\x7f"':
            shown.append(f"\\u{ord(char) & 0xFFFF:04x}")
        else:
            shown.append(char)
    return '["' + "".join(shown) + ("..." if len(script) > COMMAND_CHARACTERS else "") + '"]'
