"""What the host needs of an IPC client. Two fill it: `wire_sdk` (unmodified awsiotsdk) and `wire_slim` (ours).

Requests and answers of `call` are the JSON objects of the wire: blobs are base64 text, unions have one key (Greengrass
developer guide, "Interprocess communication (IPC)").
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

NAMESPACE = "aws.greengrass#"


class Refused(Exception):
    """The nucleus answered with an error. `code` is its shape's name, such as UnauthorizedError."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code
        self.message = message


class Disconnected(Exception):
    """The connection to the nucleus is gone, or could not be made."""


class Event(NamedTuple):
    """One delivered message: `payload` bytes, or None when it came as JSON and is in `message`.

    An invocation by another function also has the caller's client `context`, and `reply`, the topic and id that its
    result goes to.
    """

    topic: str
    payload: bytes | None
    message: Any
    traceparent: str | None
    context: dict[str, Any] | None = None
    reply: tuple[str, str] | None = None


Done = Callable[[Exception | None], None]
OnEvent = Callable[[Event], None]
OnLost = Callable[[str], None]


class TraceSlot(threading.local):
    """The traceparent of the message being handled, each thread its own: set around a handler, read by publishes."""

    current: str | None = None


class Wire(Protocol):
    """A connected IPC client. Callbacks run on its own thread and must not block."""

    def call(self, operation: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """One request and its answer. Raises Refused, Disconnected, TimeoutError."""

    def publish(self, topic: str, payload: bytes, done: Done) -> None:
        """Send PublishToTopic without waiting; `done` gets None or the error. Raises Disconnected."""

    def publish_cloud(self, topic: str, payload: bytes, qos: int, done: Done) -> None:
        """Send PublishToIoTCore without waiting; `done` gets None or the error. Raises Disconnected."""

    def subscribe(self, topic: str, on_event: OnEvent, timeout_s: float) -> None:
        """SubscribeToTopic. Raises Refused, Disconnected, TimeoutError."""

    def subscribe_cloud(self, topic: str, qos: int, on_event: OnEvent, timeout_s: float) -> None:
        """SubscribeToIoTCore. Raises Refused, Disconnected, TimeoutError."""

    def close(self) -> None:
        """Close the connection; waits for nothing that was not confirmed."""
