"""The table of actions: AWS's key, its required parameters, the resource it names, and the coroutine that runs it.

The keys and parameters are those of the service model's TopicRulePayload. An action whose service is gone stands
here too, so that creating such a rule says so.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from foreshore.iot.rules.actions.call import Call

_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")

Run = Callable[[Call, dict[str, Any]], Awaitable[None]]


class Action(NamedTuple):
    """One kind of action. `module` and `function` are imported at first use; `gone` says why it can't run."""

    key: str
    required: tuple[str, ...]
    resource: Callable[[dict[str, Any]], str]
    module: str = ""
    gone: str = ""

    def load(self) -> Run:
        """The coroutine function that runs it."""
        return _load(self.module, self.key)


@cache
def _load(module: str, key: str) -> Run:
    run: Run = getattr(import_module(f"foreshore.iot.rules.actions.{module}"), _function(key))
    return run


def _function(key: str) -> str:
    """`dynamoDBv2` is run by `run_dynamo_dbv2`."""
    return "run_" + _HUMP.sub("_", key).lower()


def _named(*path: str) -> Callable[[dict[str, Any]], str]:
    def resource(parameters: dict[str, Any]) -> str:
        value: Any = parameters
        for name in path:
            value = value.get(name, {}) if isinstance(value, dict) else {}
        return value if isinstance(value, str) else ""

    return resource


_ROLE = "roleArn"
_ALL = (
    Action("cloudwatchAlarm", (_ROLE, "alarmName", "stateReason", "stateValue"), _named("alarmName"), "cloudwatch"),
    Action("cloudwatchLogs", (_ROLE, "logGroupName"), _named("logGroupName"), "cloudwatch"),
    Action(
        "cloudwatchMetric", (_ROLE, "metricNamespace", "metricName", "metricValue", "metricUnit"),
        _named("metricName"), "cloudwatch",
    ),
    Action("dynamoDB", (_ROLE, "tableName", "hashKeyField", "hashKeyValue"), _named("tableName"), "dynamodb"),
    Action("dynamoDBv2", (_ROLE, "putItem"), _named("putItem", "tableName"), "dynamodb"),
    Action("elasticsearch", (_ROLE, "endpoint", "index", "type", "id"), _named("endpoint"), "search"),
    Action("openSearch", (_ROLE, "endpoint", "index", "type", "id"), _named("endpoint"), "search"),
    Action("firehose", (_ROLE, "deliveryStreamName"), _named("deliveryStreamName"), "streams"),
    Action("http", ("url",), _named("url"), "web"),
    Action("influxDB", (_ROLE, "destinationArn", "databaseName", "tableName"), _named("destinationArn"), "influx"),
    Action(
        "iotAnalytics", (), _named("channelName"),
        gone="AWS ended IoT Analytics and removed its API; there is nothing to send to",
    ),
    Action(
        "iotEvents", (), _named("inputName"),
        gone="AWS ended IoT Events and removed its API; there is nothing to send to",
    ),
    Action("iotSiteWise", (_ROLE, "putAssetPropertyValueEntries"), lambda parameters: "iotsitewise", "sitewise"),
    Action("kafka", ("destinationArn", "topic", "clientProperties"), _named("topic"), "kafka"),
    Action("kinesis", (_ROLE, "streamName"), _named("streamName"), "streams"),
    Action("lambda", ("functionArn",), _named("functionArn"), "compute"),
    Action("location", (_ROLE, "trackerName", "deviceId", "latitude", "longitude"), _named("trackerName"), "location"),
    Action("republish", (_ROLE, "topic"), _named("topic"), "republish"),
    Action("s3", (_ROLE, "bucketName", "key"), _named("bucketName"), "storage"),
    Action("salesforce", ("token", "url"), _named("url"), "web"),
    Action("sns", (_ROLE, "targetArn"), _named("targetArn"), "messaging"),
    Action("sqs", (_ROLE, "queueUrl"), _named("queueUrl"), "messaging"),
    Action("stepFunctions", (_ROLE, "stateMachineName"), _named("stateMachineName"), "compute"),
    Action("timestream", (_ROLE, "databaseName", "tableName", "dimensions"), _named("tableName"), "timestream"),
)  # fmt: skip

ACTIONS: dict[str, Action] = {action.key: action for action in _ALL}
