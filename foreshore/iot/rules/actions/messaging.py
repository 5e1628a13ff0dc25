"""The SNS and SQS actions (developer guide, "SNS", "SQS")."""

from __future__ import annotations

import base64
from typing import Any

from foreshore.iot.rules.actions.call import Call


async def run_sns(call: Call, parameters: dict[str, Any]) -> None:
    """Publish; with messageFormat JSON the payload holds a message for each protocol."""
    body = {"TargetArn": parameters["targetArn"], "Message": call.text()}
    if parameters.get("messageFormat") == "JSON":
        body["MessageStructure"] = "json"
    await call.world.aws.query("sns", "Publish", "2010-03-31", body)


async def run_sqs(call: Call, parameters: dict[str, Any]) -> None:
    """SendMessage, in base64 when asked."""
    encoded = parameters.get("useBase64") in (True, "true")
    text = base64.b64encode(call.payload).decode() if encoded else call.text()
    body = {"QueueUrl": parameters["queueUrl"], "MessageBody": text}
    await call.world.aws.json("sqs", "AmazonSQS.SendMessage", body, "1.0")
