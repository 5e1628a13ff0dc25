"""decode(*, 'proto', …): the wire format against a descriptor set put together by hand."""

import struct
from typing import Any

import pytest

from foreshore.iot.rules import Message, compile
from foreshore.iot.rules.protobuf import ProtobufError, decode_message


def varint(value: int) -> bytes:
    made = bytearray()
    value &= 2**64 - 1
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])


def number(tag: int, value: int) -> bytes:
    return varint(tag << 3) + varint(value)


def data(tag: int, value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return varint(tag << 3 | 2) + varint(len(raw)) + raw


def field(name: str, tag: int, kind: int, *, repeated: bool = False, type_name: str = "") -> bytes:
    body = data(1, name) + number(3, tag) + number(4, 3 if repeated else 1) + number(5, kind)
    return data(2, body + (data(6, type_name) if type_name else b""))


def descriptor() -> bytes:
    entry = data(1, "TagsEntry") + field("key", 1, 9) + field("value", 2, 5) + data(7, number(7, 1))
    inner = data(1, "Inner") + field("x", 1, 1)
    enum = data(1, "Kind") + data(2, data(1, "COLD") + number(2, 0)) + data(2, data(1, "HOT") + number(2, 1))
    message = (
        data(1, "Reading") + field("device_id", 1, 9) + field("value", 2, 2) + field("seq", 3, 4)
        + field("delta", 4, 17) + field("kind", 5, 14, type_name=".p.Kind")
        + field("inner", 6, 11, type_name=".p.Reading.Inner")
        + field("many", 7, 5, repeated=True) + field("raw", 8, 12) + field("ok", 9, 8)
        + field("tags", 10, 11, repeated=True, type_name=".p.Reading.TagsEntry")
        + field("fixed", 11, 7) + data(3, inner) + data(3, entry)
    )  # fmt: skip
    file = data(1, "dir/reading.proto") + data(2, "p") + data(4, message) + data(5, enum)
    return data(1, file)


BODY = (
    data(1, "d1") + varint(2 << 3 | 5) + struct.pack("<f", 21.3) + number(3, 2**63 + 5) + number(4, 3) + number(5, 1)
    + data(6, varint(1 << 3 | 1) + struct.pack("<d", 2.0)) + data(7, varint(1) + varint(-1)) + number(7, 300)
    + data(8, b"\x00\xff") + number(9, 1) + data(10, data(1, "a") + number(2, 7)) + varint(11 << 3 | 5)
    + struct.pack("<I", 9) + number(99, 5)
)  # fmt: skip


class Store:
    """The services of a message whose descriptor is in S3."""

    def __init__(self, found: bytes) -> None:
        self.found = found

    def __getattr__(self, name: str) -> Any:
        return lambda bucket, key: self.found


@pytest.mark.parametrize("file", ["reading.proto", "reading", "dir/reading.proto"])
def test_every_kind_of_field(file: str) -> None:
    found = decode_message(BODY, descriptor(), file, "Reading")
    assert {key: str(value) for key, value in found.items()} == {
        "deviceId": "d1", "value": "21.3", "seq": str(2**63 + 5), "delta": "-2", "kind": "HOT", "inner": "{'x': 2}",
        "many": "[1, -1, 300]", "raw": "AP8=", "ok": "True", "tags": "{'a': 7}", "fixed": "9",
    }  # fmt: skip


@pytest.mark.parametrize("size", range(1, len(BODY)))
def test_a_message_cut_short_is_refused_or_read_so_far(size: int) -> None:
    try:
        decode_message(BODY[:size], descriptor(), "reading.proto", "Reading")
    except ProtobufError:
        return


@pytest.mark.parametrize(
    ("body", "file", "kind"),
    [
        (BODY, "other.proto", "Reading"), (BODY, "reading.proto", "Nope"), (b"\x0b", "reading.proto", "Reading"),
        (b"\x00", "reading.proto", "Reading"),
    ],
)  # fmt: skip
def test_refusals(body: bytes, file: str, kind: str) -> None:
    with pytest.raises(ProtobufError):
        decode_message(body, descriptor(), file, kind)


def test_in_a_statement() -> None:
    sql = "SELECT VALUE decode(*, 'proto', 'bucket', 'key', 'reading.proto', 'Reading') FROM 't'"
    services: Any = Store(descriptor())
    rule = compile(sql, "2016-03-23")
    assert rule.has_external
    result = rule.evaluate(Message("t", BODY, services=services))
    assert result.fired and result.value["deviceId"] == "d1"
    broken = rule.evaluate(Message("t", b"\x0b", services=services))
    assert not broken.fired and "decode" in broken.error
