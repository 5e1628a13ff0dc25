"""MQTT control packets between bytes and values, both versions, both directions (MQTT 3.1.1 and 5.0, chapter 3). Pure.

`Splitter` cuts a byte stream into packets; `decode` reads one, `encode` writes one. The broker's data path reads
PUBLISH and acknowledgements in place (connection.py) and uses these functions for everything else; the client and the
tests use them for all. `version` is the protocol level: 4 for MQTT 3.1.1, 5 for MQTT 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from foreshore.errors import PeerError, ProtocolError
from foreshore.iot.mqtt import properties as p
from foreshore.iot.mqtt.properties import Properties, breach, malformed, write_binary, write_text, write_varint
from foreshore.iot.mqtt.reason import PACKET_TOO_LARGE, UNSUPPORTED_PROTOCOL_VERSION

V311 = 4
V5 = 5

PINGREQ_BYTES = b"\xc0\x00"
PINGRESP_BYTES = b"\xd0\x00"


@dataclass(slots=True)
class Will:
    """The will message of a CONNECT (section 3.1.3.2)."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Connect:
    """CONNECT (3.1). `keep_alive` in seconds, 0 for none."""

    client_id: str = ""
    version: int = V5
    clean: bool = True
    keep_alive: int = 0
    username: str | None = None
    password: bytes | None = None
    will: Will | None = None
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Connack:
    """CONNACK (3.2)."""

    session_present: bool = False
    reason: int = 0
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Publish:
    """PUBLISH (3.3). `packet_id` is 0 at QoS 0."""

    topic: str
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int = 0
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Ack:
    """PUBACK, PUBREC, PUBREL or PUBCOMP (3.4 to 3.7): `kind` is the packet type, 4 to 7."""

    kind: int
    packet_id: int
    reason: int = 0
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Request:
    """One filter of a SUBSCRIBE with its options (3.8.3.1)."""

    filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


@dataclass(slots=True)
class Subscribe:
    """SUBSCRIBE (3.8)."""

    packet_id: int
    requests: list[Request]
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Suback:
    """SUBACK (3.9) or, with `kind` 11, UNSUBACK (3.11): one reason a filter; a 3.1.1 UNSUBACK has none."""

    packet_id: int
    reasons: list[int]
    properties: Properties = field(default_factory=dict)
    kind: int = p.SUBACK


@dataclass(slots=True)
class Unsubscribe:
    """UNSUBSCRIBE (3.10)."""

    packet_id: int
    filters: list[str]
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Ping:
    """PINGREQ (12) or PINGRESP (13)."""

    kind: int


@dataclass(slots=True)
class Disconnect:
    """DISCONNECT (3.14)."""

    reason: int = 0
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Auth:
    """AUTH (3.15), MQTT 5 only."""

    reason: int = 0
    properties: Properties = field(default_factory=dict)


Packet = Connect | Connack | Publish | Ack | Subscribe | Suback | Unsubscribe | Ping | Disconnect | Auth

FIXED_FLAGS = dict.fromkeys(range(1, 16), 0) | {p.PUBREL: 2, p.SUBSCRIBE: 2, p.UNSUBSCRIBE: 2}


