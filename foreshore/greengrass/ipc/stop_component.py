"""StopComponent: stop one component; the answer comes when the request is taken."""

from __future__ import annotations

from foreshore.greengrass.components import ComponentNotFound
from foreshore.greengrass.ipc.cli_access import authorize, no_component, required_name
from foreshore.greengrass.ipc.operation import Call, Member, Operation, Reply, text


async def handle(call: Call) -> Reply:
    """SUCCEEDED, or FAILED with the reason."""
    name = required_name(call)
    authorize(call, "StopComponent", name)
    try:
        failure = await call.core.lifecycle.stop_component(name)
    except ComponentNotFound as error:
        raise no_component(name) from error
    if failure is not None:
        return {"stopStatus": "FAILED", "message": failure}
    return {"stopStatus": "SUCCEEDED"}


OPERATION = Operation("StopComponent", handle, {"componentName": Member(text)}, plugin="aws.greengrass.Cli")
