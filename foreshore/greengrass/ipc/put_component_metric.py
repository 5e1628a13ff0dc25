"""PutComponentMetric: telemetry of AWS's own components (`aws.*`)."""

from __future__ import annotations

from foreshore.greengrass.authorization import METRICS
from foreshore.greengrass.ipc.operation import (
    EMPTY,
    Call,
    Member,
    Operation,
    Reply,
    invalid_arguments,
    list_of,
    number,
    structure,
    text,
    unauthorized,
)

UNITS = {"BYTES", "BYTES_PER_SECOND", "COUNT", "COUNT_PER_SECOND", "MEGABYTES", "SECONDS"}
MAX_NAME_BYTES = 32
_PREFIX = "aws.greengrass#PutComponentMetric"


def handle(call: Call) -> Reply:
    """Check the caller, each metric, then each metric's policy; nothing is kept when one fails."""
    component = call.component
    if not component.startswith("aws."):
        raise unauthorized(f"Principal {component} is not authorized to perform {METRICS}:{_PREFIX} ")
    metrics = call.request.get("metrics")
    if not metrics:
        raise invalid_arguments("Null or Empty list of metrics found in PutComponentMetricRequest")
    for metric in metrics:
        name, unit = metric.get("name") or "", metric.get("unit") or ""
        if not 0 < len(name.encode()) <= MAX_NAME_BYTES or not unit or (metric.get("value") or 0) < 0:
            raise invalid_arguments("Invalid argument found in PutComponentMetricRequest")
        if unit.upper() not in UNITS:
            raise invalid_arguments("Invalid telemetry unit: No matching TelemetryUnit type found")
        if not call.core.authorization.is_allowed(component, METRICS, "PutComponentMetric", name):
            raise unauthorized(
                f"Principal {component} is not authorized to perform {METRICS}:{_PREFIX} with metric name {name}"
            )
    for metric in metrics:
        call.core.put_metric(component, metric["name"], metric["unit"], metric.get("value") or 0)
    return EMPTY


_METRIC = {"name": Member(text), "unit": Member(text), "value": Member(number)}
OPERATION = Operation("PutComponentMetric", handle, {"metrics": Member(list_of(structure(_METRIC)))})
