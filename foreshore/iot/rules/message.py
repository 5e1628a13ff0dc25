"""What a rule reads (`Message`) and what it gives (`Result`). Values only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from foreshore.iot.rules.ambient import entropy, now_ms
from foreshore.iot.rules.values import UNDEFINED, NotJson, Value, read_json, write_json

MAX_VALUE = 128 * 1024


class RuleFailed(Exception):
    """The statement can't be evaluated for this message: no action runs."""


class ExternalFailed(RuleFailed):
    """An external function failed or found nothing: the rule stops and runs no action, unless get_or_default has it."""


class Services(Protocol):
    """What the external functions call. Each gives a value of `values.py` or raises ExternalFailed. May block."""

    def aws_lambda(self, arn: str, argument: Value) -> Value: ...
    def get_dynamodb(self, table: str, keys: list[tuple[str, Value]], role: str) -> Value: ...
    def get_secret(self, secret: str, kind: str, key: str | None, role: str) -> Value: ...
    def get_thing_shadow(self, thing: str, name: str | None, role: str) -> Value: ...
    def get_registry_data(self, operation: str, thing: str, role: str) -> Value: ...
    def proto_descriptor(self, bucket: str, key: str) -> bytes: ...


_UNREAD = object()


@dataclass(slots=True)
class Message:
    """One message as the rules engine sees it. `client_id` is None when it did not come by MQTT.

    `trace_id` is 32 hex digits or a UUID; both read as a UUID. `principal` is a certificate id (64 hex),
    `role-id:session` or a user id. The four MQTT 5 properties are None when absent; `format_indicator` is
    `UNSPECIFIED_BYTES` or `UTF8_DATA`. The payload is decoded once, however many rules read it.
    """

    topic: str
    payload: bytes = b""
    client_id: str | None = None
    principal: str | None = None
    source_ip: str | None = None
    timestamp_ms: int = field(default_factory=now_ms)
    trace_id: str | None = None
    account: str = "000000000000"
    content_type: str | None = None
    format_indicator: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    user_properties: list[tuple[str, str]] = field(default_factory=list)
    services: Services | None = None
    random_bytes: Callable[[int], bytes] = entropy
    _new: Value = field(default=_UNREAD, repr=False)
    _old: Value = field(default=_UNREAD, repr=False)

    @property
    def trace_uuid(self) -> str:
        """The trace id as AWS prints it; empty without one."""
        trace = self.trace_id or ""
        if len(trace) != 32:
            return trace
        return f"{trace[:8]}-{trace[8:12]}-{trace[12:16]}-{trace[16:20]}-{trace[20:]}"

    def value(self, old: bool) -> Value:
        """The payload decoded: a JSON value, or UNDEFINED when it is none (2015-10-08 keeps `10.0`, later do not)."""
        found = self._old if old else self._new
        if found is not _UNREAD:
            return found
        try:
            found = read_json(self.payload, old)
        except NotJson:
            found = UNDEFINED
        if old:
            self._old = found
        else:
            self._new = found
        return found


@dataclass(slots=True)
class Result:
    """One evaluation. `fired` is true only when FROM and WHERE matched and nothing failed.

    `where` is the value of WHERE (True without one). `value` is the SELECT's value (bytes for a raw payload), `old`
    the number format of its SQL version, `error` the text of a failure, `variables` what SET defined.
    """

    fired: bool
    matched: bool = True
    where: Value = True
    value: Value = UNDEFINED
    error: str = ""
    old: bool = False
    variables: dict[str, Value] = field(default_factory=dict)
    _payload: bytes | None = field(default=None, repr=False)

    @property
    def payload(self) -> bytes:
        """What actions send: JSON, or the raw bytes, or nothing for Undefined."""
        if self._payload is None:
            value = self.value
            if value is UNDEFINED:
                self._payload = b""
            elif type(value) is bytes:
                self._payload = value
            else:
                self._payload = write_json(value, self.old)
        return self._payload
