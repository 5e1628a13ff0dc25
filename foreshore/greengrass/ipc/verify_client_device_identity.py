"""VerifyClientDeviceIdentity: is this certificate one of the account's, and active?"""

from __future__ import annotations

from foreshore.greengrass.ipc.client_device_access import PLUGIN, open_devices
from foreshore.greengrass.ipc.operation import (
    Call,
    Member,
    Operation,
    Reply,
    invalid_arguments,
    structure,
    text,
)


def handle(call: Call) -> Reply:
    """Verify a PEM certificate."""
    devices = open_devices(call, "VerifyClientDeviceIdentity")
    certificate = (call.request.get("credential") or {}).get("clientDeviceCertificate")
    if not certificate:
        raise invalid_arguments("Client device certificate is required")
    try:
        return {"isValidClientDevice": devices.verify(certificate)}
    except ValueError as error:
        raise invalid_arguments(str(error)) from error


_CREDENTIAL = structure({"clientDeviceCertificate": Member(text)})
OPERATION = Operation("VerifyClientDeviceIdentity", handle, {"credential": Member(_CREDENTIAL, True)}, plugin=PLUGIN)
