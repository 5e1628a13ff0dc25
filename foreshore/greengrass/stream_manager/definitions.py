"""Stream definitions as CreateMessageStream and UpdateMessageStream carry them: limits, defaults, exports. Pure.

Limits as in the stream manager client's own validation (stream-manager 1.1.2, MessageStreamDefinition and the export
configurations); developer guide, "Export configurations for supported AWS Cloud destinations".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from foreshore.greengrass.stream_manager.frames import Failure, Status

NAME = re.compile(r"^[\w ,.\-]{1,255}$")
REJECT, OVERWRITE = 0, 1
FILE, MEMORY = 0, 1
DEFAULT_MAX_SIZE = 256 * 1024 * 1024
DEFAULT_SEGMENT_SIZE = 16 * 1024 * 1024
MIN_TTL_MS = 60_000
DEFAULT_PRIORITY = 10
MIN_PART = 5 * 1024 * 1024

Kind = Literal["http", "kinesis", "s3TaskExecutor"]
_DEAD = {
    "iotAnalytics": "AWS IoT Analytics was closed by AWS: no stream can be exported to it",
    "IotSitewise": "Foreshore does not emulate AWS IoT SiteWise exports",
}


@dataclass(frozen=True, slots=True)
class Export:
    """One export of a stream. `target` is a URI, a Kinesis stream's name, or "" for S3 tasks."""

    kind: Kind
    identifier: str
    target: str = ""
    batch_size: int = 1
    batch_interval_ms: int | None = None
    priority: int = DEFAULT_PRIORITY
    start: int = 0
    disabled: bool = False
    status_stream: str = ""
    status_level: int = 2


@dataclass(frozen=True, slots=True)
class Definition:
    """A stream. Sizes in bytes, times in ms; `raw` is the definition as it was sent, with defaults filled in."""

    name: str
    max_size: int
    segment_size: int
    ttl_ms: int | None
    strategy: int
    persistence: int
    flush_on_write: bool
    exports: tuple[Export, ...]
    raw: dict[str, Any]


def read_definition(value: Any) -> Definition:
    """Check a definition and fill in its defaults. Raises Failure(INVALID_REQUEST)."""
    if not isinstance(value, Mapping):
        raise _bad("definition is required")
    raw = {key: item for key, item in value.items() if item is not None}
    raw.setdefault("maxSize", DEFAULT_MAX_SIZE)
    raw.setdefault("streamSegmentSize", DEFAULT_SEGMENT_SIZE)
    raw.setdefault("persistence", FILE)
    raw.setdefault("flushOnWrite", False)
    name = stream_name(raw.get("name"))
    definition = Definition(
        name=name,
        max_size=_number(raw, "maxSize", 1024),
        segment_size=_number(raw, "streamSegmentSize", 1024, 2**31 - 1),
        ttl_ms=_number(raw, "timeToLiveMillis", MIN_TTL_MS) if "timeToLiveMillis" in raw else None,
        strategy=_choice(raw, "strategyOnFull"),
        persistence=_choice(raw, "persistence"),
        flush_on_write=raw["flushOnWrite"] is True,
        exports=tuple(_exports(raw.get("exportDefinition") or {})),
        raw=raw,
    )
    if definition.segment_size > definition.max_size:
        raise _bad("streamSegmentSize must not be greater than maxSize")
    identifiers = [export.identifier for export in definition.exports]
    if len(set(identifiers)) != len(identifiers):
        raise _bad("export identifiers must be unique in a stream")
    return definition


def stream_name(value: Any) -> str:
    """A stream's name. Raises Failure(INVALID_REQUEST)."""
    if not isinstance(value, str) or not NAME.match(value):
        raise _bad("name must have 1 to 255 of: letters, digits, space , . - _")
    return value


def _bad(text: str) -> Failure:
    return Failure(Status.INVALID_REQUEST, text)


def _number(fields: Mapping[str, Any], key: str, least: int, most: int = 2**63 - 1) -> int:
    value = fields[key]
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _bad(f"{key} must be a whole number from {least} to {most}, not {value!r}")
    return value


def _choice(fields: Mapping[str, Any], key: str) -> int:
    value = fields.get(key)
    if value not in (0, 1) or isinstance(value, bool):
        raise _bad(f"{key} must be 0 or 1, not {value!r}")
    return int(value)


def _exports(value: Any) -> list[Export]:
    if not isinstance(value, Mapping):
        raise _bad("exportDefinition must be a map")
    for key, why in _DEAD.items():
        if value.get(key):
            raise _bad(why)
    found = [_batching("http", each, "uri") for each in _list(value, "http")]
    found += [_batching("kinesis", each, "kinesisStreamName") for each in _list(value, "kinesis")]
    return found + [_s3(each) for each in _list(value, "s3TaskExecutor")]


def _list(value: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    items = value.get(key) or []
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise _bad(f"exportDefinition.{key} must be a list of maps")
    return items


def _batching(kind: Kind, fields: Mapping[str, Any], target: str) -> Export:
    if not isinstance(fields.get(target), str) or not fields[target]:
        raise _bad(f"{kind}: {target} is required")
    if kind == "http" and fields.get("exportFormat") not in (None, 0):
        raise _bad("Foreshore does not emulate the HTTP export format JSON_BATCHED, which AWS does not document")
    if kind == "http" and not fields[target].startswith(("http://", "https://")):
        raise _bad("http: uri must be http:// or https://")
    given = {key: item for key, item in fields.items() if item is not None}
    return Export(
        kind,
        _identifier(given),
        fields[target],
        batch_size=_number({"batchSize": 500, **given}, "batchSize", 1, 500),
        batch_interval_ms=_number(given, "batchIntervalMillis", 60_000) if "batchIntervalMillis" in given else None,
        priority=_priority(given),
        start=_number({"startSequenceNumber": 0, **given}, "startSequenceNumber", 0),
        disabled=given.get("disabled") is True,
    )


def _s3(fields: Mapping[str, Any]) -> Export:
    given = {key: item for key, item in fields.items() if item is not None}
    _number(
        {"sizeThresholdForMultipartUploadBytes": MIN_PART, **given}, "sizeThresholdForMultipartUploadBytes", MIN_PART
    )
    status = given.get("statusConfig") or {}
    if not isinstance(status, Mapping):
        raise _bad("statusConfig must be a map")
    level = status.get("statusLevel")
    return Export(
        "s3TaskExecutor",
        _identifier(given),
        priority=_priority(given),
        disabled=given.get("disabled") is True,
        status_stream=stream_name(status["statusStreamName"]) if status.get("statusStreamName") else "",
        status_level=2 if level is None else _number(status, "statusLevel", 0, 4),
    )


def _identifier(fields: Mapping[str, Any]) -> str:
    value = fields.get("identifier")
    if not isinstance(value, str) or not NAME.match(value):
        raise _bad("an export's identifier must have 1 to 255 of: letters, digits, space , . - _")
    return value


def _priority(fields: Mapping[str, Any]) -> int:
    return _number({"priority": DEFAULT_PRIORITY, **fields}, "priority", 1, 10)
