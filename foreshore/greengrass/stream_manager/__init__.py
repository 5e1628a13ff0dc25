"""Stream manager: durable streams on a core, over the TCP protocol of AWS's stream manager clients, and their exports.

| module | knows |
|---|---|
| `cbor`, `frames` | bytes of the wire |
| `definitions` | stream definitions and their limits |
| `streams` | messages on disk: segments, size, time to live, sequence numbers |
| `exporter`, `destinations` | which messages go out next, and how Kinesis, S3 and HTTP take them |
| `service` | sockets and tasks |
"""
