"""Protocol Buffers messages decoded by a FileDescriptorSet, for `decode(*, 'proto', …)`.

The wire format and the descriptor's own field numbers are those of protobuf.dev ("Encoding") and descriptor.proto;
the JSON form is that of "ProtoJSON Format": lowerCamelCase names, 64-bit integers and bytes as strings.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache

from foreshore.iot.rules.values import Value

MAX_DESCRIPTOR = 32 * 1024
MAX_DEPTH = 64


class ProtobufError(ValueError):
    """The descriptor or the bytes are malformed, or the type is not in the descriptor."""


@dataclass(slots=True)
class FieldType:
    """One field: its JSON name, wire type and, for messages and enums, the full type name."""

    number: int
    name: str
    json_name: str
    kind: int
    repeated: bool
    type_name: str = ""


@dataclass(slots=True)
class Types:
    """All messages and enums of a descriptor set, by full name."""

    messages: dict[str, dict[int, FieldType]] = field(default_factory=dict)
    enums: dict[str, dict[int, str]] = field(default_factory=dict)
    maps: set[str] = field(default_factory=set)
    files: dict[str, str] = field(default_factory=dict)


_DOUBLE, _FLOAT, _INT64, _UINT64, _INT32, _FIXED64, _FIXED32, _BOOL, _STRING = range(1, 10)
_MESSAGE, _BYTES, _UINT32, _ENUM, _SFIXED32, _SFIXED64, _SINT32, _SINT64 = range(11, 19)
_FIXED = {
    _DOUBLE: "<d", _FLOAT: "<f", _FIXED64: "<Q", _SFIXED64: "<q", _FIXED32: "<I", _SFIXED32: "<i",
}  # fmt: skip
_WIDE = frozenset({_INT64, _UINT64, _FIXED64, _SFIXED64, _SINT64})


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise ProtobufError("a number does not end")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), position
        shift += 7


def _fields(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Every (field number, wire type, value) of one message."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise ProtobufError("field number 0")
        if wire == 0:
            value, position = _varint(data, position)
            yield number, wire, value
            continue
        if wire == 2:
            size, position = _varint(data, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ProtobufError(f"wire type {wire} is not supported (groups are long gone)")
        if position + size > len(data):
            raise ProtobufError("a field is longer than the message")
        yield number, wire, data[position : position + size]
        position += size


def _bytes_of(data: bytes, wanted: int) -> list[bytes]:
    return [value for number, _, value in _fields(data) if number == wanted and isinstance(value, bytes)]


def _first_text(data: bytes, wanted: int, default: str = "") -> str:
    found = _bytes_of(data, wanted)
    return found[-1].decode("utf-8", "replace") if found else default


def _first_int(data: bytes, wanted: int) -> int:
    return next((value for number, _, value in _fields(data) if number == wanted and isinstance(value, int)), 0)


@lru_cache(maxsize=32)
def read_descriptor(data: bytes) -> Types:
    """Read a serialized FileDescriptorSet. Raises ProtobufError."""
    if len(data) > MAX_DESCRIPTOR:
        raise ProtobufError(f"the descriptor is larger than {MAX_DESCRIPTOR} bytes")
    types = Types()
    for file in _bytes_of(data, 1):
        package = _first_text(file, 2)
        types.files[_first_text(file, 1)] = package
        prefix = f".{package}" if package else ""
        for message in _bytes_of(file, 4):
            _read_message(message, prefix, types, 0)
        for enum in _bytes_of(file, 5):
            _read_enum(enum, prefix, types)
    if not types.files:
        raise ProtobufError("the descriptor holds no file")
    return types


def _read_message(data: bytes, prefix: str, types: Types, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ProtobufError("the descriptor nests too deep")
    name = f"{prefix}.{_first_text(data, 1)}"
    types.messages[name] = {}
    for text in _bytes_of(data, 2):
        found = FieldType(
            _first_int(text, 3),
            _first_text(text, 1),
            _first_text(text, 10) or _camel(_first_text(text, 1)),
            _first_int(text, 5),
            _first_int(text, 4) == 3,
            _first_text(text, 6),
        )
        types.messages[name][found.number] = found
    if any(_first_int(options, 7) for options in _bytes_of(data, 7)):
        types.maps.add(name)
    for nested in _bytes_of(data, 3):
        _read_message(nested, name, types, depth + 1)
    for enum in _bytes_of(data, 4):
        _read_enum(enum, name, types)


def _read_enum(data: bytes, prefix: str, types: Types) -> None:
    values = {_first_int(value, 2): _first_text(value, 1) for value in reversed(_bytes_of(data, 2))}
    types.enums[f"{prefix}.{_first_text(data, 1)}"] = values


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest)


def decode_message(data: bytes, descriptor: bytes, file_name: str, message_type: str) -> dict[str, Value]:
    """Decode one message to a JSON object. `file_name` is the .proto's name (the page leaves the extension out),
    `message_type` its type.

    Raises ProtobufError.
    """
    types = read_descriptor(descriptor)
    base = _base(file_name)
    package = next((package for name, package in types.files.items() if _base(name) == base), None)
    if package is None:
        raise ProtobufError(f"{file_name} is not in the descriptor, which holds {', '.join(types.files)}")
    wanted = [f".{package}.{message_type}" if package else f".{message_type}", f".{message_type}"]
    full = next((name for name in wanted if name in types.messages), None)
    if full is None:
        raise ProtobufError(f"message type {message_type} is not in the descriptor")
    return _message(data, full, types, 0)


def _base(file_name: str) -> str:
    return file_name.rpartition("/")[2].removesuffix(".proto")


def _message(data: bytes, name: str, types: Types, depth: int) -> dict[str, Value]:
    if depth > MAX_DEPTH:
        raise ProtobufError("the message nests too deep")
    fields = types.messages.get(name)
    if fields is None:
        raise ProtobufError(f"message type {name} is not in the descriptor")
    found: dict[str, Value] = {}
    for number, wire, raw in _fields(data):
        kind = fields.get(number)
        if kind is None:
            continue
        if kind.kind == _MESSAGE and kind.type_name in types.maps:
            _map_entry(raw, kind, types, found, depth)
        elif kind.repeated:
            found.setdefault(kind.json_name, []).extend(_repeated(wire, raw, kind, types, depth))
        else:
            found[kind.json_name] = _single(wire, raw, kind, types, depth)
    return found


def _map_entry(raw: int | bytes, kind: FieldType, types: Types, found: dict[str, Value], depth: int) -> None:
    entry = _message(raw if isinstance(raw, bytes) else b"", kind.type_name, types, depth + 1)
    key = entry.get("key", "")
    text = {True: "true", False: "false"}[key] if type(key) is bool else str(key)
    found.setdefault(kind.json_name, {})[text] = entry.get("value")


def _repeated(wire: int, raw: int | bytes, kind: FieldType, types: Types, depth: int) -> list[Value]:
    packed = wire == 2 and kind.kind not in (_STRING, _BYTES, _MESSAGE)
    if not packed or not isinstance(raw, bytes):
        return [_single(wire, raw, kind, types, depth)]
    values, position = [], 0
    while position < len(raw):
        if kind.kind in _FIXED:
            size = struct.calcsize(_FIXED[kind.kind])
            values.append(_single(5 if size == 4 else 1, raw[position : position + size], kind, types, depth))
            position += size
        else:
            number, position = _varint(raw, position)
            values.append(_single(0, number, kind, types, depth))
    return values


def _single(wire: int, raw: int | bytes, kind: FieldType, types: Types, depth: int) -> Value:
    code = kind.kind
    if isinstance(raw, int):
        return _number(raw, kind, types)
    if code in _FIXED:
        if len(raw) != struct.calcsize(_FIXED[code]):
            raise ProtobufError(f"field {kind.name} has the wrong size")
        return _fixed(struct.unpack(_FIXED[code], raw)[0], code)
    if code == _STRING:
        return raw.decode("utf-8", "replace")
    if code == _BYTES:
        return base64.b64encode(raw).decode()
    if code == _MESSAGE:
        return _message(raw, kind.type_name, types, depth + 1)
    raise ProtobufError(f"field {kind.name} has wire type {wire}, which its type does not have")


def _fixed(value: float, code: int) -> Value:
    if code in _WIDE:
        return str(value)
    if code not in (_DOUBLE, _FLOAT):
        return value
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    text = repr(value)
    if code == _FLOAT:
        # The shortest spelling that still is this 32-bit number, as ProtoJSON writes it.
        exact = struct.pack("<f", value)
        text = next(t for digits in range(1, 18) if struct.pack("<f", float(t := f"{value:.{digits}g}")) == exact)
    number = Decimal(text)
    return int(number) if number == number.to_integral_value() and abs(number) < 10**15 else number


def _number(raw: int, kind: FieldType, types: Types) -> Value:
    code = kind.kind
    if code == _BOOL:
        return raw != 0
    signed = raw - 2**64 if raw >= 2**63 else raw
    if code == _ENUM:
        return types.enums.get(kind.type_name, {}).get(signed, signed)
    if code in (_SINT32, _SINT64):
        signed = (raw >> 1) ^ -(raw & 1)
    if code in (_UINT64, _UINT32):
        signed = raw
    if code == _UINT32:
        signed &= 0xFFFFFFFF
    elif code in (_INT32, _SINT32):
        signed = (signed + 2**31) % 2**32 - 2**31
    elif code not in (_INT64, _UINT64, _SINT64):
        raise ProtobufError(f"field {kind.name} is a varint, which its type is not")
    return str(signed) if code in _WIDE else signed