class Splitter:
    """Cuts a byte stream into (first byte, body). Keeps at most one unfinished packet of `limit` bytes."""

    def __init__(self, limit: int = 268_435_455) -> None:
        self.limit = limit
        self._pending = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Take bytes, give the packets that are complete. Raises PeerError for a bad or too great length."""
        data = self._pending + data if self._pending else data
        at, end = 0, len(data)
        try:
            while (head := packet_head(data, at, end, self.limit)) is not None:
                start, stop = head
                if stop > end:
                    break
                first, at = data[at], stop
                yield first, data[start:stop]
        finally:
            self._pending = data[at:]


def packet_head(data: bytes, at: int, end: int, limit: int, version: int = V311) -> tuple[int, int] | None:
    """Where the body of the packet at `at` starts and stops; None when the length is not complete yet.

    MQTT 5 asks for the shortest form of the length [MQTT-1.5.5-1]; 3.1.1 takes any.
    """
    place, length, shift = at + 1, 0, 0
    while place < end:
        byte = data[place]
        place += 1
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            if place + length - at > limit:
                raise PeerError(f"packet of {place + length - at} bytes", PACKET_TOO_LARGE)
            if not byte and version == V5:
                raise malformed("remaining length is not in its shortest form")
            return place, place + length
        shift += 7
        if shift > 21:
            raise malformed("remaining length")
    return None


def frame(first: int, *parts: bytes) -> bytes:
    """A control packet: first byte, remaining length, body."""
    body = b"".join(parts)
    return bytes((first,)) + write_varint(len(body)) + body


# Decoding


def decode(first: int, body: bytes, version: int) -> Packet:
    """Read one packet. Raises PeerError with reason 0x81, 0x82 or 0x84."""
    kind = first >> 4
    if kind == p.PUBLISH:
        return decode_publish(first, body, version)
    if kind == 0 or (kind == p.AUTH and version < V5):
        raise malformed("packet type")
    if first & 15 != FIXED_FLAGS[kind]:
        raise malformed("reserved flags")  # [MQTT-2.1.3-1]
    return DECODERS[kind](kind, body, version)


_COMMON = (b"\x00\x04MQTT\x04\x02", b"\x00\x04MQTT\x04\x00")
"""How a 3.1.1 CONNECT with neither will nor user begins: protocol name, level, flags (clean session or not)."""


def decode_connect(kind: int, body: bytes, version: int) -> Connect:
    """CONNECT; its own protocol level counts, not `version`."""
    end = len(body)
    if body[:8] in _COMMON and end > 12 and len(body) == 12 + (body[10] << 8 | body[11]):
        client_id, _ = p.read_text(body, 10, end)
        return Connect(client_id, V311, body[7] == 2, body[8] << 8 | body[9])
    name, at = p.read_binary(body, 0, end)
    level, at = p.read_byte(body, at, end)
    if name != b"MQTT" or level not in (V311, V5):
        if name not in (b"MQTT", b"MQIsdp"):
            raise malformed("protocol name")  # [MQTT-3.1.2-1]
        raise PeerError(f"protocol level {level}", UNSUPPORTED_PROTOCOL_VERSION)  # [MQTT-3.1.2-2]
    flags, at = p.read_byte(body, at, end)
    keep_alive, at = p.read_u16(body, at, end)
    will_qos = flags >> 3 & 3
    if flags & 1 or will_qos == 3 or (not flags & 4 and flags & 0x38):
        raise malformed("connect flags")  # [MQTT-3.1.2-3] [MQTT-3.1.2-11..13]
    if level == V311 and flags & 0x40 and not flags & 0x80:
        raise malformed("password without user name")  # 3.1.1 [MQTT-3.1.2-22]
    properties: Properties = {}
    if level == V5:
        properties, at = p.decode_properties(body, at, end, p.CONNECT)
    client_id, at = p.read_text(body, at, end)
    packet = Connect(client_id, level, bool(flags & 2), keep_alive, properties=properties)
    if flags & 4:
        will_properties: Properties = {}
        if level == V5:
            will_properties, at = p.decode_properties(body, at, end, p.WILL)
        topic, at = p.read_text(body, at, end)
        payload, at = p.read_binary(body, at, end)
        packet.will = Will(topic, payload, will_qos, bool(flags & 0x20), will_properties)
    if flags & 0x80:
        packet.username, at = p.read_text(body, at, end)
    if flags & 0x40:
        packet.password, at = p.read_binary(body, at, end)
    _ended(at, end)
    if p.AUTH_DATA in properties and p.AUTH_METHOD not in properties:
        raise breach("authentication data without a method")
    return packet


def _ended(at: int, end: int) -> None:
    if at != end:
        raise malformed("bytes after the end of the packet")


def decode_connack(kind: int, body: bytes, version: int) -> Connack:
    flags, at = p.read_byte(body, 0, len(body))
    reason, at = p.read_byte(body, at, len(body))
    if flags > 1:
        raise malformed("connack flags")  # [MQTT-3.2.2-1]
    properties: Properties = {}
    if version == V5:
        properties, at = p.decode_properties(body, at, len(body), p.CONNACK)
    _ended(at, len(body))
    return Connack(bool(flags), reason, properties)


def decode_publish(first: int, body: bytes, version: int) -> Publish:
    """PUBLISH. An empty topic is let through: with a topic alias it is legal."""
    qos = first >> 1 & 3
    if qos == 3 or (first & 8 and not qos):
        raise malformed("publish flags")  # [MQTT-3.3.1-4] [MQTT-3.3.1-2]
    end = len(body)
    topic, at = p.read_text(body, 0, end)
    packet_id = 0
    if qos:
        packet_id, at = _packet_id(body, at, end)
    properties: Properties = {}
    if version == V5:
        properties, at = p.decode_properties(body, at, end, p.PUBLISH)
    return Publish(topic, body[at:], qos, bool(first & 1), bool(first & 8), packet_id, properties)


def _packet_id(body: bytes, at: int, end: int) -> tuple[int, int]:
    packet_id, at = p.read_u16(body, at, end)
    if not packet_id:
        raise malformed("packet identifier 0")  # [MQTT-2.2.1-3]
    return packet_id, at


def decode_ack(kind: int, body: bytes, version: int) -> Ack:
    end = len(body)
    packet_id, at = _packet_id(body, 0, end)
    reason = 0
    properties: Properties = {}
    if version == V5 and at < end:
        reason, at = p.read_byte(body, at, end)
        _known_reason(kind, reason)
        if at < end:
            properties, at = p.decode_properties(body, at, end, kind)
    _ended(at, end)
    return Ack(kind, packet_id, reason, properties)


def _known_reason(kind: int, reason: int) -> None:
    """A reason code must be one of those of its packet [MQTT-3.4.2-1] [MQTT-3.14.2-1] [MQTT-3.15.2-1]."""
    if reason not in REASONS[kind]:
        raise breach(f"reason 0x{reason:02x} has no place in this packet")


def decode_subscribe(kind: int, body: bytes, version: int) -> Subscribe:
    end = len(body)
    packet_id, at = _packet_id(body, 0, end)
    properties: Properties = {}
    if version == V5:
        properties, at = p.decode_properties(body, at, end, p.SUBSCRIBE)
    requests = []
    while at < end:
        filter, at = p.read_text(body, at, end)
        options, at = p.read_byte(body, at, end)
        if options & 3 == 3 or options & (0xC0 if version == V5 else 0xFC):
            raise malformed("subscription options")  # [MQTT-3.8.3-5], 3.1.1 [MQTT-3-8.3-4]
        if options >> 4 & 3 == 3:
            raise breach("retain handling 3")
        requests.append(Request(filter, options & 3, bool(options & 4), bool(options & 8), options >> 4 & 3))
    if not requests:
        raise breach("SUBSCRIBE without a filter")  # [MQTT-3.8.3-2]
    return Subscribe(packet_id, requests, properties)


def decode_suback(kind: int, body: bytes, version: int) -> Suback:
    end = len(body)
    packet_id, at = _packet_id(body, 0, end)
    properties: Properties = {}
    if version == V5:
        properties, at = p.decode_properties(body, at, end, kind)
    return Suback(packet_id, list(body[at:]), properties, kind)


def decode_unsubscribe(kind: int, body: bytes, version: int) -> Unsubscribe:
    end = len(body)
    packet_id, at = _packet_id(body, 0, end)
    properties: Properties = {}
    if version == V5:
        properties, at = p.decode_properties(body, at, end, p.UNSUBSCRIBE)
    filters = []
    while at < end:
        filter, at = p.read_text(body, at, end)
        filters.append(filter)
    if not filters:
        raise breach("UNSUBSCRIBE without a filter")  # [MQTT-3.10.3-2]
    return Unsubscribe(packet_id, filters, properties)


def decode_ping(kind: int, body: bytes, version: int) -> Ping:
    _ended(0, len(body))
    return Ping(kind)


def _reason_and_properties(kind: int, body: bytes, version: int) -> tuple[int, Properties]:
    end = len(body)
    if not end:
        return 0, {}
    if version < V5:
        raise malformed("DISCONNECT with a body")
    reason, at = p.read_byte(body, 0, end)
    _known_reason(kind, reason)
    properties: Properties = {}
    if at < end:
        properties, at = p.decode_properties(body, at, end, kind)
    _ended(at, end)
    return reason, properties


def decode_disconnect(kind: int, body: bytes, version: int) -> Disconnect:
    return Disconnect(*_reason_and_properties(kind, body, version))


def decode_auth(kind: int, body: bytes, version: int) -> Auth:
    return Auth(*_reason_and_properties(kind, body, version))


PUBLISH_REASONS = frozenset((0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99))
RELEASE_REASONS = frozenset((0x00, 0x92))
REASONS: dict[int, frozenset[int]] = {
    p.PUBACK: PUBLISH_REASONS,
    p.PUBREC: PUBLISH_REASONS,
    p.PUBREL: RELEASE_REASONS,
    p.PUBCOMP: RELEASE_REASONS,
    p.DISCONNECT: frozenset((0x00, 0x04, *range(0x80, 0x84), 0x87, 0x89, 0x8B, *range(0x8D, 0x91)))
    | frozenset(range(0x93, 0xA3)),
    p.AUTH: frozenset((0x00, 0x18, 0x19)),
}
"""Reason codes by packet (MQTT 5, tables 3-4 to 3-7, 3-10 and 3-11)."""

DECODERS: dict[int, Callable[[int, bytes, int], Packet]] = {
    p.CONNECT: decode_connect,
    p.CONNACK: decode_connack,
    p.PUBACK: decode_ack,
    p.PUBREC: decode_ack,
    p.PUBREL: decode_ack,
    p.PUBCOMP: decode_ack,
    p.SUBSCRIBE: decode_subscribe,
    p.SUBACK: decode_suback,
    p.UNSUBSCRIBE: decode_unsubscribe,
    p.UNSUBACK: decode_suback,
    p.PINGREQ: decode_ping,
    p.PINGRESP: decode_ping,
    p.DISCONNECT: decode_disconnect,
    p.AUTH: decode_auth,
}


# Encoding


def encode(packet: Packet, version: int) -> bytes:
    """Write one packet. Raises ProtocolError when a part doesn't fit its field."""
    match packet:
        case Publish():
            return encode_publish(packet, version)
        case Ack():
            return encode_ack(packet, version)
        case Connect():
            return encode_connect(packet)
        case Connack():
            tail = p.encode_properties(packet.properties) if version == V5 else b""
            return frame(0x20, bytes((packet.session_present, packet.reason)), tail)
        case Subscribe():
            return encode_subscribe(packet, version)
        case Suback():
            middle = p.encode_properties(packet.properties) if version == V5 else b""
            return frame(packet.kind << 4, packet.packet_id.to_bytes(2, "big"), middle, bytes(packet.reasons))
        case Unsubscribe():
            middle = p.encode_properties(packet.properties) if version == V5 else b""
            return frame(0xA2, packet.packet_id.to_bytes(2, "big"), middle, *map(write_text, packet.filters))
        case Ping():
            return frame(packet.kind << 4)
        case Disconnect():
            return _encode_reason(0xE0, packet.reason, packet.properties, version)
        case Auth():
            return _encode_reason(0xF0, packet.reason, packet.properties, version)


