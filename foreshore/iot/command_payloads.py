"""What a command sends: its parameters' types and conditions, and the payload made of a template. Pure.

A parameter's value is AWS's union of one member: S, B, I, L, D, BIN (bytes) or UL (digits as text).

Sources: AWS IoT developer guide, "Commands concepts and status" (parameter value conditions, priority), "Create and
manage commands"; API reference, CommandParameter.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

import cbor2
import orjson

from foreshore.errors import AwsError

Json = Any
Document = dict[str, Any]

MAX_PAYLOAD = 32 * 1024
"""Bytes of a static payload or a payload template."""

MEMBERS = {
    "STRING": "S", "INTEGER": "I", "DOUBLE": "D", "LONG": "L", "UNSIGNEDLONG": "UL", "BOOLEAN": "B", "BINARY": "BIN",
}  # fmt: skip
_RANGES = {"I": (-(2**31), 2**31 - 1), "L": (-(2**63), 2**63 - 1), "UL": (0, 2**64 - 1)}
_NUMERIC = ("I", "L", "D", "UL")
_CONTENT_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(\s*;.*)?$")
_PLACEHOLDER = re.compile(r"\$\{aws:iot:commandexecution::(?:parameter:([.$a-zA-Z0-9_-]+)|(executionTimeoutSec))\}")
_OPERANDS = {
    "EQUALS": ("number", "string"), "NOT_EQUALS": ("number", "string"), "LESS_THAN": ("number",),
    "LESS_THAN_EQUALS": ("number",), "GREATER_THAN": ("number",), "GREATER_THAN_EQUALS": ("number",),
    "IN_SET": ("numbers", "strings"), "NOT_IN_SET": ("numbers", "strings"), "IN_RANGE": ("numberRange",),
    "NOT_IN_RANGE": ("numberRange",),
}  # fmt: skip


def invalid(what: str) -> AwsError:
    """The error for a request that breaks a rule of the service."""
    return AwsError("ValidationException", what, 400)


# Definitions


def check_definition(params: Mapping[str, Json]) -> None:
    """Check what CreateCommand gives beyond its shapes. Raises AwsError ValidationException."""
    static, template = params.get("payload"), params.get("payloadTemplate")
    if (static is None) == (template is None):
        raise invalid("Exactly one of payload and payloadTemplate is required.")
    if params.get("roleArn"):
        raise invalid("roleArn is not supported in the AWS-IoT namespace.")
    if static is not None:
        _check_static(static)
        if params.get("preprocessor"):
            raise invalid("preprocessor is supported with payloadTemplate only.")
    else:
        _check_template(str(template), params)
    names = [each["name"] for each in params.get("mandatoryParameters") or ()]
    if len(set(names)) < len(names):
        raise invalid("mandatoryParameters has a name twice.")
    for each in params.get("mandatoryParameters") or ():
        _check_parameter(each)


def _check_static(payload: Mapping[str, Json]) -> None:
    content = payload.get("content")
    if not content:
        raise invalid("payload.content is required.")
    if len(content) > MAX_PAYLOAD:
        raise invalid(f"The payload exceeds {MAX_PAYLOAD} bytes.")
    kind = payload.get("contentType")
    if kind is not None and not _CONTENT_TYPE.match(kind):
        raise invalid("payload.contentType has to be type/subtype.")


def _check_template(text: str, params: Mapping[str, Json]) -> None:
    if not (params.get("preprocessor") or {}).get("awsJsonSubstitution"):
        raise invalid("preprocessor.awsJsonSubstitution is required with payloadTemplate.")
    if not params.get("mandatoryParameters"):
        raise invalid("mandatoryParameters is required with payloadTemplate.")
    if len(text.encode()) > MAX_PAYLOAD:
        raise invalid(f"The payload template exceeds {MAX_PAYLOAD} bytes.")
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        raise invalid("The payload template is not valid JSON.") from None
    if not _PLACEHOLDER.search(text):
        raise invalid("The payload template has no placeholder.")


def _check_parameter(parameter: Mapping[str, Json]) -> None:
    for name in ("value", "defaultValue"):
        if parameter.get(name) is not None:
            check_value(parameter, parameter[name])
    kind = member_of(parameter)
    for condition in parameter.get("valueConditions") or ():
        operator, operand = condition["comparisonOperator"], condition["operand"]
        given = [name for name in operand if operand[name] is not None]
        if len(given) != 1 or given[0] not in _OPERANDS[operator]:
            raise invalid(f"{operator} of {parameter['name']} takes one of {', '.join(_OPERANDS[operator])}.")
        if kind in ("B", "BIN") or ((kind == "S") != given[0].startswith("string") and kind is not None):
            raise invalid(f"{operator} with {given[0]} is not supported for the type of {parameter['name']}.")
        for number in _numbers(operand):
            if number is None:
                raise invalid(f"An operand of {parameter['name']} is not a number.")


def member_of(parameter: Mapping[str, Json]) -> str | None:
    """The union member of a parameter's values, by its type or the values it has; None when nothing tells."""
    if parameter.get("type"):
        return MEMBERS[parameter["type"]]
    for name in ("value", "defaultValue"):
        if parameter.get(name):
            return str(next(iter(parameter[name])))
    return None


# Values


