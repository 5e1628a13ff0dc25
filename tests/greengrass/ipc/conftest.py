"""A core on its socket, a raw client, and the unmodified SDK in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from foreshore.errors import AwsError
from foreshore.greengrass.eventstream import INT32, STRING, Decoder, Header, decode_headers, encode
from foreshore.greengrass.service import Core
from foreshore.seams import LogLine, Publication, Span

POLICIES = {
    "aws.greengrass.ipc.pubsub": {"p": {"operations": ["*"], "resources": ["a/*", "b"]}},
    "aws.greengrass.ipc.mqttproxy": {"p": {"operations": ["*"], "resources": ["cloud/#"]}},
}


class Link:
    """A CloudLink in memory. `up(False)` takes it down; `refuse` maps a topic to a reason code; `health` has the
    core's fleet status."""

    def __init__(self, connected: bool = True) -> None:
        self.connected = connected
        self.published: list[Publication] = []
        self.health: list[Publication] = []
        self.subscribed: dict[str, tuple[int, Callable[[Publication], None]]] = {}
        self.refuse: dict[str, int] = {}
        self.denied: set[str] = set()
        self._callbacks: list[Callable[[bool], None]] = []

    def on_state(self, callback: Callable[[bool], None]) -> None:
        self._callbacks.append(callback)

    def up(self, connected: bool) -> None:
        self.connected = connected
        for callback in self._callbacks:
            callback(connected)

    async def publish(self, publication: Publication) -> int:
        await asyncio.sleep(0)
        if not self.connected:
            raise ConnectionError("no link")
        reason = self.refuse.get(publication.topic, 0)
        if publication.topic.endswith("/greengrassv2/health/json"):
            self.health.append(publication)
        elif reason == 0:
            self.published.append(publication)
        return reason

    async def subscribe(self, filter: str, qos: int, callback: Callable[[Publication], None]) -> None:
        if filter in self.denied:
            raise AwsError("NotAuthorized", "NOT_AUTHORIZED", 403)
        self.subscribed[filter] = (qos, callback)

    async def unsubscribe(self, filter: str) -> None:
        self.subscribed.pop(filter, None)


class RawClient:
    """A client that says exactly what it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._decoder = Decoder()
        self._frames: list[tuple[dict[str, Any], bytes]] = []

    def send(self, kind: int, flags: int, stream: int, payload: bytes = b"", **more: str) -> None:
        headers = [Header(name.replace("_", "-"), STRING, value) for name, value in more.items()]
        headers += [Header(":message-type", INT32, kind), Header(":message-flags", INT32, flags)]
        self.writer.write(encode([*headers, Header(":stream-id", INT32, stream)], payload))

    def request(self, stream: int, operation: str, body: object, **more: str) -> None:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send(0, 0, stream, payload, operation=f"aws.greengrass#{operation}", **more)

    async def receive(self) -> tuple[dict[str, Any], bytes] | None:
        """The next frame as (headers, payload); None at the end of the connection."""
        while not self._frames:
            data = await asyncio.wait_for(self.reader.read(65536), 10)
            if not data:
                return None
            for block, payload in self._decoder.feed(data):
                self._frames.append(({h.name: h.value for h in decode_headers(block)}, payload))
        return self._frames.pop(0)

    async def answer(self) -> tuple[str, Any]:
        """The next frame as (shape without prefix, JSON)."""
        frame = await self.receive()
        assert frame is not None
        headers, payload = frame
        return str(headers.get("service-model-type", "")).partition("#")[2], json.loads(payload)

    async def ask(self, stream: int, operation: str, body: object, **more: str) -> tuple[str, Any]:
        self.request(stream, operation, body, **more)
        return await self.answer()

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            return


class Rig:
    """A running core with what it emitted."""

    def __init__(self, core: Core, link: Link, spans: list[Span], logs: list[LogLine]) -> None:
        self.core, self.link, self.spans, self.logs = core, link, spans, logs
        self.clients: list[RawClient] = []

    def component(self, name: str, access: object = None, **configuration: object) -> None:
        """Deploy a component's configuration."""
        defaults = {"accessControl": access if access is not None else POLICIES, **configuration}
        self.core.configuration.apply(name, defaults=defaults, timestamp=2)

    async def raw(self, component: str, *, trace: bool = False) -> RawClient:
        """A connected raw client."""
        client = await self.open()
        more = {"foreshore_trace": "1"} if trace else {}
        token = self.core.tokens.issue(component)
        client.send(4, 0, 0, json.dumps({"authToken": token}).encode(), **{":version": "0.1.0"}, **more)
        frame = await client.receive()
        assert frame is not None and frame[0][":message-flags"] == 1
        return client

    async def open(self) -> RawClient:
        """A raw client before its CONNECT."""
        client = RawClient(*await asyncio.open_unix_connection(str(self.core.ipc_socket)))
        self.clients.append(client)
        return client

    async def sdk(self, component: str, script: str) -> list[Any]:
        """Run a script with `awsiotsdk` as that component; give the JSON lines it printed."""
        environment = {
            **os.environ,
            "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": str(self.core.ipc_socket),
            "SVCUID": self.core.tokens.issue(component),
        }
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _PREAMBLE + script, env=environment, stdout=pipe, stderr=pipe
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), 60)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, err.decode()
        return [json.loads(line) for line in out.decode().splitlines()]


_PREAMBLE = """
import datetime, json, threading, time
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
import awsiot.greengrasscoreipc.client as v1
import awsiot.greengrasscoreipc as ipc
from awsiot.greengrasscoreipc.model import *
def show(value):
    print(json.dumps(value, default=lambda o: o._to_payload()), flush=True)
def error_of(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except Exception as error:
        return [type(error).__name__, getattr(error, "message", None)]
    return None
"""


@pytest.fixture
def rig(tmp_path: Path) -> Callable[..., Any]:
    """`async with rig(profile="classic", **Core arguments) as running:`."""

    @asynccontextmanager
    async def run(*, connected: bool = True, **arguments: Any) -> AsyncIterator[Rig]:
        link = Link(connected)
        spans: list[Span] = []
        logs: list[LogLine] = []
        arguments.setdefault("root", tmp_path / "core")
        core = Core(
            thing="lab-core",
            region="us-east-1",
            account="123456789012",
            cloud=link,
            span=spans.append,
            log=logs.append,
            **arguments,
        )
        await core.start()
        spans.clear()
        running = Rig(core, link, spans, logs)
        try:
            yield running
        finally:
            for client in running.clients:
                client.writer.transport.abort()
            await core.stop()

    return run


@pytest.fixture
def run() -> Callable[[Awaitable[Any]], Any]:
    """Run a scenario within a bound."""

    def run_it(scenario: Awaitable[Any]) -> Any:
        async def bounded() -> Any:
            return await asyncio.wait_for(scenario, 30)

        return asyncio.run(bounded())

    return run_it
