"""GetClientDeviceAuthToken: a session token for a client device's MQTT credential."""

from __future__ import annotations

from foreshore.greengrass.ipc.client_device_access import DOCUMENT, PLUGIN, mqtt_credential, open_devices
from foreshore.greengrass.ipc.operation import Call, IpcError, Member, Operation, Reply, invalid_arguments


def handle(call: Call) -> Reply:
    """Make a session, or InvalidCredentialError."""
    devices = open_devices(call, "GetClientDeviceAuthToken")
    try:
        token = devices.token(mqtt_credential(call.request))
    except ValueError as error:
        raise invalid_arguments(str(error)) from error
    except PermissionError as error:
        why = "Unable to authenticate the client device with the given credentials. Check Greengrass log for details."
        call.core.say(PLUGIN, "ERROR", f"a client device is refused: {error}")
        raise IpcError("InvalidCredentialError", why) from error
    return {"clientDeviceAuthToken": token}


OPERATION = Operation("GetClientDeviceAuthToken", handle, {"credential": Member(DOCUMENT, True)}, plugin=PLUGIN)
