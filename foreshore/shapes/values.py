"""Turn wire values into Python values and back, by the shapes of a botocore service model. Pure.

Knows JSON bodies and the text forms of paths, queries and headers (Smithy restJson1 and awsJson1_x). Timestamps become
aware datetimes in UTC, blobs bytes. Reading is strict about JSON types, as AWS is: a wrong one is a
SerializationException. It knows nothing of lengths, patterns or required members: that is `validation.py`.

Sources: https://smithy.io/2.0/aws/protocols/aws-restjson1-protocol.html ("Shape serialization"),
https://smithy.io/2.0/spec/protocol-traits.html#timestampformat-trait
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any

import orjson

from foreshore.errors import AwsError, Bug

Shape = Mapping[str, Any]
Shapes = Mapping[str, Shape]

_NUMBERS = {"integer", "long", "short", "byte"}
_JSON_NAMES = {bool: "TRUE_VALUE", int: "NUMBER_VALUE", float: "NUMBER_VALUE", str: "STRING_VALUE", list: "START_ARRAY"}


def serialization_error(value: object, wanted: str) -> AwsError:
    """AWS's answer to a JSON value of another type than the shape's."""
    name = _JSON_NAMES.get(type(value), "START_OBJECT")
    return AwsError("SerializationException", f"{name} can not be converted to {wanted}", 400)


def read_json(shapes: Shapes, name: str, value: Any, traits: Shape | None = None) -> Any:
    """Read one JSON value as the shape `name`. Raises AwsError SerializationException."""
    shape = shapes[name]
    kind = shape["type"]
    if kind == "string":
        if not isinstance(value, str):
            raise serialization_error(value, "a String")
        return value
    if kind == "structure":
        return value if shape.get("document") else read_structure(shapes, shape, value)
    if kind == "list":
        if not isinstance(value, list):
            raise serialization_error(value, "a List")
        member = shape["member"]["shape"]
        return [None if item is None else read_json(shapes, member, item) for item in value]
    if kind == "map":
        if not isinstance(value, dict):
            raise serialization_error(value, "a Map")
        member = shape["value"]["shape"]
        return {key: None if item is None else read_json(shapes, member, item) for key, item in value.items()}
    return _read_scalar(kind, value, traits or shape)


def read_structure(shapes: Shapes, shape: Shape, value: Any) -> dict[str, Any]:
    """Read a JSON object as a structure: known members only, nulls left out."""
    if not isinstance(value, dict):
        raise serialization_error(value, "an Object")
    result = {}
    for member, traits in shape["members"].items():
        if "location" in traits and traits["location"] in ("uri", "querystring", "header", "headers"):
            continue
        item = value.get(traits.get("locationName", member))
        if item is not None:
            result[member] = read_json(shapes, traits["shape"], item, traits)
    return result


def _read_scalar(kind: str, value: Any, traits: Shape) -> Any:
    if kind == "boolean":
        if not isinstance(value, bool):
            raise serialization_error(value, "a Boolean")
        return value
    if kind in _NUMBERS:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != math.floor(value):
            raise serialization_error(value, "an Integer" if kind == "integer" else "a Long")
        return int(value)
    if kind in ("float", "double"):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise serialization_error(value, "a Double")
        return float(value)
    if kind == "timestamp":
        return read_timestamp(value, traits.get("timestampFormat"))
    if kind == "blob":
        return _read_blob(value)
    raise Bug(f"no such shape type: {kind}")


def _read_blob(value: Any) -> bytes:
    if not isinstance(value, str):
        raise serialization_error(value, "a Blob")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise AwsError("SerializationException", "a Blob has to be base64", 400) from None


def read_timestamp(value: Any, form: str | None = None) -> datetime:
    """Read epoch seconds, ISO 8601 or an HTTP date, whichever it is."""
    try:
        if isinstance(value, bool):
            raise ValueError
        if isinstance(value, (int, float)):
            return datetime.fromtimestamp(value, UTC)
        if form == "rfc822":
            return parsedate_to_datetime(value).astimezone(UTC)
        if _is_number(value):
            return datetime.fromtimestamp(float(value), UTC)
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        raise serialization_error(value, "a Timestamp") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_text(shapes: Shapes, name: str, text: str, traits: Shape) -> Any:
    """Read the text of a path label, query parameter or header as the scalar shape `name`."""
    shape = shapes[name]
    kind = shape["type"]
    location = traits.get("location")
    if traits.get("jsonvalue"):
        return base64.b64decode(text).decode()
    if kind == "string":
        return text
    if kind == "boolean":
        if text.lower() not in ("true", "false"):
            raise serialization_error(text, "a Boolean")
        return text.lower() == "true"
    if kind == "timestamp":
        form = traits.get("timestampFormat") or shape.get("timestampFormat")
        return read_timestamp(text, form or ("rfc822" if location == "header" else "iso8601"))
    if kind in _NUMBERS or kind in ("float", "double"):
        return _read_number(kind, text)
    if kind == "list":
        member = shape["member"]["shape"]
        return [read_text(shapes, member, part.strip(), {}) for part in text.split(",")]
    if kind == "blob":
        return _read_blob(text)
    raise Bug(f"a {kind} can't stand in {location}")


def _read_number(kind: str, text: str) -> int | float:
    try:
        return int(text) if kind in _NUMBERS else float(text)
    except ValueError:
        raise serialization_error(text, "an Integer" if kind in _NUMBERS else "a Double") from None


def write_json(shapes: Shapes, name: str, value: Any, traits: Shape | None = None) -> Any:
    """Make a value of shape `name` ready for a JSON body. Raises Bug for what the shape can't hold."""
    shape = shapes[name]
    kind = shape["type"]
    if kind == "structure":
        return value if shape.get("document") else write_structure(shapes, name, value)
    if kind == "list":
        member = shape["member"]["shape"]
        return [None if item is None else write_json(shapes, member, item) for item in value]
    if kind == "map":
        member = shape["value"]["shape"]
        return {str(key): write_json(shapes, member, item) for key, item in value.items() if item is not None}
    if kind == "blob":
        data = value.encode() if isinstance(value, str) else bytes(value)
        return base64.b64encode(data).decode()
    if kind == "timestamp":
        form = (traits or {}).get("timestampFormat") or shape.get("timestampFormat") or "unixTimestamp"
        return write_timestamp(value, form)
    if kind in ("float", "double"):
        return float(value)
    if kind in _NUMBERS:
        return int(value)
    return value


