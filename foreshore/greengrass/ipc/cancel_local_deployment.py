"""CancelLocalDeployment: stop a deployment that is queued or in progress."""

from __future__ import annotations

from foreshore.errors import UserError
from foreshore.greengrass.components import DeploymentNotFound
from foreshore.greengrass.ipc.cli_access import ANY, authorize, required_deployment
from foreshore.greengrass.ipc.operation import Call, Member, Operation, Reply, invalid_arguments, not_found, text


async def handle(call: Call) -> Reply:
    """Ask for the cancellation; the message says what was done."""
    deployment_id = required_deployment(call)
    authorize(call, "CancelLocalDeployment", ANY)
    try:
        return {"message": await call.core.lifecycle.cancel_deployment(deployment_id)}
    except DeploymentNotFound as error:
        raise not_found(
            f"Cannot find the deployment id provided {deployment_id}", "LocalDeployment", deployment_id
        ) from error
    except UserError as error:
        raise invalid_arguments(error.what) from error


OPERATION = Operation("CancelLocalDeployment", handle, {"deploymentId": Member(text)}, plugin="aws.greengrass.Cli")
