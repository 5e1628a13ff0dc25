"""The table of all functions, and those that read the message or the world (developer guide, "Functions").

`PLAIN` functions see only their arguments (after `old`); `CONTEXT` functions also see the message; `EXTERNAL` ones
call services and may block. A wrong count of arguments is Undefined, not an error, as documented.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from decimal import Decimal

from foreshore.errors import NotEmulated
from foreshore.iot.rules import numeric, patterns, text, times
from foreshore.iot.rules.message import ExternalFailed, Message, Services
from foreshore.iot.rules.protobuf import ProtobufError, decode_message
from foreshore.iot.rules.values import UNDEFINED, Value, floor_argument, to_string, write_json

Function = Callable[..., Value]


def parse_time(old: bool, pattern: Value, moment: Value, zone: Value = "UTC") -> Value:
    """`parse_time(pattern, ms[, zone])`: an epoch time written by a Joda-Time pattern."""
    milliseconds = floor_argument(moment)
    if type(pattern) is not str or type(milliseconds) is not int or type(zone) is not str:
        return UNDEFINED
    written = times.format_joda(pattern, milliseconds, zone)
    return UNDEFINED if written is None else written


def time_to_epoch(old: bool, moment: Value, pattern: Value) -> Value:
    """`time_to_epoch(text, pattern)`: milliseconds since the epoch, read by a java.time pattern."""
    if type(moment) is not str or type(pattern) is not str:
        return UNDEFINED
    found = times.parse_java(moment, pattern)
    return UNDEFINED if found is None else found


PLAIN: dict[str, tuple[Function, int, int]] = {
    **numeric.FUNCTIONS,
    **text.FUNCTIONS,
    **patterns.FUNCTIONS,
    "parse_time": (parse_time, 2, 3),
    "time_to_epoch": (time_to_epoch, 2, 2),
}


# context


def basic_ingest_topic(topic: str) -> str:
    """The topic that a rule sees: without the `$aws/rules/<rule>/` of Basic Ingest."""
    if topic.startswith("$aws/rules/"):
        return topic[11:].partition("/")[2]
    return topic


def _topic(message: Message, old: bool, level: Value = None) -> Value:
    topic = basic_ingest_topic(message.topic)
    if level is None:
        return topic
    place, levels = floor_argument(level), topic.split("/")
    if type(place) is not int or not 1 <= place <= len(levels):
        return UNDEFINED
    return levels[place - 1]


def _or_undefined(value: Value) -> Value:
    return UNDEFINED if value is None else value


def _newuuid(message: Message, old: bool) -> Value:
    """A random UUID (RFC 9562, version 4)."""
    number = bytearray(message.random_bytes(16))
    number[6] = number[6] & 0x0F | 0x40
    number[8] = number[8] & 0x3F | 0x80
    digits = number.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _rand(message: Message, old: bool) -> Value:
    return numeric.from_double((int.from_bytes(message.random_bytes(7), "big") >> 3) / 2**53)


def _mqtt_property(message: Message, old: bool, name: Value) -> Value:
    if name == "content_type":
        return _or_undefined(message.content_type)
    if name == "response_topic":
        return _or_undefined(message.response_topic)
    if name == "format_indicator":
        return message.format_indicator or "UNSPECIFIED_BYTES"
    if name == "correlation_data" and message.correlation_data is not None:
        return base64.b64encode(message.correlation_data).decode()
    return UNDEFINED


def _user_properties(message: Message, old: bool, *key: Value) -> Value:
    pairs = message.user_properties
    if not key:
        return [{name: value} for name, value in pairs] if pairs else UNDEFINED
    return [value for name, value in pairs if name == key[0]] or UNDEFINED


CONTEXT: dict[str, tuple[Function, int, int]] = {
    "accountid": (lambda message, old: message.account, 0, 0),
    "clientid": (lambda message, old: "n/a" if message.client_id is None else message.client_id, 0, 0),
    "get_mqtt_property": (_mqtt_property, 1, 1),
    "get_user_properties": (_user_properties, 0, 1),
    "newuuid": (_newuuid, 0, 0),
    "principal": (lambda message, old: _or_undefined(message.principal), 0, 0),
    "rand": (_rand, 0, 0),
    "sourceip": (lambda message, old: _or_undefined(message.source_ip), 0, 0),
    "timestamp": (lambda message, old: message.timestamp_ms, 0, 0),
    "topic": (_topic, 0, 1),
    "traceid": (lambda message, old: (message.client_id and message.trace_uuid) or UNDEFINED, 0, 0),
}


# external


def _services(message: Message) -> Services:
    if message.services is None:
        raise ExternalFailed("external functions need a running edge")
    return message.services


def _strings(*values: Value) -> bool:
    return all(type(value) is str for value in values)


def _aws_lambda(message: Message, old: bool, arn: Value, argument: Value) -> Value:
    if not _strings(arn) or argument is UNDEFINED:
        raise ExternalFailed("aws_lambda needs a function's ARN and a JSON argument")
    if type(argument) is bytes:
        raise ExternalFailed("aws_lambda takes JSON: decode or encode the payload first")
    return _services(message).aws_lambda(arn, argument)


def _get_dynamodb(message: Message, old: bool, table: Value, *rest: Value) -> Value:
    keys, role = [(rest[place], rest[place + 1]) for place in range(0, len(rest) - 1, 2)], rest[-1]
    if len(rest) not in (3, 5) or not _strings(table, role, *(name for name, _ in keys)):
        raise ExternalFailed("get_dynamodb needs a table, a key's name and value, and a role")
    for name, value in keys:
        if type(value) not in (str, int, Decimal, bytes):
            raise ExternalFailed(f"get_dynamodb: the value of the key {name} is no string, number or binary")
    return _services(message).get_dynamodb(table, keys, role)


def _get_secret(message: Message, old: bool, secret: Value, kind: Value, *rest: Value) -> Value:
    key, role = (rest[0], rest[1]) if len(rest) == 2 else (None, rest[0])
    if not _strings(secret, kind, role) or not (key is None or _strings(key)):
        raise ExternalFailed("get_secret needs a secret's id, SecretString or SecretBinary, and a role")
    if kind not in ("SecretString", "SecretBinary") or (key is not None and kind == "SecretBinary"):
        raise ExternalFailed("get_secret reads SecretString (with or without a key) or SecretBinary")
    return _services(message).get_secret(secret, kind, key, role)


def _get_thing_shadow(message: Message, old: bool, thing: Value, *rest: Value) -> Value:
    name, role = (rest[0], rest[1]) if len(rest) == 2 else (None, rest[0])
    if not _strings(thing, role) or not (name is None or _strings(name)):
        raise ExternalFailed("get_thing_shadow needs a thing's name and a role")
    return _services(message).get_thing_shadow(thing, name, role)


def _get_registry_data(message: Message, old: bool, operation: Value, thing: Value, role: Value) -> Value:
    if operation not in ("DescribeThing", "ListThingGroupsForThing") or not _strings(thing, role):
        raise ExternalFailed(
            "get_registry_data calls DescribeThing or ListThingGroupsForThing for a thing, with a role"
        )
    return _services(message).get_registry_data(operation, thing, role)


def flatten_record(record: dict[str, Value]) -> dict[str, Value]:
    """A record for `machinelearning_predict`: nested values become JSON text, one level deep, as the page prints it."""
    import json

    flat: dict[str, Value] = {}
    for key, value in record.items():
        nested = type(value) is dict or type(value) is list
        flat[key] = json.dumps(json.loads(write_json(value))) if nested else value
    return flat


def _machinelearning_predict(message: Message, old: bool, *arguments: Value) -> Value:
    raise NotEmulated("machinelearning_predict", "Amazon Machine Learning takes no new users and has no local target.")


EXTERNAL: dict[str, tuple[Function, int, int]] = {
    "aws_lambda": (_aws_lambda, 2, 2),
    "get_dynamodb": (_get_dynamodb, 4, 6),
    "get_registry_data": (_get_registry_data, 3, 3),
    "get_secret": (_get_secret, 3, 4),
    "get_thing_shadow": (_get_thing_shadow, 2, 3),
    "machinelearning_predict": (_machinelearning_predict, 3, 3),
}

ONCE = ("get_dynamodb", "get_registry_data")
"""Functions that a statement may use once."""


def decode(message: Message, old: bool, value: Value, scheme: Value, *proto: Value) -> Value:
    """`decode(value, 'base64')` or `decode(bytes, 'proto', bucket, key, proto name, message type)`."""
    if type(scheme) is not str:
        return UNDEFINED
    if scheme.lower() == "base64" and not proto:
        return UNDEFINED if type(value) is bytes else text.decode_base64(old, value)
    if scheme.lower() != "proto" or len(proto) != 4 or not _strings(*proto):
        return UNDEFINED
    bucket, key, file_name, message_type = proto
    if type(value) is not bytes:
        raw = to_string(value, old)
        value = message.payload if raw is UNDEFINED else raw.encode()
    descriptor = _services(message).proto_descriptor(bucket, key)
    try:
        return decode_message(value, descriptor, file_name, message_type)
    except ProtobufError as error:
        raise ExternalFailed(f"decode: {error}") from None


SINCE_2016 = frozenset(
    {
        "encode", "decode", "isundefined", "length", "indexof", "numbytes", "parse_time", "time_to_epoch", "transform",
        "get_dynamodb", "get_thing_shadow", "get_or_default", "get_registry_data", "sourceip", "get_secret",
        "get_mqtt_property", "get_user_properties",
    }
)  # fmt: skip
"""Functions that SQL version 2015-10-08 does not have."""

NAMES = frozenset({*PLAIN, *CONTEXT, *EXTERNAL, "decode", "get_or_default", "sql_version", "cast"})
