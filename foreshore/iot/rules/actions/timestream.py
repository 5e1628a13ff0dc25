"""The Timestream action: one record for each top-level attribute (developer guide, "Timestream")."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from foreshore.iot.rules.actions.call import Call
from foreshore.iot.rules.actions.failures import ActionFailed
from foreshore.iot.rules.values import Value, to_string

_UNITS = {"SECONDS", "MILLISECONDS", "MICROSECONDS", "NANOSECONDS"}


def typed_value(value: Value, old: bool) -> tuple[str, str]:
    """Timestream's measure type and text of a JSON value; arrays and objects are varchar JSON."""
    kind = type(value)
    if kind is bool:
        return "boolean", "true" if value else "false"
    if kind is int:
        return ("bigint" if -(2**63) <= value < 2**63 else "double"), str(value)
    if kind is Decimal:
        return "double", str(value)
    return "varchar", to_string(value, old)


async def run_timestream(call: Call, parameters: dict[str, Any]) -> None:
    """WriteRecords; attributes that are dimensions are not measures, Nulls are left out."""
    if type(call.value) is not dict:
        raise ActionFailed("the result is no JSON object")
    dimensions = [{"Name": pair["name"], "Value": pair["value"]} for pair in parameters["dimensions"]]
    names = {pair["name"] for pair in parameters["dimensions"]}
    stamp = parameters.get("timestamp") or {"value": str(call.message.timestamp_ms), "unit": "MILLISECONDS"}
    if stamp.get("unit") not in _UNITS:
        raise ActionFailed(f"unknown timestamp unit {stamp.get('unit')}")
    records = []
    for name, value in call.value.items():
        if value is None or name in names:
            continue
        kind, text = typed_value(value, call.old)
        records.append({"MeasureName": name, "MeasureValue": text, "MeasureValueType": kind.upper()})
    common = {"Dimensions": dimensions, "Time": stamp["value"], "TimeUnit": stamp["unit"]}
    for start in range(0, len(records), 100):
        body = {
            "DatabaseName": parameters["databaseName"],
            "TableName": parameters["tableName"],
            "CommonAttributes": common,
            "Records": records[start : start + 100],
        }
        await call.world.aws.json("timestream", "Timestream_20181101.WriteRecords", body, "1.0")
