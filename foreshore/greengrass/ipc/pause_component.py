"""PauseComponent: freeze another component's processes."""

from __future__ import annotations

from foreshore.greengrass.ipc.component_pauses import change
from foreshore.greengrass.ipc.operation import Call, Member, Operation, Reply, text


async def handle(call: Call) -> Reply:
    """Authorize on the component's name, then pause it."""
    return await change(call, "PauseComponent", call.core.lifecycle.pause_component)


OPERATION = Operation("PauseComponent", handle, {"componentName": Member(text)})
