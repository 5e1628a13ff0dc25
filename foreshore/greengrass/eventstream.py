"""The event-stream frame: `bytes -> (headers, payload)` and back. Knows no message type, no socket and no JSON.

    u32 total | u32 headers | u32 CRC32 of the 8 bytes before | headers | payload | u32 CRC32 of all before

All integers are big-endian; the CRC is zlib's. A header is `u8 name length, name, u8 type, value`
(aws-c-event-stream, include/aws/event-stream/event_stream.h; greengrass-lite, docs/spec/library/eventstream.md).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple
from zlib import crc32

from foreshore.errors import PeerError, ProtocolError

PRELUDE = 12
OVERHEAD = 16
MAX_FRAME = 24 * 1024 * 1024
MAX_HEADERS = 128 * 1024

TRUE, FALSE, BYTE, INT16, INT32, INT64, BYTES, STRING, TIMESTAMP, UUID = range(10)
_FIXED = {BYTE: ">b", INT16: ">h", INT32: ">i", INT64: ">q", TIMESTAMP: ">q"}

_prelude = struct.Struct(">III")
_lengths = struct.Struct(">II")
_u32 = struct.Struct(">I")


class Header(NamedTuple):
    """One header. `value` is bool for 0 and 1, int for 2 to 5 and 8 (ms), bytes for 6 and 9 (16 of them), str for 7."""

    name: str
    type: int
    value: bool | int | bytes | str


def encode_headers(headers: Iterable[Header]) -> bytes:
    """Write a header block. Raises ProtocolError on what a header can't hold."""
    return b"".join([_encode_header(header) for header in headers])


def _encode_header(header: Header) -> bytes:
    name = header.name.encode()
    kind, value = header.type, header.value
    if not 0 < len(name) < 256:
        raise ProtocolError(f"a header name of {len(name)} bytes")
    head = b"%c%s%c" % (len(name), name, kind)
    try:
        if kind in (TRUE, FALSE):
            return head
        if kind in _FIXED and isinstance(value, int):
            return head + struct.pack(_FIXED[kind], value)
        if kind == UUID and isinstance(value, bytes) and len(value) == 16:
            return head + value
        if kind == STRING and isinstance(value, str):
            value = value.encode()
        if kind in (STRING, BYTES) and isinstance(value, bytes) and len(value) <= 32767:
            return head + struct.pack(">H", len(value)) + value
    except struct.error as error:
        raise ProtocolError(f"header {header.name}: {error}") from error
    raise ProtocolError(f"header {header.name}: {value!r} can't be sent as type {kind}")


def decode_headers(block: bytes) -> list[Header]:
    """Read a header block. Raises PeerError when it is not one."""
    headers = []
    at, end = 0, len(block)
    try:
        while at < end:
            length = block[at]
            name = block[at + 1 : at + 1 + length].decode()
            at += length + 2
            kind = block[at - 1]
            value, at = _decode_value(block, kind, at)
            headers.append(Header(name, kind, value))
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise PeerError(f"malformed header block: {error}") from error
    if at != end:
        raise PeerError("malformed header block: a value runs past its end")
    return headers


def _decode_value(block: bytes, kind: int, at: int) -> tuple[bool | int | bytes | str, int]:
    if kind in (STRING, BYTES):
        length = block[at] << 8 | block[at + 1]
        at += 2
        raw = block[at : at + length]
        return (raw.decode() if kind == STRING else raw), at + length
    if kind in (TRUE, FALSE):
        return kind == TRUE, at
    if kind == UUID:
        return block[at : at + 16], at + 16
    form = _FIXED.get(kind)
    if form is None:
        raise PeerError(f"malformed header block: unknown value type {kind}")
    return struct.unpack_from(form, block, at)[0], at + struct.calcsize(form)


def encode(headers: Iterable[Header] | bytes, payload: bytes = b"") -> bytes:
    """Write one frame. `headers` may be a block that `encode_headers` made."""
    block = headers if isinstance(headers, bytes) else encode_headers(headers)
    total = OVERHEAD + len(block) + len(payload)
    lengths = _lengths.pack(total, len(block))
    body = b"".join((lengths, _u32.pack(crc32(lengths)), block, payload))
    return body + _u32.pack(crc32(body))


def decode(frame: bytes) -> tuple[list[Header], bytes]:
    """Read exactly one frame. Raises PeerError when it is not one."""
    decoder = Decoder()
    frames = decoder.feed(frame)
    if len(frames) != 1 or decoder.broken is not None:
        raise PeerError("not exactly one frame")
    return decode_headers(frames[0][0]), frames[0][1]


class Decoder:
    """Cuts a byte stream into (header block, payload). Takes pieces of any size; keeps at most one frame.

    `broken` is the PeerError of a bad frame that came behind good ones: `feed` gives those first.
    """

    __slots__ = ("_limit", "_need", "_rest", "broken")

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._need = 0
        self.broken: PeerError | None = None

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """Give the frames that `data` completes, in order. Raises PeerError on a bad length or checksum."""
        if self.broken is not None:
            raise self.broken
        if not self._rest:
            whole = self._whole(data)
            if whole is not None:
                return [whole]
        else:
            self._rest += data
            if len(self._rest) < self._need:
                return []
            data = bytes(self._rest)
            self._rest.clear()
        frames: list[tuple[bytes, bytes]] = []
        at, size = 0, len(data)
        while size - at >= PRELUDE:
            total, headers, check = _prelude.unpack_from(data, at)
            if crc32(data[at : at + 8]) != check:
                return self._break(frames, "prelude checksum mismatch")
            if total > self._limit or headers > MAX_HEADERS or headers + OVERHEAD > total:
                return self._break(frames, f"a frame of {total} bytes with {headers} bytes of headers")
            end = at + total
            if end > size:
                break
            if crc32(data[at : end - 4]) != _u32.unpack_from(data, end - 4)[0]:
                return self._break(frames, "message checksum mismatch")
            cut = at + PRELUDE + headers
            frames.append((data[at + PRELUDE : cut], data[cut : end - 4]))
            at = end
        if at < size:
            self._rest += data[at:] if at else data
            self._need = max(PRELUDE, total) if size - at >= PRELUDE else PRELUDE
        return frames

    def _whole(self, data: bytes) -> tuple[bytes, bytes] | None:
        """The frame that `data` is, or None when it is more or less than one, or a wrong one."""
        size = len(data)
        if size < OVERHEAD:
            return None
        total, headers, check = _prelude.unpack_from(data)
        if total != size or size > self._limit or headers > MAX_HEADERS or headers + OVERHEAD > size:
            return None
        end = size - 4
        # A checksum goes on from that of what is before it.
        if crc32(data[:8]) != check or crc32(data[8:end], check) != _u32.unpack_from(data, end)[0]:
            return None
        cut = PRELUDE + headers
        return data[PRELUDE:cut], data[cut:end]

    def _break(self, frames: list[tuple[bytes, bytes]], what: str) -> list[tuple[bytes, bytes]]:
        self.broken = PeerError(what)
        if not frames:
            raise self.broken
        return frames
