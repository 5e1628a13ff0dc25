"""The fixture for the SDK's own RPC tests answers as they expect: echoes, stream events both ways, modelled errors."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from foreshore.greengrass.eventstream import INT32, STRING, Decoder, Header, decode_headers, encode

SERVICE = Path(__file__).parents[1] / "echo_service.py"


def frame(kind: int, flags: int, stream: int, body: object = None, **more: str) -> bytes:
    headers = [Header(name.replace("_", "-"), STRING, value) for name, value in more.items()]
    headers += [Header(":message-type", INT32, kind), Header(":message-flags", INT32, flags)]
    payload = json.dumps(body).encode() if body is not None else b""
    return encode([*headers, Header(":stream-id", INT32, stream)], payload)


async def converse() -> list[tuple[Any, ...]]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SERVICE), "0", stdout=asyncio.subprocess.PIPE, env=environment
    )
    try:
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(frame(4, 0, 0, **{":version": "0.1.0", "client_name": "accepted.me"}))
        writer.write(frame(0, 0, 1, {"message": {"n": None}}, operation="awstest#EchoMessage"))
        writer.write(frame(0, 0, 2, {}, operation="awstest#EchoStreamMessages"))
        writer.write(frame(0, 0, 2, {"keyValuePair": {"key": "k", "value": "v"}}))
        writer.write(frame(0, 0, 3, {}, operation="awstest#CauseServiceError"))
        writer.write(frame(0, 0, 4, {}, operation="awstest#CauseStreamServiceToError"))
        writer.write(frame(0, 0, 4, {}))
        decoder, frames = Decoder(), []
        while len(frames) < 7:
            data = await asyncio.wait_for(reader.read(65536), 20)
            assert data
            frames += decoder.feed(data)
        writer.close()
        await writer.wait_closed()
        shown = []
        for block, payload in frames:
            headers = {header.name: header.value for header in decode_headers(block)}
            model = str(headers.get("service-model-type", "")).partition("#")[2]
            shown.append((headers[":message-type"], headers[":stream-id"], model, json.loads(payload or b"null")))
        return shown
    finally:
        process.kill()
        await process.wait()


def test_the_fixture() -> None:
    shown = asyncio.run(converse())
    assert shown[0][:2] == (5, 0)
    assert sorted(row[:3] for row in shown[1:]) == [
        (0, 1, "EchoMessageResponse"),
        (0, 2, "EchoStreamingMessage"),
        (0, 2, "EchoStreamingResponse"),
        (0, 4, "EchoStreamingResponse"),
        (1, 3, "ServiceError"),
        (1, 4, "ServiceError"),
    ]
    assert shown[1][3] == {"message": {"n": None}}
    (event,) = [row[3] for row in shown if row[2] == "EchoStreamingMessage"]
    assert event == {"keyValuePair": {"key": "k", "value": "v"}}
