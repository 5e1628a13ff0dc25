"""RestartComponent: restart one component; the answer comes when the request is taken."""

from __future__ import annotations

from foreshore.greengrass.components import ComponentNotFound
from foreshore.greengrass.ipc.cli_access import authorize, no_component, required_name
from foreshore.greengrass.ipc.operation import Call, IpcError, Member, Operation, Reply, text


async def handle(call: Call) -> Reply:
    """SUCCEEDED, or FAILED with the reason."""
    name = required_name(call)
    authorize(call, "RestartComponent", name, lite="Component not authorized to restart component.")
    try:
        failure = await call.core.lifecycle.restart_component(name)
    except ComponentNotFound as error:
        if call.core.profile == "lite":
            raise IpcError("ResourceNotFoundError", "Component not found.") from error
        raise no_component(name) from error
    if failure is not None and call.core.profile == "lite":
        return {"restartStatus": "FAILED"}
    if failure is not None:
        return {"restartStatus": "FAILED", "message": failure}
    return {"restartStatus": "SUCCEEDED"}


OPERATION = Operation(
    "RestartComponent",
    handle,
    {"componentName": Member(text)},
    lite=True,
    plugin="aws.greengrass.Cli",
    lite_members={"componentName": Member(text, True)},
    lite_invalid=("InvalidArgumentsError", "Invalid arguments provided."),
)
