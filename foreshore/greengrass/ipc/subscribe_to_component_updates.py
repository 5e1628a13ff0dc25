"""SubscribeToComponentUpdates: to be asked before, and told after, a deployment updates components."""

from __future__ import annotations

from foreshore.greengrass.ipc.operation import EMPTY, Call, Operation, Reply


def handle(call: Call) -> Reply:
    """Listen for the caller."""
    call.on_close(call.core.updates.listen(call.component, call.send))
    return EMPTY


OPERATION = Operation("SubscribeToComponentUpdates", handle, {}, event="ComponentUpdatePolicyEvents")
