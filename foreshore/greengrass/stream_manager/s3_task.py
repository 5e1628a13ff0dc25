"""An S3 export task as a message holds it: S3ExportTaskDefinition, its key's placeholders, parts and statuses. Pure.

Source: developer guide, "Export configurations for supported AWS Cloud destinations" (Amazon S3 objects), and the
client's own validation (stream-manager 1.1.2, S3ExportTaskDefinition).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import orjson

from foreshore.greengrass.stream_manager.definitions import Export
from foreshore.greengrass.stream_manager.streams import Message

SUCCESS, FAILURE, IN_PROGRESS, WARNING, CANCELED = range(5)
S3_TASK = 0
MAX_PARTS = 10_000
_BUCKET = re.compile(
    r"(?!(?:\d+\.)+\d+$)(?=.{3,63}$)(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
)
_KEY = re.compile(r"(?:[^\\{ }%`\[\]\"'><~#^?|]|!\{[a-zA-Z]+:[a-zA-Z/]+\}){1,1024}")
_PLACEHOLDER = re.compile(r"!\{([a-zA-Z]+):([^}]*)\}")
# The letters of Java's DateTimeFormatter that a key has use for.
_PATTERNS = {
    "yyyy": "%Y", "uuuu": "%Y", "YYYY": "%Y", "yy": "%y", "MM": "%m", "MMM": "%b", "MMMM": "%B", "dd": "%d",
    "DDD": "%j", "HH": "%H", "hh": "%I", "mm": "%M", "ss": "%S", "a": "%p", "EEE": "%a", "EEEE": "%A",
}  # fmt: skip


class Task(NamedTuple):
    """What to upload, where to. `path` is absolute."""

    path: str
    bucket: str
    key: str
    metadata: dict[str, str]


def read_task(payload: bytes) -> Task:
    """A checked task. Raises ValueError."""
    task = orjson.loads(payload)
    if not isinstance(task, dict):
        raise ValueError("the message is no S3ExportTaskDefinition")
    for name in ("inputUrl", "bucket", "key"):
        if not isinstance(task.get(name), str) or not task[name]:
            raise ValueError(f"{name} is required")
    if not _BUCKET.fullmatch(task["bucket"]):
        raise ValueError(f"{task['bucket']!r} can't be the name of a bucket")
    if not _KEY.fullmatch(task["key"]):
        raise ValueError(f"{task['key']!r} can't be a key")
    metadata = task.get("userMetadata") or {}
    if not isinstance(metadata, dict):
        raise ValueError("userMetadata must be a map")
    return Task(file_of(task["inputUrl"]), task["bucket"], task["key"], {k: str(v) for k, v in metadata.items()})


def file_of(url: str) -> str:
    """The path of `file:/…`, `file:///…` or a plain absolute path. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("", "file") or not parts.path.startswith("/"):
        raise ValueError(f"inputUrl must be a file: URL, not {url}")
    return unquote(parts.path)


def fill_key(key: str, now: datetime) -> str:
    """Fill `!{timestamp:yyyy/MM/dd}` in a key, in UTC. Raises ValueError for a letter that is not known."""

    def fill(match: re.Match[str]) -> str:
        if match[1] != "timestamp":
            raise ValueError(f"placeholder {match[0]} in a key is not known")
        return re.sub(r"([A-Za-z])\1*", field_of, match[2])

    def field_of(match: re.Match[str]) -> str:
        if match[0] not in _PATTERNS:
            raise ValueError(f"date field {match[0]} in a key is not known")
        return now.strftime(_PATTERNS[match[0]])

    return _PLACEHOLDER.sub(fill, key)


def parts_of(size: int, least: int) -> Iterator[tuple[int, int]]:
    """(offset, bytes) of each part: of `least` bytes, or so large that 10,000 are enough."""
    part = max(least, -(-size // MAX_PARTS))
    for offset in range(0, size, part):
        yield offset, min(part, size - offset)


def status_message(
    stream: str, export: Export, message: Message, status: int, level: int, text: str, now_ms: int
) -> dict[str, Any]:
    """A StatusMessage for the export's status stream."""
    try:
        task = orjson.loads(message.payload)
    except orjson.JSONDecodeError:
        task = None
    context = {
        "s3ExportTaskDefinition": task if isinstance(task, dict) else {},
        "exportIdentifier": export.identifier,
        "streamName": stream,
        "sequenceNumber": message.sequence,
    }
    return {
        "eventType": S3_TASK,
        "statusLevel": level,
        "status": status,
        "statusContext": context,
        "message": text,
        "timestampEpochMs": now_ms,
    }
