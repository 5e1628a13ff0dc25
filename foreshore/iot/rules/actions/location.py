"""The Location action: one device position (developer guide, "Location")."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from foreshore.iot.rules.actions.call import Call
from foreshore.iot.rules.actions.failures import ActionFailed
from foreshore.iot.rules.values import UNDEFINED, read_number

_PER_SECOND = {"SECONDS": 1, "MILLISECONDS": 1000, "MICROSECONDS": 10**6, "NANOSECONDS": 10**9}


def _degrees(name: str, text: str, limit: int) -> float:
    number = read_number(text)
    if number is UNDEFINED or not -limit <= number <= limit:
        raise ActionFailed(f"{name} {text!r} is no number of -{limit} to {limit} degrees")
    return float(number)


async def run_location(call: Call, parameters: dict[str, Any]) -> None:
    """BatchUpdateDevicePosition of one position; an answer that lists errors is a failure."""
    longitude = _degrees("longitude", str(parameters["longitude"]), 180)
    latitude = _degrees("latitude", str(parameters["latitude"]), 90)
    stamp = parameters.get("timestamp") or {"value": str(call.message.timestamp_ms), "unit": "MILLISECONDS"}
    value = read_number(stamp["value"])
    per_second = _PER_SECOND.get(stamp.get("unit") or "MILLISECONDS")
    if value is UNDEFINED or per_second is None:
        raise ActionFailed(f"the timestamp {stamp} is no time")
    moment = datetime.fromtimestamp(float(value) / per_second, UTC)
    update = {
        "DeviceId": parameters["deviceId"],
        "Position": [longitude, latitude],
        "SampleTime": moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03}Z",
    }
    target = f"/tracking/v0/trackers/{quote(parameters['trackerName'], safe='')}/positions"
    answer = await call.world.aws.rest("geo", "POST", target, {"Updates": [update]})
    if answer.get("Errors"):
        raise ActionFailed(f"location: {answer['Errors']}")
