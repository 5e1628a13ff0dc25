"""What the client-device operations share: their service, and the reading of an MQTT credential."""

from __future__ import annotations

from typing import Any

from foreshore.errors import NotEmulated
from foreshore.greengrass.authorization import CLIENT_DEVICES
from foreshore.greengrass.ipc.operation import Call, ClientDevices, Member, invalid_arguments, structure, text

PLUGIN = CLIENT_DEVICES
CREDENTIAL = {
    "clientId": Member(text),
    "certificatePem": Member(text),
    "username": Member(text),
    "password": Member(text),
}
DOCUMENT = structure({"mqttCredential": Member(structure(CREDENTIAL))})


def open_devices(call: Call, operation: str) -> ClientDevices:
    """Authorize on any resource and give the core's client device auth. Raises UnauthorizedError, NotEmulated."""
    call.authorize(CLIENT_DEVICES, operation, "*")
    if call.core.client_devices is None:
        raise NotEmulated("client device auth on a core without a local broker", "Start IoT Core too: `foreshore dev`.")
    return call.core.client_devices


def mqtt_credential(request: dict[str, Any]) -> dict[str, str]:
    """The request's credential.mqttCredential, absent members left out. Raises InvalidArgumentsError."""
    document = request.get("credential")
    credential = document.get("mqttCredential") if isinstance(document, dict) else None
    if not credential:
        raise invalid_arguments("Invalid client device credentials")
    return {key: value for key, value in credential.items() if isinstance(value, str)}
