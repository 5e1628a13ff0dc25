"""A small asyncio MQTT 5 client over the same codec: a core's link to IoT Core, and the devices of a simulated fleet.

It reconnects by itself with growing pauses, subscribes again, and keeps QoS 1 publishes that were not acknowledged
until they are. Callbacks run on the event loop.
"""

from __future__ import annotations

import asyncio
import random
import ssl as ssl_module
from collections import deque
from collections.abc import Callable
from typing import Literal, cast

from foreshore.errors import PeerError, ProtocolError
from foreshore.iot.mqtt import codec, reason
from foreshore.iot.mqtt import properties as p
from foreshore.iot.mqtt.codec import Ack, Connack, Disconnect, Publish, Request, Suback, Subscribe, Unsubscribe, Will
from foreshore.iot.mqtt.properties import Properties
from foreshore.iot.mqtt.topics import TopicTrie, is_filter, is_topic

State = Literal["connecting", "connected", "disconnected", "stopped"]
MessageCallback = Callable[[Publish], None]
StateCallback = Callable[[State, str], None]

CONNECT_TIMEOUT_S = 15.0


class Refused(PeerError):
    """The server said no; `reason` is the MQTT 5 reason code."""


class _Wire(asyncio.Protocol):
    """One connection; a new one for each attempt."""

    def __init__(self, client: MqttClient) -> None:
        self._client = client
        self._splitter = codec.Splitter()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for first, body in self._splitter.feed(data):
                self._client._received(self, codec.decode(first, body, codec.V5))
        except PeerError as error:
            self._client._closed(self, str(error))
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._client._closed(self, str(exc) if exc else "connection closed")


