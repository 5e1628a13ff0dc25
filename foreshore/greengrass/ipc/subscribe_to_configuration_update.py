"""SubscribeToConfigurationUpdate: an event for every leaf of the path that changes or goes."""

from __future__ import annotations

from foreshore.greengrass.configuration import Change
from foreshore.greengrass.ipc.operation import (
    EMPTY,
    Call,
    Member,
    Operation,
    Reply,
    check_depth,
    items,
    not_found,
    path_of,
    service_error,
    stored_name,
    text,
    texts,
)


def handle(call: Call) -> Reply:
    """Watch the caller's configuration, or another component's. The event's path is what GetConfiguration takes."""
    asked = call.request.get("componentName") or call.component
    component = stored_name(call, asked)
    check_depth(call)
    is_lite = call.core.profile == "lite"
    if is_lite and texts(call.request.get("keyPath") or []) is not None:
        raise service_error("Received invalid parameters: keyPath must be list of strings.")
    path = path_of(call.request)
    configuration = call.core.configuration
    if configuration.find(component, path) is None:
        raise not_found("Key not found", lite="Key not found")

    def send(change: Change) -> None:
        event = {"componentName": asked if component != asked else change.component, "keyPath": list(change.path)}
        call.send({"configurationUpdateEvent": event})

    call.on_close(configuration.watch(component, path, send))
    return EMPTY


OPERATION = Operation(
    "SubscribeToConfigurationUpdate",
    handle,
    {"componentName": Member(text), "keyPath": Member(texts)},
    event="ConfigurationUpdateEvents",
    lite=True,
    lite_members={"componentName": Member(text), "keyPath": Member(items)},
    lite_invalid=("ServiceError", "Failed to validate the map."),
)
