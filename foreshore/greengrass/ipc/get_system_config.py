"""GetSystemConfig: one of the core's own settings. Lite only, and outside the service's model."""

from __future__ import annotations

from foreshore.greengrass.ipc.operation import Call, Member, Operation, Reply, service_error, text

_INVALID = "Received invalid parameters."


def handle(call: Call) -> Reply:
    """`rootPath` and `thingName`; the others of a device (certificate, key, root CA) are not in a file here."""
    known = {"rootPath": str(call.core.root), "thingName": call.core.thing}
    value = known.get(call.request["key"])
    if value is None:
        raise service_error("Failed to read the system configuration.")
    return {"value": value}


OPERATION = Operation(
    "aws.greengrass.private#GetSystemConfig",
    handle,
    {"key": Member(text, True)},
    lite=True,
    response="",
    lite_invalid=("InvalidArgumentsError", _INVALID),
)
