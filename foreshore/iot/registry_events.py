"""Registry event messages on `$aws/events/…`: things, types, groups and memberships, when they are switched on.

Source: AWS IoT developer guide, "Registry events". Off until UpdateEventConfigurations switches a type on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from foreshore.iot.settings import Settings
from foreshore.iot.store import Document, Ground
from foreshore.seams import Publication

_TOPICS = {"CREATED": "created", "UPDATED": "updated", "DELETED": "deleted"}


class RegistryEvents:
    """Publishes registry events through `publish`."""

    def __init__(self, ground: Ground, settings: Settings, publish: Callable[[Publication], None]) -> None:
        self._ground = ground
        self._settings = settings
        self._publish = publish

    def _send(self, topic: str, kind: str, members: dict[str, Any]) -> None:
        now = int(self._ground.clock() * 1000)
        event = {"eventId": self._ground.new_id(), "timestamp": now, "accountId": self._ground.arns.account, **members}
        if kind:
            event = {"eventType": kind, **event}
        if kind == "THING_TYPE_ASSOCIATION_EVENT":
            del event["accountId"]  # The one registry event that has none.
        self._publish(Publication(topic, orjson.dumps(event), timestamp_ms=now))

    def thing(self, operation: str, document: Document) -> None:
        """A thing was CREATED, UPDATED or DELETED."""
        if not self._settings.events_on("THING"):
            return
        name = document["thingName"]
        members = {
            "operation": operation,
            "thingId": document["thingId"],
            "thingName": name,
            "versionNumber": document["version"],
            "thingTypeName": document.get("thingTypeName"),
            "attributes": document["attributes"],
        }
        self._send(f"$aws/events/thing/{name}/{_TOPICS[operation]}", "THING_EVENT", members)

    def thing_type(self, operation: str, document: Document) -> None:
        """A thing type was CREATED, UPDATED or DELETED."""
        if not self._settings.events_on("THING_TYPE"):
            return
        name = document["thingTypeName"]
        members = {
            "operation": operation,
            "thingTypeId": document["thingTypeId"],
            "thingTypeName": name,
            "isDeprecated": document["deprecated"],
            "deprecationDate": document.get("deprecationDate"),
            "searchableAttributes": document["properties"].get("searchableAttributes", []),
            "propagatingAttributes": (document["properties"].get("mqtt5Configuration") or {}).get(
                "propagatingAttributes", []
            ),
            "description": document["properties"].get("thingTypeDescription") or "",
        }
        self._send(f"$aws/events/thingType/{name}/{_TOPICS[operation]}", "THING_TYPE_EVENT", members)

    def type_association(self, operation: str, thing: Document, type_name: str) -> None:
        """A thing got (ADDED) or lost (REMOVED) its type."""
        if not self._settings.events_on("THING_TYPE_ASSOCIATION"):
            return
        name = thing["thingName"]
        members = {
            "operation": operation,
            "thingId": thing["thingId"],
            "thingName": name,
            "thingTypeName": type_name,
        }
        verb = operation.lower()
        topic = f"$aws/events/thingTypeAssociation/thing/{name}/thingType/{type_name}/{verb}"
        self._send(topic, "THING_TYPE_ASSOCIATION_EVENT", members)

    def group(self, operation: str, document: Document, parents: list[Document]) -> None:
        """A thing group was CREATED, UPDATED or DELETED; `parents` are the groups above it, its own parent first."""
        if not self._settings.events_on("THING_GROUP"):
            return
        name = document["thingGroupName"]
        members = {
            "operation": operation,
            "thingGroupId": document["thingGroupId"],
            "thingGroupName": name,
            "versionNumber": document["version"],
            "parentGroupName": document.get("parent"),
            "parentGroupId": parents[0]["thingGroupId"] if parents else None,
            "description": document.get("description") or "",
            "rootToParentThingGroups": [
                {
                    "groupArn": self._ground.arns.iot(f"thinggroup/{each['thingGroupName']}"),
                    "groupId": each["thingGroupId"],
                }
                for each in reversed(parents)
            ],
            "attributes": document["attributes"],
            "dynamicGroupMappingId": document["thingGroupId"] if "queryString" in document else None,
        }
        self._send(f"$aws/events/thingGroup/{name}/{_TOPICS[operation]}", "THING_GROUP_EVENT", members)

    def hierarchy(self, operation: str, parent: Document, child: Document) -> None:
        """A group was ADDED below another or REMOVED from there."""
        if not self._settings.events_on("THING_GROUP_HIERARCHY"):
            return
        above, below = parent["thingGroupName"], child["thingGroupName"]
        members = {
            "operation": operation,
            "thingGroupId": parent["thingGroupId"],
            "thingGroupName": above,
            "childGroupId": child["thingGroupId"],
            "childGroupName": below,
        }
        topic = f"$aws/events/thingGroupHierarchy/thingGroup/{above}/childThingGroup/{below}/{operation.lower()}"
        self._send(topic, "THING_GROUP_HIERARCHY_EVENT", members)

    def membership(self, operation: str, group: Document, thing: Document) -> None:
        """A thing was ADDED to a group or REMOVED from it."""
        if not self._settings.events_on("THING_GROUP_MEMBERSHIP"):
            return
        group_name, name = group["thingGroupName"], thing["thingName"]
        members = {
            "operation": operation,
            "groupArn": self._ground.arns.iot(f"thinggroup/{group_name}"),
            "groupId": group["thingGroupId"],
            "thingArn": self._ground.arns.iot(f"thing/{name}"),
            "thingId": thing["thingId"],
            "membershipId": f"{group['thingGroupId']}-{thing['thingId']}",
        }
        verb = operation.lower()
        topic = f"$aws/events/thingGroupMembership/thingGroup/{group_name}/thing/{name}/{verb}"
        self._send(topic, "THING_GROUP_MEMBERSHIP_EVENT", members)
