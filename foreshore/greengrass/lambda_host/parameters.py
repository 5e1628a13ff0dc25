"""Lambda parameters of a component, read from its Greengrass configuration. Pure.

Both spellings are read: the one of CreateComponentVersion's `componentLambdaParameters` (`eventSources`,
`environmentVariables`) and the one a Lambda component has on a device (`pubsubTopics`,
`lambdaExecutionParameters.EnvironmentVariables`). nucleus lite gives every scalar as text, so numbers and booleans are
read from text too. Defaults are those of the Greengrass API reference, LambdaExecutionParameters.

`routes` is this host's own key: where a publish of the handler goes. It replaces what Greengrass V1 subscriptions and
the legacy subscription router did: each route has a topic filter and a type, PUB_SUB or IOT_CORE.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PUB_SUB = "PUB_SUB"
IOT_CORE = "IOT_CORE"
ENCODINGS = ("json", "binary")
_TYPE_ALIASES = {"PUB_SUB": PUB_SUB, "PUBSUB": PUB_SUB, "IOT_CORE": IOT_CORE, "IOTCORE": IOT_CORE, "CLOUD": IOT_CORE}


class BadParameters(ValueError):
    """The component's configuration can't be used; the text names the key."""


@dataclass(frozen=True, slots=True)
class EventSource:
    """A subscription that triggers the handler: topic filter, PUB_SUB or IOT_CORE, and QoS 0 or 1 for IOT_CORE."""

    topic: str
    type: str
    qos: int = 1


@dataclass(frozen=True, slots=True)
class Route:
    """Where publishes to topics that match `topic` go."""

    topic: str
    type: str
    qos: int = 1


@dataclass(frozen=True, slots=True)
class Parameters:
    """How to run one handler. Times in seconds, sizes in messages."""

    event_sources: tuple[EventSource, ...] = ()
    routes: tuple[Route, ...] = ()
    pinned: bool = True
    max_queue_size: int = 1000
    max_instances: int = 100
    max_idle_s: float = 60
    timeout_s: float = 3
    status_timeout_s: float = 60
    encoding: str = "json"
    environment: Mapping[str, str] = field(default_factory=dict)
    lambda_arn: str = ""
    exec_args: tuple[str, ...] = ()
    publish_window: int = 64
    invocable: bool = False


def read_parameters(configuration: Mapping[str, Any]) -> Parameters:
    """Read a component's whole configuration. Raises BadParameters."""
    settings = {**_map(configuration, "lambda"), **configuration}
    return Parameters(
        event_sources=tuple(_sources(settings)),
        routes=tuple(Route(*_topic_and_type(each, "routes")) for each in _items(settings, "routes")),
        pinned=_boolean(settings, "pinned", True),
        max_queue_size=int(_number(settings, "maxQueueSize", 1000, 1)),
        max_instances=int(_number(settings, "maxInstancesCount", 100, 1)),
        max_idle_s=_number(settings, "maxIdleTimeInSeconds", 60, 0),
        timeout_s=_number(settings, "timeoutInSeconds", 3, 0),
        status_timeout_s=_number(settings, "statusTimeoutInSeconds", 60, 0),
        encoding=_encoding(settings),
        environment=_environment(settings),
        lambda_arn=str(settings.get("lambdaArn") or ""),
        exec_args=tuple(str(each) for each in _items(settings, "execArgs")),
        publish_window=int(_number(settings, "publishWindow", 64, 1)),
        invocable=_boolean(settings, "invocable", False),
    )


def find_routes(routes: tuple[Route, ...], topic: str) -> list[Route]:
    """The routes whose filter matches a topic; at most one a type, so that nothing goes twice to one place."""
    found: dict[str, Route] = {}
    for route in routes:
        if route.type not in found and matches(route.topic, topic):
            found[route.type] = route
    return list(found.values())


def matches(topic_filter: str, topic: str) -> bool:
    """MQTT topic matching [MQTT-4.7.1-2], [MQTT-4.7.1-3]; wildcards don't match a leading `$` [MQTT-4.7.2-1]."""
    if topic_filter == topic:
        return True
    wanted = topic_filter.split("/")
    levels = topic.split("/")
    if topic.startswith("$") and wanted[0] in ("#", "+"):
        return False
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or (level not in ("+", levels[index])):
            return False
    return len(wanted) == len(levels)


def _sources(settings: Mapping[str, Any]) -> list[EventSource]:
    found = [*_items(settings, "eventSources"), *_items(settings, "pubsubTopics")]
    return list(dict.fromkeys(EventSource(*_topic_and_type(each, "eventSources")) for each in found))


def _topic_and_type(value: Any, key: str) -> tuple[str, str, int]:
    if not isinstance(value, Mapping) or not isinstance(value.get("topic"), str) or not value["topic"]:
        raise BadParameters(f"{key}: each entry needs a topic and a type, not {value!r}")
    kind = _TYPE_ALIASES.get(str(value.get("type", PUB_SUB)).upper())
    if kind is None:
        raise BadParameters(f"{key}: type of {value['topic']!r} is PUB_SUB or IOT_CORE, not {value.get('type')!r}")
    qos = str(value.get("qos", 1))
    if qos not in ("0", "1"):
        raise BadParameters(f"{key}: qos of {value['topic']!r} is 0 or 1, not {qos!r}")
    return value["topic"], kind, int(qos)


def _map(settings: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = settings.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise BadParameters(f"{key}: expected a map, not {value!r}")
    return value


def _items(settings: Mapping[str, Any], key: str) -> list[Any]:
    """A list, or a map whose values are the items (deployments can merge into maps, but only replace lists)."""
    value = settings.get(key)
    if value is None or value == "":
        return []
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list):
        return value
    raise BadParameters(f"{key}: expected a list or a map, not {value!r}")


def _number(settings: Mapping[str, Any], key: str, default: float, least: float) -> float:
    value = settings.get(key)
    if value is None:
        return default
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise BadParameters(f"{key}: expected a number, not {value!r}") from None
    if isinstance(value, bool) or not least <= number < float("inf"):
        raise BadParameters(f"{key}: expected a number of at least {least:g}, not {value!r}")
    return number


def _boolean(settings: Mapping[str, Any], key: str, default: bool) -> bool:
    value = settings.get(key, default)
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    raise BadParameters(f"{key}: expected true or false, not {value!r}")


def _encoding(settings: Mapping[str, Any]) -> str:
    encoding = str(settings.get("inputPayloadEncodingType", "json")).lower()
    if encoding not in ENCODINGS:
        raise BadParameters(f"inputPayloadEncodingType: json or binary, not {encoding!r}")
    return encoding


def _environment(settings: Mapping[str, Any]) -> dict[str, str]:
    execution = _map(settings, "lambdaExecutionParameters")
    merged = {**_map(execution, "EnvironmentVariables"), **_map(settings, "environmentVariables")}
    return {str(name): _text(value) for name, value in merged.items()}


def _text(value: Any) -> str:
    """A configuration value as environment text: maps and lists become JSON, as in recipe variables."""
    return value if isinstance(value, str) else json.dumps(value)
