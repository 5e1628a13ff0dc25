"""The core's link to IoT Core, as the core sees it: a protocol that `foreshore.app` fills with a real MQTT 5 client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from foreshore.seams import Publication


class CloudLink(Protocol):
    """One MQTT 5 connection of the core device."""

    @property
    def connected(self) -> bool:
        """Whether a publish would go out now."""
        ...

    def on_state(self, callback: Callable[[bool], None], /) -> None:
        """Call back with True or False on every later change of `connected`."""
        ...

    async def publish(self, publication: Publication, /) -> int:
        """Publish and give the PUBACK's reason code (0 for QoS 0; 0x80 and above are refusals, MQTT 5 section 3.4.2.1).
        Raises ConnectionError when the link breaks before the acknowledgement."""
        ...

    async def subscribe(self, filter: str, qos: int, callback: Callable[[Publication], None], /) -> None:
        """Subscribe, also after every later reconnection. Raises AwsError when the broker refuses it, ConnectionError
        when there is no link."""
        ...

    async def unsubscribe(self, filter: str, /) -> None:
        """Take a subscription back; one that is not there is fine."""
        ...
