"""What a core tells the cloud of its components: the message on `$aws/things/<thing>/greengrassv2/health/json`. Pure.

Source: nucleus 2.18 (FleetStatusService and its model). Times are epoch ms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import orjson

MAX_BYTES = 128_000
CADENCE_S = 86_400
MIN_GAP_S = 10.0
RECONNECT_GAP_S = 60.0

Trigger = Literal[
    "LOCAL_DEPLOYMENT", "THING_DEPLOYMENT", "THING_GROUP_DEPLOYMENT", "COMPONENT_STATUS_CHANGE", "RECONNECT", "CADENCE",
    "NUCLEUS_LAUNCH", "NETWORK_RECONFIGURE",
]  # fmt: skip
_COMPLETE = {"CADENCE", "NUCLEUS_LAUNCH", "NETWORK_RECONFIGURE"}
# A component that is in none of these is on its way to another state.
TERMINAL = {"RUNNING", "FINISHED", "BROKEN", "STATELESS", "INSTALLED", "NEW"}


@dataclass(frozen=True, slots=True)
class Component:
    """One component as the message has it."""

    name: str
    version: str
    state: str
    is_root: bool = False
    groups: tuple[str, ...] = ()
    reason: str = ""

    def document(self) -> dict[str, Any]:
        """Its JSON; the details are those of an ERRORED or BROKEN one only."""
        details = None
        if self.state in ("ERRORED", "BROKEN"):
            details = {"statusCodes": [], "statusReason": self.reason}
        return {
            "componentName": self.name,
            "version": self.version,
            "fleetConfigArns": list(self.groups),
            "componentStatusDetails": details,
            "isRoot": self.is_root,
            "status": self.state,
        }


class Core(NamedTuple):
    """What stays the same in all messages of a core."""

    thing: str
    version: str
    platform: str
    architecture: str


def trigger_of(group: str) -> Trigger:
    """What the end of a deployment to a group is."""
    kind = group.partition("/")[0]
    if kind == "thing":
        return "THING_DEPLOYMENT"
    return "THING_GROUP_DEPLOYMENT" if kind == "thinggroup" else "LOCAL_DEPLOYMENT"


def is_healthy(components: Sequence[Component]) -> bool:
    """A BROKEN component makes the core UNHEALTHY."""
    return all(each.state != "BROKEN" for each in components)


def messages(
    core: Core,
    trigger: Trigger,
    told: Sequence[Component],
    *,
    healthy: bool,
    sequence: int,
    now_ms: int,
    deployment: Mapping[str, Any] | None = None,
) -> list[bytes]:
    """The message; where it would be larger than 128,000 bytes, several with a part of the components each."""
    head: dict[str, Any] = {
        "ggcVersion": core.version,
        "platform": core.platform,
        "architecture": core.architecture,
        "thing": core.thing,
        "overallDeviceStatus": "HEALTHY" if healthy else "UNHEALTHY",
        "sequenceNumber": sequence,
        "timestamp": now_ms,
        "messageType": "COMPLETE" if trigger in _COMPLETE else "PARTIAL",
        "trigger": trigger,
    }
    tail = {} if deployment is None else {"deploymentInformation": dict(deployment)}
    documents = [each.document() for each in told]
    room = MAX_BYTES - len(orjson.dumps({**head, "chunkInfo": {"chunkId": 9999, "totalChunks": 9999}, **tail})) - 32
    parts = list(_parts(documents, room)) or [[]]
    return [
        orjson.dumps({**head, **_chunk(number, len(parts)), "components": part, **tail})
        for number, part in enumerate(parts, 1)
    ]


def _chunk(number: int, total: int) -> dict[str, Any]:
    return {} if total == 1 else {"chunkInfo": {"chunkId": number, "totalChunks": total}}


def _parts(documents: Sequence[dict[str, Any]], room: int) -> Iterator[list[dict[str, Any]]]:
    part: list[dict[str, Any]] = []
    size = 0
    for document in documents:
        length = len(orjson.dumps(document)) + 1
        if part and size + length > room:
            yield part
            part, size = [], 0
        part.append(document)
        size += length
    if part:
        yield part


def deployment_information(
    deployment_id: str, status: str, detailed: str, cause: str, stack: Sequence[str], types: Sequence[str]
) -> dict[str, Any]:
    """`deploymentInformation` of the message that follows a deployment."""
    return {
        "status": status,
        "statusDetails": {
            "detailedStatus": detailed,
            "failureCause": cause or None,
            "errorStack": list(stack) or None,
            "errorTypes": list(types) or None,
        },
        "fleetConfigurationArnForStatus": None,
        "deploymentId": deployment_id,
        "unchangedRootComponents": None,
    }


def cadence_s(nucleus: Mapping[str, Any]) -> int:
    """How often a complete message goes: `fleetStatus.periodicStatusPublishIntervalSeconds`, a day at the least."""
    found = nucleus.get("fleetStatus")
    text = found.get("periodicStatusPublishIntervalSeconds") if isinstance(found, Mapping) else None
    try:
        return max(CADENCE_S, int(float(str(text))))
    except ValueError:
        return CADENCE_S
