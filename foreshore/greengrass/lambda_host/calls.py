"""`lambda.invoke` from one component to another, over local publish/subscribe.

Greengrass's own Lambda manager did this inside the classic nucleus. Here the caller publishes an envelope to
`foreshore/lambda/<function>/invoke`, which a host with `invocable: true` hears; the answer to a RequestResponse comes
back on `foreshore/lambda/<caller>/result`. Both need an accessControl policy for these topics.
"""

from __future__ import annotations

import base64
import json
import logging
import queue
import threading
import uuid
from collections.abc import Mapping
from typing import Any

from .inbox import Inbox
from .outbox import Outbox
from .parameters import PUB_SUB, Route
from .wire import Disconnected, Event, Wire

log = logging.getLogger("foreshore_lambda_host")

PREFIX = "foreshore/lambda"
LOCAL = Route("#", PUB_SUB)
RESULT_TIMEOUT_S = 60.0
SUBSCRIBE_TIMEOUT_S = 30.0


class NoAnswer(Exception):
    """No component answered an invocation in time."""


def invoke_topic(function: str) -> str:
    """Where a function's host hears invocations."""
    return f"{PREFIX}/{function}/invoke"


def result_topic(function: str) -> str:
    """Where a function's host hears the results of its own invocations."""
    return f"{PREFIX}/{function}/result"


class Calls:
    """Both sides of one function: invocations that it gets and makes. `name` is its own."""

    def __init__(
        self, name: str, wire: Wire, outbox: Outbox, inbox: Inbox, timeout_s: float = RESULT_TIMEOUT_S
    ) -> None:
        self._name = name
        self._wire = wire
        self._outbox = outbox
        self._inbox = inbox
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._is_listening = False
        self._waiting: dict[str, queue.SimpleQueue[tuple[bytes, str]]] = {}

    def accept_invocations(self) -> None:
        """Hear invocations of this function. Raises as Wire.subscribe."""
        self._wire.subscribe(invoke_topic(self._name), self._on_invocation, SUBSCRIBE_TIMEOUT_S)

    def _on_invocation(self, event: Event) -> None:
        try:
            envelope = json.loads(event.payload or b"")
            payload = base64.b64decode(envelope["payload"])
            reply = (str(envelope["replyTo"]), str(envelope["id"])) if envelope.get("replyTo") else None
            context = envelope.get("context") or {}
        except (ValueError, KeyError, TypeError) as error:
            log.error("an invocation on %s is malformed: %r", event.topic, error)
            return
        self._inbox.accept(event._replace(payload=payload, context=context, reply=reply))

    def answer(self, event: Event, payload: bytes, error: str) -> None:
        """Give an invocation's result back; `error` is "", "Handled" or "Unhandled". A lost caller is logged."""
        if event.reply is None:
            return
        topic, invocation = event.reply
        body = {"id": invocation, "payload": base64.b64encode(payload).decode(), "error": error}
        try:
            self._outbox.publish(LOCAL, topic, json.dumps(body).encode(), wait=False)
        except (Disconnected, TimeoutError) as failure:
            log.error("the result of invocation %s could not be given back: %s", invocation, failure)

    def invoke(self, function: str, payload: bytes, context: Mapping[str, Any], kind: str) -> tuple[bytes, str]:
        """Invoke another function: (result, function error or ""). Raises NoAnswer and as Outbox.publish."""
        invocation = str(uuid.uuid4())
        envelope: dict[str, Any] = {"id": invocation, "context": dict(context)}
        envelope["payload"] = base64.b64encode(payload).decode()
        if kind == "Event":
            self._send(function, envelope)
            return b"", ""
        self._listen()
        answers: queue.SimpleQueue[tuple[bytes, str]] = queue.SimpleQueue()
        self._waiting[invocation] = answers
        try:
            self._send(function, {**envelope, "replyTo": result_topic(self._name)})
            return answers.get(timeout=self._timeout_s)
        except queue.Empty:
            raise NoAnswer(
                f"function {function} did not answer within {self._timeout_s:g} s: does its component run, invocable?"
            ) from None
        finally:
            del self._waiting[invocation]

    def _send(self, function: str, envelope: Mapping[str, Any]) -> None:
        self._outbox.publish(LOCAL, invoke_topic(function), json.dumps(envelope).encode(), wait=True)

    def _listen(self) -> None:
        """Subscribe to results, at the first invocation that wants one."""
        with self._lock:
            if not self._is_listening:
                self._wire.subscribe(result_topic(self._name), self._on_result, SUBSCRIBE_TIMEOUT_S)
                self._is_listening = True

    def _on_result(self, event: Event) -> None:
        try:
            body = json.loads(event.payload or b"")
            answers = self._waiting.get(body["id"])
            if answers is not None:
                answers.put((base64.b64decode(body["payload"]), str(body["error"])))
        except (ValueError, KeyError, TypeError) as error:
            log.error("a result on %s is malformed: %r", event.topic, error)
