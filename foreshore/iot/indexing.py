"""Fleet indexing: the configuration, what the index holds of a thing, search and aggregations.

The index is the registry, shadows and connectivity themselves, read when asked: it is never behind. Search needs
indexing to be switched on, as on AWS.

Source: AWS IoT developer guide, "Fleet indexing", "Aggregation queries"; API reference SearchIndex, GetStatistics,
GetCardinality, GetPercentiles, GetBucketsAggregation.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson

from foreshore.errors import AwsError
from foreshore.iot.groups import ThingGroups
from foreshore.iot.listing import tokens
from foreshore.iot.presence import Presence, connection_of
from foreshore.iot.registry import Registry
from foreshore.iot.search import as_text, check_query_version, parse_query, values_at
from foreshore.iot.shadow_documents import delta
from foreshore.iot.store import Document, Ground
from foreshore.shapes.service_model import CallContext, OperationHandler

Params = dict[str, Any]
THINGS, GROUPS = "AWS_Things", "AWS_ThingGroups"
_OFF: Document = {
    "thingIndexingConfiguration": {"thingIndexingMode": "OFF", "thingConnectivityIndexingMode": "OFF"},
    "thingGroupIndexingConfiguration": {"thingGroupIndexingMode": "OFF"},
}
_MANAGED = {
    "thingName": "String", "thingId": "String", "registry.version": "Number", "registry.thingTypeName": "String",
    "registry.thingGroupNames": "String", "shadow.version": "Number", "shadow.hasDelta": "Boolean",
    "shadow.name.*.version": "Number", "shadow.name.*.hasDelta": "Boolean", "connectivity.connected": "Boolean",
    "connectivity.timestamp": "Number", "connectivity.version": "Number", "connectivity.disconnectReason": "String",
    "deviceDefender.violationCount": "Number",
}  # fmt: skip
"""The fields whose types the index knows by itself ("Managing thing indexing")."""

ShadowsOf = Callable[[str], Document]
"""A thing's shadows as JSON documents by name, "" for the classic one."""


