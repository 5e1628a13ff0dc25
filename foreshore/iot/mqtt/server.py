"""The broker's shell: sockets, TLS, WebSocket, timers and the public methods that the rest of Foreshore uses.

Bytes go from the one shared receive buffer to `Connection.feed`; what that puts into `out` lists is written once a
loop turn by `Core.flush`.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl as ssl_module
import time
from asyncio import sslproto
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol, cast

from foreshore.database import Database
from foreshore.errors import PeerError
from foreshore.http import Request, Response, Server, ServerProtocol, text_response
from foreshore.iot.mqtt import properties as p
from foreshore.iot.mqtt import reason, websocket
from foreshore.iot.mqtt.access import (
    Access,
    AllowAll,
    ClientInfo,
    ConnectDecision,
    ConnectRequest,
    DisconnectReason,
    ListenerKind,
    Observer,
    SilentObserver,
)
from foreshore.iot.mqtt.broker import Core
from foreshore.iot.mqtt.connection import CONNECT_TIMEOUT_S, NEW, Connection
from foreshore.iot.mqtt.limits import PROFILES, Limits, Profile
from foreshore.iot.mqtt.moderation import REST_S, Moderation
from foreshore.iot.mqtt.session import Message
from foreshore.iot.mqtt.store import Store
from foreshore.iot.mqtt.timers import STEP_S
from foreshore.seams import EmitSpan, Publication

BACKLOG = 4096
ACCEPTS_A_TURN = 4
"""Descriptors of each listening socket: uvloop accepts one connection from each in a loop turn."""
BUFFER_SIZE = 256 * 1024
CLOSE_TIMEOUT_S = 2.0
HIGH_WATER = 256 * 1024
LINKS_A_LOOK = 5_000
"""Links whose silence is looked at in a second; with more of them each is looked at less often than once a tick."""
_LETTER_G = ord("G")

_SNI = "foreshore_sni"


class RetainedInfo(NamedTuple):
    """One row of `retained_list`. `modified_ms` is epoch milliseconds."""

    topic: str
    payload_size: int
    qos: int
    modified_ms: int


class Ids:
    """Trace and span ids: a counter spread over 64 bits, and random digits of this process; one formatting a message.

    A step by 2^64 over the golden ratio visits every number once, and neighbours share no leading digits, so a short
    prefix names a trace (Knuth, "The Art of Computer Programming", volume 3, section 6.4).
    """

    _STEP = 0x9E3779B97F4A7C15
    _MASK = 0xFFFF_FFFF_FFFF_FFFF

    def __init__(self) -> None:
        source = random.SystemRandom()
        self._suffix = f"{source.getrandbits(64) | 1:016x}"
        self._next = source.getrandbits(64)

    def __call__(self) -> tuple[str, str]:
        """A trace id (32 hex digits) and a span id (16)."""
        self._next = number = (self._next + self._STEP) & self._MASK
        span_id = f"{number or 1:016x}"
        return span_id + self._suffix, span_id


class NoLink:
    """What is below a connection whose transport is gone: link and connection let go of one another."""

    def write(self, data: bytes) -> None:
        """Nobody reads it."""

    def close(self) -> None:
        """It is closed."""

    def pause_reading(self) -> None:
        """Nothing comes."""

    def resume_reading(self) -> None:
        """Nothing comes."""


NO_LINK = NoLink()


class _Link:
    """What a transport tells a `Connection`, and what the connection asks of its transport, in either kind of link."""

    __slots__ = ("_broker", "_reading", "connection", "transport")

    _broker: Broker
    _reading: bool
    connection: Connection
    transport: asyncio.Transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._broker.links.discard(self)
        self.connection.lost()
        self.connection.link = NO_LINK
        if self._broker.has_work:
            self._broker.wake()

    def pause_writing(self) -> None:
        self.connection.pause()

    def resume_writing(self) -> None:
        self.connection.resume()
        self._broker.wake()

    def pause_reading(self) -> None:
        if self._reading and not self.transport.is_closing():
            self._reading = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._reading and not self.transport.is_closing():
            self._reading = True
            self.transport.resume_reading()


class SocketLink(_Link, asyncio.BufferedProtocol):
    """A TCP or TLS connection below a `Connection`."""

    __slots__ = ("_kind",)

    def __init__(self, broker: Broker, kind: ListenerKind) -> None:
        self._broker = broker
        self._kind = kind
        self._reading = True
        self.transport: asyncio.Transport
        self.connection: Connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(HIGH_WATER)
        peer = transport.get_extra_info("peername")
        ip, port = (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else ("", 0)
        request = ConnectRequest("", source_ip=ip, source_port=port, listener=self._kind)
        if self._kind != "mqtt":
            _describe_tls(request, transport.get_extra_info("ssl_object"))
        self.connection = Connection(self._broker, self, request)
        self._broker.opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._broker.buffer

    def buffer_updated(self, nbytes: int) -> None:
        broker = self._broker
        data = bytes(broker.buffer[:nbytes])
        if data[0] == _LETTER_G and self._kind == "mqtt" and self.connection.state == NEW:
            self._become_web(data)
            return
        connection = self.connection
        broker.moderation.count(connection.heard)
        connection.feed(data)
        if nbytes == BUFFER_SIZE:
            connection.pass_turn()  # More is there: libuv would go on reading, up to 32 times.
        if (broker.dirty or broker.moderation.is_on) and not broker.is_awake:
            broker.wake()

    def _become_web(self, data: bytes) -> None:
        """No MQTT connection begins with a G: it is a GET, for MQTT over a plain WebSocket."""
        self._broker.links.discard(self)
        self.connection.lost()
        protocol = ServerProtocol(self._broker.web, "http")
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        protocol.data_received(data)

    def eof_received(self) -> None:
        return None

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def close(self) -> None:
        transport = self.transport
        if transport.is_closing():
            return
        if self.connection.ended == "CLIENT_INITIATED_DISCONNECT" and not transport.get_write_buffer_size():
            transport.close()  # It has sent its last packet and waits for nothing.
            return
        if not transport.can_write_eof() or self._broker.is_stopping:
            _close_soon(transport)
            return
        try:
            # A peer that is still sending would be answered by a reset, and might never read our DISCONNECT.
            transport.write_eof()
        except OSError:
            transport.abort()  # The peer has reset the connection, and the loop has not told us yet.
            return
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, transport.abort)


class WebSocketLink(_Link, asyncio.Protocol):
    """A WebSocket connection below a `Connection`; takes the transport over from the HTTP server."""

    def __init__(self, broker: Broker, request: ConnectRequest) -> None:
        self._broker = broker
        self._reading = True
        self._frames = websocket.Frames(broker.limits.max_packet * 2)
        self.connection = Connection(broker, self, request)
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(HIGH_WATER)
        self._broker.opened(self)

    def data_received(self, data: bytes) -> None:
        try:
            mqtt, answers = self._frames.feed(data)
        except PeerError as error:
            self.transport.write(websocket.close_frame(error.reason))
            self.connection.lost()
            self.close()
            self._broker.wake()
            return
        for answer in answers:
            self.transport.write(answer)
        if answers and self.connection.paused:
            self.pause_reading()  # It sends pings without reading our pongs.
        if mqtt:
            self._broker.moderation.count(self.connection.heard)
            self.connection.feed(mqtt)
        if len(data) >= BUFFER_SIZE:
            self.connection.pass_turn()
        if self._frames.closed:
            self._broker.on_websocket_close(self.connection)
            self.close()
        self._broker.wake()

    def write(self, data: bytes) -> None:
        self.transport.write(websocket.packet_frames(data))

    def close(self) -> None:
        _close_soon(self.transport)


class AnyLink(Protocol):
    """A link that the broker watches over: it closes those that are silent for too long, and all when it stops."""

    connection: Connection
    transport: asyncio.Transport

    def close(self) -> None: ...


def _close_soon(transport: asyncio.Transport) -> None:
    """Close when what was written is sent; cut the connection when the peer doesn't take it in time."""
    if transport.is_closing():
        return
    transport.close()
    asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, transport.abort)


