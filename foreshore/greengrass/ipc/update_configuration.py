"""UpdateConfiguration: merge a value into the caller's own configuration, with the caller's timestamp."""

from __future__ import annotations

from collections.abc import Sequence

from foreshore.greengrass.ipc.operation import (
    EMPTY,
    Call,
    IpcError,
    Member,
    Operation,
    Reply,
    anything,
    check_depth,
    invalid_arguments,
    number,
    path_of,
    service_error,
    texts,
)

_RESTRICTED = "accessControl"


def handle(call: Call) -> Reply:
    """Check and merge.

    Classic compares with the newest timestamp under the path afterwards, so one newer leaf there fails the request
    although older leaves were taken; a new path takes the time now (nucleus, ConfigStoreIPCEventStreamAgent).
    """
    request, core = call.request, call.core
    is_lite = core.profile == "lite"
    timestamp, value = request.get("timestamp"), request.get("valueToMerge")
    if timestamp is None:
        raise invalid_arguments("Timestamp is required")
    if value is None:
        raise invalid_arguments("ValueToMerge is required")
    check_depth(call)
    path = path_of(request)
    if _is_restricted(path, value):
        raise invalid_arguments(
            "Config update is not allowed for following fields [accessControl]",
            lite="Config update is not allowed for following field [accessControl]",
        )
    if not isinstance(value, dict) and not path:
        message = "valueToMerge must be a map when keyPath is empty"
        raise service_error("Failed to update the configuration.") if is_lite else invalid_arguments(message)
    time_ms = round(timestamp * 1000)
    node = core.configuration.find(call.component, path)
    if node is None and core.profile == "classic":
        time_ms = max(time_ms, core.now_ms())
    core.configuration.merge(call.component, path, value, time_ms)
    if core.profile == "classic" and time_ms < core.configuration.timestamp(call.component, path):
        raise IpcError(
            "FailedUpdateConditionCheckError",
            "Proposed timestamp is older than the config's latest modified timestamp",
        )
    return EMPTY


def _is_restricted(path: Sequence[str], value: object) -> bool:
    names = path[:1] if path else value if isinstance(value, dict) else ()
    return any(str(name).lower() == _RESTRICTED.lower() for name in names)


OPERATION = Operation(
    "UpdateConfiguration",
    handle,
    {"keyPath": Member(texts), "timestamp": Member(number), "valueToMerge": Member(anything)},
    lite=True,
    lite_members={"keyPath": Member(texts), "timestamp": Member(number, True), "valueToMerge": Member(anything, True)},
    lite_invalid=("InvalidArgumentsError", "Received invalid parameters."),
)
