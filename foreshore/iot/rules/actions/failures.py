"""How an action fails, and the document that tells the error action of it (developer guide, "Error handling"). Pure."""

from __future__ import annotations

import base64
from typing import NamedTuple

from foreshore.iot.rules.message import Message


class ActionFailed(Exception):
    """One action did not do its work. `transient` failures are tried again."""

    def __init__(self, what: str, *, transient: bool = False) -> None:
        super().__init__(what)
        self.transient = transient


class Failure(NamedTuple):
    """One failed action: its name (`S3Action`), the resource it was for, and why."""

    action: str
    resource: str
    error: str


def action_name(key: str) -> str:
    """The name in the error document: `dynamoDBv2` is `DynamoDBv2Action`."""
    return key[:1].upper() + key[1:] + "Action"


def error_document(rule: str, message: Message, failures: list[Failure]) -> dict[str, object]:
    """What the error action receives instead of the SELECT's result; one document for a rule and a message."""
    return {
        "ruleName": rule,
        "topic": message.topic,
        "cloudwatchTraceId": message.trace_uuid,
        "clientId": "N/A" if message.client_id is None else message.client_id,
        "sourceIp": message.source_ip or "N/A",
        "base64OriginalPayload": base64.b64encode(message.payload).decode(),
        "failures": [
            {"failedAction": failure.action, "failedResource": failure.resource, "errorMessage": failure.error}
            for failure in failures
        ],
    }
