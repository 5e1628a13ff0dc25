"""A nucleus of a few lines for the host's tests: it answers, delivers and refuses what a test tells it to."""

from __future__ import annotations

import base64
import json
import queue
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from foreshore.greengrass.lambda_host import frames

TOKEN = "ABCDEFGHIJKLMNOP"
PREFIX = "aws.greengrass#"
JSON = frames.text_header(":content-type", "application/json")


def shape(name: str) -> bytes:
    return JSON + frames.text_header("service-model-type", PREFIX + name)


class TinyNucleus:
    """Serves one client at a time. `requests` has (operation, body, traceparent) in order."""

    def __init__(self, folder: Path, configuration: dict[str, Any], lite: bool = False) -> None:
        self.path = folder / "ipc.socket"
        self.configuration = configuration
        self.lite = lite
        self.requests: queue.Queue[tuple[str, dict[str, Any], str | None]] = queue.Queue()
        self.published: list[bytes] = []
        self.refuse: dict[str, tuple[str, str]] = {}
        self.held: set[str] = set()
        self.hello: frames.Headers = {}
        self.subscriptions: dict[str, int] = {}
        self.released: list[Callable[[], None]] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._client: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        return {"AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": str(self.path), "SVCUID": TOKEN}

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        self._thread.join(5)

    def hang_up(self) -> None:
        if self._client is not None:
            try:
                self._client.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def next(self, operation: str, timeout: float = 20) -> tuple[dict[str, Any], str | None]:
        """The next request of an operation; others before it are skipped."""
        while True:
            name, body, trace = self.requests.get(timeout=timeout)
            if name == operation:
                return body, trace

    def deliver(self, topic_filter: str, topic: str, payload: bytes, trace: str | None = None) -> None:
        """An event on a subscription, local or IoT Core's."""
        blob = base64.b64encode(payload).decode()
        stream_id = self.subscriptions[topic_filter]
        if stream_id < 0:
            body = {"message": {"topicName": topic, "payload": blob}}
            self._event(-stream_id, "IoTCoreMessage", body, trace)
        else:
            body = {"binaryMessage": {"message": blob, "context": {"topic": topic}}}
            self._event(stream_id, "SubscriptionResponseMessage", body, trace)

    def deliver_json(self, topic_filter: str, topic: str, message: Any) -> None:
        body = {"jsonMessage": {"message": message, "context": {"topic": topic}}}
        self._event(self.subscriptions[topic_filter], "SubscriptionResponseMessage", body, None)

    def _event(self, stream_id: int, name: str, body: dict[str, Any], trace: str | None) -> None:
        headers = shape(name) + (frames.text_header("traceparent", trace) if trace else b"")
        self._write(frames.frame(0, 0, stream_id, headers, json.dumps(body).encode()))

    def _write(self, data: bytes) -> None:
        assert self._client is not None
        self._client.sendall(data)

    def _serve(self) -> None:
        while True:
            try:
                self._client, _ = self._listener.accept()
            except OSError:
                return
            reader = frames.Reader()
            try:
                while data := self._client.recv(65536):
                    for headers, payload in reader.feed(data):
                        self._take(headers, payload)
            except OSError:
                pass
            self._client.close()

    def _take(self, headers: frames.Headers, payload: bytes) -> None:
        if headers[":message-type"] == frames.CONNECT:
            self.hello = headers
            good = json.loads(payload) == {"authToken": TOKEN}
            self._write(frames.frame(frames.CONNECT_ACK, int(good), 0, b"", b""))
            if not good:
                self.hang_up()
            return
        operation = str(headers.get("operation", "")).removeprefix(PREFIX)
        if not operation:
            return
        stream_id = headers[":stream-id"]
        assert isinstance(stream_id, int)
        body = json.loads(payload)
        trace = headers.get("traceparent")
        if operation == "PublishToTopic":
            self.published.append(base64.b64decode(body["publishMessage"]["binaryMessage"]["message"]))
        if operation in self.held:
            self.released.append(lambda: self._answer(operation, stream_id, body))
        elif operation in self.refuse:
            self._refuse(operation, stream_id)
        else:
            self._answer(operation, stream_id, body)
        self.requests.put((operation, body, trace if isinstance(trace, str) else None))

    def _refuse(self, operation: str, stream_id: int) -> None:
        code, message = self.refuse[operation]
        error = {"_message": message, "_errorCode": code} if self.lite else {"message": message, "_errorCode": code}
        self._write(frames.frame(1, frames.TERMINATE_STREAM, stream_id, shape(code), json.dumps(error).encode()))

    def _answer(self, operation: str, stream_id: int, body: dict[str, Any]) -> None:
        answers: dict[str, dict[str, Any]] = {
            "GetConfiguration": {"componentName": "c", "value": self.configuration},
            "GetThingShadow": {"payload": base64.b64encode(b'{"state":{}}').decode()},
            "UpdateThingShadow": {"payload": body.get("payload")},
            "DeleteThingShadow": {"payload": base64.b64encode(b"{}").decode()},
            "GetSecretValue": {
                "secretId": "arn:aws:secretsmanager:us-east-1:000000000000:secret:password-AbCdEf",
                "versionId": "v1",
                "versionStage": ["AWSCURRENT"],
                "secretValue": {"secretString": "open sesame"},
            },
        }
        streaming = operation.startswith("SubscribeTo")
        if streaming:
            cloud = operation == "SubscribeToIoTCore"
            self.subscriptions[body["topicName" if cloud else "topic"]] = -stream_id if cloud else stream_id
        flags = 0 if self.lite or streaming else frames.TERMINATE_STREAM
        answer = json.dumps(answers.get(operation, {})).encode()
        self._write(frames.frame(0, flags, stream_id, shape(operation + "Response"), answer))
