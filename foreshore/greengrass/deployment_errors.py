"""The short codes and types by which a deployment says why it failed, the most general code first. Pure.

Sources: developer guide, "Detailed deployment error codes"; nucleus, DeploymentErrorCode (each code's type).
"""

from __future__ import annotations

from foreshore.errors import AwsError, ForeshoreError, UserError

DEPLOYMENT_FAILURE = "DEPLOYMENT_FAILURE"
_NO_VERSION = ("NO_AVAILABLE_COMPONENT_VERSION", "COMPONENT_VERSION_REQUIREMENTS_NOT_MET")
_DOCUMENT: tuple[tuple[str, ...], str] = (("DEPLOYMENT_DOCUMENT_NOT_VALID",), "REQUEST_ERROR")
_DOWNLOAD = "ARTIFACT_DOWNLOAD_ERROR"
_USERS: dict[str, tuple[tuple[str, ...], str]] = {
    "component-not-found": (_NO_VERSION, "REQUEST_ERROR"),
    "dependency-conflict": (_NO_VERSION, "REQUEST_ERROR"),
    "no-manifest": (_NO_VERSION, "REQUEST_ERROR"),
    "dependency-cycle": (("COMPONENT_CIRCULAR_DEPENDENCY_ERROR",), "REQUEST_ERROR"),
    "bad-recipe": (("RECIPE_PARSE_ERROR",), "COMPONENT_RECIPE_ERROR"),
    "bad-document": (("RECIPE_PARSE_ERROR",), "COMPONENT_RECIPE_ERROR"),
    "no-artifact": ((_DOWNLOAD,), "REQUEST_ERROR"),
    "artifact-digest": ((_DOWNLOAD, "ARTIFACT_CHECKSUM_MISMATCH"), "COMPONENT_RECIPE_ERROR"),
    "configuration-refused": (("COMPONENT_CONFIGURATION_NOT_VALID",), "REQUEST_ERROR"),
}
_AWS: dict[str, tuple[tuple[str, ...], str]] = {
    "NotEmulated": (_NO_VERSION, "REQUEST_ERROR"),
    "ResourceNotFoundException": ((_DOWNLOAD, "S3_GET_OBJECT_RESOURCE_NOT_FOUND"), "REQUEST_ERROR"),
    "AccessDeniedException": ((_DOWNLOAD, "S3_GET_OBJECT_ACCESS_DENIED"), "PERMISSION_ERROR"),
    "ServiceUnavailableException": ((_DOWNLOAD, "S3_SERVER_ERROR"), "SERVER_ERROR"),
}


def failure_of(error: ForeshoreError) -> tuple[list[str], list[str]]:
    """The error stack and the error types of a deployment that an error ended before it changed anything."""
    found = _DOCUMENT
    if isinstance(error, UserError):
        found = _USERS.get(error.code, _DOCUMENT)
    elif isinstance(error, AwsError):
        found = _AWS.get(error.code, ((_DOWNLOAD,), "REQUEST_ERROR"))
    codes, kind = found
    return [DEPLOYMENT_FAILURE, *codes], [kind]
