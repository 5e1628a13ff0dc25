"""GetComponentDetails: one component's version, state and configuration."""

from __future__ import annotations

from foreshore.greengrass.components import ComponentNotFound
from foreshore.greengrass.ipc.cli_access import authorize, component_details, no_component, required_name
from foreshore.greengrass.ipc.operation import Call, Member, Operation, Reply, text


def handle(call: Call) -> Reply:
    """Look it up."""
    name = required_name(call)
    authorize(call, "GetComponentDetails", name)
    try:
        return {"componentDetails": component_details(call.core.lifecycle.details(name))}
    except ComponentNotFound as error:
        raise no_component(name) from error


OPERATION = Operation("GetComponentDetails", handle, {"componentName": Member(text)}, plugin="aws.greengrass.Cli")
