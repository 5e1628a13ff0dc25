"""ListComponents: every component with its version, state and configuration."""

from __future__ import annotations

from foreshore.greengrass.ipc.cli_access import ANY, authorize, component_details
from foreshore.greengrass.ipc.operation import Call, Operation, Reply


def handle(call: Call) -> Reply:
    """List by name."""
    authorize(call, "ListComponents", ANY)
    statuses = sorted(call.core.lifecycle.statuses(), key=lambda status: status.name)
    return {"components": [component_details(status) for status in statuses]}


OPERATION = Operation("ListComponents", handle, {}, plugin="aws.greengrass.Cli")
