"""Who may do what at the broker, and who is told of it: the small values and protocols that other modules fill.

The broker asks `Access` and tells an `Observer`; it knows neither certificates nor policies. Decisions may be cached
by the broker until `Broker.invalidate_access()`, so they must depend on their arguments alone. This module is pure.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

ListenerKind = Literal["mqtt", "mqtts", "wss", "local"]

DisconnectReason = Literal[
    "AUTH_ERROR",
    "CLIENT_INITIATED_DISCONNECT",
    "CLIENT_ERROR",
    "CONNECTION_LOST",
    "DUPLICATE_CLIENTID",
    "FORBIDDEN_ACCESS",
    "MQTT_KEEP_ALIVE_TIMEOUT",
    "SERVER_ERROR",
    "SERVER_INITIATED_DISCONNECT",
    "API_INITIATED_DISCONNECT",
    "THROTTLED",
    "WEBSOCKET_TTL_EXPIRATION",
    "CUSTOMAUTH_TTL_EXPIRATION",
]
"""AWS IoT developer guide, "Lifecycle events", disconnectReason."""

NOT_AUTHORIZED = 0x87


@dataclass(slots=True)
class ConnectRequest:
    """One CONNECT with what the transport knows. `certificate` is the peer's certificate in DER, or None.

    `keep_alive` is in seconds as the client asked. `http_headers` and `http_query` are those of the WebSocket upgrade.
    `password` is bytes as MQTT carries it. `authorization` is what the upgrade's own check (SigV4) established.
    """

    client_id: str
    username: str | None = None
    password: bytes | None = None
    certificate: bytes | None = None
    source_ip: str = ""
    source_port: int = 0
    listener: ListenerKind = "mqtt"
    sni: str | None = None
    alpn: str | None = None
    protocol_level: int = 4
    clean: bool = True
    keep_alive: int = 0
    will_topic: str | None = None
    will_payload: bytes | None = None
    will_retain: bool = False
    http_headers: Sequence[tuple[str, str]] = ()
    http_query: Sequence[tuple[str, str]] = ()
    authorization: object = None


@dataclass(slots=True)
class ConnectDecision:
    """The answer to a `ConnectRequest`.

    `identity` comes back in every later question; one with a true attribute `wants_trace` (a core's link) gets the
    `traceparent` user property on MQTT 5 deliveries. `principal` is the certificate id (64 hex) or an IAM-like id.
    `reason_code` is the CONNACK reason of a refusal. `ttl_s` ends the connection after that many seconds;
    `refresh_s` is after how many it is asked for again. Of an HTTP request's, `refresh_s` is how long it may be kept.
    """

    allowed: bool
    identity: object = None
    principal: str = ""
    reason_code: int = NOT_AUTHORIZED
    ttl_s: float | None = None
    refresh_s: float | None = None


class Access(Protocol):
    """Decides. `connect` may be a coroutine (a custom authorizer is a Lambda function); the others may not."""

    def connect(self, request: ConnectRequest, /) -> ConnectDecision | Awaitable[ConnectDecision]: ...

    def may_publish(self, identity: object, topic: str, retain: bool, /) -> bool: ...

    def may_subscribe(self, identity: object, filter: str, /) -> bool: ...

    def may_receive(self, identity: object, topic: str, /) -> bool: ...


class AllowAll:
    """Access for plain use: everybody may do everything."""

    def connect(self, request: ConnectRequest, /) -> ConnectDecision:
        return ConnectDecision(True, principal=request.username or "")

    def may_publish(self, identity: object, topic: str, retain: bool, /) -> bool:
        return True

    def may_subscribe(self, identity: object, filter: str, /) -> bool:
        return True

    def may_receive(self, identity: object, topic: str, /) -> bool:
        return True


@dataclass(slots=True)
class ClientInfo:
    """A connection as observers and `Broker.clients()` see it.

    `session_identifier` is new for each connection and `version_number` counts the connections of a client id (both
    as AWS's lifecycle events have them); `connected_ms` is epoch milliseconds; `keep_alive` the seconds in force.
    """

    client_id: str
    principal: str = ""
    source_ip: str = ""
    source_port: int = 0
    listener: ListenerKind = "mqtt"
    username: str | None = None
    protocol_level: int = 4
    clean: bool = True
    keep_alive: int = 0
    session_identifier: str = ""
    version_number: int = 0
    connected_ms: int = 0
    session_expiry_s: int = 0
    connected: bool = True
    identity: object = field(default=None, repr=False)


class Observer(Protocol):
    """Is told of presence. Calls come from the event loop, after the fact; they must be quick and not raise."""

    def connected(self, client: ClientInfo, /) -> None: ...

    def disconnected(self, client: ClientInfo, reason: DisconnectReason, client_initiated: bool, /) -> None: ...

    def connect_failed(self, request: ConnectRequest, reason: str, /) -> None: ...

    def subscribed(self, client: ClientInfo, filters: list[str], /) -> None: ...

    def unsubscribed(self, client: ClientInfo, filters: list[str], /) -> None: ...


class SilentObserver:
    """Does nothing; also a parent for observers that want only some of the calls."""

    def connected(self, client: ClientInfo, /) -> None:
        """A CONNECT was accepted."""

    def disconnected(self, client: ClientInfo, reason: DisconnectReason, client_initiated: bool, /) -> None:
        """The connection is gone."""

    def connect_failed(self, request: ConnectRequest, reason: str, /) -> None:
        """A CONNECT was refused; `reason` as in AWS's connectFailureReason, e.g. AUTHORIZATION_FAILED."""

    def subscribed(self, client: ClientInfo, filters: list[str], /) -> None:
        """Filters were granted."""

    def unsubscribed(self, client: ClientInfo, filters: list[str], /) -> None:
        """Filters were given up."""
