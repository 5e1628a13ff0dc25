"""AuthorizeClientDeviceAction: may the device behind a session token do this on that resource?"""

from __future__ import annotations

from foreshore.greengrass.ipc.client_device_access import PLUGIN, open_devices
from foreshore.greengrass.ipc.operation import (
    Call,
    IpcError,
    Member,
    Operation,
    Reply,
    invalid_arguments,
    service_error,
    text,
)

_REQUIRED = {"clientDeviceAuthToken": "Auth token", "operation": "Operation", "resource": "Resource"}


def handle(call: Call) -> Reply:
    """Ask the device groups' policies."""
    request = call.request
    devices = open_devices(call, "AuthorizeClientDeviceAction")
    for name, label in _REQUIRED.items():
        if not request[name]:
            raise invalid_arguments(f"{label} is required")
    try:
        allowed = devices.authorize(request["clientDeviceAuthToken"], request["operation"], request["resource"])
    except KeyError as error:
        why = "Unable to find a valid session with the given auth token. Check Greengrass log for details."
        raise IpcError("InvalidClientDeviceAuthTokenError", why) from error
    except ValueError as error:
        call.core.say(PLUGIN, "ERROR", str(error))
        why = "Authorizing client device action failed. Check Greengrass log for details."
        raise service_error(why) from error
    return {"isAuthorized": allowed}


OPERATION = Operation(
    "AuthorizeClientDeviceAction",
    handle,
    {
        "clientDeviceAuthToken": Member(text, True),
        "operation": Member(text, True),
        "resource": Member(text, True),
    },
    plugin=PLUGIN,
)