def _describe_tls(request: ConnectRequest, tls: Any) -> None:
    if tls is not None:
        request.certificate = tls.getpeercert(True)
        request.alpn = tls.selected_alpn_protocol()
        request.sni = getattr(tls, _SNI, None)


def _note_sni(tls: Any, name: str | None, context: ssl_module.SSLContext) -> None:
    setattr(tls, _SNI, name)


class Broker(Core):
    """An MQTT broker on any number of listeners.

    `profile` is "aws" (IoT Core's quotas and differences) or "standard"; `limits` replaces the profile's numbers.
    `rate_limits=False` switches off the quotas on rates (publishes, bytes, connects, retained writes). `database`
    keeps persistent sessions, their queues and retained messages; without one they live as long as the broker.
    Callbacks of listeners, observers and access run on the event loop.
    """

    def __init__(
        self,
        *,
        profile: Profile = "aws",
        access: Access | None = None,
        observer: Observer | None = None,
        database: Database | None = None,
        span: EmitSpan | None = None,
        rate_limits: bool = True,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(
            limits or PROFILES[profile],
            access or AllowAll(),
            observer or SilentObserver(),
            Store(database) if database is not None else None,
            span,
            rate_limits=rate_limits,
            wall_ns=wall_ns,
            new_ids=Ids(),
            choose=random.choice,
        )
        self._clock = clock
        self.now = clock()
        self.wheel.advance(self.now)
        self.moderation = Moderation(self.now)
        self._sleep = sleep
        self.buffer = memoryview(bytearray(BUFFER_SIZE))
        self.links: set[AnyLink] = set()
        self.is_awake = False
        self.is_stopping = False
        self._servers: list[asyncio.Server] = []
        self.web = Server(self._plain_web)
        self._next_look = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticker: asyncio.TimerHandle | None = None
        self.restore()

    # Listening

    async def listen(
        self, host: str, port: int, *, kind: ListenerKind = "mqtt", ssl: ssl_module.SSLContext | None = None
    ) -> int:
        """Listen for MQTT over TCP, or TLS with `ssl`; give the port (ask for 0). Raises OSError when it is taken."""
        loop = asyncio.get_running_loop()
        if ssl is not None:
            # Stock asyncio takes 256 KiB a TLS connection unless told otherwise; a record is 16 KiB at most.
            sslproto.SSLProtocol.max_size = 16 * 1024
            if ssl.sni_callback is None:
                ssl.sni_callback = _note_sni
        options: dict[str, Any] = {"ssl": ssl, "backlog": BACKLOG}
        if ssl is not None:
            options["ssl_handshake_timeout"] = CONNECT_TIMEOUT_S
        server = await loop.create_server(lambda: SocketLink(self, kind), host, port, reuse_address=True, **options)
        self._servers.append(server)
        for first in server.sockets:
            for _ in range(ACCEPTS_A_TURN - 1):
                again = socket.fromfd(first.fileno(), first.family, first.type)
                self._servers.append(await loop.create_server(lambda: SocketLink(self, kind), sock=again, **options))
        self._start_ticking()
        return int(server.sockets[0].getsockname()[1])

    def _start_ticking(self) -> None:
        if self._ticker is None:
            self._ticker = asyncio.get_running_loop().call_later(STEP_S, self._tick)

    def _tick(self) -> None:
        self.tick()
        self._ticker = asyncio.get_running_loop().call_later(STEP_S, self._tick)

    def tick(self) -> None:
        """Let the timers run up to the clock's present."""
        self.now = self._clock()
        self.wheel.advance(self.now)
        self.moderation.end_tick(self.now)
        self._close_silent()
        self.spans.settle()
        if self.has_work:
            self.wake()

    async def stop(self) -> None:
        """Close every connection and listener, and write what is pending. A second call does nothing."""
        self.is_stopping = True
        for server in self._servers:
            server.close()
        self._servers.clear()
        await self.web.stop()
        for task in self._tasks:
            task.cancel()
        for link in list(self.links):
            link.connection.close(reason.SERVER_SHUTTING_DOWN, "SERVER_INITIATED_DISCONNECT")
        self.flush()  # Before any link is closed: a transport that closes takes no more bytes.
        for link in list(self.links):
            link.close()
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        while self.links and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        for link in list(self.links):
            link.transport.abort()
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        self.flush()

    def opened(self, link: AnyLink) -> None:
        """A link is up: it must send CONNECT soon."""
        self.links.add(link)
        self._start_ticking()

    def read_clock(self) -> None:
        self.now = self._clock()

    def _close_silent(self) -> None:
        """Close the links from which nothing was heard for too long: one walk, instead of a timer for each."""
        now = self.now
        if now < self._next_look:
            return
        self._next_look = now + min(len(self.links) / LINKS_A_LOOK, 1.0)
        latest = now - STEP_S  # `heard` may be a step older than the packet; nobody is to be closed too early.
        silent = [one.connection for one in self.links if latest - one.connection.heard >= one.connection.silence]
        for connection in silent:
            connection.was_silent()

    def _plain_web(self, request: Request) -> Response:
        """What the plain listener answers to a web client: MQTT over WebSocket without TLS, for tools on loopback."""
        if request.raw_path not in ("/mqtt", "/"):
            return text_response(404, "MQTT over WebSocket is at /mqtt\n")
        return self.websocket_upgrade(request, listener="mqtt")

    def websocket_upgrade(
        self, request: Request, *, authorization: object = None, listener: ListenerKind = "wss"
    ) -> Response:
        """Answer the upgrade request for `/mqtt`: 101 with the broker behind it, or 400 or 426 that says why.

        `authorization` is what the caller's own check (SigV4, custom authorizer) found; access gets it at CONNECT.
        """
        protocol = websocket.choose_subprotocol(request.header("Sec-WebSocket-Protocol"))
        if request.method != "GET" or request.header("Upgrade").lower() != "websocket":
            return text_response(426, "MQTT over WebSocket needs an upgrade\n")
        if request.header("Sec-WebSocket-Version") != "13":
            refused = text_response(426, "WebSocket version 13 is needed\n")
            refused.headers.append((b"Sec-WebSocket-Version", b"13"))
            return refused
        if protocol is None:
            return text_response(400, "offer the subprotocol mqtt\n")
        try:
            accepted = websocket.accept_key(request.header("Sec-WebSocket-Key"))
        except ValueError:
            return text_response(400, "bad Sec-WebSocket-Key\n")
        connect = ConnectRequest(
            "", source_ip=request.peer[0], source_port=request.peer[1], listener=listener, authorization=authorization,
            http_headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers],
            http_query=request.query,
        )  # fmt: skip
        _describe_tls(connect, request.tls)
        # Lower case, as AWS answers: AWSIoTPythonSDK looks for just these bytes.
        headers = [
            (b"upgrade", b"websocket"),
            (b"connection", b"upgrade"),
            (b"sec-websocket-accept", accepted),
            (b"sec-websocket-protocol", protocol.encode()),
        ]
        return Response(101, headers, upgrade=lambda transport, rest: WebSocketLink(self, connect))

    # Looking and acting from outside

    def clients(self) -> list[ClientInfo]:
        """Everybody who is connected."""
        found = (session.connection for session in self.sessions.values())
        return [connection.info for connection in found if connection is not None and connection.info is not None]

    def client(self, client_id: str) -> ClientInfo | None:
        """One connected client."""
        session = self.sessions.get(client_id)
        return session.connection.info if session is not None and session.connection is not None else None

    def disconnect(self, client_id: str, aws_reason: DisconnectReason = "API_INITIATED_DISCONNECT") -> bool:
        """End a client's connection; False when it is not connected."""
        session = self.sessions.get(client_id)
        if session is None or session.connection is None:
            return False
        session.connection.close(reason.ADMINISTRATIVE_ACTION, aws_reason)
        return True

    def forget(self, client_id: str) -> bool:
        """End a client's connection and its session; False when there is neither."""
        self.disconnect(client_id)
        session = self.sessions.get(client_id)
        if session is None:
            return False
        self.end_session(session)
        self.wake()
        return True

    def subscriptions(self, client_id: str) -> list[tuple[str, int]]:
        """Filters and granted QoS of a session."""
        session = self.sessions.get(client_id)
        return [(one.filter, one.qos) for one in session.subscriptions.values()] if session else []

    def retained(self, topic: str) -> Publication | None:
        """The retained message of a topic; `timestamp_ms` is when it was written."""
        message = self.retained_messages.get(topic, self.wall_ms())
        return _as_publication(topic, message) if message else None

    def retained_list(self) -> list[RetainedInfo]:
        """Every topic with a retained message, sorted by topic."""
        rows = self.retained_messages.topics(self.wall_ms())
        return sorted(RetainedInfo(topic, len(one.payload), one.qos, one.sent_ms) for topic, one in rows)

    # What Core asks of its shell

    def wake(self) -> None:
        if not self.is_awake:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                return  # Not running yet, or no more: the next tick or stop() writes.
            self.is_awake = True
            loop.call_soon(self._flush)

    def _flush(self) -> None:
        self.is_awake = False
        self.flush()
        if self.moderation.end_turn():
            self.is_awake = True
            asyncio.get_running_loop().call_soon(self._rest)  # Not now: uvloop sends what was written after this.

    def _rest(self) -> None:
        self._sleep(REST_S)
        asyncio.get_running_loop().call_soon(self._flush)  # After the loop's next look at the sockets.

    def defer(self, decision: Awaitable[ConnectDecision], then: Callable[[ConnectDecision], None]) -> None:
        async def wait() -> None:
            try:
                answer = await decision
            except Exception as error:
                self.failed("access failed", error)
                answer = ConnectDecision(False, reason_code=reason.UNSPECIFIED_ERROR)
            then(answer)

        task = asyncio.get_running_loop().create_task(wait())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def call_on(self, connection: Connection) -> None:
        asyncio.get_running_loop().call_soon(self._call_on, connection)

    def _call_on(self, connection: Connection) -> None:
        connection.go_on()
        self.wake()

    def delay_reading(self, connection: Connection) -> None:
        connection.link.pause_reading()
        connection.held = True
        self.wheel.add(self.now + 1.0, connection.release)

    def failed(self, what: str, error: Exception) -> None:
        asyncio.get_running_loop().call_exception_handler({"message": what, "exception": error})


def _as_publication(topic: str, message: Message) -> Publication:
    encoded = p.write_varint(len(message.properties)) + message.properties
    found, _ = p.decode_properties(encoded, 0, len(encoded), p.PUBLISH)
    return Publication(
        topic, message.payload, message.qos, True, timestamp_ms=message.sent_ms,
        content_type=found.get(p.CONTENT_TYPE), response_topic=found.get(p.RESPONSE_TOPIC),
        correlation_data=found.get(p.CORRELATION_DATA), payload_format=found.get(p.PAYLOAD_FORMAT),
        user_properties=found.get(p.USER_PROPERTY, []),
    )  # fmt: skip
