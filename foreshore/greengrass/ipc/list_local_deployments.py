"""ListLocalDeployments: what the core remembers of its local deployments, newest first."""

from __future__ import annotations

from foreshore.greengrass.ipc.cli_access import ANY, authorize, local_deployment
from foreshore.greengrass.ipc.operation import Call, Operation, Reply


def handle(call: Call) -> Reply:
    """List."""
    authorize(call, "ListLocalDeployments", ANY)
    return {"localDeployments": [local_deployment(status) for status in call.core.lifecycle.deployments()]}


OPERATION = Operation("ListLocalDeployments", handle, {}, plugin="aws.greengrass.Cli")
