"""A Greengrass core's connection to IoT Core: MQTT 5 over mutual TLS, at AWS's rate, with the trace carried along."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from foreshore.errors import AwsError, PeerError
from foreshore.iot.mqtt import properties as p
from foreshore.iot.mqtt.client import MqttClient, Refused, State
from foreshore.iot.mqtt.codec import Publish
from foreshore.seams import Publication

# "AWS IoT Core message broker and protocol limits": publish requests per second per connection.
PUBLISHES_A_SECOND = 95  # a little below the limit of 100, which counts in whole seconds
SESSION_EXPIRY_S = 3600
TRACE_PROPERTY = "traceparent"
_FIELDS = {
    "content_type": p.CONTENT_TYPE,
    "response_topic": p.RESPONSE_TOPIC,
    "correlation_data": p.CORRELATION_DATA,
    "payload_format": p.PAYLOAD_FORMAT,
    "message_expiry_s": p.MESSAGE_EXPIRY,
}


class CoreLink:
    """`greengrass.cloud_link.CloudLink` over `MqttClient`."""

    def __init__(self, host: str, port: int, thing: str, ca: Path, certificate: Path, key: Path) -> None:
        context = ssl.create_default_context(cafile=str(ca))
        context.load_cert_chain(certificate, key)
        self._listeners: list[Callable[[bool], None]] = []
        self._client = MqttClient(
            host, port, thing, ssl=context, clean=False, session_expiry_s=SESSION_EXPIRY_S, on_state=self._on_state
        )
        self._free_at = 0.0

    async def connect(self) -> None:
        """Connect and stay connected. Raises OSError, TimeoutError or Refused."""
        await self._client.connect()

    async def stop(self) -> None:
        """Disconnect for good."""
        await self._client.disconnect()

    def _on_state(self, state: State, why: str) -> None:
        for listener in self._listeners:
            listener(state == "connected")

    @property
    def connected(self) -> bool:
        """Whether a publish would go out now."""
        return self._client.state == "connected"

    def on_state(self, callback: Callable[[bool], None], /) -> None:
        """Hear of later changes."""
        self._listeners.append(callback)

    async def publish(self, publication: Publication, /) -> int:
        """Publish, paced to AWS's limit, with the trace as a user property. Gives the PUBACK's reason code."""
        now = time.monotonic()
        self._free_at = max(self._free_at, now) + 1 / PUBLISHES_A_SECOND
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)
        return await self._client.publish(
            publication.topic,
            publication.payload,
            publication.qos,
            to_properties(publication),
            retain=publication.retain,
        )

    async def subscribe(self, filter: str, qos: int, callback: Callable[[Publication], None], /) -> None:
        """Subscribe, also after every later reconnection. Raises AwsError when the broker refuses."""
        try:
            await self._client.subscribe(filter, qos, lambda packet: callback(to_publication(packet)))
        except Refused as error:
            raise AwsError("UnauthorizedException", f"IoT Core refused {filter}: 0x{error.reason:02x}", 403) from error
        except PeerError as error:
            raise ConnectionError(str(error)) from error

    async def unsubscribe(self, filter: str, /) -> None:
        """Take a subscription back."""
        await self._client.unsubscribe(filter)


def to_properties(publication: Publication) -> p.Properties:
    """MQTT 5 properties of a publication; the trace joins the user properties unless it is there already."""
    found: p.Properties = {}
    for name, identifier in _FIELDS.items():
        value = getattr(publication, name)
        if value is not None:
            found[identifier] = value
    pairs = list(publication.user_properties)
    if publication.traceparent and all(name != TRACE_PROPERTY for name, _ in pairs):
        pairs.append((TRACE_PROPERTY, publication.traceparent))
    if pairs:
        found[p.USER_PROPERTY] = pairs
    return found


def to_publication(packet: Publish) -> Publication:
    """A delivered message; the trace leaves the user properties, where a core's component has no use for it."""
    pairs = packet.properties.get(p.USER_PROPERTY, [])
    fields: dict[str, Any] = {name: packet.properties.get(identifier) for name, identifier in _FIELDS.items()}
    return Publication(
        packet.topic,
        packet.payload,
        packet.qos,
        packet.retain,
        traceparent=next((value for name, value in pairs if name == TRACE_PROPERTY), None),
        user_properties=[pair for pair in pairs if pair[0] != TRACE_PROPERTY],
        **fields,
    )
