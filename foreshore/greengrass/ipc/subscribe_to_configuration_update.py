"""SubscribeToConfigurationUpdate: an event for every leaf of the path that changes or goes."""

from __future__ import annotations

from foreshore.greengrass.configuration import Change
from foreshore.greengrass.ipc.operation import EMPTY, Call, Member, Operation, Reply, not_found, path_of, text, texts


def handle(call: Call) -> Reply:
    """Watch the caller's configuration, or another component's. The event's path is what GetConfiguration takes."""
    component = call.request.get("componentName") or call.component
    path = path_of(call.request)
    configuration = call.core.configuration
    if configuration.find(component, path) is None:
        raise not_found("Key not found", lite="Key not found.")

    def send(change: Change) -> None:
        event = {"componentName": change.component, "keyPath": list(change.path)}
        call.send({"configurationUpdateEvent": event})

    call.on_close(configuration.watch(component, path, send))
    return EMPTY


OPERATION = Operation(
    "SubscribeToConfigurationUpdate",
    handle,
    {"componentName": Member(text), "keyPath": Member(texts)},
    event="ConfigurationUpdateEvents",
    lite=True,
)
