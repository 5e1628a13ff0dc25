"""GetComponentDetails: one component's version, state and configuration."""

from __future__ import annotations

from foreshore.greengrass.components import ComponentNotFound
from foreshore.greengrass.ipc.cli_access import authorize, component_details, required_name
from foreshore.greengrass.ipc.operation import Call, Member, Operation, Reply, not_found, text


def handle(call: Call) -> Reply:
    """Look it up."""
    name = required_name(call)
    authorize(call, "GetComponentDetails", name)
    try:
        return {"componentDetails": component_details(call.core.lifecycle.details(name))}
    except ComponentNotFound as error:
        raise not_found("Component with given name not found", "Component", name) from error


OPERATION = Operation("GetComponentDetails", handle, {"componentName": Member(text)}, plugin="aws.greengrass.Cli")
