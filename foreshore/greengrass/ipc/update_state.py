"""UpdateState: a component says of itself RUNNING or ERRORED."""

from __future__ import annotations

from foreshore.greengrass.components import ComponentNotFound
from foreshore.greengrass.ipc.operation import (
    EMPTY,
    Call,
    Member,
    Operation,
    Reply,
    not_found,
    one_of,
    service_error,
    text,
)


def handle(call: Call) -> Reply:
    """Report to the lifecycle."""
    state = call.request["state"]
    if state not in ("RUNNING", "ERRORED"):
        raise service_error("Failed to update the lifecycle state.")
    try:
        call.core.lifecycle.report_state(call.component, state)
    except ComponentNotFound as error:
        if call.core.profile == "lite":
            raise service_error("Failed to update the lifecycle state.") from error
        raise not_found("Component with given name not found", "Component", call.component) from error
    return EMPTY


OPERATION = Operation(
    "UpdateState",
    handle,
    {"state": Member(one_of("RUNNING", "ERRORED"), True)},
    lite=True,
    lite_members={"state": Member(text, True)},
)
