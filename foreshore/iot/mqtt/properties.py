"""The properties of MQTT 5 (section 2.2.2): one table drives decoding, encoding and the check of where each may stand.

Decoded properties are a dict from identifier to value: int, str, bytes, a list of (name, value) pairs for user
properties, a list of ints for subscription identifiers. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from foreshore.errors import PeerError, ProtocolError
from foreshore.iot.mqtt.reason import MALFORMED_PACKET, PROTOCOL_ERROR

Properties = dict[int, Any]

PAYLOAD_FORMAT = 0x01
MESSAGE_EXPIRY = 0x02
CONTENT_TYPE = 0x03
RESPONSE_TOPIC = 0x08
CORRELATION_DATA = 0x09
SUBSCRIPTION_ID = 0x0B
SESSION_EXPIRY = 0x11
ASSIGNED_CLIENT_ID = 0x12
SERVER_KEEP_ALIVE = 0x13
AUTH_METHOD = 0x15
AUTH_DATA = 0x16
REQUEST_PROBLEM = 0x17
WILL_DELAY = 0x18
REQUEST_RESPONSE = 0x19
RESPONSE_INFORMATION = 0x1A
SERVER_REFERENCE = 0x1C
REASON_STRING = 0x1F
RECEIVE_MAXIMUM = 0x21
TOPIC_ALIAS_MAXIMUM = 0x22
TOPIC_ALIAS = 0x23
MAXIMUM_QOS = 0x24
RETAIN_AVAILABLE = 0x25
USER_PROPERTY = 0x26
MAXIMUM_PACKET = 0x27
WILDCARD_AVAILABLE = 0x28
SUBSCRIPTION_ID_AVAILABLE = 0x29
SHARED_AVAILABLE = 0x2A

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 1, 2, 3, 4, 5, 6, 7
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, AUTH = 8, 9, 10, 11, 12, 13, 14, 15
WILL = 0
"""Not a packet type: the properties of the will inside CONNECT."""


class Kind(NamedTuple):
    """How one data type of section 1.5 is read (data, position, end -> value, new position) and written."""

    read: Callable[[bytes, int, int], tuple[Any, int]]
    write: Callable[[Any], bytes]


def malformed(what: str) -> PeerError:
    """The error for bytes that can't be parsed (reason 0x81)."""
    return PeerError(what, MALFORMED_PACKET)


def breach(what: str) -> PeerError:
    """The error for bytes that parse but break a rule (reason 0x82)."""
    return PeerError(what, PROTOCOL_ERROR)


def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A variable byte integer of at most four bytes, in its shortest form [MQTT-1.5.5-1]."""
    value = shift = 0
    while True:
        if at >= end or shift > 21:
            raise malformed("variable byte integer")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                raise malformed("variable byte integer is not in its shortest form")
            return value, at
        shift += 7


def write_varint(value: int) -> bytes:
    """0 to 268,435,455 in one to four bytes. Raises ProtocolError beyond."""
    if value < 128:
        return bytes((value,))
    if value > 268_435_455:
        raise ProtocolError(f"{value} does not fit a variable byte integer")
    out = bytearray()
    while value >= 128:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_byte(data: bytes, at: int, end: int) -> tuple[int, int]:
    """One byte."""
    if at >= end:
        raise malformed("packet ends early")
    return data[at], at + 1


def read_u16(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A two byte integer."""
    if at + 2 > end:
        raise malformed("packet ends early")
    return data[at] << 8 | data[at + 1], at + 2


