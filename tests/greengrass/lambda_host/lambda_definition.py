"""A Lambda component definition, its subscriptions, its handler, and events for it."""

from typing import Any

ARN = "arn:aws:lambda:us-east-1:123456789012:function:Counter:3"
DEFINITION: dict[str, Any] = {
    "lambdaFunction": {
        "lambdaArn": ARN,
        "componentName": "com.example.Counter",
        "componentDependencies": {
            "aws.greengrass.LambdaManager": {"versionRequirement": "^2.0.0", "dependencyType": "HARD"},
            "com.example.Other": {"versionRequirement": "^1.0.0", "dependencyType": "SOFT"},
        },
        "componentLambdaParameters": {
            "eventSources": [{"topic": "in/+", "type": "PUB_SUB"}, {"topic": "cloud/in", "type": "IOT_CORE"}],
            "timeoutInSeconds": 5,
            "pinned": True,
            "inputPayloadEncodingType": "json",
            "environmentVariables": {"STEP": "2"},
            "linuxProcessParams": {
                "isolationMode": "GreengrassContainer",
                "containerParams": {"memorySizeInKB": 16384, "devices": [{"path": "/dev/ttyS0"}]},
            },
        },
    }
}
SUBSCRIPTIONS = {
    "subscriptions": {
        "1": {"id": "1", "source": "component:com.example.Counter", "subject": "out/cloud", "target": "cloud"},
        "2": {"id": "2", "source": ARN, "subject": "out/local/#", "target": "component:other"},
        "3": {"id": "3", "source": "component:other", "subject": "more", "target": ARN},
        "4": {"id": "4", "source": "component:other", "subject": "unrelated", "target": "cloud"},
    }
}
HANDLER = """
import json
import os

import greengrasssdk

client = greengrasssdk.client("iot-data")
total = 0

def handler(event, context):
    global total
    total += int(os.environ["STEP"]) * event["n"]
    sent = [("out/cloud", {"total": total, "even": total % 4 == 0, "text": event.get("text", "\\u00e9")})]
    if event["n"] > 2:
        sent.append(("out/local/a", {"n": event["n"]}))
    for topic, message in sent:
        client.publish(topic=topic, payload=json.dumps(message))
    return [{"topic": topic, "payload": message} for topic, message in sent]
"""
EVENTS: list[dict[str, Any]] = [{"n": 1}, {"n": 2, "text": "x"}, {"n": 3}, {"n": 0.0, "more": [None]}, {"n": 10}]
