"""Event source mappings: which exist, their pollers, and the Lambda API's operations on them. Shell.

A mapping of a template is made anew at each start under the same UUID, so that it goes on from its checkpoints.
Source: AWS Lambda API Reference, CreateEventSourceMapping and its neighbours.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from typing import TYPE_CHECKING, Any

from foreshore.errors import AwsError, NotEmulated
from foreshore.functions.batches import Source, read_source
from foreshore.functions.invocations import new_uuid
from foreshore.functions.pollers import POLLERS, Poller
from foreshore.shapes.service_model import CallContext, paginate

if TYPE_CHECKING:
    from foreshore.functions.service import Functions

Json = dict[str, Any]
_KEPT = (
    "BatchSize", "MaximumBatchingWindowInSeconds", "EventSourceArn", "FunctionName", "FilterCriteria", "Enabled",
    "ParallelizationFactor", "StartingPosition", "StartingPositionTimestamp", "DestinationConfig",
    "MaximumRecordAgeInSeconds", "BisectBatchOnFunctionError", "MaximumRetryAttempts", "TumblingWindowInSeconds",
    "FunctionResponseTypes", "ScalingConfig",
)  # fmt: skip


class EventSources:
    """The mappings of all functions, by UUID."""

    def __init__(self, functions: Functions, time_scale: float) -> None:
        self._functions = functions
        self._time_scale = time_scale
        self._properties: dict[str, Json] = {}
        self._pollers: dict[str, Poller] = {}
        self._modified: dict[str, float] = {}

    async def start(self) -> None:
        """Take up the mappings that were kept."""
        for body in self._functions.store.load_mappings():
            await self._put(body["UUID"], body["Properties"], keep=False)

    async def stop(self) -> None:
        """Stop every poller."""
        for poller in self._pollers.values():
            await poller.stop()
        self._pollers.clear()

    async def create(self, properties: Json) -> str:
        """Make a template's mapping; the same source and function give the same UUID. Raises AwsError, NotEmulated."""
        key = f"{properties.get('EventSourceArn')}\n{properties.get('FunctionName')}"
        identifier = str(uuid.UUID(hashlib.sha256(key.encode()).hexdigest()[:32]))
        await self._put(identifier, properties, keep=False)
        return identifier

    async def _put(self, identifier: str, properties: Json, *, keep: bool) -> Source:
        source = read_source(identifier, properties)
        await self._drop(identifier)
        self._properties[identifier] = {name: properties[name] for name in _KEPT if properties.get(name) is not None}
        self._modified[identifier] = time.time()
        if keep:
            body = {**self._properties[identifier], "StartingPositionTimestamp": source.position_time}
            self._functions.store.save_mapping(identifier, {"UUID": identifier, "Properties": body})
        if source.enabled:
            poller = POLLERS[source.kind](self._functions, source, self._time_scale)
            self._pollers[identifier] = poller
            poller.start()
        return source

    async def _drop(self, identifier: str) -> None:
        poller = self._pollers.pop(identifier, None)
        if poller is not None:
            await poller.stop()

    # The Lambda API

    async def do_create_event_source_mapping(self, params: Json, context: CallContext) -> Json:
        """CreateEventSourceMapping."""
        _refuse(params)
        registry = self._functions.registry
        name = registry.name_of(params["FunctionName"])
        registry.resolve(name)
        for identifier, old in self._properties.items():
            same = old.get("EventSourceArn") == params.get("EventSourceArn")
            if same and registry.name_of(old["FunctionName"]) == name:
                raise AwsError(
                    "ResourceConflictException",
                    f"An event source mapping with event source arn ({params['EventSourceArn']}) and function name "
                    f"({name.name}) already exists. Please update or delete the existing mapping with UUID "
                    f"{identifier}",
                    409,
                    {"Type": "User"},
                )
        identifier = new_uuid()
        await self._put(identifier, params, keep=True)
        return self._shape(identifier, "Creating")

    def do_get_event_source_mapping(self, params: Json, context: CallContext) -> Json:
        """GetEventSourceMapping."""
        return self._shape(self._known(params))

    def do_list_event_source_mappings(self, params: Json, context: CallContext) -> Json:
        """ListEventSourceMappings, by function or by source."""
        registry = self._functions.registry
        wanted = registry.name_of(params["FunctionName"]).name if params.get("FunctionName") else None
        found = [
            identifier
            for identifier, old in sorted(self._properties.items())
            if params.get("EventSourceArn") in (None, old.get("EventSourceArn"))
            and wanted in (None, registry.name_of(old["FunctionName"]).name)
        ]
        code = "InvalidParameterValueException"
        page, token = paginate(found, params.get("Marker"), params.get("MaxItems"), code=code)
        answer: Json = {"EventSourceMappings": [self._shape(identifier) for identifier in page]}
        return {**answer, "NextMarker": token} if token else answer

    async def do_update_event_source_mapping(self, params: Json, context: CallContext) -> Json:
        """UpdateEventSourceMapping."""
        _refuse(params)
        identifier = self._known(params)
        changes = {name: params[name] for name in _KEPT if params.get(name) is not None}
        await self._put(identifier, {**self._properties[identifier], **changes}, keep=True)
        return self._shape(identifier, "Updating")

    async def do_delete_event_source_mapping(self, params: Json, context: CallContext) -> Json:
        """DeleteEventSourceMapping."""
        identifier = self._known(params)
        shape = self._shape(identifier, "Deleting")
        await self._drop(identifier)
        del self._properties[identifier]
        self._functions.store.delete_mapping(identifier)
        return shape

    def _known(self, params: Json) -> str:
        identifier = str(params["UUID"])
        if identifier not in self._properties:
            raise AwsError(
                "ResourceNotFoundException", "The resource you requested does not exist.", 404, {"Type": "User"}
            )
        return identifier

    def _shape(self, identifier: str, state: str = "") -> Json:
        properties = self._properties[identifier]
        source = read_source(identifier, properties)
        registry = self._functions.registry
        name = registry.name_of(source.function)
        poller = self._pollers.get(identifier)
        shape: Json = {
            "UUID": identifier,
            "BatchSize": source.batch_size,
            "MaximumBatchingWindowInSeconds": int(source.window_s),
            "EventSourceArn": source.source_arn,
            "FunctionArn": registry.arn(name.name, name.qualifier),
            "LastModified": self._modified[identifier],
            "State": state or ("Enabled" if poller is not None else "Disabled"),
            "StateTransitionReason": "USER_INITIATED",
            "FunctionResponseTypes": properties.get("FunctionResponseTypes") or [],
            "EventSourceMappingArn": registry.arn("").replace(":function:", f":event-source-mapping:{identifier}"),
        }
        for member in ("FilterCriteria", "ScalingConfig"):
            if properties.get(member):
                shape[member] = properties[member]
        if source.kind != "sqs":
            shape |= {
                "StartingPosition": source.position,
                "ParallelizationFactor": source.parallelization,
                "BisectBatchOnFunctionError": source.bisect,
                "MaximumRecordAgeInSeconds": source.max_age_s,
                "MaximumRetryAttempts": source.retries,
                "TumblingWindowInSeconds": source.tumbling_s,
                "DestinationConfig": {"OnFailure": {"Destination": source.on_failure} if source.on_failure else {}},
                "LastProcessingResult": poller.last_result if poller is not None else "No records processed",
            }
        return shape


def _refuse(params: Json) -> None:
    for name in ("LoggingConfig", "MetricsConfig", "ProvisionedPollerConfig"):
        if params.get(name):
            raise NotEmulated(f"the {name} of an event source mapping")
