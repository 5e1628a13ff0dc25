"""Event-stream frames as the slim client needs them. Pure.

    u32 total | u32 headers | u32 CRC32 of the 8 bytes before | headers | payload | u32 CRC32 of all before

Header: u8 name length, name, u8 type, value; IPC uses type 4 (int32) and 7 (text with a u16 length). All integers are
big-endian (aws-c-event-stream; greengrass-lite, docs/spec/library/eventstream.md).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from zlib import crc32

APPLICATION_MESSAGE = 0
APPLICATION_ERROR = 1
PING = 2
PING_RESPONSE = 3
CONNECT = 4
CONNECT_ACK = 5
CONNECTION_ACCEPTED = 1
TERMINATE_STREAM = 2
MAX_FRAME = 24 * 1024 * 1024

Headers = dict[str, "int | str"]
_FIXED_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
_prelude = struct.Struct(">III")
_lengths = struct.Struct(">II")
_u32 = struct.Struct(">I")
_i32 = struct.Struct(">i")
_u16 = struct.Struct(">H")


class BadFrame(ValueError):
    """The bytes are no event-stream frame."""


def text_header(name: str, value: str) -> bytes:
    """One header of type 7."""
    raw = value.encode()
    return b"%c%s\x07%s%s" % (len(name), name.encode(), _u16.pack(len(raw)), raw)


def number_header(name: str, value: int) -> bytes:
    """One header of type 4."""
    return b"%c%s\x04%s" % (len(name), name.encode(), _i32.pack(value))


def frame(message_type: int, flags: int, stream_id: int, headers: bytes, payload: bytes) -> bytes:
    """One message with its three mandatory headers; `headers` are further ones, encoded."""
    block = b"".join(
        (
            number_header(":message-type", message_type),
            number_header(":message-flags", flags),
            number_header(":stream-id", stream_id),
            headers,
        )
    )
    lengths = _lengths.pack(16 + len(block) + len(payload), len(block))
    body = b"".join((lengths, _u32.pack(crc32(lengths)), block, payload))
    return body + _u32.pack(crc32(body))


class Reader:
    """Cuts a byte stream into messages, however it is cut up."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Headers, bytes]]:
        """Give the messages complete so far. Raises BadFrame."""
        buffer = self._buffer
        buffer += data
        at = 0
        try:
            while len(buffer) - at >= 12:
                total, header_size, check = _prelude.unpack_from(buffer, at)
                if crc32(buffer[at : at + 8]) != check or not header_size + 16 <= total <= MAX_FRAME:
                    raise BadFrame("the prelude is damaged")
                if len(buffer) - at < total:
                    return
                message = bytes(buffer[at : at + total])
                at += total
                if crc32(message[:-4]) != _u32.unpack_from(message, total - 4)[0]:
                    raise BadFrame("the message is damaged")
                yield _headers(message, header_size), message[12 + header_size : -4]
        finally:
            del buffer[:at]


def _headers(message: bytes, size: int) -> Headers:
    found: Headers = {}
    at, end = 12, 12 + size
    try:
        while at < end:
            start = at + 1
            at = start + message[at]
            name = message[start:at].decode()
            kind = message[at]
            at += 1
            if kind == 4:
                found[name] = _i32.unpack_from(message, at)[0]
                at += 4
            elif kind in (6, 7):
                length = _u16.unpack_from(message, at)[0]
                at += 2 + length
                if kind == 7:
                    found[name] = message[at - length : at].decode()
            else:
                at += _FIXED_SIZES[kind]
    except (IndexError, KeyError, struct.error, UnicodeDecodeError) as error:
        raise BadFrame(f"the header block is damaged: {error!r}") from error
    if at != end:
        raise BadFrame("the header block is damaged")
    return found
