"""The InfluxDB action: a point in line protocol, sent to the destination's endpoint with its secret's token.

Sources: the service model's InfluxDBAction and InfluxDBDestinationConfiguration; InfluxDB's "Line protocol" and its
write APIs (`/api/v2/write` for version 2, `/api/v3/write_lp` for version 3).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from foreshore.errors import AwsError, PeerError
from foreshore.iot.rules.actions.call import Call
from foreshore.iot.rules.actions.failures import ActionFailed
from foreshore.iot.rules.values import Value, to_string

_UNITS = {
    "SECONDS": ("s", 1),
    "MILLISECONDS": ("ms", 1000),
    "MICROSECONDS": ("us", 10**6),
    "NANOSECONDS": ("ns", 10**9),
}
_DEFAULTS = {"maxBatchSize": 10, "maxBatchOpenMs": 20, "maxBatchSizeBytes": 5120}
_V3_PRECISION = {"s": "second", "ms": "millisecond", "us": "microsecond", "ns": "nanosecond"}


def _escaped(text: str, characters: str) -> str:
    for character in "\\" + characters:
        text = text.replace(character, "\\" + character)
    return text.replace("\n", "\\n")


def field_text(value: Value, old: bool) -> str:
    """A value as a line protocol field: `1i`, `1.5`, `true`, or a quoted string."""
    kind = type(value)
    if kind is bool:
        return "true" if value else "false"
    if kind is int:
        return f"{value}i" if -(2**63) <= value < 2**63 else str(value)
    if kind is Decimal:
        return str(value)
    return '"' + str(to_string(value, old)).replace("\\", "\\\\").replace('"', '\\"') + '"'


def line(table: str, tags: dict[str, str], fields: dict[str, Value], timestamp: int, old: bool) -> str:
    """One point. Nulls and fields that are tags are left out."""
    head = _escaped(table, ", ")
    for name, value in sorted(tags.items()):
        if value:
            head += f",{_escaped(name, ',= ')}={_escaped(value, ',= ')}"
    pairs = [
        f"{_escaped(name, ',= ')}={field_text(value, old)}"
        for name, value in fields.items()
        if value is not None and name not in tags
    ]
    if not pairs:
        raise ActionFailed("the result has no field to write")
    return f"{head} {','.join(pairs)} {timestamp}"


async def run_influx_db(call: Call, parameters: dict[str, Any]) -> None:
    """Write the result's top-level keys as the fields of one point, batched when asked."""
    if type(call.value) is not dict:
        raise ActionFailed("the result is no JSON object")
    try:
        destination = call.world.destinations.get(parameters["destinationArn"])
    except AwsError as error:
        raise ActionFailed(error.message) from None
    if destination.status != "ENABLED" or destination.kind != "influxDBProperties":
        raise ActionFailed(f"the destination {destination.arn} is no ENABLED InfluxDB destination")
    unit, per_second = _UNITS.get(parameters.get("timestampUnit") or "MILLISECONDS", ("ms", 1000))
    stamp = call.message.timestamp_ms * per_second // 1000
    point = line(parameters["tableName"], parameters.get("tags") or {}, call.value, stamp, call.old)

    async def send(points: list[str]) -> None:
        await _write(call, destination.properties, parameters, unit, "\n".join(points).encode())

    config = parameters.get("batchConfig")
    if not config:
        await send([point])
        return
    config = {**_DEFAULTS, **config}
    topic = "" if config.get("batchAcrossTopics") else call.message.topic
    key = (
        "influx",
        call.rule,
        destination.arn,
        parameters["databaseName"],
        parameters.get("organization"),
        unit,
        topic,
    )
    await call.world.batches.add(
        key, point, len(point), send,
        most=config["maxBatchSize"], open_ms=config["maxBatchOpenMs"], most_bytes=config["maxBatchSizeBytes"],
    )  # fmt: skip


async def _token(call: Call, properties: dict[str, Any]) -> str:
    found = await call.world.aws.json(
        "secretsmanager", "secretsmanager.GetSecretValue", {"SecretId": properties["secretId"]}
    )
    text = str(found.get("SecretString") or "")
    key = properties.get("secretKey")
    if not key:
        return text
    try:
        return str(orjson.loads(text)[key])
    except (ValueError, KeyError, TypeError):
        raise ActionFailed(f"the secret {properties['secretId']} has no key {key}") from None


async def _write(call: Call, properties: dict[str, Any], parameters: dict[str, Any], unit: str, body: bytes) -> None:
    database, organization = quote(parameters["databaseName"]), quote(parameters.get("organization") or "")
    if "3" in str(properties.get("influxDBVersion", "")):
        target = f"/api/v3/write_lp?db={database}&precision={_V3_PRECISION[unit]}"
    else:
        target = f"/api/v2/write?bucket={database}&org={organization}&precision={unit}"
    parts = urlsplit(properties["endpoint"])
    tls = parts.scheme == "https"
    headers = [
        (b"Authorization", f"Token {await _token(call, properties)}".encode()),
        (b"Content-Type", b"text/plain; charset=utf-8"),
    ]
    try:
        response = await call.world.http.fetch(
            "POST", parts.hostname or "", parts.port or (443 if tls else 8086), target, headers, body,
            ssl=call.world.aws.tls() if tls else None, connect_timeout=3.0, timeout=10.0,
        )  # fmt: skip
    except (OSError, TimeoutError, PeerError) as error:
        raise ActionFailed(f"{properties['endpoint']}: {str(error) or type(error).__name__}", transient=True) from error
    if response.status >= 300:
        transient = response.status >= 500 or response.status == 429
        raise ActionFailed(f"{properties['endpoint']} answered {response.status}", transient=transient)
