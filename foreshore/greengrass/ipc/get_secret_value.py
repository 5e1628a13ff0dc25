"""GetSecretValue: from the core's secret manager, by name or ARN."""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from typing import Any

from foreshore.errors import AwsError, NotEmulated
from foreshore.greengrass.authorization import SECRETS, denial
from foreshore.greengrass.ipc.operation import (
    Call,
    Member,
    Operation,
    Reply,
    boolean,
    invalid_arguments,
    not_found,
    service_error,
    text,
    unauthorized,
)


async def handle(call: Call) -> Reply:
    """Authorize on what was asked for, fetch, and authorize on the secret's ARN when the name alone did not do."""
    request, core = call.request, call.core
    secret_id = request.get("secretId")
    if not secret_id:
        raise invalid_arguments("SecretId is required")
    version_id, stage = request.get("versionId"), request.get("versionStage")
    if version_id and stage:
        raise invalid_arguments("Both versionId and Stage are set in the request")
    if core.secrets is None:
        raise NotEmulated("GetSecretValue without a Secrets Manager backend", "Start one with `foreshore dev`.")
    by_name = core.authorization.is_allowed(call.component, SECRETS, "GetSecretValue", secret_id)
    if not by_name and not core.authorization.resources(call.component, SECRETS, "GetSecretValue"):
        raise unauthorized(denial(call.component, SECRETS, "GetSecretValue", secret_id))
    try:
        secret = await core.secrets.get(secret_id, version_id, stage, request.get("refresh") is True)
    except AwsError as error:
        if error.code == "ResourceNotFoundException":
            raise not_found(error.message, "secret", secret_id) from error
        raise service_error(error.message) from error
    if not by_name and not any(
        core.authorization.is_allowed(call.component, SECRETS, "GetSecretValue", str(secret[key]))
        for key in ("ARN", "Name")
        if secret.get(key)
    ):
        raise unauthorized(denial(call.component, SECRETS, "GetSecretValue", secret_id))
    return reply(secret)


def reply(secret: Mapping[str, Any]) -> Reply:
    """GetSecretValueResponse from Secrets Manager's answer; its `versionStage` is a list of labels."""
    value: dict[str, object] = {}
    if secret.get("SecretString") is not None:
        value["secretString"] = secret["SecretString"]
    elif isinstance(secret.get("SecretBinary"), bytes):
        value["secretBinary"] = binascii.b2a_base64(secret["SecretBinary"], newline=False).decode()
    elif secret.get("SecretBinary") is not None:
        value["secretBinary"] = secret["SecretBinary"]
    return {
        "secretId": secret.get("ARN", ""),
        "versionId": secret.get("VersionId", ""),
        "versionStage": list(secret.get("VersionStages") or ()),
        "secretValue": value,
    }


OPERATION = Operation(
    "GetSecretValue",
    handle,
    {
        "secretId": Member(text),
        "versionId": Member(text),
        "versionStage": Member(text),
        "refresh": Member(boolean),
    },
    plugin="aws.greengrass.SecretManager",
)