def encode_connect(packet: Connect) -> bytes:
    """CONNECT in the version the packet names."""
    version, will = packet.version, packet.will
    flags = packet.clean << 1
    parts: list[bytes] = []
    if will is not None:
        flags |= 4 | will.qos << 3 | will.retain << 5
        parts = [p.encode_properties(will.properties)] if version == V5 else []
        parts += (write_text(will.topic), write_binary(will.payload))
    if packet.username is not None:
        flags |= 0x80
        parts.append(write_text(packet.username))
    if packet.password is not None:
        flags |= 0x40
        parts.append(write_binary(packet.password))
    head = write_text("MQTT") + bytes((version, flags)) + packet.keep_alive.to_bytes(2, "big")
    middle = p.encode_properties(packet.properties) if version == V5 else b""
    return frame(0x10, head, middle, write_text(packet.client_id), *parts)


def encode_publish(packet: Publish, version: int) -> bytes:
    """PUBLISH. Raises ProtocolError for QoS above 0 without a packet identifier."""
    if packet.qos and not packet.packet_id:
        raise ProtocolError("PUBLISH with QoS above 0 needs a packet identifier")
    first = 0x30 | packet.dup << 3 | packet.qos << 1 | packet.retain
    packet_id = packet.packet_id.to_bytes(2, "big") if packet.qos else b""
    middle = p.encode_properties(packet.properties) if version == V5 else b""
    return frame(first, write_text(packet.topic), packet_id, middle, packet.payload)


