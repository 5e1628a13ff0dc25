"""SubscribeToCertificateUpdates: a local broker's server certificate, now and on each rotation."""

from __future__ import annotations

from foreshore.greengrass.ipc.client_device_access import PLUGIN, open_devices
from foreshore.greengrass.ipc.operation import EMPTY, Call, Member, Operation, Reply, one_of, structure


async def handle(call: Call) -> Reply:
    """Subscribe; the first event is a certificate made for this subscription."""
    devices = open_devices(call, "SubscribeToCertificateUpdates")
    call.on_close(await devices.certificate_updates(call.component, call.send))
    return EMPTY


_OPTIONS = structure({"certificateType": Member(one_of("SERVER"), True)})
OPERATION = Operation(
    "SubscribeToCertificateUpdates",
    handle,
    {"certificateOptions": Member(_OPTIONS, True)},
    event="CertificateUpdateEvent",
    plugin=PLUGIN,
)
