"""CreateLocalDeployment: queue a change of the core's components from folders on its disk."""

from __future__ import annotations

from typing import Any

from foreshore.errors import UserError
from foreshore.greengrass.components import LocalDeploymentRequest
from foreshore.greengrass.ipc.cli_access import ANY, authorize
from foreshore.greengrass.ipc.operation import (
    Call,
    IpcError,
    Member,
    Operation,
    Reply,
    invalid_arguments,
    mapping,
    one_of,
    service_error,
    text,
    texts,
)

_PATH_ERRORS = {
    "recipe-directory": "InvalidRecipeDirectoryPathError",
    "artifacts-directory": "InvalidArtifactsDirectoryPathError",
}


async def handle(call: Call) -> Reply:
    """Queue it and give its id; what becomes of it is GetLocalDeploymentStatus's to say."""
    request = call.request
    is_lite = call.core.profile == "lite"
    try:
        authorize(call, "CreateLocalDeployment", "" if is_lite else ANY)
    except IpcError as error:
        raise service_error(error.lite) if is_lite else error from None
    if is_lite and not all(isinstance(each, dict) for each in (request.get("componentToConfiguration") or {}).values()):
        raise service_error("Invalid componentToConfiguration value.")
    try:
        deployment_id = await call.core.lifecycle.create_local_deployment(read(request))
    except UserError as error:
        if is_lite:
            raise service_error("Failed to create local deployment.") from error
        raise IpcError(_PATH_ERRORS.get(error.code, "InvalidArgumentsError"), error.what) from error
    return {"deploymentId": deployment_id}


def read(request: dict[str, Any]) -> LocalDeploymentRequest:
    """The request's members, absent ones empty. Raises InvalidArgumentsError on a map of other things."""
    for member in ("componentToConfiguration", "componentToRunWithInfo"):
        if not all(isinstance(item, dict) for item in (request.get(member) or {}).values()):
            raise invalid_arguments(f"{member} must hold maps")
    versions = request.get("rootComponentVersionsToAdd") or {}
    if not all(isinstance(version, str) for version in versions.values()):
        raise invalid_arguments("rootComponentVersionsToAdd must hold version strings")
    if ":" in (request.get("groupName") or ""):
        raise invalid_arguments("Thing group name cannot contain colon characters")
    return LocalDeploymentRequest(
        group_name=request.get("groupName") or "",
        root_components_to_add=versions,
        root_components_to_remove=request.get("rootComponentsToRemove") or [],
        component_configuration=request.get("componentToConfiguration") or {},
        component_run_with=request.get("componentToRunWithInfo") or {},
        recipe_directory=request.get("recipeDirectoryPath") or "",
        artifacts_directory=request.get("artifactsDirectoryPath") or "",
        failure_policy=request.get("failureHandlingPolicy") or "ROLLBACK",
    )


OPERATION = Operation(
    "CreateLocalDeployment",
    handle,
    {
        "groupName": Member(text),
        "rootComponentVersionsToAdd": Member(mapping),
        "rootComponentsToRemove": Member(texts),
        "componentToConfiguration": Member(mapping),
        "componentToRunWithInfo": Member(mapping),
        "recipeDirectoryPath": Member(text),
        "artifactsDirectoryPath": Member(text),
        "failureHandlingPolicy": Member(one_of("ROLLBACK", "DO_NOTHING")),
    },
    lite=True,
    plugin="aws.greengrass.Cli",
)
