"""What is emulated of client devices: client device auth, the local broker, the MQTT bridge and discovery."""

from __future__ import annotations

ROWS: list[tuple[str, str, str]] = [
    ("Client device auth: device groups, selection rules, policies", "yes",
     "the grammar and matching of 2.5; what the component refuses is an ERROR in the log, and the old groups stay"),
    ("Client device auth: identities", "yes",
     "active certificate, attached to the thing whose name is the client id; offline within "
     "clientDeviceTrustDurationMinutes, refreshed daily; association with the core counts for discovery and that "
     "refresh, as on a device"),
    ("Client devices of a core of profile lite", "partly", "taken as on classic; greengrass-lite has none"),
    ("A core without client device auth", "partly",
     "Foreshore's own, for a quick start: any active certificate may do anything at the local listener, which the log "
     "says; a device has no listener then. Discovery answers 404, as AWS does"),
    ("Client device auth: certificates", "partly",
     "the core's CA (RSA_2048, ECDSA_P256 or files of your own; pkcs11 is NotEmulated), rotation, addresses; server "
     "keys are RSA 2048 over IPC, 4096 on a device; the core's CA is vouched for by ca.pem too"),
    ("Client device auth: metrics and cloudRequestQueueSize, maxConcurrentCloudRequests", "no",
     "without effect, which is a WARN"),
    ("Local MQTT broker", "partly",
     "Foreshore's own on 8884; with Moquette deployed MQTT 5 is refused, with EMQX it is not; other settings of theirs "
     "and those of the bridge's connection (brokerUri, mqtt.*) have no effect, which is a WARN"),
    ("MQTT bridge", "yes",
     "all six directions, live changes, mqtt5RouteOptions, the spooler; a loop, endless on a device, is cut with an "
     "ERROR"),
    ("Greengrass discovery", "yes", "on the devices' HTTPS port, by certificate; AWS's answers and refusals"),
    ("IP detector", "partly", "a core's address is its own listener's unless UpdateConnectivityInfo says otherwise"),
]  # fmt: skip
