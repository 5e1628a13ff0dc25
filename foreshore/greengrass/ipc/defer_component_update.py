"""DeferComponentUpdate: the answer to a preUpdateEvent; recheckAfterMs 0 means go on."""

from __future__ import annotations

from foreshore.greengrass.ipc.operation import (
    EMPTY,
    Call,
    Member,
    Operation,
    Reply,
    integer,
    invalid_arguments,
    service_error,
    text,
)


def handle(call: Call) -> Reply:
    """Pass the answer to the deployment that waits for it."""
    request, updates = call.request, call.core.updates
    if call.component not in updates.listeners():
        raise invalid_arguments("Component is not subscribed to component update events")
    deployment_id = request.get("deploymentId")
    if deployment_id is None:
        raise invalid_arguments("Cannot defer the update, the deployment ID provided was null")
    if not updates.defer(call.component, deployment_id, request.get("recheckAfterMs") or 0):
        raise service_error("Time limit to respond to PreComponentUpdateEvent exceeded")
    return EMPTY


OPERATION = Operation(
    "DeferComponentUpdate",
    handle,
    {"deploymentId": Member(text), "message": Member(text), "recheckAfterMs": Member(integer)},
)
