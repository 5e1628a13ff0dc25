"""What the broker does of AWS IoT Core's MQTT, row by row; docs/parity.md collects it."""

from __future__ import annotations

ROWS: list[tuple[str, str, str]] = [
    (
        "MQTT 3.1.1 and MQTT 5 over TCP, TLS and WebSocket",
        "yes",
        "SNI and ALPN are handed to access; the plain listener takes plain WebSockets (/mqtt) too",
    ),
    ("QoS 0 and 1; QoS 2 refused", "yes", "3.1.1: no answer; 5: DISCONNECT 0x9B"),
    (
        "Persistent sessions, queued QoS 1, session expiry",
        "yes",
        "durable in SQLite; 20,000 messages or 16 MiB a session",
    ),
    (
        "Speed of stored replay (10 messages/s, 20 of a share group)",
        "yes",
        "live messages need not wait behind it (not documented); off with the rate limits",
    ),
    ("Clean takeover of a client id", "yes", "0x8E to MQTT 5"),
    ("Keep-alive 30 to 1,200 s, dropped at 1.5 times", "yes", ""),
    ("Last will, will delay", "yes", "a will that waits out its delay is forgotten when the broker is killed"),
    (
        "Retained messages, exact filter only",
        "yes",
        "durable; a retained publish to a $ topic is refused with 0x90 (code not verified)",
    ),
    ("Retained quotas", "partly", "1 write a second and topic; no account-wide quotas"),
    ("Message expiry", "yes", "0 taken for 1, capped at 604,800 s"),
    ("Topic aliases from clients (8)", "yes", "the broker sends aliases in the standard profile only"),
    ("Receive maximum, both ways", "yes", "QoS 1 is acknowledged at once, so a client can't exceed it"),
    (
        "Shared subscriptions",
        "yes",
        "a random member; QoS 1 waits for a group with a persistent member; 100 groups, 100 members a group",
    ),
    ("Overlapping subscriptions", "yes", "one copy at the highest QoS"),
    ("Subscription identifiers refused (0xA1)", "yes", "served in the standard profile"),
    (
        "Reserved $ topics",
        "yes",
        "0x90 or 0x8F by prefix; what the service answers and notifies is for it alone to publish",
    ),
    ("Refusals: close without CONNACK in 3.1.1, 0x87, PUBACK 0x87, SUBACK 0x87/0x8F", "yes", ""),
    (
        "Limits: topic, slashes, payload, packet, client id, filters, subscriptions, MQTT 5 properties",
        "yes",
        "beyond a quota: 0x97; 3.1.1 gets SUBACK 0x80 for too many filters (not verified)",
    ),
    ("100 publishes/s and 512 KB/s a connection, 1 CONNECT/s a client id", "yes", "switchable"),
    ("Redelivery within 1 h (3.1.1) or 16 min (5)", "partly", "on reconnect, not within a connection"),
    ("Enhanced authentication (AUTH)", "no", "as AWS: refused with 0x8C"),
    ("Server redirection", "no", "as AWS"),
    ("WebSocket lifetime of 24 h, custom authorizer TTL", "yes", ""),
    ("Standard profile (QoS 2, identifiers, wildcard retained)", "yes", "QoS 2 state is not kept over a restart"),
]