def read_u32(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A four byte integer."""
    if at + 4 > end:
        raise malformed("packet ends early")
    return int.from_bytes(data[at : at + 4], "big"), at + 4


def read_binary(data: bytes, at: int, end: int) -> tuple[bytes, int]:
    """Binary data with its two-byte length."""
    length, at = read_u16(data, at, end)
    if at + length > end:
        raise malformed("packet ends early")
    return data[at : at + length], at + length


def read_text(data: bytes, at: int, end: int) -> tuple[str, int]:
    """A UTF-8 string, well-formed and without U+0000 [MQTT-1.5.4-1] [MQTT-1.5.4-2]."""
    raw, at = read_binary(data, at, end)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise malformed("string is not UTF-8") from error
    if "\0" in text:
        raise malformed("string contains U+0000")
    return text, at


def read_pair(data: bytes, at: int, end: int) -> tuple[tuple[str, str], int]:
    """A UTF-8 string pair."""
    name, at = read_text(data, at, end)
    value, at = read_text(data, at, end)
    return (name, value), at


def write_binary(value: bytes) -> bytes:
    """Binary data with its two-byte length. Raises ProtocolError beyond 65,535 bytes."""
    if len(value) > 65535:
        raise ProtocolError("binary data longer than 65,535 bytes")
    return len(value).to_bytes(2, "big") + value


def write_text(value: str) -> bytes:
    """A UTF-8 string with its two-byte length."""
    return write_binary(value.encode())


BYTE = Kind(read_byte, lambda value: bytes((value,)))
U16 = Kind(read_u16, lambda value: int(value).to_bytes(2, "big"))
U32 = Kind(read_u32, lambda value: int(value).to_bytes(4, "big"))
VARINT = Kind(read_varint, write_varint)
TEXT = Kind(read_text, write_text)
BINARY = Kind(read_binary, write_binary)
PAIR = Kind(read_pair, lambda value: write_text(value[0]) + write_text(value[1]))

ACKS = frozenset((CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, DISCONNECT, AUTH))
EVERYWHERE = ACKS | {WILL, CONNECT, PUBLISH, SUBSCRIBE, UNSUBSCRIBE}

TABLE: dict[int, tuple[str, Kind, frozenset[int]]] = {
    PAYLOAD_FORMAT: ("payload_format", BYTE, frozenset((PUBLISH, WILL))),
    MESSAGE_EXPIRY: ("message_expiry", U32, frozenset((PUBLISH, WILL))),
    CONTENT_TYPE: ("content_type", TEXT, frozenset((PUBLISH, WILL))),
    RESPONSE_TOPIC: ("response_topic", TEXT, frozenset((PUBLISH, WILL))),
    CORRELATION_DATA: ("correlation_data", BINARY, frozenset((PUBLISH, WILL))),
    SUBSCRIPTION_ID: ("subscription_id", VARINT, frozenset((PUBLISH, SUBSCRIBE))),
    SESSION_EXPIRY: ("session_expiry", U32, frozenset((CONNECT, CONNACK, DISCONNECT))),
    ASSIGNED_CLIENT_ID: ("assigned_client_id", TEXT, frozenset((CONNACK,))),
    SERVER_KEEP_ALIVE: ("server_keep_alive", U16, frozenset((CONNACK,))),
    AUTH_METHOD: ("auth_method", TEXT, frozenset((CONNECT, CONNACK, AUTH))),
    AUTH_DATA: ("auth_data", BINARY, frozenset((CONNECT, CONNACK, AUTH))),
    REQUEST_PROBLEM: ("request_problem", BYTE, frozenset((CONNECT,))),
    WILL_DELAY: ("will_delay", U32, frozenset((WILL,))),
    REQUEST_RESPONSE: ("request_response", BYTE, frozenset((CONNECT,))),
    RESPONSE_INFORMATION: ("response_information", TEXT, frozenset((CONNACK,))),
    SERVER_REFERENCE: ("server_reference", TEXT, frozenset((CONNACK, DISCONNECT))),
    REASON_STRING: ("reason_string", TEXT, ACKS),
    RECEIVE_MAXIMUM: ("receive_maximum", U16, frozenset((CONNECT, CONNACK))),
    TOPIC_ALIAS_MAXIMUM: ("topic_alias_maximum", U16, frozenset((CONNECT, CONNACK))),
    TOPIC_ALIAS: ("topic_alias", U16, frozenset((PUBLISH,))),
    MAXIMUM_QOS: ("maximum_qos", BYTE, frozenset((CONNACK,))),
    RETAIN_AVAILABLE: ("retain_available", BYTE, frozenset((CONNACK,))),
    USER_PROPERTY: ("user_property", PAIR, EVERYWHERE),
    MAXIMUM_PACKET: ("maximum_packet", U32, frozenset((CONNECT, CONNACK))),
    WILDCARD_AVAILABLE: ("wildcard_available", BYTE, frozenset((CONNACK,))),
    SUBSCRIPTION_ID_AVAILABLE: ("subscription_id_available", BYTE, frozenset((CONNACK,))),
    SHARED_AVAILABLE: ("shared_available", BYTE, frozenset((CONNACK,))),
}

FLAGS = frozenset((PAYLOAD_FORMAT, REQUEST_PROBLEM, REQUEST_RESPONSE, MAXIMUM_QOS, RETAIN_AVAILABLE)) | frozenset(
    (WILDCARD_AVAILABLE, SUBSCRIPTION_ID_AVAILABLE, SHARED_AVAILABLE)
)
NOT_ZERO = frozenset((SUBSCRIPTION_ID, RECEIVE_MAXIMUM, MAXIMUM_PACKET))
REPEATABLE = frozenset((USER_PROPERTY, SUBSCRIPTION_ID))


def decode_properties(data: bytes, at: int, end: int, packet: int) -> tuple[Properties, int]:
    """Read a property length and the properties that follow; give them and the position after.

    Raises PeerError: 0x81 for an unknown or misplaced identifier [MQTT-2.2.2-2], 0x82 for a repetition (2.2.2.2) or
    a value out of range.
    """
    length, at = read_varint(data, at, end)
    stop = at + length
    if stop > end:
        raise malformed("property length beyond the packet")
    found: Properties = {}
    while at < stop:
        identifier = data[at]
        entry = TABLE.get(identifier)
        if entry is None or packet not in entry[2]:
            raise malformed(f"property 0x{identifier:02x} has no place in this packet")
        value, at = entry[1].read(data, at + 1, stop)
        if identifier in FLAGS and value > 1:
            raise breach(f"{entry[0]} must be 0 or 1")
        if value == 0 and identifier in NOT_ZERO:
            raise breach(f"{entry[0]} must not be 0")
        if identifier == RESPONSE_TOPIC and ("#" in value or "+" in value):
            raise breach("response_topic must not contain a wildcard")  # [MQTT-3.3.2-14]
        if identifier in REPEATABLE:
            found.setdefault(identifier, []).append(value)
        elif identifier in found:
            raise breach(f"{entry[0]} stands twice")
        else:
            found[identifier] = value
    if packet == SUBSCRIBE and len(found.get(SUBSCRIPTION_ID, ())) > 1:
        raise breach("subscription_id stands twice")
    return found, stop


def encode_properties(properties: Properties | None) -> bytes:
    """Write the property length and the properties, in the dict's order."""
    if not properties:
        return b"\0"
    parts: list[bytes] = []
    for identifier, value in properties.items():
        _, kind, _ = TABLE[identifier]
        for one in value if identifier in REPEATABLE else (value,):
            parts += (bytes((identifier,)), kind.write(one))
    body = b"".join(parts)
    return write_varint(len(body)) + body
