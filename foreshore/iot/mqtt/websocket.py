"""WebSocket frames (RFC 6455) between bytes and MQTT bytes, server side. Pure. MQTT 5, section 6, is what they carry.

Control packets may be cut over frames at will [MQTT-6.0.0-2], so a message is nothing but more bytes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from foreshore.errors import PeerError

SUBPROTOCOLS = ("mqtt", "mqttv3.1")
"""AWS IoT Core accepts both names."""

KEY_BYTES = 16
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

PROTOCOL_ERROR, UNSUPPORTED_DATA, TOO_BIG = 1002, 1003, 1009
"""Close codes (RFC 6455, section 7.4.1); carried in `PeerError.reason`."""


def accept_key(key: str) -> bytes:
    """Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455, section 4.2.2). Raises ValueError for a bad key.

    The standard's keys have 16 bytes. Longer ones are let in as AWS does: AWSIoTPythonSDK sends 128.
    """
    if len(base64.b64decode(key, validate=True)) < KEY_BYTES:
        raise ValueError(f"Sec-WebSocket-Key has less than {KEY_BYTES} bytes")
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest)


def choose_subprotocol(offered: str) -> str | None:
    """The first offered subprotocol that carries MQTT [MQTT-6.0.0-3]."""
    names = [name.strip() for name in offered.split(",")]
    return next((name for name in names if name in SUBPROTOCOLS), None)


def frame(opcode: int, payload: bytes) -> bytes:
    """One unmasked, final frame, as a server sends it."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, size))
    elif size < 65536:
        head = bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big")
    return head + payload


def packet_frames(packets: bytes) -> bytes:
    """Whole control packets as binary frames, one each.

    A frame may hold several [MQTT-6.0.0-2], yet clients that wait on their socket between two packets of a frame
    (AWSIoTPythonSDK) would hear the second one late.
    """
    frames, at, end = [], 0, len(packets)
    while at < end:
        size, shift, stop = 0, 0, at + 1
        while True:
            byte = packets[stop]
            size |= (byte & 0x7F) << shift
            stop, shift = stop + 1, shift + 7
            if byte < 0x80:
                break
        frames.append(frame(BINARY, packets[at : stop + size]))
        at = stop + size
    return b"".join(frames)


def close_frame(code: int) -> bytes:
    """A close frame with its code."""
    return frame(CLOSE, code.to_bytes(2, "big"))


def unmask(payload: bytes, mask: bytes) -> bytes:
    """Take the client's mask off (RFC 6455, section 5.3)."""
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


class Frames:
    """Reads a client's frames: `feed` gives MQTT bytes and what to answer (pong, close)."""

    def __init__(self, max_frame: int) -> None:
        self._max_frame = max_frame
        self._pending = b""
        self._in_message = False
        self.closed = False

    def feed(self, data: bytes) -> tuple[bytes, Sequence[bytes]]:
        """Take bytes; give the MQTT bytes inside and frames to send back. Raises PeerError with a close code."""
        data = self._pending + data if self._pending else data
        at, end = 0, len(data)
        mqtt: list[bytes] = []
        answers: list[bytes] = []
        while not self.closed:
            head = self._head(data, at, end)
            if head is None:
                break
            start, stop, mask = head
            if stop > end:
                break
            self._one(data[at], unmask(data[start:stop], mask), mqtt, answers)
            at = stop
        self._pending = data[at:]
        return b"".join(mqtt), answers

    def _head(self, data: bytes, at: int, end: int) -> tuple[int, int, bytes] | None:
        if end - at < 2:
            return None
        first, second = data[at], data[at + 1]
        if first & 0x70 or not second & 0x80:
            raise PeerError("reserved bits or an unmasked frame", PROTOCOL_ERROR)
        size, start = second & 0x7F, at + 2
        if first & 8 and (size > 125 or not first & 0x80):
            raise PeerError("a fragmented or long control frame", PROTOCOL_ERROR)
        extra = 2 if size == 126 else 8 if size == 127 else 0
        if extra:
            if end - start < extra:
                return None
            size = int.from_bytes(data[start : start + extra], "big")
            start += extra
        if size > self._max_frame:
            raise PeerError(f"frame of {size} bytes", TOO_BIG)
        if end - start < 4:
            return None
        return start + 4, start + 4 + size, data[start : start + 4]

    def _one(self, first: int, payload: bytes, mqtt: list[bytes], answers: list[bytes]) -> None:
        opcode = first & 15
        if opcode in (BINARY, CONTINUATION):
            if (opcode == CONTINUATION) != self._in_message:
                raise PeerError("continuation frames out of order", PROTOCOL_ERROR)
            self._in_message = not first & 0x80
            mqtt.append(payload)
        elif opcode == PING:
            answers.append(frame(PONG, payload))
        elif opcode == CLOSE:
            self.closed = True
            answers.append(frame(CLOSE, payload[:2]))
        elif opcode == TEXT:
            raise PeerError("MQTT needs binary frames", UNSUPPORTED_DATA)  # [MQTT-6.0.0-1]
        elif opcode != PONG:
            raise PeerError(f"opcode {opcode}", PROTOCOL_ERROR)
