"""What the operations of aws.greengrass.Cli share: who may call them, and the shapes of components and deployments."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from foreshore.greengrass.authorization import CLI, MQTT_PROXY, PUBSUB, denial
from foreshore.greengrass.components import ComponentStatus, DeploymentStatus
from foreshore.greengrass.ipc.operation import Call, IpcError, invalid_arguments, not_found

CLI_CLIENT = "greengrass-cli"
ANY = "*"
_UUID = re.compile(r"[0-9a-fA-F]{1,8}(-[0-9a-fA-F]{1,4}){3}-[0-9a-fA-F]{1,12}")
_ALL = {"cli": {"operations": [ANY], "resources": [ANY]}}
CLIENT_POLICIES = {PUBSUB: _ALL, MQTT_PROXY: _ALL}
"""What a greengrass-cli client may do besides the CLI's own operations (greengrass-cli, CLIService)."""


def is_cli(component: str) -> bool:
    """Whether a principal is the CLI itself (`aws.greengrass.Cli`, or a user's `greengrass-cli#user`)."""
    return component == CLI or component.startswith(CLI_CLIENT)


def authorize(call: Call, operation: str, resource: str | None, *, lite: str = "") -> None:
    """The CLI may do all; a component needs a policy. Raises UnauthorizedError, with `lite` as lite's text."""
    if is_cli(call.component) or call.core.authorization.is_allowed(call.component, CLI, operation, resource):
        return
    text = denial(call.component, CLI, operation, resource)
    raise IpcError("UnauthorizedError", text, lite=lite or "IPC Operation not authorized.")


def required_name(call: Call) -> str:
    """The request's componentName. Raises InvalidArgumentsError."""
    name = call.request.get("componentName")
    if not name:
        raise invalid_arguments("Component name cannot be empty")
    return str(name)


def required_deployment(call: Call) -> str:
    """The request's deploymentId, which must read as a UUID. Raises InvalidArgumentsError."""
    identifier = call.request.get("deploymentId")
    # java.util.UUID takes shorter groups too, but nothing without its four dashes.
    if not isinstance(identifier, str) or _UUID.fullmatch(identifier) is None:
        raise invalid_arguments("Invalid deploymentId format received. DeploymentId is a UUID")
    return identifier


def no_component(name: str) -> Exception:
    """ResourceNotFoundError for a component that is not deployed."""
    return not_found(f"Component with name {name} not found in Greengrass", "Component", name)


def component_details(status: ComponentStatus) -> dict[str, object]:
    """ComponentDetails."""
    return {
        "componentName": status.name,
        "version": status.version,
        "state": status.state,
        "configuration": status.configuration,
    }


def local_deployment(status: DeploymentStatus) -> dict[str, object]:
    """LocalDeployment. `createdOn` is what the nucleus writes (dd-MM-uuuu HH:mm:ss z), not what the model says."""
    created = datetime.fromtimestamp(status.created_ms / 1000, UTC)
    body: dict[str, object] = {
        "deploymentId": status.id,
        "status": status.status,
        "createdOn": created.strftime("%d-%m-%Y %H:%M:%S UTC"),
    }
    if status.detailed:
        details: dict[str, object] = {"detailedDeploymentStatus": status.detailed}
        if status.error_stack:
            details["deploymentErrorStack"] = status.error_stack
        if status.error_types:
            details["deploymentErrorTypes"] = status.error_types
        if status.failure_cause:
            details["deploymentFailureCause"] = status.failure_cause
        body["deploymentStatusDetails"] = details
    return body
