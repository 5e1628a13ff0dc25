"""What the Greengrass core emulates of its IPC, and what it does not. The operations' rows come from their table."""

from __future__ import annotations

from foreshore.greengrass.ipc import OPERATIONS

NOTES: dict[str, tuple[str, str]] = {
    "SubscribeToIoTCoreConnectionStatus": (
        "partly",
        "in awsiotsdk's model; AWS's nuclei do not answer it yet: a first event with the state now is our reading",
    ),
    "PutComponentMetric": ("partly", "checked and written to the component's log; not published as telemetry"),
    "CreateDebugPassword": ("partly", "a password is made, but no debug console is behind it; no certificate hashes"),
    "GetSecretValue": (
        "yes",
        "cloudSecrets with labels, refresh, periodicRefreshIntervalMin, kept encrypted for offline use; where the "
        "component is not deployed, read from the backend on each call",
    ),
    "GetClientDeviceAuthToken": ("partly", "verifies the certificate itself, where a device wants that done first"),
}


def _operation_rows() -> list[tuple[str, str, str]]:
    rows = []
    for operation in OPERATIONS.values():
        state, note = NOTES.get(operation.name, ("yes", ""))
        where = "classic and lite" if operation.lite else "classic"
        by = f", by {operation.plugin} on a device" if operation.plugin else ""
        rows.append((f"IPC {operation.name}", state, f"{where}{by}" + (f"; {note}" if note else "")))
    return rows


ROWS: list[tuple[str, str, str]] = [
    ("Greengrass IPC: event-stream RPC over a Unix socket, classic and lite rules", "yes",
     "awsiotsdk's V1 and V2 clients and the JavaScript SDK unmodified; greengrass-lite's recorded exchanges are played "
     "back frame by frame"),
    ("Classic's answer to an operation outside the model", "partly", "no model type, as on a device; the JSON is ours"),
    *_operation_rows(),
    ("lite's private GetSystemConfig operation", "partly", "rootPath and thingName; not certificate, key and root CA"),
    ("accessControl", "yes", "default deny, wildcards and escapes as the classic nucleus, reloaded live; what is "
     "skipped is logged; on lite the policies of a deployed component are not refused at deployment"),
    ("{iot:thingName} in policies", "yes", "lite always, classic with interpolateComponentConfiguration"),
    ("Component configuration: timestamps, merge, reset, defaults, durable", "yes",
     "kept in config/config.db; config/effectiveConfig.yaml is a copy; no config.tlog"),
    ("Spooler", "partly", "on disk unless storageType is Memory (AWS: in memory unless it is Disk), which is read at "
     "start; a refusal that another try won't mend is logged and dropped"),
    ("Local publish/subscribe between components", "yes", "a subscriber that does not read is dropped events beyond "
     "8 MiB, said in the log, and delays nobody; greengrass-lite makes each publisher wait 5 s"),
    ("Shadow manager: local shadows, local topics, synchronization with IoT Core", "yes",
     "realTime and periodic, both directions, rates, deletions; the device's reported and the cloud's desired win"),
    ("Token exchange service", "yes", "when the core is given credentials"),
]  # fmt: skip
