"""Lifecycle events: presence and subscriptions of clients, published on `$aws/events/…`.

The broker's observer. It also remembers of every client when it was last connected or not, for fleet indexing and the
connection APIs. No events are published for client ids that contain `#` or `+`.

Source: AWS IoT developer guide, "Lifecycle events".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from foreshore.iot.access import Identity
from foreshore.iot.mqtt.access import ClientInfo, ConnectRequest, DisconnectReason
from foreshore.seams import Publication

MAX_CLIENTS = 100_000
"""Clients remembered before those that are gone are forgotten."""


@dataclass(slots=True)
class Connectivity:
    """What is known of a client: epoch milliseconds of the last change, and why it went."""

    connected: bool
    timestamp_ms: int
    disconnect_reason: str = ""
    thing: str | None = None
    client: ClientInfo | None = None


class Presence:
    """Publishes lifecycle events through `publish`; `wall_ms` gives epoch milliseconds.

    An event whose topic nobody hears (`is_heard`) is not made.
    """

    def __init__(
        self,
        publish: Callable[[Publication], None],
        wall_ms: Callable[[], int],
        is_heard: Callable[[str], bool] = lambda topic: True,
    ) -> None:
        self._publish = publish
        self.is_heard = is_heard
        self._wall_ms = wall_ms
        self.clients: dict[str, Connectivity] = {}

    def _is_wanted(self, client_id: str) -> bool:
        return self.is_heard("$aws/events/") and "#" not in client_id and "+" not in client_id

    def _send(self, topic: str, event: dict[str, Any]) -> None:
        self._publish(Publication(topic, orjson.dumps(event), timestamp_ms=event["timestamp"]))

    def _event(self, client: ClientInfo, kind: str, now: int) -> dict[str, Any]:
        event: dict[str, Any] = {
            "clientId": client.client_id,
            "timestamp": now,
            "eventType": kind,
            "sessionIdentifier": client.session_identifier,
            "principalIdentifier": client.principal,
        }
        thing = _thing_of(client)
        if thing is not None:
            event["thingName"] = thing
        return event

    def _note(self, client: ClientInfo, state: Connectivity) -> None:
        if len(self.clients) >= MAX_CLIENTS and client.client_id not in self.clients:
            self._forget()
        self.clients[client.client_id] = state

    def _forget(self) -> None:
        """Forget the clients that are gone; a fleet of random client ids must not fill the memory."""
        for client_id in [name for name, state in self.clients.items() if not state.connected]:
            del self.clients[client_id]

    def connected(self, client: ClientInfo, /) -> None:
        """A client has connected."""
        now = client.connected_ms
        self._note(client, Connectivity(True, now, "", _thing_of(client), client))
        if not self._is_wanted(client.client_id):
            return
        event = self._event(client, "connected", now)
        event["ipAddress"] = client.source_ip
        event["versionNumber"] = client.version_number
        self._send(f"$aws/events/presence/connected/{client.client_id}", event)

    def disconnected(self, client: ClientInfo, reason: DisconnectReason, client_initiated: bool, /) -> None:
        """A connection has ended."""
        now = self._wall_ms()
        thing = _thing_of(client)
        current = self.clients.get(client.client_id)
        # After a takeover the new connection stands; the old one's end changes nothing of it.
        if current is None or current.client is client:
            self._note(client, Connectivity(False, now, reason, thing, client))
        if self._is_wanted(client.client_id):
            self._tell_disconnected(client, reason, client_initiated, now)
        client.identity = None  # What is remembered of it should be small.

    def _tell_disconnected(
        self, client: ClientInfo, reason: DisconnectReason, client_initiated: bool, now: int
    ) -> None:
        event = self._event(client, "disconnected", now)
        event["clientInitiatedDisconnect"] = client_initiated
        event["disconnectReason"] = reason
        event["versionNumber"] = client.version_number
        self._send(f"$aws/events/presence/disconnected/{client.client_id}", event)

    def connect_failed(self, request: ConnectRequest, reason: str, /) -> None:
        """A CONNECT was refused; AWS publishes only refusals by authorization."""
        if reason != "AUTHORIZATION_FAILED" or not self._is_wanted(request.client_id):
            return
        event = {
            "clientId": request.client_id,
            "timestamp": self._wall_ms(),
            "eventType": "connect_failed",
            "connectFailureReason": reason,
            "principalIdentifier": "",
            "sessionIdentifier": "",
            "ipAddress": request.source_ip,
        }
        self._send(f"$aws/events/presence/connect_failed/{request.client_id}", event)

    def subscribed(self, client: ClientInfo, filters: list[str], /) -> None:
        """Filters were granted."""
        self._topics(client, "subscribed", filters)

    def unsubscribed(self, client: ClientInfo, filters: list[str], /) -> None:
        """Filters were given up."""
        self._topics(client, "unsubscribed", filters)

    def _topics(self, client: ClientInfo, kind: str, filters: list[str]) -> None:
        if not self._is_wanted(client.client_id):
            return
        event = self._event(client, kind, self._wall_ms())
        event["topics"] = filters
        self._send(f"$aws/events/subscriptions/{kind}/{client.client_id}", event)


def connection_of(client: ClientInfo | None, with_sockets: bool) -> dict[str, Any]:
    """What GetConnection and GetThingConnectivityData tell of a connection; {} when nothing more is known of it."""
    if client is None:
        return {}
    shown: dict[str, Any] = {
        "cleanSession": client.clean,
        "keepAliveDuration": client.keep_alive,
        "sessionExpiry": client.session_expiry_s,
    }
    if with_sockets:
        shown |= {"sourceIp": client.source_ip, "sourcePort": client.source_port}
    return shown


def _thing_of(client: ClientInfo) -> str | None:
    """AWS names the thing when the principal belongs to it exclusively."""
    identity = client.identity
    return identity.exclusive_thing if isinstance(identity, Identity) else None
