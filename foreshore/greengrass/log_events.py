"""Log files as CloudWatch Logs events: what is uploaded, where to, in which batches. Pure: times are epoch ms.

Sources: developer guide, "Log manager" (configuration); CloudWatch Logs API reference, PutLogEvents (limits); log
manager 2.3 (names of groups and streams, how an event begins, how its time is read).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from foreshore.errors import UserError

NAME = "aws.greengrass.LogManager"
SYSTEM = "System"
DEFAULT_INTERVAL_S = 300.0
# PutLogEvents: 1,048,576 bytes a batch with 26 for each event, 10,000 events, 24 hours, nothing older than 14 days or
# further ahead than 2 hours; 256 KB an event.
MAX_BATCH_BYTES = 1_048_576
EVENT_OVERHEAD = 26
MAX_EVENTS = 10_000
MAX_EVENT_BYTES = 256 * 1024 - EVENT_OVERHEAD
MAX_SPAN_MS = 23 * 3_600_000
MAX_AGE_MS = 14 * 86_400_000
MAX_AHEAD_MS = 2 * 3_600_000
LEVELS = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR")
_UNITS = {"KB": 1024, "MB": 1024**2, "GB": 1024**3}
_EVENT_START = r"^[\[(]?\d{4}-\d\d-\d\d|^\{"
_TIME = re.compile(r"[\w\-:.+]+")


@dataclass(frozen=True, slots=True)
class Source:
    """One component's files. `folder` "" is the core's log folder; `limit` is in bytes, None for none."""

    component: str
    kind: str
    pattern: re.Pattern[str]
    folder: str = ""
    level: str = "INFO"
    limit: int | None = None
    deletes: bool = False
    start: re.Pattern[str] = re.compile(_EVENT_START)

    def group(self, region: str) -> str:
        """The log group."""
        return f"/aws/greengrass/{self.kind}/{region}/{self.component}"


class Settings(NamedTuple):
    """What to upload and how often."""

    sources: tuple[Source, ...] = ()
    interval_s: float = DEFAULT_INTERVAL_S


def read_settings(configuration: Mapping[str, Any]) -> tuple[Settings, list[str]]:
    """Settings, and what of the configuration makes no sense."""
    findings: list[str] = []
    uploader = _map(configuration.get("logsUploaderConfiguration"))
    entries = {name: _map(item) for name, item in _map(uploader.get("componentLogsConfigurationMap")).items()}
    listed = uploader.get("componentLogsConfiguration")
    for item in listed if isinstance(listed, list) else ():
        entries.setdefault(str(_map(item).get("componentName", "")), _map(item))
    sources = []
    for name, item in entries.items():
        try:
            sources.append(_source(name, "UserComponent", name, item))
        except UserError as error:
            findings.append(str(error))
    system = _map(uploader.get("systemLogsConfiguration"))
    if str(system.get("uploadToCloudWatch", "")).lower() == "true":
        try:
            sources.append(_source(SYSTEM, "GreengrassSystemComponent", "greengrass", system))
        except UserError as error:
            findings.append(str(error))
    interval_s = DEFAULT_INTERVAL_S
    try:
        interval_s = float(str(configuration.get("periodicUploadIntervalSec", DEFAULT_INTERVAL_S)))
    except ValueError:
        interval_s = 0.0
    if interval_s <= 0:
        findings.append("periodicUploadIntervalSec must be greater than 0: it is 300")
        interval_s = DEFAULT_INTERVAL_S
    return Settings(tuple(sources), interval_s), findings


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _source(name: str, kind: str, file: str, item: Mapping[str, Any]) -> Source:
    """Raises UserError."""
    if not name:
        raise UserError("a componentLogsConfiguration without componentName", code="log-manager", where=NAME)
    level = str(item.get("minimumLogLevel") or "INFO").upper()
    if level not in LEVELS:
        raise UserError(f"minimumLogLevel must be one of {', '.join(LEVELS)}", code="log-manager", where=name)
    regex = (item.get("logFileRegex") if kind == "UserComponent" else "") or rf"^{re.escape(file)}\w*.log"
    return Source(
        component=name,
        kind=kind,
        pattern=_regex(name, "logFileRegex", regex),
        folder=str(item.get("logFileDirectoryPath") or "") if kind == "UserComponent" else "",
        level=level,
        limit=_limit(name, item),
        deletes=str(item.get("deleteLogFileAfterCloudUpload", "")).lower() == "true",
        start=_regex(name, "multiLineStartPattern", item.get("multiLineStartPattern") or _EVENT_START),
    )


def _regex(name: str, key: str, text: object) -> re.Pattern[str]:
    try:
        return re.compile(str(text))
    except re.error as error:
        raise UserError(f"{key} is no regular expression: {error}", code="log-manager", where=name) from None


def _limit(name: str, item: Mapping[str, Any]) -> int | None:
    text = item.get("diskSpaceLimit")
    if text in (None, ""):
        return None
    unit = str(item.get("diskSpaceLimitUnit") or "KB")
    if not str(text).isdecimal() or unit not in _UNITS:
        raise UserError("diskSpaceLimit must be a whole number of KB, MB or GB", code="log-manager", where=name)
    return int(str(text)) * _UNITS[unit]


class Event(NamedTuple):
    """A log event; `end` is the offset in the file behind it."""

    time_ms: int
    message: str
    end: int


@dataclass(slots=True)
class Batch:
    """One PutLogEvents: events of one day, the oldest first. `end` is how far the file is done with after it."""

    stream: str
    events: list[tuple[int, str]] = field(default_factory=list)
    size: int = 0
    end: int = 0

    def fits(self, stream: str, time_ms: int, size: int) -> bool:
        """Whether an event may join."""
        times = [each[0] for each in (self.events[0], self.events[-1])] if self.events else [time_ms]
        return (
            stream == self.stream
            and len(self.events) < MAX_EVENTS
            and self.size + size + EVENT_OVERHEAD <= MAX_BATCH_BYTES
            and max(*times, time_ms) - min(*times, time_ms) <= MAX_SPAN_MS
        )

    def request(self) -> list[dict[str, Any]]:
        """PutLogEvents' logEvents: in the order of time, those of the same time as they were written."""
        return [{"timestamp": time_ms, "message": text} for time_ms, text in sorted(self.events, key=lambda e: e[0])]


