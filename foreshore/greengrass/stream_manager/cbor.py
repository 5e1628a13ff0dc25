"""CBOR (RFC 8949) as stream manager clients use it: maps, arrays, text, bytes, integers, floats, booleans, null.

Reads indefinite lengths and tags too (a tag's content is given without the tag). Raises PeerError for what is no CBOR.
"""

from __future__ import annotations

import struct
from typing import Any

from foreshore.errors import PeerError, ProtocolError

MAX_DEPTH = 64
_BREAK = object()
_SIZES = {24: (">B", 1), 25: (">H", 2), 26: (">I", 4), 27: (">Q", 8)}
_FLOATS = {25: (">e", 2), 26: (">f", 4), 27: (">d", 8)}
_SIMPLE: dict[int, Any] = {20: False, 21: True, 22: None, 23: None}


def encode(value: Any) -> bytes:
    """Write a value. Raises ProtocolError for a type that has no place here."""
    parts: list[bytes] = []
    _write(value, parts)
    return b"".join(parts)


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes((major << 5 | number,))
    for info, (form, size) in _SIZES.items():
        if number < 1 << (8 * size):
            return bytes((major << 5 | info,)) + struct.pack(form, number)
    raise ProtocolError(f"{number} does not fit into 64 bits")


def _write(value: Any, parts: list[bytes]) -> None:
    match value:
        case None:
            parts.append(b"\xf6")
        case bool():
            parts.append(b"\xf5" if value else b"\xf4")
        case int():
            parts.append(_head(0, value) if value >= 0 else _head(1, -1 - value))
        case float():
            parts.append(b"\xfb" + struct.pack(">d", value))
        case bytes():
            parts += (_head(2, len(value)), value)
        case str():
            raw = value.encode()
            parts += (_head(3, len(raw)), raw)
        case list() | tuple():
            parts.append(_head(4, len(value)))
            for item in value:
                _write(item, parts)
        case dict():
            parts.append(_head(5, len(value)))
            for key, item in value.items():
                _write(key, parts)
                _write(item, parts)
        case _:
            raise ProtocolError(f"{type(value).__name__} has no place in CBOR here")


def decode(data: bytes) -> Any:
    """Read one value that fills the data. Raises PeerError."""
    try:
        value, at = _read(data, 0, 0)
    except (IndexError, struct.error, UnicodeDecodeError, TypeError) as error:
        raise PeerError(f"malformed CBOR: {error}") from error
    if at != len(data) or value is _BREAK:
        raise PeerError("malformed CBOR: trailing bytes")
    return value


def _read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if depth > MAX_DEPTH:
        raise PeerError("malformed CBOR: nested too deeply")
    major, info = data[at] >> 5, data[at] & 31
    at += 1
    if major == 7:
        return _read_simple(data, at, info)
    if info == 31:
        return _read_indefinite(data, at, major, depth)
    number, at = _read_number(data, at, info)
    match major:
        case 0:
            return number, at
        case 1:
            return -1 - number, at
        case 2 | 3:
            return _read_chunk(data, at, number, major)
        case 4:
            items = []
            for _ in range(number):
                item, at = _read(data, at, depth + 1)
                items.append(item)
            return items, at
        case 5:
            pairs = {}
            for _ in range(number):
                key, at = _read(data, at, depth + 1)
                pairs[key], at = _read(data, at, depth + 1)
            return pairs, at
    return _read(data, at, depth + 1)


def _read_number(data: bytes, at: int, info: int) -> tuple[int, int]:
    if info < 24:
        return info, at
    if info not in _SIZES:
        raise PeerError(f"malformed CBOR: additional information {info}")
    form, size = _SIZES[info]
    return struct.unpack_from(form, data, at)[0], at + size


def _read_chunk(data: bytes, at: int, size: int, major: int) -> tuple[bytes | str, int]:
    if at + size > len(data):
        raise PeerError("malformed CBOR: cut off")
    raw = data[at : at + size]
    return (raw if major == 2 else raw.decode()), at + size


def _read_simple(data: bytes, at: int, info: int) -> tuple[Any, int]:
    if info in _FLOATS:
        form, size = _FLOATS[info]
        return struct.unpack_from(form, data, at)[0], at + size
    if info == 31:
        return _BREAK, at
    if info in _SIMPLE:
        return _SIMPLE[info], at
    raise PeerError(f"malformed CBOR: simple value {info}")


def _read_indefinite(data: bytes, at: int, major: int, depth: int) -> tuple[Any, int]:
    if major not in (2, 3, 4, 5):
        raise PeerError(f"malformed CBOR: major type {major} of indefinite length")
    items = []
    while True:
        item, at = _read(data, at, depth + 1)
        if item is _BREAK:
            break
        items.append(item)
    if major == 2:
        return b"".join(items), at
    if major == 3:
        return "".join(items), at
    if major == 4:
        return items, at
    if len(items) % 2:
        raise PeerError("malformed CBOR: a map with a key only")
    return dict(zip(items[::2], items[1::2], strict=True)), at
