"""Frames of the stream manager protocol 1.1.0. Pure.

A connection begins with one byte, the connect version 1, from each side. Then frames: i32 length of what follows,
i8 operation, a CBOR map with camelCase keys. All integers are big-endian and signed (stream-manager 1.1.2).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Any

from foreshore.errors import PeerError
from foreshore.greengrass.stream_manager import cbor

PROTOCOL_VERSION = "1.1.0"
SUPPORTED_VERSIONS = ("1.0.0", "1.1.0")
CONNECT_VERSION = b"\x01"
MAX_FRAME = 64 * 1024 * 1024
_head = struct.Struct(">ib")


class Operation(IntEnum):
    """What a frame is."""

    CONNECT = 1
    CREATE = 2
    DELETE = 3
    APPEND = 4
    READ = 5
    CONNECT_RESPONSE = 6
    CREATE_RESPONSE = 7
    DELETE_RESPONSE = 8
    APPEND_RESPONSE = 9
    READ_RESPONSE = 10
    LIST = 11
    LIST_RESPONSE = 12
    DESCRIBE = 13
    DESCRIBE_RESPONSE = 14
    UPDATE = 15
    UPDATE_RESPONSE = 16
    UNKNOWN_OPERATION_ERROR = 17


RESPONSES = {
    Operation.CONNECT: Operation.CONNECT_RESPONSE,
    Operation.CREATE: Operation.CREATE_RESPONSE,
    Operation.DELETE: Operation.DELETE_RESPONSE,
    Operation.APPEND: Operation.APPEND_RESPONSE,
    Operation.READ: Operation.READ_RESPONSE,
    Operation.LIST: Operation.LIST_RESPONSE,
    Operation.DESCRIBE: Operation.DESCRIBE_RESPONSE,
    Operation.UPDATE: Operation.UPDATE_RESPONSE,
}


class Status(IntEnum):
    """ResponseStatusCode."""

    SUCCESS = 0
    UNKNOWN_FAILURE = 1
    UNAUTHORIZED = 2
    INVALID_REQUEST = 3
    REQUEST_PAYLOAD_TOO_LARGE = 4
    RESOURCE_NOT_FOUND = 5
    SERVER_TIMEOUT = 6
    RESPONSE_PAYLOAD_TOO_LARGE = 7
    UNSUPPORTED_CONNECT_VERSION = 8
    UNEXPECTED_OPERATION = 9
    UNSUPPORTED_PROTOCOL_VERSION = 10
    INVALID_PROTOCOL_VERSION = 11
    FAILED_TO_CONNECT = 12
    NOT_ENOUGH_MESSAGES = 13
    MESSAGE_STORE_READ_ERROR = 14
    OUT_OF_MEMORY = 15
    UPDATE_FAILED = 16
    UPDATE_NOT_ALLOWED = 17
    UNKNOWN_OPERATION = 18


class Failure(Exception):
    """A request that is answered with a status other than SUCCESS."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def encode(operation: int, body: Mapping[str, Any]) -> bytes:
    """One frame. Members that are None are left out, as the clients do."""
    payload = cbor.encode({key: value for key, value in body.items() if value is not None})
    return _head.pack(len(payload) + 1, operation) + payload


class Reader:
    """Cuts a client's bytes into frames, however they come."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.greeted = False

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Give (operation, payload) of every complete frame. Raises PeerError."""
        buffer = self._buffer
        buffer += data
        if not self.greeted and buffer:
            if buffer[:1] != CONNECT_VERSION:
                raise PeerError(f"connect version {buffer[0]}, not 1")
            del buffer[:1]
            self.greeted = True
        while len(buffer) >= _head.size:
            length, operation = _head.unpack_from(buffer)
            if not 1 <= length <= MAX_FRAME:
                raise PeerError(f"a frame of {length} bytes", Status.REQUEST_PAYLOAD_TOO_LARGE)
            if len(buffer) < 4 + length:
                return
            payload = bytes(buffer[_head.size : 4 + length])
            del buffer[: 4 + length]
            yield operation, payload
