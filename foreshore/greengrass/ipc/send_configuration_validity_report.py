"""SendConfigurationValidityReport: a validator's verdict on a deployment's configuration."""

from __future__ import annotations

from foreshore.greengrass.ipc.operation import (
    EMPTY,
    Call,
    Member,
    Operation,
    Reply,
    invalid_arguments,
    one_of,
    structure,
    text,
)


def handle(call: Call) -> Reply:
    """Pass the verdict to the deployment that waits for it."""
    report = call.request["configurationValidityReport"]
    deployment_id = report.get("deploymentId")
    if deployment_id is None:
        raise invalid_arguments("Cannot accept configuration validity report, the deployment ID provided was null")
    message = report.get("message") or ""
    if not call.core.validations.report(call.component, deployment_id, report["status"], message):
        raise invalid_arguments("Validation request either timed out or was never made")
    return EMPTY


_REPORT = {
    "status": Member(one_of("ACCEPTED", "REJECTED"), True),
    "deploymentId": Member(text),
    "message": Member(text),
}
OPERATION = Operation(
    "SendConfigurationValidityReport", handle, {"configurationValidityReport": Member(structure(_REPORT), True)}
)
