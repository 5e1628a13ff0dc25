"""CancelLocalDeployment: stop a deployment that is queued or in progress."""

from __future__ import annotations

from foreshore.errors import UserError
from foreshore.greengrass.components import DeploymentNotFound
from foreshore.greengrass.ipc.cli_access import authorize
from foreshore.greengrass.ipc.operation import Call, Member, Operation, Reply, invalid_arguments, not_found, text


async def handle(call: Call) -> Reply:
    """Ask for the cancellation; the message says what was done."""
    deployment_id = call.request.get("deploymentId")
    if not deployment_id:
        raise invalid_arguments("Deployment ID is required")
    authorize(call, "CancelLocalDeployment", None)
    try:
        return {"message": await call.core.lifecycle.cancel_deployment(deployment_id)}
    except DeploymentNotFound as error:
        raise not_found("Deployment not found", "LocalDeployment", deployment_id) from error
    except UserError as error:
        raise invalid_arguments(error.what) from error


OPERATION = Operation("CancelLocalDeployment", handle, {"deploymentId": Member(text)}, plugin="aws.greengrass.Cli")
