"""May this rule's role do what the action asks? The checks behind `--check-roles`.

The role must exist, trust iot.amazonaws.com with sts:AssumeRole, and allow the action's call on some resource that
matches; asked of the backend's IAM (GetRole, and the inline and attached policies). Explicit denials win. Conditions
are not evaluated: a statement with one counts as if it held. Lambda needs no role but a resource policy, which is
asked of Lambda's GetPolicy.
Source: developer guide, "Granting an AWS IoT rule the access it requires"; IAM, "Policy evaluation logic".
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote

import orjson

from foreshore.http import Response
from foreshore.iot.rules.actions.call import Call
from foreshore.iot.rules.actions.failures import ActionFailed
from foreshore.iot.rules.actions.registry import Action

_VERSION = "2010-05-08"
_NEEDED = {
    "cloudwatchAlarm": "cloudwatch:SetAlarmState", "cloudwatchLogs": "logs:PutLogEvents",
    "cloudwatchMetric": "cloudwatch:PutMetricData", "dynamoDB": "dynamodb:PutItem", "dynamoDBv2": "dynamodb:PutItem",
    "elasticsearch": "es:ESHttpPut", "openSearch": "es:ESHttpPut", "firehose": "firehose:PutRecord",
    "influxDB": "secretsmanager:GetSecretValue", "iotSiteWise": "iotsitewise:BatchPutAssetPropertyValue",
    "kinesis": "kinesis:PutRecord", "location": "geo:BatchUpdateDevicePosition", "republish": "iot:Publish",
    "s3": "s3:PutObject", "sns": "sns:Publish", "sqs": "sqs:SendMessage", "stepFunctions": "states:StartExecution",
    "timestream": "timestream:WriteRecords",
}  # fmt: skip
SERVICE = "iot.amazonaws.com"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _matches(pattern: str, text: str) -> bool:
    expression = "".join(".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return re.fullmatch(expression, text, re.IGNORECASE | re.DOTALL) is not None


def _statements(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [statement for statement in _list(document.get("Statement")) if isinstance(statement, dict)]


def trusts(document: dict[str, Any], service: str = SERVICE) -> bool:
    """Whether a trust policy lets a service assume the role."""
    for statement in _statements(document):
        principal = statement.get("Principal")
        names = ["*"] if principal == "*" else _list(principal.get("Service")) if isinstance(principal, dict) else []
        if statement.get("Effect") == "Allow" and any(name in ("*", service) for name in names):
            return True
    return False


def allows(documents: list[dict[str, Any]], action: str) -> bool:
    """Whether some statement allows an action and none denies it outright (for every resource)."""
    allowed = False
    for document in documents:
        for statement in _statements(document):
            if not any(_matches(pattern, action) for pattern in _list(statement.get("Action"))):
                continue
            if statement.get("Effect") == "Deny" and "*" in _list(statement.get("Resource")):
                return False
            allowed |= statement.get("Effect") == "Allow"
    return allowed


def _texts(xml: bytes, tag: str) -> list[str]:
    found = re.findall(rf"<{tag}>([^<]*)</{tag}>".encode(), xml)
    unescaped = (text.decode().replace("&quot;", '"').replace("&#34;", '"').replace("&amp;", "&") for text in found)
    return list(unescaped)


def _document(text: str) -> dict[str, Any]:
    try:
        found = orjson.loads(unquote(text))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


async def _policies(call: Call, role: str) -> list[dict[str, Any]]:
    aws = call.world.aws
    documents = []
    inline = await aws.query("iam", "ListRolePolicies", _VERSION, {"RoleName": role})
    for name in _texts(inline, "member"):
        found = await aws.query("iam", "GetRolePolicy", _VERSION, {"RoleName": role, "PolicyName": name})
        documents += [_document(text) for text in _texts(found, "PolicyDocument")]
    attached = await aws.query("iam", "ListAttachedRolePolicies", _VERSION, {"RoleName": role})
    for arn in _texts(attached, "PolicyArn"):
        policy = await aws.query("iam", "GetPolicy", _VERSION, {"PolicyArn": arn})
        version = (_texts(policy, "DefaultVersionId") or ["v1"])[0]
        found = await aws.query("iam", "GetPolicyVersion", _VERSION, {"PolicyArn": arn, "VersionId": version})
        documents += [_document(text) for text in _texts(found, "Document")]
    return documents


async def _check_function(call: Call, arn: str) -> None:
    target, base = f"/2015-03-31/functions/{quote(arn, safe='')}/policy", call.world.endpoint_url()
    try:
        response = await call.world.aws.send("lambda", "GET", target, base=base)
    except ActionFailed as error:
        if "ResourceNotFoundException" not in str(error):
            raise
        response = Response(404, [], b"{}")
    found = orjson.loads(response.body) if isinstance(response.body, bytes) else {}
    if not trusts(_document(found.get("Policy", "{}"))):
        raise ActionFailed(f"{arn} has no resource policy that lets {SERVICE} invoke it (lambda add-permission)")


async def check(call: Call, action: Action, parameters: dict[str, Any]) -> None:
    """Raises ActionFailed when the role, its trust or its policies do not allow the action."""
    if action.key == "lambda":
        await _check_function(call, parameters["functionArn"])
        return
    arn = parameters.get("roleArn")
    if not arn:
        return
    role = arn.rpartition("/")[2]
    found = await call.world.aws.query("iam", "GetRole", _VERSION, {"RoleName": role})
    trust = [_document(text) for text in _texts(found, "AssumeRolePolicyDocument")]
    if not any(trusts(document) for document in trust):
        raise ActionFailed(f"the role {arn} does not trust {SERVICE}")
    needed = _NEEDED.get(action.key)
    if needed and not allows(await _policies(call, role), needed):
        raise ActionFailed(f"the role {arn} does not allow {needed}")
