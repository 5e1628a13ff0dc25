"""Stream definitions as CreateMessageStream and UpdateMessageStream carry them: limits, defaults, exports. Pure.

Limits as in the stream manager client's own validation (stream-manager 1.1.2, MessageStreamDefinition and the export
configurations); developer guide, "Export configurations for supported AWS Cloud destinations".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from foreshore.greengrass.stream_manager.frames import Failure, Status

NAME = re.compile(r"^[\w ,.\-]{1,255}$")
REJECT, OVERWRITE = 0, 1
FILE, MEMORY = 0, 1
DEFAULT_MAX_SIZE = 256 * 1024 * 1024
DEFAULT_SEGMENT_SIZE = 16 * 1024 * 1024
MIN_TTL_MS = 60_000
MAX_MS = 9_223_372_036_854
MAX_NUMBER = 2**63 - 1
DEFAULT_PRIORITY = 10
MIN_PART = 5 * 1024 * 1024
RAW_NOT_BATCHED, JSON_BATCHED = 0, 1
ERROR_LEVEL, WARN_LEVEL, INFO_LEVEL, DEBUG_LEVEL, TRACE_LEVEL = range(5)

Kind = Literal["http", "kinesis", "IotSitewise", "s3TaskExecutor"]
# The most messages of a batch, which is also the default.
MOST_MESSAGES: Mapping[Kind, int] = {"http": 500, "kinesis": 500, "IotSitewise": 10}
_GONE = {"iotAnalytics": "AWS IoT Analytics was closed by AWS: no stream can be exported to it"}
_THRESHOLD = "sizeThresholdForMultipartUploadBytes"
_KNOWN = {"http", "kinesis", "IotSitewise", "s3TaskExecutor", *_GONE}


@dataclass(frozen=True, slots=True)
class Export:
    """One export of a stream. `target` is a URI or a Kinesis stream's name, else "". `threshold` is the size in bytes
    above which an S3 task becomes a multipart upload (0: the smallest part), `format` HTTP's exportFormat."""

    kind: Kind
    identifier: str
    target: str = ""
    batch_size: int = 1
    batch_interval_ms: int | None = None
    priority: int = DEFAULT_PRIORITY
    start: int | None = None
    disabled: bool = False
    status_stream: str = ""
    status_level: int = INFO_LEVEL
    threshold: int = 0
    format: int = RAW_NOT_BATCHED


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
        ttl_ms=_number(raw, "timeToLiveMillis", MIN_TTL_MS, MAX_MS) if "timeToLiveMillis" in raw else None,
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


def changed_starts(old: Definition, new: Definition) -> list[Export]:
    """Exports that an update sends back, or on, to another startSequenceNumber; one without it goes on where it is."""
    before = {export.identifier: export.start or 0 for export in old.exports}
    return [
        each for each in new.exports if each.start is not None and before.get(each.identifier, each.start) != each.start
    ]


def stream_name(value: Any) -> str:
    """A stream's name. Raises Failure(INVALID_REQUEST)."""
    if not isinstance(value, str) or not NAME.match(value):
        raise _bad("name must have 1 to 255 of: letters, digits, space , . - _")
    return value


def _bad(text: str) -> Failure:
    return Failure(Status.INVALID_REQUEST, text)


def _number(fields: Mapping[str, Any], key: str, least: int, most: int = MAX_NUMBER) -> int:
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
    for key in value:
        if value[key] and key in _GONE:
            raise _bad(_GONE[key])
        if value[key] and key not in _KNOWN:
            raise _bad(f"exportDefinition.{key} is no export destination")
    found = [_http(each) for each in _list(value, "http")]
    found += [_batching("kinesis", each, "kinesisStreamName") for each in _list(value, "kinesis")]
    found += [_batching("IotSitewise", each) for each in _list(value, "IotSitewise")]
    return found + [_s3(each) for each in _list(value, "s3TaskExecutor")]


def _list(value: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    items = value.get(key) or []
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise _bad(f"exportDefinition.{key} must be a list of maps")
    return items


def _http(fields: Mapping[str, Any]) -> Export:
    export = _batching("http", fields, "uri")
    if not export.target.startswith(("http://", "https://")):
        raise _bad("http: uri must be http:// or https://")
    return export if fields.get("exportFormat") is None else replace(export, format=_choice(fields, "exportFormat"))


def _batching(kind: Kind, fields: Mapping[str, Any], target: str = "") -> Export:
    if target and (not isinstance(fields.get(target), str) or not fields[target]):
        raise _bad(f"{kind}: {target} is required")
    given = {key: item for key, item in fields.items() if item is not None}
    most = MOST_MESSAGES[kind]
    return Export(
        kind,
        _identifier(given),
        fields[target] if target else "",
        batch_size=_number({"batchSize": most, **given}, "batchSize", 1, most),
        batch_interval_ms=_interval(given),
        priority=_priority(given),
        start=_number(given, "startSequenceNumber", 0) if "startSequenceNumber" in given else None,
        disabled=given.get("disabled") is True,
    )


def _interval(fields: Mapping[str, Any]) -> int | None:
    key = "batchIntervalMillis"
    return _number(fields, key, 60_000, MAX_MS) if key in fields else None


def _s3(fields: Mapping[str, Any]) -> Export:
    given = {key: item for key, item in fields.items() if item is not None}
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
        status_level=INFO_LEVEL if level is None else _number(status, "statusLevel", ERROR_LEVEL, TRACE_LEVEL),
        threshold=_number(given, _THRESHOLD, MIN_PART) if _THRESHOLD in given else 0,
    )


def _identifier(fields: Mapping[str, Any]) -> str:
    value = fields.get("identifier")
    if not isinstance(value, str) or not NAME.match(value):
        raise _bad("an export's identifier must have 1 to 255 of: letters, digits, space , . - _")
    return value


def _priority(fields: Mapping[str, Any]) -> int:
    return _number({"priority": DEFAULT_PRIORITY, **fields}, "priority", 1, 10)