def encode_ack(packet: Ack, version: int) -> bytes:
    """PUBACK, PUBREC, PUBREL or PUBCOMP, in the short form when the reason is 0 (3.4.2.1)."""
    first = packet.kind << 4 | FIXED_FLAGS[packet.kind]
    packet_id = packet.packet_id.to_bytes(2, "big")
    if version < V5 or not (packet.reason or packet.properties):
        return bytes((first, 2)) + packet_id
    tail = p.encode_properties(packet.properties) if packet.properties else b""
    return frame(first, packet_id, bytes((packet.reason,)), tail)


def encode_subscribe(packet: Subscribe, version: int) -> bytes:
    """SUBSCRIBE; MQTT 3.1.1 carries the QoS alone."""
    parts = [packet.packet_id.to_bytes(2, "big")]
    if version == V5:
        parts.append(p.encode_properties(packet.properties))
    for one in packet.requests:
        options = one.qos
        if version == V5:
            options |= one.no_local << 2 | one.retain_as_published << 3 | one.retain_handling << 4
        parts += (write_text(one.filter), bytes((options,)))
    return frame(0x82, *parts)


def _encode_reason(first: int, reason: int, properties: Properties, version: int) -> bytes:
    if version < V5 or not (reason or properties):
        return bytes((first, 0))
    tail = p.encode_properties(properties) if properties else b""
    return frame(first, bytes((reason,)), tail)
