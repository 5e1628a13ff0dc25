"""SubscribeToValidateConfigurationUpdates: a deployment asks the component before it changes its configuration."""

from __future__ import annotations

from foreshore.greengrass.ipc.operation import EMPTY, Call, Operation, Reply


def handle(call: Call) -> Reply:
    """Become the component's validator."""
    call.on_close(call.core.validations.listen(call.component, call.send))
    return EMPTY


OPERATION = Operation("SubscribeToValidateConfigurationUpdates", handle, {}, event="ValidateConfigurationUpdateEvents")
