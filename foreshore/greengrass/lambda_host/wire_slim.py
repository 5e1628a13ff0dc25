"""An IPC client in pure Python: the same wire as awsiotsdk's, without awscrt. Linux and macOS (Unix sockets).

One thread reads and calls back; any thread sends. Fills `wire.Wire`.
"""

from __future__ import annotations

import base64
import json
import queue
import socket as socket_module
import threading
from collections.abc import Callable
from typing import Any

from . import frames
from .wire import NAMESPACE, Disconnected, Done, Event, OnEvent, OnLost, Refused, TraceSlot

_JSON = frames.text_header(":content-type", "application/json")
_PUBLISH = frames.text_header("service-model-type", NAMESPACE + "PublishToTopicRequest") + frames.text_header(
    "operation", NAMESPACE + "PublishToTopic"
)
_PUBLISH_CLOUD = frames.text_header("service-model-type", NAMESPACE + "PublishToIoTCoreRequest") + frames.text_header(
    "operation", NAMESPACE + "PublishToIoTCore"
)
RECEIVE_SIZE = 256 * 1024

Answer = Callable[["dict[str, Any] | Exception"], None]


def connect(path: str, token: str, on_lost: OnLost, trace: TraceSlot | None, timeout_s: float = 10) -> SlimWire:
    """Connect and authenticate. Raises Disconnected."""
    connection = socket_module.socket(socket_module.AF_UNIX, socket_module.SOCK_STREAM)
    connection.settimeout(timeout_s)
    reader = frames.Reader()
    extra = frames.text_header("foreshore-trace", "1") if trace is not None else b""
    hello = frames.text_header(":version", "0.1.0") + extra
    try:
        connection.connect(path)
        connection.sendall(frames.frame(frames.CONNECT, 0, 0, hello, json.dumps({"authToken": token}).encode()))
        early = _await_ack(connection, reader)
    except (OSError, frames.BadFrame) as error:
        connection.close()
        raise Disconnected(f"can't connect to the nucleus at {path}: {error}") from error
    connection.settimeout(None)
    return SlimWire(connection, reader, on_lost, trace, early)


def _await_ack(connection: socket_module.socket, reader: frames.Reader) -> list[tuple[frames.Headers, bytes]]:
    """Read up to the CONNECT_ACK; give what came behind it. Raises OSError when refused."""
    while data := connection.recv(RECEIVE_SIZE):
        messages = list(reader.feed(data))
        if messages:
            headers, _ = messages[0]
            if headers.get(":message-type") != frames.CONNECT_ACK or not _flag(headers, frames.CONNECTION_ACCEPTED):
                raise OSError("the nucleus refused the connection")
            return messages[1:]
    raise OSError("the nucleus closed the connection")


def _flag(headers: frames.Headers, flag: int) -> bool:
    flags = headers.get(":message-flags")
    return isinstance(flags, int) and bool(flags & flag)


class _Stream:
    """What waits for messages of one stream: first an answer, then perhaps events."""

    __slots__ = ("answer", "events")

    def __init__(self, answer: Answer | None, events: Callable[[dict[str, Any], str | None], None] | None) -> None:
        self.answer = answer
        self.events = events


