"""GetLocalDeploymentStatus: one local deployment."""

from __future__ import annotations

from foreshore.greengrass.components import DeploymentNotFound
from foreshore.greengrass.ipc.cli_access import authorize, local_deployment, required_deployment
from foreshore.greengrass.ipc.operation import Call, Member, Operation, Reply, not_found, text


def handle(call: Call) -> Reply:
    """Look it up."""
    deployment_id = required_deployment(call)
    authorize(call, "GetLocalDeploymentStatus", deployment_id)
    try:
        return {"deployment": local_deployment(call.core.lifecycle.deployment_status(deployment_id))}
    except DeploymentNotFound as error:
        raise not_found("Cannot find deployment", "LocalDeployment", deployment_id) from error


OPERATION = Operation("GetLocalDeploymentStatus", handle, {"deploymentId": Member(text)}, plugin="aws.greengrass.Cli")
