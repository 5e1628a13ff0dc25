"""ResumeComponent: thaw another component's processes."""

from __future__ import annotations

from foreshore.greengrass.ipc.component_pauses import change
from foreshore.greengrass.ipc.operation import Call, Member, Operation, Reply, text


async def handle(call: Call) -> Reply:
    """Authorize on the component's name, then resume it."""
    return await change(call, "ResumeComponent", call.core.lifecycle.resume_component)


OPERATION = Operation("ResumeComponent", handle, {"componentName": Member(text)})
