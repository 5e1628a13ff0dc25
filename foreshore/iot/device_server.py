"""The listener on AWS's port 443: HTTPS, WebSocket and MQTT side by side, told apart by ALPN.

Source: AWS IoT developer guide, "Device communication protocols", "Protocols, port mappings, and authentication".
"""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from collections.abc import Awaitable, Callable
from typing import Any, cast

from foreshore.errors import AwsError
from foreshore.http import Handler, Request, Response, Server, ServerProtocol
from foreshore.iot.mqtt.connection import CONNECT_TIMEOUT_S
from foreshore.iot.mqtt.server import Broker, SocketLink
from foreshore.seams import Invoke, InvokeResult

MQTT_ALPN = ("x-amzn-mqtt-ca", "mqtt")
ALPN = [*MQTT_ALPN, "x-amzn-http-ca", "http/1.1"]
MAX_BODY = 1024 * 1024
"""Bytes of an HTTPS request's body; the largest that AWS takes is a payload of 128 KiB."""


class DeviceServer(Server):
    """Serves HTTPS and WebSocket, and MQTT for clients whose ALPN says so."""

    def __init__(self, broker: Broker, handler: Handler, on_error: Callable[[Request, Exception], Response]) -> None:
        super().__init__(handler, on_error=on_error, max_body=MAX_BODY)
        self.broker = broker

    async def start(self, host: str, port: int, ssl: ssl_module.SSLContext | None = None) -> int:
        """Bind and listen; give the port. Raises OSError when it is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _ByAlpn(self),
            host,
            port,
            ssl=ssl,
            backlog=4096,
            reuse_address=True,
            ssl_handshake_timeout=CONNECT_TIMEOUT_S if ssl is not None else None,
        )
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self.port


class _ByAlpn(asyncio.Protocol):
    """Hands a connection to HTTP or to the broker once the handshake has told which."""

    def __init__(self, server: DeviceServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tls = transport.get_extra_info("ssl_object")
        protocol: asyncio.BaseProtocol
        if tls is not None and tls.selected_alpn_protocol() in MQTT_ALPN:
            protocol = SocketLink(self._server.broker, "mqtts")
        else:
            protocol = ServerProtocol(self._server, "https")
        cast(asyncio.Transport, transport).set_protocol(protocol)
        protocol.connection_made(transport)


def limited(invoke: Invoke, seconds: float) -> Invoke:
    """Invoke that waits so long; then it raises AwsError."""

    async def call(function: str, payload: bytes, **options: Any) -> InvokeResult:
        try:
            async with asyncio.timeout(seconds):
                return await invoke(function, payload, **options)
        except TimeoutError:
            raise AwsError("TimeoutException", f"{function} did not answer within {seconds:g} s.", 504) from None

    return call


async def named(port: int, listening: Awaitable[int]) -> int:
    """Await a listener's port. Raises OSError, which then tells in `port` which was asked for."""
    try:
        return int(await listening)
    except OSError as error:
        error.port = port  # type: ignore[attr-defined]
        raise
