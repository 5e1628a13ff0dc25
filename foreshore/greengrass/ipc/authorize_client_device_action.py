"""AuthorizeClientDeviceAction: may the device behind a session token do this on that resource?"""

from __future__ import annotations

from foreshore.greengrass.ipc.client_device_access import PLUGIN, open_devices
from foreshore.greengrass.ipc.operation import Call, IpcError, Member, Operation, Reply, text


def handle(call: Call) -> Reply:
    """Ask the device groups' policies."""
    request = call.request
    devices = open_devices(call, "AuthorizeClientDeviceAction")
    try:
        allowed = devices.authorize(request["clientDeviceAuthToken"], request["operation"], request["resource"])
    except KeyError as error:
        raise IpcError("InvalidClientDeviceAuthTokenError", "Invalid client device auth token") from error
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
