"""The MQTT bridge's configuration: what goes from where to where. Pure.

`mqttTopicMapping` is {name: {topic, source, target, targetTopicPrefix}} with the sides LocalMqtt, Pubsub and IotCore;
`mqtt.version` is mqtt3 (default) or mqtt5, and `mqtt5RouteOptions` {name: {noLocal, retainAsPublished}} counts for
mqtt5 and mappings whose source is LocalMqtt. Source: Greengrass developer guide, "MQTT bridge";
aws-greengrass-mqtt-bridge 2.3.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from foreshore.errors import UserError

NAME = "aws.greengrass.clientdevices.mqtt.Bridge"
_CONNECTION = (
    "ackTimeoutSeconds", "connAckTimeoutMs", "keepAliveTimeoutSeconds", "maxReconnectDelayMs", "maximumPacketSize",
    "minReconnectDelayMs", "pingTimeoutMs", "receiveMaximum", "sessionExpiryInterval",
)  # fmt: skip
MAX_PASSES = 64
_REMEMBERED = 4096


class Source(Enum):
    """The three sides, as the configuration spells them."""

    LOCAL_MQTT = "LocalMqtt"
    PUBSUB = "Pubsub"
    IOT_CORE = "IotCore"


@dataclass(slots=True, frozen=True)
class Mapping:
    """Messages of `topic` at `source` go to `target` with `prefix` before their topic."""

    name: str
    topic: str
    source: Source
    target: Source
    prefix: str = ""
    no_local: bool = False
    retain_as_published: bool = False


class BridgeSettings(NamedTuple):
    """The whole configuration. `notes` says what of it has no effect."""

    mappings: tuple[Mapping, ...] = ()
    is_mqtt5: bool = False
    client_id: str = ""
    notes: tuple[str, ...] = ()


def read_bridge(configuration: AnyMapping[str, Any]) -> BridgeSettings:
    """Read the component's configuration. Raises UserError naming the mapping that is wrong."""
    is_mqtt5 = str(_map(configuration.get("mqtt"), "mqtt").get("version", "")).lower() == "mqtt5"
    options = _map(configuration.get("mqtt5RouteOptions"), "mqtt5RouteOptions")
    rows = _map(configuration.get("mqttTopicMapping"), "mqttTopicMapping")
    mappings = tuple(
        _mapping(str(name), row, _map(options.get(name), f"mqtt5RouteOptions.{name}") if is_mqtt5 else {})
        for name, row in rows.items()
    )
    return BridgeSettings(
        mappings, is_mqtt5, str(configuration.get("clientId") or ""),
        (*_connection_notes(configuration), *_notes(options, rows, is_mqtt5)),
    )  # fmt: skip


def _map(value: object, where: str) -> AnyMapping[str, Any]:
    if value is not None and not isinstance(value, AnyMapping):
        raise UserError("must be a map", code="bridge", where=where)
    return value or {}


def _mapping(name: str, row: object, options: AnyMapping[str, Any]) -> Mapping:
    members = _map(row, name)
    missing = [key for key in ("topic", "source", "target") if not members.get(key)]
    if missing:
        raise UserError(f"mapping {name} needs {', '.join(missing)}", code="bridge", where=f"mqttTopicMapping.{name}")
    source, target = (_side(str(members[key]), f"mqttTopicMapping.{name}.{key}") for key in ("source", "target"))
    if source is target:
        raise UserError(
            f"mapping {name} has the same source and target", code="bridge", where=f"mqttTopicMapping.{name}"
        )
    if not _is_filter(str(members["topic"])):
        raise UserError(
            f"mapping {name}: {members['topic']!r} is no topic filter", code="bridge",
            where=f"mqttTopicMapping.{name}.topic", mend="+ and # stand alone in a level, # in the last",
        )  # fmt: skip
    is_local = source is Source.LOCAL_MQTT
    return Mapping(
        name, str(members["topic"]), source, target, str(members.get("targetTopicPrefix") or ""),
        is_local and _is_true(options.get("noLocal")), is_local and _is_true(options.get("retainAsPublished")),
    )  # fmt: skip


def _is_filter(topic: str) -> bool:
    """[MQTT-4.7.1-1], [MQTT-4.7.1-2], [MQTT-4.7.3-2]"""
    levels = topic.split("/")
    if "\0" in topic or any("#" in level for level in levels[:-1]) or len(topic.encode("utf-8", "replace")) > 65_535:
        return False
    return all(level in ("+", "#") or not {"+", "#"} & set(level) for level in levels)


def _is_true(value: object) -> bool:
    return str(value).lower() == "true"


def _connection_notes(configuration: AnyMapping[str, Any]) -> Iterator[str]:
    """Settings of a connection that the bridge does not have: it is joined to the core's own broker."""
    given = [key for key in ("brokerUri", "brokerServerUri") if configuration.get(key)]
    given += [f"mqtt.{key}" for key in _map(configuration.get("mqtt"), "mqtt") if key in _CONNECTION]
    for key in given:
        yield f"{key} has no effect: the bridge is joined to the core's own broker, without a connection"


def _notes(options: AnyMapping[str, Any], rows: AnyMapping[str, Any], is_mqtt5: bool) -> tuple[str, ...]:
    if options and not is_mqtt5:
        return ("mqtt5RouteOptions has no effect without mqtt.version mqtt5",)
    return tuple(f"mqtt5RouteOptions.{name} names no mapping" for name in options if name not in rows)


def _side(text: str, where: str) -> Source:
    for side in Source:
        if side.value == text:
            return side
    sides = ", ".join(side.value for side in Source)
    raise UserError(f"{text!r} is none of {sides}", code="bridge", where=where, mend="mind upper and lower case")


class Passes:
    """Counts how often the same message of one trace came by, to end a loop of mappings that a device would not."""

    def __init__(self) -> None:
        self._counts: OrderedDict[tuple[str, str, int], int] = OrderedDict()

    def is_loop(self, trace_id: str, topic: str, payload: bytes) -> bool:
        """Count one pass; True when there were too many."""
        key = (trace_id, topic, hash(payload))
        count = self._counts.pop(key, 0) + 1
        self._counts[key] = count
        if len(self._counts) > _REMEMBERED:
            self._counts.popitem(last=False)
        return count > MAX_PASSES
