"""The IoT SiteWise action: property values, ten entries a call (developer guide, "IoT SiteWise")."""

from __future__ import annotations

from typing import Any

from foreshore.iot.rules.actions.call import Call
from foreshore.iot.rules.actions.failures import ActionFailed
from foreshore.iot.rules.values import UNDEFINED, Value, read_number

MAX_ENTRIES = 10


def _number(text: object) -> Value:
    number = read_number(str(text))
    if number is UNDEFINED:
        raise ActionFailed(f"{text!r} is no number")
    return number


def _variant(value: dict[str, Any]) -> dict[str, Any]:
    """The value of the one type that is given; templates make all of them text."""
    if value.get("stringValue") is not None:
        return {"stringValue": value["stringValue"]}
    if value.get("integerValue") is not None:
        return {"integerValue": int(_number(value["integerValue"]))}
    if value.get("doubleValue") is not None:
        return {"doubleValue": float(_number(value["doubleValue"]))}
    if value.get("booleanValue") is not None:
        return {"booleanValue": str(value["booleanValue"]).lower() == "true"}
    raise ActionFailed("a property value has no value")


def entry(spec: dict[str, Any], entry_id: str) -> dict[str, Any]:
    """One entry of BatchPutAssetPropertyValue."""
    made: dict[str, Any] = {"entryId": spec.get("entryId") or entry_id, "propertyValues": []}
    for name in ("assetId", "propertyId", "propertyAlias"):
        if spec.get(name):
            made[name] = spec[name]
    for value in spec["propertyValues"]:
        stamp = value["timestamp"]
        point: dict[str, Any] = {
            "value": _variant(value["value"]),
            "timestamp": {"timeInSeconds": int(_number(stamp["timeInSeconds"]))},
        }
        if stamp.get("offsetInNanos"):
            point["timestamp"]["offsetInNanos"] = int(_number(stamp["offsetInNanos"]))
        if value.get("quality"):
            point["quality"] = value["quality"]
        made["propertyValues"].append(point)
    return made


async def run_iot_site_wise(call: Call, parameters: dict[str, Any]) -> None:
    """BatchPutAssetPropertyValue; an answer that lists errors is a failure."""
    entries = [entry(spec, call.world.uuid()) for spec in parameters["putAssetPropertyValueEntries"]]
    for start in range(0, len(entries), MAX_ENTRIES):
        body = {"entries": entries[start : start + MAX_ENTRIES]}
        answer = await call.world.aws.rest("iotsitewise", "POST", "/properties", body)
        if answer.get("errorEntries"):
            raise ActionFailed(f"iotSiteWise: {answer['errorEntries']}")