class SlimWire:
    """A connected client."""

    def __init__(
        self,
        connection: socket_module.socket,
        reader: frames.Reader,
        on_lost: OnLost,
        trace: TraceSlot | None,
        early: list[tuple[frames.Headers, bytes]],
    ) -> None:
        self._socket = connection
        self._reader = reader
        self._on_lost = on_lost
        self._trace = trace
        self._early = early
        self._sending = threading.Lock()
        self._streams: dict[int, _Stream] = {}
        self._last_id = 0
        self._closed = False
        self._thread = threading.Thread(target=self._read, name="ipc", daemon=True)
        self._thread.start()

    def call(self, operation: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """One request and its answer. Raises Refused, Disconnected, TimeoutError."""
        return self._call(operation, request, timeout_s, None)

    def publish(self, topic: str, payload: bytes, done: Done) -> None:
        """Send PublishToTopic without waiting. Raises Disconnected."""
        body = {"topic": topic, "publishMessage": {"binaryMessage": {"message": base64.b64encode(payload).decode()}}}
        self._publish(_PUBLISH, body, done)

    def publish_cloud(self, topic: str, payload: bytes, qos: int, done: Done) -> None:
        """Send PublishToIoTCore without waiting. Raises Disconnected."""
        body = {"topicName": topic, "qos": str(qos), "payload": base64.b64encode(payload).decode()}
        self._publish(_PUBLISH_CLOUD, body, done)

    def _publish(self, headers: bytes, body: dict[str, Any], done: Done) -> None:
        if self._trace is not None and self._trace.current is not None:
            headers += frames.text_header("traceparent", self._trace.current)
        stream = _Stream(lambda answer: done(answer if isinstance(answer, Exception) else None), None)
        self._send(_JSON + headers, json.dumps(body).encode(), stream)

    def subscribe(self, topic: str, on_event: OnEvent, timeout_s: float) -> None:
        """SubscribeToTopic. Raises Refused, Disconnected, TimeoutError."""
        self._call(
            "SubscribeToTopic", {"topic": topic}, timeout_s, lambda body, trace: on_event(_local_event(body, trace))
        )

    def subscribe_cloud(self, topic: str, qos: int, on_event: OnEvent, timeout_s: float) -> None:
        """SubscribeToIoTCore. Raises Refused, Disconnected, TimeoutError."""
        request = {"topicName": topic, "qos": str(qos)}
        self._call("SubscribeToIoTCore", request, timeout_s, lambda body, trace: on_event(_cloud_event(body, trace)))

    def close(self) -> None:
        """Close the connection and wait for the reading thread."""
        self._closed = True
        try:
            self._socket.shutdown(socket_module.SHUT_RDWR)
        except OSError:
            self._closed = True  # the nucleus was faster
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._socket.close()

    def _call(
        self,
        operation: str,
        request: dict[str, Any],
        timeout_s: float,
        events: Callable[[dict[str, Any], str | None], None] | None,
    ) -> dict[str, Any]:
        answers: queue.SimpleQueue[dict[str, Any] | Exception] = queue.SimpleQueue()
        headers = frames.text_header("service-model-type", f"{NAMESPACE}{operation}Request")
        headers += frames.text_header("operation", NAMESPACE + operation)
        self._send(_JSON + headers, json.dumps(request).encode(), _Stream(answers.put, events))
        try:
            answer = answers.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError(f"the nucleus did not answer {operation} within {timeout_s:g} s") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _send(self, headers: bytes, payload: bytes, stream: _Stream) -> None:
        with self._sending:
            if self._closed:
                raise Disconnected("the connection to the nucleus is closed")
            self._last_id += 1
            self._streams[self._last_id] = stream
            try:
                self._socket.sendall(frames.frame(frames.APPLICATION_MESSAGE, 0, self._last_id, headers, payload))
            except OSError as error:
                raise Disconnected(f"the connection to the nucleus is gone: {error}") from error

    def _read(self) -> None:
        reason = "closed by the nucleus"
        try:
            for headers, payload in self._early:
                self._take(headers, payload)
            while data := self._socket.recv(RECEIVE_SIZE):
                for headers, payload in self._reader.feed(data):
                    self._take(headers, payload)
        except (OSError, ValueError) as error:
            reason = str(error)
        wanted = self._closed
        self._closed = True
        lost = Disconnected("the connection to the nucleus is gone")
        for stream in list(self._streams.values()):
            if stream.answer is not None:
                stream.answer(lost)
        if not wanted:
            self._on_lost(reason)

    def _take(self, headers: frames.Headers, payload: bytes) -> None:
        stream_id = headers.get(":stream-id")
        kind = headers.get(":message-type")
        if kind == frames.PING:
            with self._sending:
                self._socket.sendall(frames.frame(frames.PING_RESPONSE, 0, 0, b"", payload))
            return
        stream = self._streams.get(stream_id) if isinstance(stream_id, int) else None
        if stream is None or not isinstance(stream_id, int):
            return
        over = kind != frames.APPLICATION_MESSAGE or _flag(headers, frames.TERMINATE_STREAM)
        if stream.answer is not None:
            answer, stream.answer = stream.answer, None
            if stream.events is None or over:
                del self._streams[stream_id]
            answer(_body(headers, payload))
            return
        if over:
            del self._streams[stream_id]
        elif stream.events is not None:
            trace = headers.get("traceparent")
            stream.events(json.loads(payload), trace if isinstance(trace, str) else None)


def _body(headers: frames.Headers, payload: bytes) -> dict[str, Any] | Exception:
    """An answer's JSON, or the error it is. An unknown operation is answered without a shape's name."""
    shape = str(headers.get("service-model-type", "")).removeprefix(NAMESPACE)
    if headers.get(":message-type") == frames.APPLICATION_MESSAGE and shape.endswith("Response"):
        body: dict[str, Any] = json.loads(payload)
        return body
    try:
        fields = json.loads(payload)
    except ValueError:
        fields = {}
    text = fields.get("message") or fields.get("_message") or "" if isinstance(fields, dict) else ""
    return Refused(shape or "ServiceError", str(text))


def _local_event(body: dict[str, Any], trace: str | None) -> Event:
    binary = body.get("binaryMessage")
    if binary is not None:
        topic = (binary.get("context") or {}).get("topic", "")
        return Event(topic, base64.b64decode(binary.get("message") or ""), None, trace)
    message = body.get("jsonMessage") or {}
    return Event((message.get("context") or {}).get("topic", ""), None, message.get("message"), trace)


def _cloud_event(body: dict[str, Any], trace: str | None) -> Event:
    message = body.get("message") or {}
    return Event(message.get("topicName", ""), base64.b64decode(message.get("payload") or ""), None, trace)