class FleetIndex:
    """The index half of the control plane. `groups` and `shadows_of` are set by its owner."""

    groups: ThingGroups

    def __init__(self, ground: Ground, registry: Registry, presence: Callable[[], Presence]) -> None:
        self._ground = ground
        self._settings = ground.kind("setting")
        self._memberships = ground.links("group-thing")
        self._registry = registry
        self._presence = presence
        self.shadows_of: ShadowsOf = lambda thing: {}

    def operations(self) -> dict[str, OperationHandler]:
        """AWS's operations by name."""
        return {
            "GetIndexingConfiguration": self.get_configuration,
            "UpdateIndexingConfiguration": self.update_configuration,
            "ListIndices": self.list_indices,
            "DescribeIndex": self.describe_index,
            "SearchIndex": self.search,
            "GetStatistics": self.statistics,
            "GetCardinality": self.cardinality,
            "GetPercentiles": self.percentiles,
            "GetBucketsAggregation": self.buckets,
            "GetThingConnectivityData": self.connectivity_data,
        }

    # Configuration

    def configuration(self) -> Document:
        """The configuration; off at first, as on AWS."""
        return self._settings.get("indexing") or _OFF

    def get_configuration(self, params: Params, context: CallContext) -> Document:
        """GetIndexingConfiguration."""
        kept = self.configuration()
        shown = {name: {**default, **kept[name]} for name, default in _OFF.items()}
        if self._mode(THINGS) != "OFF":
            fields = [{"name": name, "type": kind} for name, kind in _MANAGED.items()]
            shown["thingIndexingConfiguration"].setdefault("managedFields", fields)
        return shown

    def update_configuration(self, params: Params, context: CallContext) -> None:
        """UpdateIndexingConfiguration."""
        things = params.get("thingIndexingConfiguration", {})
        if things.get("thingIndexingMode") == "OFF" and things.get("thingConnectivityIndexingMode") == "STATUS":
            raise AwsError("InvalidRequestException", "Connectivity indexing needs thing indexing.", 400)
        if things.get("thingIndexingMode") == "OFF" and self.groups.has_dynamic():
            raise AwsError("InvalidRequestException", "Dynamic thing groups need thing indexing.", 400)
        self._settings.put("indexing", {**self.configuration(), **params})
        self._ground.changed()

    def _mode(self, index: str) -> str:
        kind, key = (
            ("thingIndexingConfiguration", "thingIndexingMode")
            if index == THINGS
            else ("thingGroupIndexingConfiguration", "thingGroupIndexingMode")
        )
        mode: str = self.configuration()[kind][key]
        return mode

    def list_indices(self, params: Params, context: CallContext) -> Document:
        """ListIndices: those that are on."""
        return tokens([name for name in (GROUPS, THINGS) if self._mode(name) != "OFF"], params, "indexNames")

    def _check_index(self, name: str) -> None:
        if name not in (THINGS, GROUPS) or self._mode(name) == "OFF":
            raise AwsError("ResourceNotFoundException", f"Index {name} does not exist", 404)

    def describe_index(self, params: Params, context: CallContext) -> Document:
        """DescribeIndex."""
        self._check_index(params["indexName"])
        schema = "THING_GROUPS" if params["indexName"] == GROUPS else self._schema()
        return {"indexName": params["indexName"], "indexStatus": "ACTIVE", "schema": schema}

    def _schema(self) -> str:
        """What the thing index is made of ("Describing a thing index")."""
        configuration = self.configuration()["thingIndexingConfiguration"]
        more = (configuration.get("namedShadowIndexingMode"), configuration.get("deviceDefenderIndexingMode"))
        if "ON" in more or "VIOLATIONS" in more:
            return "MULTI_INDEXING_MODE"
        mode = self._mode(THINGS)
        if configuration.get("thingConnectivityIndexingMode") != "STATUS":
            return mode
        return f"{mode}_AND_CONNECTIVITY_STATUS"

    # Documents

    def thing(self, name: str) -> Document:
        """A thing as the index holds it, without its dynamic groups."""
        thing = self._registry.find(name)
        document: Document = {
            "thingName": name,
            "thingId": thing["thingId"],
            "thingTypeName": thing.get("thingTypeName"),
            "thingGroupNames": [*self._memberships.to(name), *_billing(thing)],
            "attributes": thing["attributes"],
            "registry": {"version": thing["version"]},
        }
        configuration = self.configuration()["thingIndexingConfiguration"]
        document["shadow"] = self._shadow(name, configuration)
        if configuration.get("thingConnectivityIndexingMode") == "STATUS":
            document["connectivity"] = self._connectivity(name)
        return document

    def _shadow(self, name: str, configuration: Document) -> Document:
        """The classic shadow in the mode that holds it, and the named ones that the filter names."""
        found: Document = {}
        has_classic = configuration["thingIndexingMode"] == "REGISTRY_AND_SHADOW"
        on = configuration.get("namedShadowIndexingMode") == "ON"
        named = (configuration.get("filter") or {}).get("namedShadowNames", []) if on else []
        if not has_classic and not named:
            return found
        for shadow, document in self.shadows_of(name).items():
            state = document.get("state", {})
            held: Document = {key: state[key] for key in ("desired", "reported") if key in state}
            difference = delta(state.get("desired") or {}, state.get("reported") or {})
            if difference:
                held["delta"] = difference
            held["hasDelta"] = bool(difference)
            held["metadata"] = document.get("metadata", {})
            held["version"] = document.get("version")
            if not shadow and has_classic:
                found |= held
            elif shadow and shadow in named:
                found.setdefault("name", {})[shadow] = held
        return found

    def _connectivity(self, name: str) -> Document:
        """The connection whose client id is the thing's name."""
        known = self._presence().clients.get(name)
        if known is None:
            return {"connected": False}
        document: Document = {"connected": known.connected, "timestamp": known.timestamp_ms}
        if known.disconnect_reason:
            document["disconnectReason"] = known.disconnect_reason
        return document

    def _group(self, group: Document) -> Document:
        return {
            "thingGroupName": group["thingGroupName"],
            "thingGroupId": group["thingGroupId"],
            "thingGroupDescription": group.get("description"),
            "attributes": group["attributes"],
            "parentGroupNames": self.groups.parents_of(group["thingGroupName"]),
        }

    def _found(self, params: Params) -> list[Document]:
        index = params.get("indexName", THINGS)
        self._check_index(index)
        check_query_version(params)
        query = parse_query(params["queryString"])
        if index == GROUPS:
            documents = [self._group(each) for each in self.groups.kind.values()]
        else:
            documents = [self.thing(name) for name in self._registry.things.names()]
            for document in documents:
                thing = self._registry.find(document["thingName"])
                document["thingGroupNames"] = [*self.groups.direct_of(document["thingName"]), *_billing(thing)]
        return [each for each in documents if query(each)]

    # Questions

    def search(self, params: Params, context: CallContext) -> Document:
        """SearchIndex."""
        found = self._found(params)
        if params.get("indexName") == GROUPS:
            return tokens(found, params, "thingGroups", key=lambda each: str(each["thingGroupName"]))
        answer = tokens(found, params, "things", key=lambda each: str(each["thingName"]))
        answer["things"] = [_shown(each) for each in answer["things"]]
        return answer

    def _values(self, params: Params, default: str = "thingName") -> list[list[Any]]:
        field = params.get("aggregationField", default)
        return [list(values_at(each, field)) for each in self._found(params)]

    def _numbers(self, params: Params) -> list[float]:
        values = [value for group in self._values(params, "registry.version") for value in group]
        numbers = []
        for value in values:
            try:
                numbers.append(float(value))
            except ValueError:
                text = f"{params['aggregationField']} is not a numeric field."
                raise AwsError("InvalidAggregationException", text, 400) from None
        return sorted(numbers)

    def statistics(self, params: Params, context: CallContext) -> Document:
        """GetStatistics: of a numeric field, of a Boolean one as 0 and 1, or the count alone."""
        if "aggregationField" not in params:
            return {"statistics": {"count": len(self._found(params))}}
        values = self._values(params)
        flat = [value for group in values for value in group]
        if any(not _is_number(value) for value in flat):
            return {"statistics": {"count": sum(1 for group in values if group)}}
        numbers = sorted(float(value) for value in flat)
        if not numbers:
            return {"statistics": {"count": 0}}
        count, total = len(numbers), math.fsum(numbers)
        mean = total / count
        variance = math.fsum((value - mean) ** 2 for value in numbers) / count
        return {
            "statistics": {
                "count": count,
                "average": mean,
                "sum": total,
                "minimum": numbers[0],
                "maximum": numbers[-1],
                "sumOfSquares": math.fsum(value * value for value in numbers),
                "variance": variance,
                "stdDeviation": math.sqrt(variance),
            }
        }

    def cardinality(self, params: Params, context: CallContext) -> Document:
        """GetCardinality: the number of different values."""
        return {"cardinality": len({as_text(value) for group in self._values(params) for value in group})}

    def percentiles(self, params: Params, context: CallContext) -> Document:
        """GetPercentiles, by linear interpolation between the nearest ranks."""
        numbers = self._numbers(params)
        wanted = params.get("percents") or [1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0]
        if not numbers:
            return {"percentiles": []}
        return {"percentiles": [{"percent": each, "value": _percentile(numbers, each)} for each in wanted]}

    def buckets(self, params: Params, context: CallContext) -> Document:
        """GetBucketsAggregation: the most frequent values."""
        groups = self._values(params)
        counts = Counter(as_text(value) for group in groups for value in group)
        limit = params["bucketsAggregationType"].get("termsAggregation", {}).get("maxBuckets", 10)
        ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:limit]
        return {
            "totalCount": len(groups),
            "buckets": [{"keyValue": value, "count": count} for value, count in ordered],
        }

    def connectivity_data(self, params: Params, context: CallContext) -> Document:
        """GetThingConnectivityData."""
        name = params["thingName"]
        self._registry.find(name)
        if self.configuration()["thingIndexingConfiguration"].get("thingConnectivityIndexingMode") != "STATUS":
            raise AwsError("IndexNotReadyException", "Connectivity indexing is not on.", 400)
        known = self._presence().clients.get(name)
        if known is None:
            return {"thingName": name, "connected": False}
        return {
            "thingName": name,
            "connected": known.connected,
            "timestamp": known.timestamp_ms / 1000,
            "disconnectReason": known.disconnect_reason or ("NONE" if known.connected else "UNKNOWN"),
            "clientId": name,
            **connection_of(known.client, bool(params.get("includeSocketInformation"))),
        }


def _billing(thing: Document) -> list[str]:
    """The billing group's name stands among the groups' in the index."""
    return [thing["billingGroupName"]] if thing.get("billingGroupName") else []


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _percentile(numbers: list[float], percent: float) -> float:
    place = (len(numbers) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(numbers) - 1)
    return numbers[low] + (numbers[high] - numbers[low]) * (place - low)


def _shown(document: Document) -> Document:
    names = ("thingName", "thingId", "thingTypeName", "thingGroupNames", "attributes", "connectivity")
    shown = {key: document.get(key) for key in names}
    if document.get("shadow"):
        shown["shadow"] = orjson.dumps(document["shadow"]).decode()
    return shown