def stream_of(time_ms: int, thing: str) -> str:
    """The log stream of a day."""
    day = datetime.fromtimestamp(time_ms / 1000, UTC)
    return f"/{day:%Y/%m/%d}/thing/{thing}".replace(":", "+")


def events_of(data: bytes, offset: int, source: Source, now_ms: int, *, is_end: bool = False) -> Iterator[Event]:
    """The events in the complete lines of `data`, which stands at `offset` of its file; with `is_end` also the rest.

    A line that does not look like a beginning joins the event before it. Lines in JSON below the minimum level are
    left out; their bytes count for the event after them.
    """
    lines: list[str] = []
    position = end = offset
    for raw in data.splitlines(keepends=True):
        if not raw.endswith((b"\n", b"\r")) and not is_end:
            break
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if lines and source.start.search(line):
            yield from _event(lines, end, source, now_ms)
            lines = []
        lines.append(line)
        position += len(raw)
        end = position
    if lines:
        yield from _event(lines, end, source, now_ms)


def _event(lines: list[str], end: int, source: Source, now_ms: int) -> Iterator[Event]:
    message = "\n".join(lines)
    if not message:
        yield Event(now_ms, "", end)
        return
    found = _structured(message) if message.startswith("{") else None
    if found is None:
        yield Event(_time(message, now_ms), message, end)
        return
    level, time_ms = found
    skipped = level in LEVELS and LEVELS.index(level) < LEVELS.index(source.level)
    yield Event(time_ms or now_ms, "" if skipped else message, end)


def _structured(message: str) -> tuple[str, int] | None:
    """(level, time) of a line in the nucleus's JSON format, or None."""
    try:
        value = orjson.loads(message)
    except orjson.JSONDecodeError:
        return None
    folded = {str(key).lower(): item for key, item in value.items()} if isinstance(value, dict) else {}
    level, time_ms = folded.get("level"), folded.get("timestamp")
    return (str(level), time_ms if isinstance(time_ms, int) else 0) if level else None


def _time(message: str, now_ms: int) -> int:
    match = _TIME.search(message)
    if match is not None and "T" in match[0]:
        try:
            moment = datetime.fromisoformat(match[0])
        except ValueError:
            return now_ms
        if moment.tzinfo is not None:
            return int(moment.timestamp() * 1000)
    return now_ms


def batches(
    data: bytes, offset: int, source: Source, thing: str, now_ms: int, *, is_end: bool = False
) -> Iterator[Batch]:
    """The events of `data` in batches within the limits of PutLogEvents; what CloudWatch Logs refuses is left out."""
    batch = Batch("", end=offset)
    for event in events_of(data, offset, source, now_ms, is_end=is_end):
        if event.message and now_ms - MAX_AGE_MS <= event.time_ms <= now_ms + MAX_AHEAD_MS:
            stream = stream_of(event.time_ms, thing)
            for piece, size in _pieces(event.message):
                if not batch.fits(stream, event.time_ms, size):
                    if batch.events:
                        yield batch
                    batch = Batch(stream, end=batch.end)
                batch.events.append((event.time_ms, piece))
                batch.size += size + EVENT_OVERHEAD
        batch.end = event.end
    if batch.end > offset:
        yield batch


def _pieces(message: str) -> Iterator[tuple[str, int]]:
    """A message in pieces of at most 256 KB, with their sizes."""
    encoded = message.encode()
    if len(encoded) <= MAX_EVENT_BYTES:
        yield message, len(encoded)
        return
    while encoded:
        cut = MAX_EVENT_BYTES
        while cut < len(encoded) and encoded[cut] & 0xC0 == 0x80:
            cut -= 1
        yield encoded[:cut].decode(), len(encoded[:cut])
        encoded = encoded[cut:]