def write_structure(shapes: Shapes, name: str, value: Mapping[str, Any], skip: frozenset[str] = frozenset()) -> Any:
    """Make a structure ready for a JSON body; None is left out, an unknown member is a Bug."""
    members = shapes[name]["members"]
    result = {}
    for member, item in value.items():
        if member not in members:
            raise Bug(f"{name} has no member {member!r}")
        if item is None or member in skip:
            continue
        traits = members[member]
        result[traits.get("locationName", member)] = write_json(shapes, traits["shape"], item, traits)
    return result


def write_timestamp(value: datetime | int | float, form: str) -> Any:
    """Write a datetime or epoch seconds as `unixTimestamp` (a number), `iso8601` or `rfc822`."""
    moment = value if isinstance(value, datetime) else datetime.fromtimestamp(value, UTC)
    if form == "unixTimestamp":
        seconds = round(moment.timestamp(), 3)
        return int(seconds) if seconds == int(seconds) else seconds
    moment = moment.astimezone(UTC)
    if form == "rfc822":
        return format_datetime(moment.replace(microsecond=0), usegmt=True)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{moment.microsecond // 1000:03d}Z" if moment.microsecond else f"{text}Z"


def write_text(shapes: Shapes, name: str, value: Any, traits: Shape) -> str:
    """Write a header's value."""
    shape = shapes[name]
    kind = shape["type"]
    if traits.get("jsonvalue"):
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
        return base64.b64encode(text.encode()).decode()
    if kind == "boolean":
        return "true" if value else "false"
    if kind == "timestamp":
        return str(write_timestamp(value, traits.get("timestampFormat") or shape.get("timestampFormat") or "rfc822"))
    if kind == "list":
        return ",".join(write_text(shapes, shape["member"]["shape"], item, {}) for item in value)
    return str(value)
