"""GetLocalDeploymentStatus: one local deployment."""

from __future__ import annotations

from foreshore.greengrass.components import DeploymentNotFound
from foreshore.greengrass.ipc.cli_access import authorize, local_deployment
from foreshore.greengrass.ipc.operation import Call, Member, Operation, Reply, invalid_arguments, not_found, text


def handle(call: Call) -> Reply:
    """Look it up."""
    deployment_id = call.request.get("deploymentId")
    if not deployment_id:
        raise invalid_arguments("Deployment ID is required")
    authorize(call, "GetLocalDeploymentStatus", None)
    try:
        return {"deployment": local_deployment(call.core.lifecycle.deployment_status(deployment_id))}
    except DeploymentNotFound as error:
        raise not_found("Cannot find the deployment", "LocalDeployment", deployment_id) from error


OPERATION = Operation("GetLocalDeploymentStatus", handle, {"deploymentId": Member(text)}, plugin="aws.greengrass.Cli")
