"""Faults on demand for one client id: what AWS IoT Device Advisor does to a device under test. Pure.

Each fault is armed for a number of packets; the broker asks `swallows(name)` where it would send that packet.
"""

from __future__ import annotations

from typing import Literal

Swallowed = Literal["CONNACK", "PUBACK", "SUBACK", "UNSUBACK", "PINGRESP"]


class Faults:
    """The faults of one client. `swallow` maps a packet name to how many of them are withheld (-1: all)."""

    def __init__(self, swallow: dict[Swallowed, int] | None = None) -> None:
        self.swallow: dict[Swallowed, int] = dict(swallow or {})
        self.withheld: dict[Swallowed, int] = {}

    def swallows(self, name: Swallowed) -> bool:
        """Whether the next packet of this name is to be withheld; counts it when it is."""
        left = self.swallow.get(name, 0)
        if not left:
            return False
        if left > 0:
            self.swallow[name] = left - 1
        self.withheld[name] = self.withheld.get(name, 0) + 1
        return True
