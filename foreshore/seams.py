"""The small protocols by which `foreshore.app` joins the rooms, and the values that cross them.

The service rooms (iot, greengrass, functions, cloudfront, cloud) never import one another. Each takes the callables
it needs as constructor arguments, typed here. Everything that crosses a seam is bytes, text, numbers or one of the
small values below; nothing here does I/O.

Trace context crosses every seam as a W3C `traceparent` text (`00-<32 hex>-<16 hex>-01`, W3C Trace Context 1) or
None; `amzn_trace_id` and `from_amzn_trace_id` turn it into AWS's `X-Amzn-Trace-Id` and back without loss.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

InvocationType = Literal["RequestResponse", "Event", "DryRun"]


@dataclass(slots=True)
class Publication:
    """One MQTT message as it crosses from one room to another (IoT Core, a core's local broker, local pub/sub).

    `user_properties` and the four MQTT 5 properties are empty or None for MQTT 3.1.1. `principal` is the certificate
    id (64 hex) or an IAM-like id of the publisher, `client_id` its MQTT client id or None when it was not MQTT.
    """

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    client_id: str | None = None
    principal: str | None = None
    source_ip: str | None = None
    timestamp_ms: int = 0
    traceparent: str | None = None
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    payload_format: int | None = None
    message_expiry_s: int | None = None
    user_properties: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class InvokeResult:
    """What a Lambda invocation gave: `payload` bytes, `function_error` None, "Handled" or "Unhandled"."""

    payload: bytes
    function_error: str | None = None
    status: int = 200
    executed_version: str = "$LATEST"
    log_tail: bytes = b""
    cold: bool = False
    request_id: str = ""


class Span(NamedTuple):
    """One step of one message. Times are wall-clock ns since the epoch; `attributes` is small, JSON-able, or None."""

    trace_id: str
    span_id: str
    parent_id: str
    service: str
    name: str
    start_ns: int
    duration_ns: int
    ok: bool
    attributes: dict[str, object] | None


class LogLine(NamedTuple):
    """One line that a component, function or service wrote."""

    time_ns: int
    service: str
    source: str
    level: str
    trace_id: str
    text: str


class Connectivity(NamedTuple):
    """One address of a core device, where client devices reach its broker (greengrassv2, ConnectivityInfo)."""

    id: str
    host: str
    port: int
    metadata: str = ""


class CoreDirectory(Protocol):
    """What greengrassv2 knows of core devices and the client devices associated with them. Names are thing names."""

    def clients_of(self, core: str, /) -> set[str]:
        """The client devices that are associated with a core device."""
        ...

    def cores_of(self, client: str, /) -> set[str]:
        """The core devices that a client device is associated with (BatchAssociateClientDeviceWithCoreDevice)."""
        ...

    def connectivity(self, core: str, /) -> list[Connectivity]:
        """What UpdateConnectivityInfo said; [] when it was never called."""
        ...

    def on_connectivity(self, callback: Callable[[str], None], /) -> None:
        """Call back with the core's name on every UpdateConnectivityInfo."""
        ...


class Publish(Protocol):
    """Put a message on the MQTT bus of IoT Core (as a service would: no policy is asked)."""

    def __call__(self, publication: Publication, /) -> None: ...


class Invoke(Protocol):
    """Invoke a Lambda function by name, `name:qualifier` or ARN. Raises AwsError (ResourceNotFoundException, …)."""

    def __call__(
        self,
        function: str,
        payload: bytes,
        *,
        invocation_type: InvocationType = "RequestResponse",
        client_context: bytes | None = None,
        traceparent: str | None = None,
    ) -> Awaitable[InvokeResult]: ...


EmitSpan = Callable[[Span], None]
EmitLog = Callable[[LogLine], None]
Clock = Callable[[], float]


_TRACEPARENT = re.compile(r"^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$")
_AMZN_ROOT = re.compile(r"Root=1-([0-9a-f]{8})-([0-9a-f]{24})")
_AMZN_PARENT = re.compile(r"Parent=([0-9a-f]{16})")
_NO_TRACE = "0" * 32


def traceparent(trace_id: str, span_id: str) -> str:
    """Join a 32-hex trace id and a 16-hex span id (W3C Trace Context, section 3.2)."""
    return f"00-{trace_id}-{span_id}-01"


def split_traceparent(text: str | None) -> tuple[str, str] | None:
    """Give (trace id, span id), or None when the text is absent or not a valid traceparent."""
    match = _TRACEPARENT.match(text) if text else None
    if match is None or match[1] == _NO_TRACE:
        return None
    return match[1], match[2]


def amzn_trace_id(text: str) -> str:
    """Write a valid traceparent as X-Amzn-Trace-Id (AWS X-Ray: trace id format 1-{8 hex}-{24 hex})."""
    ids = split_traceparent(text)
    if ids is None:
        raise ValueError(f"not a traceparent: {text!r}")
    trace_id, span_id = ids
    return f"Root=1-{trace_id[:8]}-{trace_id[8:]};Parent={span_id};Sampled=1"


def from_amzn_trace_id(text: str | None) -> str | None:
    """Read an X-Amzn-Trace-Id header; None when it has no usable Root."""
    root = _AMZN_ROOT.search(text) if text else None
    if root is None or text is None:
        return None
    parent = _AMZN_PARENT.search(text)
    return traceparent(root[1] + root[2], parent[1] if parent else root[2][:16])
