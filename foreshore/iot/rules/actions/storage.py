"""The S3 action (developer guide, "S3"): the only one besides republish that takes raw binary as it is."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from foreshore.iot.rules.actions.call import Call

_ACLS = frozenset(
    {
        "private", "public-read", "public-read-write", "aws-exec-read", "authenticated-read", "bucket-owner-read",
        "bucket-owner-full-control", "log-delivery-write",
    }
)  # fmt: skip


async def run_s3(call: Call, parameters: dict[str, Any]) -> None:
    """PutObject of the payload under the rendered key."""
    acl = parameters.get("cannedAcl")
    headers = [("x-amz-acl", acl)] if acl in _ACLS else []
    target = f"/{quote(parameters['bucketName'], safe='')}/{quote(parameters['key'], safe='/')}"
    await call.world.aws.send("s3", "PUT", target, headers=headers, body=call.payload)