def check_value(parameter: Mapping[str, Json], value: Mapping[str, Json]) -> None:
    """Check a value's member, range and type. Raises AwsError ValidationException."""
    name = parameter["name"]
    given = [member for member in value if value[member] is not None]
    wanted = member_of(parameter)
    if len(given) != 1:
        raise invalid(f"The value of {name} has to have exactly one member.")
    if wanted is not None and given[0] != wanted:
        raise invalid(f"The value of {name} has to be of the member {wanted}.")
    if given[0] in _RANGES:
        low, high = _RANGES[given[0]]
        if not low <= int(value[given[0]]) <= high:
            raise invalid(f"The value of {name} is out of range.")


def resolve(declared: list[Document], given: Mapping[str, Mapping[str, Json]]) -> dict[str, Mapping[str, Json]]:
    """The values of an execution: the request's, else the command's own, else its default.

    Raises AwsError ValidationException for one that is missing, of the wrong type, or against its conditions.
    """
    values: dict[str, Mapping[str, Json]] = dict(given)
    for parameter in declared:
        name = parameter["name"]
        value = given.get(name) or parameter.get("value") or parameter.get("defaultValue")
        if value is None:
            raise invalid(f"The parameter {name} has no value.")
        check_value(parameter, value)
        for condition in parameter.get("valueConditions") or ():
            if not holds(condition, value):
                raise invalid(f"The value of {name} does not satisfy {condition['comparisonOperator']}.")
        values[name] = value
    return values


def holds(condition: Mapping[str, Json], value: Mapping[str, Json]) -> bool:
    """Whether a value satisfies a condition; bounds of ranges are included."""
    operator, operand = str(condition["comparisonOperator"]), condition["operand"]
    member, raw = next(iter(value.items()))
    if member in _NUMERIC:
        number = Decimal(str(raw))
        others = [each for each in _numbers(operand) if each is not None]
        return _compare(operator, number, others)
    texts = operand.get("strings") or [operand.get("string")]
    found = str(raw) in texts
    return found if operator in ("EQUALS", "IN_SET") else not found


def _compare(operator: str, number: Decimal, others: list[Decimal]) -> bool:
    if operator in ("IN_RANGE", "NOT_IN_RANGE"):
        is_inside = others[0] <= number <= others[1]
        return is_inside if operator == "IN_RANGE" else not is_inside
    if operator in ("EQUALS", "IN_SET"):
        return number in others
    if operator in ("NOT_EQUALS", "NOT_IN_SET"):
        return number not in others
    other = others[0]
    return {
        "LESS_THAN": number < other, "LESS_THAN_EQUALS": number <= other,
        "GREATER_THAN": number > other, "GREATER_THAN_EQUALS": number >= other,
    }[operator]  # fmt: skip


def _numbers(operand: Mapping[str, Json]) -> list[Decimal | None]:
    bounds = operand.get("numberRange")
    texts = [bounds["min"], bounds["max"]] if bounds else operand.get("numbers") or []
    texts = [operand["number"]] if operand.get("number") is not None else texts
    return [_decimal(text) for text in texts]


def _decimal(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


# Payloads


def payload_of(command: Document, values: Mapping[str, Mapping[str, Json]], timeout: int) -> tuple[bytes, str]:
    """The bytes an execution sends and their content type. Raises AwsError for a placeholder without a value.

    A string of the template that is one placeholder takes the value's own type; within other text its text stands.
    """
    if "payloadTemplate" not in command:
        kind = command["payload"].get("contentType") or "application/octet-stream"
        return base64.b64decode(command["payload"]["content"]), kind
    form = command["preprocessor"]["awsJsonSubstitution"]["outputFormat"]
    plain = {name: _plain(value, as_bytes=form == "CBOR") for name, value in values.items()}
    filled = _filled(orjson.loads(command["payloadTemplate"]), plain, timeout)
    if form == "CBOR":
        return cbor2.dumps(filled), "application/cbor"
    return orjson.dumps(filled), "application/json"


def _plain(value: Mapping[str, Json], *, as_bytes: bool) -> Json:
    member, raw = next(iter(value.items()))
    if member == "UL":
        return int(raw)
    if member == "BIN" and isinstance(raw, bytes):
        return raw if as_bytes else base64.b64encode(raw).decode()
    return raw


def _filled(node: Json, values: Mapping[str, Json], timeout: int) -> Json:
    if isinstance(node, dict):
        return {key: _filled(value, values, timeout) for key, value in node.items()}
    if isinstance(node, list):
        return [_filled(value, values, timeout) for value in node]
    if not isinstance(node, str):
        return node

    def value_of(match: re.Match[str]) -> Json:
        if match[2]:
            return timeout
        if match[1] not in values:
            raise invalid(f"The parameter {match[1]} has no value.")
        return values[match[1]]

    whole = _PLACEHOLDER.fullmatch(node)
    return value_of(whole) if whole else _PLACEHOLDER.sub(lambda match: _text(value_of(match)), node)


def _text(value: Json) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def form_of(content_type: str) -> str:
    """The last level of the request's topic: `/json`, `/cbor`, or "" for other payloads."""
    kind = content_type.partition(";")[0].strip().lower()
    return {"application/json": "/json", "application/cbor": "/cbor"}.get(kind, "")


# Bytes in stored documents


def kept(value: Json) -> Json:
    """A value with its bytes as {"BIN64": base64}, for the database."""
    if isinstance(value, bytes):
        return {"BIN64": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {key: kept(each) for key, each in value.items()}
    return [kept(each) for each in value] if isinstance(value, list) else value


def restored(value: Json) -> Json:
    """The inverse of `kept`."""
    if isinstance(value, dict):
        if value.keys() == {"BIN64"}:
            return base64.b64decode(value["BIN64"])
        return {key: restored(each) for key, each in value.items()}
    return [restored(each) for each in value] if isinstance(value, list) else value
