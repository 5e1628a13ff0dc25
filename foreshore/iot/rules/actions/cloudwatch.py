"""The three CloudWatch actions: alarm, metric and logs (developer guide, "CloudWatch alarms/metrics/Logs")."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from foreshore.iot.rules.actions.aws import Aws
from foreshore.iot.rules.actions.call import Call
from foreshore.iot.rules.actions.failures import ActionFailed
from foreshore.iot.rules.values import UNDEFINED, read_number, to_string

_VERSION = "2010-08-01"
MAX_EVENTS = 10_000


async def run_cloudwatch_alarm(call: Call, parameters: dict[str, Any]) -> None:
    """SetAlarmState."""
    body = {
        "AlarmName": parameters["alarmName"],
        "StateReason": parameters["stateReason"],
        "StateValue": parameters["stateValue"],
    }
    await call.world.aws.query("monitoring", "SetAlarmState", _VERSION, body)


async def run_cloudwatch_metric(call: Call, parameters: dict[str, Any]) -> None:
    """PutMetricData of one datum; the timestamp is in epoch seconds, now by default."""
    value = read_number(str(parameters["metricValue"]))
    if value is UNDEFINED:
        raise ActionFailed(f"metricValue {parameters['metricValue']!r} is no number")
    seconds = _seconds(parameters.get("metricTimestamp"), call.message.timestamp_ms)
    member = "MetricData.member.1."
    body = {
        "Namespace": parameters["metricNamespace"],
        f"{member}MetricName": parameters["metricName"],
        f"{member}Value": str(value),
        f"{member}Unit": parameters["metricUnit"],
        f"{member}Timestamp": datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    await call.world.aws.query("monitoring", "PutMetricData", _VERSION, body)


def _seconds(text: str | None, default_ms: int) -> float:
    if not text:
        return default_ms / 1000
    number = read_number(text)
    if number is UNDEFINED or not 0 <= number < 253402300800:
        raise ActionFailed(f"metricTimestamp {text!r} is no time in epoch seconds")
    return float(number)


async def run_cloudwatch_logs(call: Call, parameters: dict[str, Any]) -> None:
    """PutLogEvents into the stream of the rule's name, which is made when it is missing. In batch mode the result is
    an array of {timestamp, message}."""
    events = _events(call, bool(parameters.get("batchMode")))
    aws, group, stream = call.world.aws, parameters["logGroupName"], call.rule
    try:
        await put_log_events(aws, group, stream, events)
    except ActionFailed as error:
        if "ResourceNotFoundException" not in str(error) or "group" in str(error).lower().partition("stream")[0]:
            raise
        await make_log_stream(aws, group, stream)
        await put_log_events(aws, group, stream, events)


async def put_log_events(aws: Aws, group: str, stream: str, events: list[dict[str, Any]]) -> None:
    """PutLogEvents of at most `MAX_EVENTS`, in order of time. Raises ActionFailed."""
    body = {"logGroupName": group, "logStreamName": stream, "logEvents": events}
    await aws.json("logs", "Logs_20140328.PutLogEvents", body)


async def make_log_stream(aws: Aws, group: str, stream: str, *, with_group: bool = False) -> None:
    """CreateLogStream, after CreateLogGroup if asked; what is there already is fine. Raises ActionFailed."""
    body = {"logGroupName": group, "logStreamName": stream}
    calls = [("CreateLogGroup", {"logGroupName": group})] if with_group else []
    for operation, arguments in [*calls, ("CreateLogStream", body)]:
        try:
            await aws.json("logs", f"Logs_20140328.{operation}", arguments)
        except ActionFailed as error:
            if "AlreadyExists" not in str(error):
                raise


def _events(call: Call, batch: bool) -> list[dict[str, Any]]:
    if not batch:
        return [{"timestamp": call.message.timestamp_ms, "message": call.text()}]
    if type(call.value) is not list or len(call.value) > MAX_EVENTS:
        raise ActionFailed(f"with batchMode the result must be an array of at most {MAX_EVENTS} log events")
    events = []
    for item in call.value:
        if type(item) is not dict or type(item.get("timestamp")) not in (int, Decimal) or "message" not in item:
            raise ActionFailed("with batchMode each element is an object of timestamp and message")
        events.append({"timestamp": int(item["timestamp"]), "message": to_string(item["message"], call.old)})
    # The API wants them in order of time.
    return sorted(events, key=lambda event: event["timestamp"])