class MqttClient:
    """An MQTT 5 client.

    `ssl` with a client certificate makes it mutual TLS. `clean=False` with `session_expiry_s` keeps the session over
    reconnects. `keep_alive_s` may be overruled by the server. `reconnect_s` is the least and the greatest pause
    between attempts; a pause is drawn at random up to the doubled last one. `on_state(state, why)` hears of changes.
    Messages beyond the server's receive maximum wait here, at most `max_pending`.
    """

    def __init__(
        self,
        host: str,
        port: int,
        client_id: str,
        *,
        ssl: ssl_module.SSLContext | None = None,
        server_hostname: str | None = None,
        username: str | None = None,
        password: bytes | None = None,
        clean: bool = True,
        session_expiry_s: int = 0,
        keep_alive_s: int = 60,
        will: Will | None = None,
        on_state: StateCallback | None = None,
        on_message: MessageCallback | None = None,
        reconnect_s: tuple[float, float] = (0.25, 30.0),
        max_pending: int = 10_000,
    ) -> None:
        self.host, self.port, self.client_id = host, port, client_id
        self.state: State = "disconnected"
        self.connack: Connack | None = None
        self._ssl, self._server_hostname = ssl, server_hostname
        self._connect = codec.Connect(
            client_id, codec.V5, clean, keep_alive_s, username, password, will,
            {p.SESSION_EXPIRY: session_expiry_s} if session_expiry_s else {},
        )  # fmt: skip
        self._on_state, self._on_message = on_state, on_message
        self._reconnect = reconnect_s
        self._max_pending = max_pending
        self._wire: _Wire | None = None
        self._wanted = False
        self._runner: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[Connack] | None = None
        self._lost = asyncio.Event()
        self._callbacks: TopicTrie[MessageCallback] = TopicTrie()
        self._filters: dict[str, tuple[Request, MessageCallback]] = {}
        self._waiting: dict[int, tuple[asyncio.Future[int], Publish | None]] = {}
        self._pending: deque[tuple[Publish, asyncio.Future[int]]] = deque()
        self._window = 0
        self._unacked = 0
        self._last_id = 0
        self._pinger: asyncio.TimerHandle | None = None
        self._pong_due = False
        self._keep_alive = keep_alive_s

    # Connecting

    async def connect(self, timeout: float = CONNECT_TIMEOUT_S) -> Connack:
        """Connect and stay connected; give the first CONNACK. Raises Refused, OSError or TimeoutError for the first
        attempt; later ones are repeated until `disconnect`."""
        if self._runner is not None:
            raise ProtocolError("already connected")
        self._wanted = True
        async with asyncio.timeout(timeout):
            try:
                answer = await self._attempt()
            except BaseException:
                self._wanted = False
                self._drop()
                raise
        self._runner = asyncio.get_running_loop().create_task(self._stay())
        return answer

    def start(self) -> None:
        """Connect in the background and keep trying: for a link that may come up later."""
        if self._runner is None:
            self._wanted = True
            self._lost.set()
            self._runner = asyncio.get_running_loop().create_task(self._stay())

    async def _attempt(self) -> Connack:
        self._tell("connecting", "")
        loop = asyncio.get_running_loop()
        self._lost.clear()
        hostname = (self._server_hostname or self.host) if self._ssl else None
        _, wire = await loop.create_connection(
            lambda: _Wire(self), self.host, self.port, ssl=self._ssl, server_hostname=hostname
        )
        self._wire = wire
        self._opened = loop.create_future()
        wire.transport.write(codec.encode(self._connect, codec.V5))
        return await self._opened

    async def _stay(self) -> None:
        pause = self._reconnect[0]
        while self._wanted:
            await self._lost.wait()
            if not self._wanted:
                return
            await asyncio.sleep(random.uniform(self._reconnect[0], pause))
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await self._attempt()
                pause = self._reconnect[0]
            except (OSError, PeerError, TimeoutError) as error:
                pause = min(pause * 2, self._reconnect[1])
                self._drop()
                self._lost.set()
                self._tell("disconnected", str(error))

    async def disconnect(self) -> None:
        """Say goodbye and stay away; what still waits for an acknowledgement fails with ConnectionError."""
        self._wanted = False
        runner, self._runner = self._runner, None
        if self._wire is not None and self.state == "connected":
            self._wire.transport.write(codec.encode(Disconnect(), codec.V5))
        self._drop()
        if runner is not None:
            runner.cancel()
            await asyncio.gather(runner, return_exceptions=True)
        for future, _ in self._waiting.values():
            _fail(future, "disconnected")
        for _, future in self._pending:
            _fail(future, "disconnected")
        self._waiting.clear()
        self._pending.clear()
        self._tell("stopped", "")

    def _drop(self) -> None:
        wire, self._wire = self._wire, None
        if self._pinger is not None:
            self._pinger.cancel()
            self._pinger = None
        if wire is not None:
            wire.transport.close()

    def _tell(self, state: State, why: str) -> None:
        if state != self.state:
            self.state = state
            if self._on_state is not None:
                self._on_state(state, why)

    def _closed(self, wire: _Wire, why: str) -> None:
        if wire is not self._wire:
            return
        self._drop()
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(ConnectionError(why))
        self._lost.set()
        self._tell("disconnected", why)

    # What comes in

    def _received(self, wire: _Wire, packet: codec.Packet) -> None:
        if wire is not self._wire:
            return
        match packet:
            case Publish():
                self._on_publish(wire, packet)
            case Ack(kind=p.PUBACK) | Suback():
                self._on_answer(packet)
            case Connack():
                self._on_connack(packet)
            case codec.Ping():
                self._pong_due = False
            case Disconnect():
                self._closed(wire, f"server disconnected: 0x{packet.reason:02x}")
                wire.transport.close()
            case _:
                raise p.breach(f"unexpected {type(packet).__name__}")

    def _on_connack(self, packet: Connack) -> None:
        opened = self._opened
        if opened is None or opened.done():
            raise p.breach("a second CONNACK")
        if packet.reason:
            opened.set_exception(Refused(f"connection refused: 0x{packet.reason:02x}", packet.reason))
            return
        self.connack = packet
        self._window = packet.properties.get(p.RECEIVE_MAXIMUM, 65535)
        self._keep_alive = packet.properties.get(p.SERVER_KEEP_ALIVE, self._connect.keep_alive)
        self._pong_due = False
        self._ping_later()
        opened.set_result(packet)
        self._resume(packet.session_present)
        self._tell("connected", "")

    def _resume(self, session_present: bool) -> None:
        """Subscribe again unless the server still knows; send again what was not acknowledged, in order."""
        waiting, self._waiting, self._unacked = self._waiting, {}, 0
        if not session_present and self._filters:
            for request, _ in self._filters.values():
                self._write(Subscribe(self._next_id(), [request]))
        again = [(packet, future) for future, packet in waiting.values() if packet is not None and not future.done()]
        for future, packet in waiting.values():
            if packet is None:
                _fail(future, "connection lost before the answer")
        self._pending.extendleft(reversed(again))
        self._pump()

    def _on_publish(self, wire: _Wire, packet: Publish) -> None:
        found = self._callbacks.match(packet.topic)
        for callback in dict.fromkeys(found):
            callback(packet)
        if not found and self._on_message is not None:
            self._on_message(packet)  # Sent straight to this client, without a subscription.
        if packet.qos == 1:
            wire.transport.write(b"\x40\x02" + packet.packet_id.to_bytes(2, "big"))

    def _on_answer(self, packet: Ack | Suback) -> None:
        future, publish = self._waiting.pop(packet.packet_id, (None, None))
        if future is None:
            return
        if publish is not None:
            self._unacked -= 1
        if not future.done():
            future.set_result(packet.reason if isinstance(packet, Ack) else packet.reasons[0] if packet.reasons else 0)
        if publish is not None:
            self._pump()

    # What goes out

    def _write(self, packet: codec.Packet) -> None:
        if self._wire is not None:
            self._wire.transport.write(codec.encode(packet, codec.V5))

    def _next_id(self) -> int:
        while True:
            self._last_id = self._last_id % 65535 + 1
            if self._last_id not in self._waiting:
                return self._last_id

    def publish(
        self,
        topic: str,
        payload: bytes,
        qos: int = 0,
        properties: Properties | None = None,
        *,
        retain: bool = False,
    ) -> asyncio.Future[int]:
        """Publish; the future gives the PUBACK's reason code (0 at once for QoS 0).

        A QoS 1 message survives reconnects; a QoS 0 message without connection fails with ConnectionError. Raises
        ProtocolError for a bad topic or QoS, and BufferError when `max_pending` messages wait.
        """
        if not is_topic(topic) or qos not in (0, 1):
            raise ProtocolError(f"can't publish to {topic!r} with QoS {qos}")
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        packet = Publish(topic, payload, qos, retain, properties=properties or {})
        if qos == 0:
            if self.state == "connected":
                self._write(packet)
                future.set_result(0)
            else:
                _fail(future, "not connected")
            return future
        if len(self._pending) >= self._max_pending:
            raise BufferError(f"{self._max_pending} messages wait already")
        self._pending.append((packet, future))
        self._pump()
        return future

    def _pump(self) -> None:
        while self._pending and self._wire is not None and self._unacked < self._window and self._is_open():
            packet, future = self._pending.popleft()
            if future.cancelled():
                continue
            packet.packet_id = self._next_id()
            self._waiting[packet.packet_id] = (future, packet)
            self._unacked += 1
            self._write(packet)

    def _is_open(self) -> bool:
        opened = self._opened
        return opened is not None and opened.done() and not opened.cancelled() and opened.exception() is None

    async def subscribe(self, filter: str, qos: int, callback: MessageCallback) -> int:
        """Subscribe; give the granted QoS. Raises Refused, ConnectionError, or ProtocolError for a bad filter."""
        if not is_filter(filter):
            raise ProtocolError(f"not a topic filter: {filter!r}")
        request = Request(filter, qos)
        inner = filter.split("/", 2)[2] if filter.startswith("$share/") else filter
        self._callbacks.add(inner, callback)
        self._filters[filter] = (request, callback)
        try:
            code = await self._ask(lambda packet_id: Subscribe(packet_id, [request]))
        except ConnectionError:
            if self._wanted:
                return qos  # It will be subscribed when the connection is back.
            raise
        if code >= reason.UNSPECIFIED_ERROR:
            self._callbacks.remove(inner, callback)
            self._filters.pop(filter, None)
            raise Refused(f"subscription to {filter} refused: 0x{code:02x}", code)
        return code

    async def unsubscribe(self, filter: str) -> int:
        """Unsubscribe; give the reason code. Raises ConnectionError."""
        known = self._filters.pop(filter, None)
        if known is not None:
            inner = filter.split("/", 2)[2] if filter.startswith("$share/") else filter
            self._callbacks.remove(inner, known[1])
        return await self._ask(lambda packet_id: Unsubscribe(packet_id, [filter]))

    async def _ask(self, make: Callable[[int], codec.Packet]) -> int:
        if self._wire is None or not self._is_open():
            raise ConnectionError("not connected")
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        packet_id = self._next_id()
        self._waiting[packet_id] = (future, None)
        self._write(make(packet_id))
        return await future

    def _ping_later(self) -> None:
        if self._pinger is not None:
            self._pinger.cancel()
        if self._keep_alive:
            self._pinger = asyncio.get_running_loop().call_later(self._keep_alive * 0.75, self._ping)

    def _ping(self) -> None:
        wire = self._wire
        if wire is None:
            return
        if self._pong_due:
            self._closed(wire, "no PINGRESP")
            return
        self._pong_due = True
        wire.transport.write(codec.PINGREQ_BYTES)
        self._ping_later()


def _fail(future: asyncio.Future[int], why: str) -> None:
    if not future.done():
        future.set_exception(ConnectionError(why))
        # Whoever does not await a publish must not be told again by the collector.
        future.exception()
