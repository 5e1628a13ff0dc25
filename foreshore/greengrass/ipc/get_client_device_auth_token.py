"""GetClientDeviceAuthToken: a session token for a client device's MQTT credential."""

from __future__ import annotations

from foreshore.greengrass.ipc.client_device_access import DOCUMENT, PLUGIN, mqtt_credential, open_devices
from foreshore.greengrass.ipc.operation import Call, IpcError, Member, Operation, Reply


async def handle(call: Call) -> Reply:
    """Make a session, or InvalidCredentialError."""
    devices = open_devices(call, "GetClientDeviceAuthToken")
    try:
        token = await devices.token(mqtt_credential(call.request))
    except PermissionError as error:
        raise IpcError("InvalidCredentialError", str(error) or "Invalid client device credentials") from error
    return {"clientDeviceAuthToken": token}


OPERATION = Operation("GetClientDeviceAuthToken", handle, {"credential": Member(DOCUMENT, True)}, plugin=PLUGIN)
