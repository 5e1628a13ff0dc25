"""SubscribeToIoTCoreConnectionStatus: CONNECTED or DISCONNECTED, now and on each change. In the SDK, not yet in AWS's
nuclei; a first event with the state now is our reading of the model."""

from __future__ import annotations

from foreshore.greengrass.ipc.operation import EMPTY, Call, Operation, Reply


def handle(call: Call) -> Reply:
    """Subscribe and send the state now."""

    def send(connected: bool) -> None:
        call.send({"connectionStatusEvent": {"status": "CONNECTED" if connected else "DISCONNECTED"}})

    connected, stop = call.core.on_cloud_state(send)
    call.on_close(stop)
    send(connected)
    return EMPTY


OPERATION = Operation(
    "SubscribeToIoTCoreConnectionStatus",
    handle,
    {},
    event="IoTCoreConnectionStatusEvent",
    note="In awsiotsdk's model; AWS's own nuclei do not answer it yet.",
)
