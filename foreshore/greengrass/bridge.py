"""The MQTT bridge's mapping between local MQTT, local publish/subscribe and IoT Core. Pure.

Source: Greengrass developer guide, "MQTT bridge", `mqttTopicMapping`: {name: {topic, source, target,
targetTopicPrefix}} with LocalMqtt, Pubsub and IotCore.
"""

from __future__ import annotations

from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from foreshore.errors import UserError


class Source(Enum):
    """The three sides, as the configuration spells them."""

    LOCAL_MQTT = "LocalMqtt"
    PUBSUB = "Pubsub"
    IOT_CORE = "IotCore"


@dataclass(slots=True, frozen=True)
class Mapping:
    """Messages of `topic` at `source` go to `target` with `prefix` before their topic."""

    topic: str
    source: Source
    target: Source
    prefix: str = ""


def read_mappings(configuration: AnyMapping[str, Any]) -> list[Mapping]:
    """The bridge's configuration. Raises UserError naming the mapping that is wrong."""
    found = []
    for name, row in (configuration.get("mqttTopicMapping") or {}).items():
        try:
            source, target = (_side(str(row[key])) for key in ("source", "target"))
            topic = str(row["topic"])
        except (KeyError, TypeError) as error:
            raise UserError(f"mapping {name} needs topic, source and target", code="bridge", where=name) from error
        if source is target:
            raise UserError(f"mapping {name} has the same source and target", code="bridge", where=name)
        found.append(Mapping(topic, source, target, str(row.get("targetTopicPrefix", ""))))
    return found


def _side(text: str) -> Source:
    for side in Source:
        if side.value.lower() == text.lower():
            return side
    raise UserError(
        f"{text!r} is none of {', '.join(side.value for side in Source)}", code="bridge", where="mqttTopicMapping"
    )
