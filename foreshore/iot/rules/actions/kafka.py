"""The Kafka action: a small producer for the broker that `clientProperties` names. Shell.

Speaks Metadata v1, Produce v3 with record batches v2, and SASL/PLAIN, by kafka.apache.org's protocol guide. Records
are sent uncompressed; the VPC destination's subnets mean nothing here. One connection a record: this is a test double
of a managed service, not a fast client.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any

from foreshore.iot.rules.actions.call import Call
from foreshore.iot.rules.actions.failures import ActionFailed

TIMEOUT_S = 10.0
_CLIENT = "foreshore"
_PRODUCE, _METADATA, _HANDSHAKE, _AUTHENTICATE = 0, 3, 17, 36
_RETRIABLE = frozenset({3, 5, 6, 7, 8, 9, 13, 19, 20})
"""Unknown topic, leader not available, not leader, timed out, broker or replica not available, network, too few
replicas: the protocol guide marks them retriable."""


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_CRC = _crc_table()


def crc32c(data: bytes) -> int:
    """The Castagnoli CRC of a record batch (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """The hash of Kafka's default partitioner, as a non-negative number."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for start in range(0, whole, 4):
        k = int.from_bytes(data[start : start + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = h * m & mask ^ k
    rest = data[whole:]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return (h ^ h >> 15) & 0x7FFFFFFF


def _text(value: str | None) -> bytes:
    if value is None:
        return b"\xff\xff"
    raw = value.encode()
    return struct.pack(">h", len(raw)) + raw


def _zigzag(value: int) -> bytes:
    value = value << 1 ^ value >> 63
    made = bytearray()
    while value & ~0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def _sized(data: bytes | None) -> bytes:
    return _zigzag(-1) if data is None else _zigzag(len(data)) + data


def record_batch(key: bytes | None, value: bytes, headers: list[tuple[str, bytes]], timestamp_ms: int) -> bytes:
    """A batch (magic 2) of one record."""
    record = b"\0" + _zigzag(0) + _zigzag(0) + _sized(key) + _sized(value) + _zigzag(len(headers))
    for name, data in headers:
        record += _sized(name.encode()) + _sized(data)
    body = struct.pack(">hiqqqhii", 0, 0, timestamp_ms, timestamp_ms, -1, -1, -1, 1) + _sized(record)
    return struct.pack(">qiibI", 0, len(body) + 9, -1, 2, crc32c(body)) + body


class _Reader:
    """Fields of an answer, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def number(self, form: str) -> int:
        value: int = struct.unpack_from(form, self.data, self.position)[0]
        self.position += struct.calcsize(form)
        return value

    def text(self) -> str:
        size = self.number(">h")
        start, self.position = self.position, self.position + max(size, 0)
        return self.data[start : self.position].decode()


class _Connection:
    """One connection to a broker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._number = 0

    async def ask(self, api: int, version: int, body: bytes) -> _Reader:
        """One request and its answer, past the correlation id."""
        self._number += 1
        message = struct.pack(">hhi", api, version, self._number) + _text(_CLIENT) + body
        self.writer.write(struct.pack(">i", len(message)) + message)
        size = struct.unpack(">i", await self.reader.readexactly(4))[0]
        answer = _Reader(await self.reader.readexactly(size))
        answer.number(">i")
        return answer


async def _connect(call: Call, host: str, port: int, properties: dict[str, str]) -> _Connection:
    protocol = properties.get("security.protocol", "PLAINTEXT")
    tls = call.world.aws.tls() if protocol in ("SSL", "SASL_SSL") else None
    connection = _Connection(*await asyncio.open_connection(host, port, ssl=tls))
    if protocol.startswith("SASL"):
        await _authenticate(connection, properties)
    return connection


async def _authenticate(connection: _Connection, properties: dict[str, str]) -> None:
    mechanism = properties.get("sasl.mechanism", "PLAIN")
    if mechanism != "PLAIN":
        raise ActionFailed(f"kafka: SASL mechanism {mechanism} is not emulated here; PLAIN is")
    answer = await connection.ask(_HANDSHAKE, 1, _text(mechanism))
    if answer.number(">h"):
        raise ActionFailed("kafka: the broker does not offer SASL/PLAIN")
    user = properties.get("sasl.plain.username", "")
    token = f"\0{user}\0{properties.get('sasl.plain.password', '')}".encode()
    answer = await connection.ask(_AUTHENTICATE, 0, struct.pack(">i", len(token)) + token)
    if answer.number(">h"):
        raise ActionFailed("kafka: the broker refused the user name or password")


async def _leaders(connection: _Connection, topic: str) -> dict[int, tuple[str, int]]:
    """Metadata: the address of each partition's leader."""
    answer = await connection.ask(_METADATA, 1, struct.pack(">i", 1) + _text(topic))
    brokers = {}
    for _ in range(answer.number(">i")):
        node, host, port = answer.number(">i"), answer.text(), answer.number(">i")
        answer.text()
        brokers[node] = (host, port)
    answer.number(">i")
    leaders: dict[int, tuple[str, int]] = {}
    for _ in range(answer.number(">i")):
        error = answer.number(">h")
        answer.text()
        answer.number(">b")
        if error:
            raise ActionFailed(f"kafka: error {error} for topic {topic}", transient=error in _RETRIABLE)
        for _ in range(answer.number(">i")):
            _, partition, leader = answer.number(">h"), answer.number(">i"), answer.number(">i")
            for _ in range(2):
                for _ in range(answer.number(">i")):
                    answer.number(">i")
            if leader in brokers:
                leaders[partition] = brokers[leader]
    if not leaders:
        raise ActionFailed(f"kafka: topic {topic} has no partition with a leader", transient=True)
    return leaders


async def _produce(connection: _Connection, topic: str, partition: int, batch: bytes, acks: int) -> None:
    body = _text(None) + struct.pack(">hii", acks, 5000, 1) + _text(topic)
    body += struct.pack(">iii", 1, partition, len(batch)) + batch
    answer = await connection.ask(_PRODUCE, 3, body)
    answer.number(">i")
    answer.text()
    answer.number(">i")
    answer.number(">i")
    error = answer.number(">h")
    if error:
        raise ActionFailed(f"kafka: error {error} for partition {partition} of {topic}", transient=error in _RETRIABLE)


def _partition(parameters: dict[str, Any], key: bytes | None, leaders: dict[int, tuple[str, int]]) -> int:
    asked = parameters.get("partition")
    if asked:
        if not str(asked).isdigit() or int(asked) not in leaders:
            raise ActionFailed(f"kafka: there is no partition {asked}")
        return int(asked)
    return murmur2(key) % len(leaders) if key else min(leaders)


async def run_kafka(call: Call, parameters: dict[str, Any]) -> None:
    """Produce one record and wait for the broker's acknowledgement."""
    properties = parameters["clientProperties"]
    servers = properties.get("bootstrap.servers", "")
    host, _, port = servers.split(",")[0].rpartition(":")
    if not host or not port.isdigit():
        raise ActionFailed("kafka: clientProperties must hold bootstrap.servers as host:port")
    key = parameters["key"].encode() if parameters.get("key") else None
    headers = [(pair["key"], pair["value"].encode()) for pair in parameters.get("headers") or []]
    batch = record_batch(key, call.payload, headers, call.message.timestamp_ms)
    # With acks=0 a broker answers nothing, and nobody would know: wait for the leader at least.
    acks = -1 if properties.get("acks") in ("all", "-1") else 1
    open_connections: list[_Connection] = []
    try:
        async with asyncio.timeout(TIMEOUT_S):
            connection = await _connect(call, host, int(port), properties)
            open_connections.append(connection)
            leaders = await _leaders(connection, parameters["topic"])
            partition = _partition(parameters, key, leaders)
            if leaders[partition] != (host, int(port)):
                connection = await _connect(call, *leaders[partition], properties)
                open_connections.append(connection)
            await _produce(connection, parameters["topic"], partition, batch, acks)
    except (OSError, EOFError, TimeoutError) as error:
        raise ActionFailed(f"kafka at {servers}: {str(error) or type(error).__name__}", transient=True) from error
    except struct.error as error:
        raise ActionFailed(f"kafka at {servers}: the answer is malformed: {error}") from error
    finally:
        for connection in open_connections:
            connection.writer.close()
