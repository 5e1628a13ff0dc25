"""The event stream that InvokeWithResponseStream answers with. Pure.

Source: AWS event stream encoding (https://smithy.io/2.0/aws/amazon-eventstream.html); Lambda API Reference,
InvokeWithResponseStream.
"""

from __future__ import annotations

import base64
import json
import struct
from binascii import crc32

CONTENT_TYPE = "application/vnd.amazon.eventstream"
_TEXT = 7


def message(event_type: str, content_type: str, payload: bytes) -> bytes:
    """One message: prelude with its own checksum, text headers, payload, checksum of all."""
    pairs = ((":message-type", "event"), (":event-type", event_type), (":content-type", content_type))
    headers = b"".join(_header(name, value) for name, value in pairs)
    prelude = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
    body = prelude + struct.pack("!I", crc32(prelude)) + headers + payload
    return body + struct.pack("!I", crc32(body))


def _header(name: str, value: str) -> bytes:
    return struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", _TEXT, len(value)) + value.encode()


def chunk(data: bytes) -> bytes:
    """A part of the result."""
    return message("PayloadChunk", "application/octet-stream", data)


def complete(error: bytes | None, log_tail: bytes | None) -> bytes:
    """The end. `error` is the function's error object, `log_tail` the log when it was asked for."""
    body: dict[str, str] = {}
    if error is not None:
        try:
            body["ErrorCode"] = str(json.loads(error).get("errorType", "Unhandled"))
        except (ValueError, AttributeError):
            body["ErrorCode"] = "Unhandled"
        body["ErrorDetails"] = error.decode("utf-8", "replace")
    if log_tail is not None:
        body["LogResult"] = base64.b64encode(log_tail).decode()
    return message("InvokeComplete", "application/json", json.dumps(body).encode())
