"""The HTTP and Salesforce actions (developer guide, "HTTP", "Working with HTTP action destinations")."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from foreshore.errors import PeerError
from foreshore.iot.rules.actions.call import Call
from foreshore.iot.rules.actions.failures import ActionFailed
from foreshore.iot.rules.values import NotJson, read_json

TIMEOUT_S = 3.0
_DEFAULTS = {"maxBatchSize": 10, "maxBatchOpenMs": 20, "maxBatchSizeBytes": 5120}


async def run_http(call: Call, parameters: dict[str, Any]) -> None:
    """POST the payload to a confirmed destination, alone or in a batch (a JSON array, or joined for other payloads)."""
    url = parameters["url"]
    if not call.world.destinations.is_enabled_for(url, parameters.get("confirmationUrl") or url):
        raise ActionFailed(f"no ENABLED destination covers {url}: create one and confirm it")
    headers = [(pair["key"], pair["value"]) for pair in parameters.get("headers") or []]
    if not parameters.get("enableBatching"):
        await _post(call, url, headers, call.payload, parameters)
        return
    config = {**_DEFAULTS, **(parameters.get("batchConfig") or {})}
    topic = "" if config.get("batchAcrossTopics") else call.message.topic
    key = ("http", call.rule, url, tuple(headers), topic)

    async def send(items: list[bytes]) -> None:
        await _post(call, url, headers, batch_body(items), parameters)

    await call.world.batches.add(
        key, call.payload, len(call.payload), send,
        most=config["maxBatchSize"], open_ms=config["maxBatchOpenMs"], most_bytes=config["maxBatchSizeBytes"],
    )  # fmt: skip


def batch_body(items: list[bytes]) -> bytes:
    """A JSON array when every payload is JSON, else the payloads one after the other on lines of their own."""
    try:
        for item in items:
            read_json(item)
    except NotJson:
        return b"\n".join(items)
    return b"[" + b",".join(items) + b"]"


async def _post(call: Call, url: str, headers: list[tuple[str, str]], body: bytes, parameters: dict[str, Any]) -> None:
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    sigv4 = (parameters.get("auth") or {}).get("sigv4")
    if not any(name.lower() == "content-type" for name, _ in headers):
        headers = [*headers, ("Content-Type", "application/json")]
    if sigv4:
        base = f"{parts.scheme}://{parts.netloc}"
        await call.world.aws.send(
            sigv4["serviceName"], "POST", target, headers=headers, body=body, base=base,
            signing_region=sigv4["signingRegion"], timeout=TIMEOUT_S,
        )  # fmt: skip
        return
    await _send(call, "POST", url, target, [(k.encode(), v.encode()) for k, v in headers], body)


async def _send(
    call: Call, method: str, url: str, target: str, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    try:
        response = await call.world.http.fetch(
            method, parts.hostname or "", parts.port or (443 if tls else 80), target, headers, body,
            ssl=call.world.aws.tls() if tls else None, connect_timeout=TIMEOUT_S, timeout=TIMEOUT_S,
        )  # fmt: skip
    except (OSError, TimeoutError, PeerError) as error:
        raise ActionFailed(f"{url}: {str(error) or type(error).__name__}", transient=True) from error
    if response.status >= 300:
        transient = response.status >= 500 or response.status == 429
        raise ActionFailed(f"{url} answered {response.status}", transient=transient)


async def run_salesforce(call: Call, parameters: dict[str, Any]) -> None:
    """POST the payload to a Salesforce IoT input stream with its token."""
    url = parameters["url"]
    parts = urlsplit(url)
    headers = [
        (b"Authorization", f"Bearer {parameters['token']}".encode()),
        (b"Content-Type", b"application/json"),
    ]
    await _send(call, "POST", url, parts.path or "/", headers, call.payload)
