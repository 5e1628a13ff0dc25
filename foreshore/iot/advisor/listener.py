"""The advisor's own TLS listener: it sees each handshake from the ClientHello on, and every packet of the device.

A connection is decrypted here and handed to the broker as any other, so identity and policies are those of the usual
listeners. For the device under test each packet is told as an `Event`, and what the running script withholds is not
passed on. Connections of other devices go through untouched.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Set
from typing import Any, Literal, cast

from foreshore.errors import PeerError
from foreshore.iot.advisor.hello import cipher_suites
from foreshore.iot.advisor.script import CertificateKind, Event, EventKind
from foreshore.iot.authority import certificate_id
from foreshore.iot.mqtt import codec
from foreshore.iot.mqtt import properties as p
from foreshore.iot.mqtt.access import ConnectRequest
from foreshore.iot.mqtt.connection import Connection
from foreshore.iot.mqtt.server import Broker

CHUNK = 65_536
CLOSE_TIMEOUT_S = 2.0
MAX_PACKET = 268_435_455
NAMES = {p.PUBACK: "PUBACK", p.SUBACK: "SUBACK", p.PINGRESP: "PINGRESP", p.CONNECT: "CONNECT"}

Contexts = Callable[[CertificateKind], ssl.SSLContext]
Tell = Callable[[Event], None]


class Watch:
    """What the listener needs to know of the run that is on: whose packets to tell, what to withhold."""

    def __init__(self) -> None:
        self.certificate: CertificateKind = "good"
        self.principals: frozenset[str] = frozenset()
        self.withheld: Set[str] = frozenset()
        self.tell: Tell | None = None


class Listener:
    """Listens for devices. `open` are its connections, `links` those of the device under test, `client_id` its last."""

    def __init__(self, broker: Broker, contexts: Contexts, clock: Callable[[], float]) -> None:
        self.broker = broker
        self.contexts = contexts
        self.clock = clock
        self.watch = Watch()
        self.links: set[DeviceLink] = set()
        self.open: set[DeviceLink] = set()
        self.port = 0
        self.client_id = ""
        self._numbers = 0
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; give the port. Raises OSError when it is taken."""
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(lambda: DeviceLink(self), host, port, reuse_address=True)
            self.port = int(self._server.sockets[0].getsockname()[1])
        return self.port

    async def stop(self) -> None:
        """Close the listener and every connection. A second call does nothing."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for link in self.open:
            link.cut()
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        while self.open and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        for link in self.open:
            link.transport.abort()

    def drop(self) -> None:
        """Cut the connections of the device under test."""
        for link in list(self.links):
            link.cut()

    def number(self) -> int:
        """A new connection's number."""
        self._numbers += 1
        return self._numbers


class DeviceLink(asyncio.Protocol):
    """One connection: TLS by hand below, the broker's `Connection` above. It is that connection's link."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._number = listener.number()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = listener.contexts(listener.watch.certificate).wrap_bio(
            self._incoming, self._outgoing, server_side=True
        )
        self._state: Literal["hello", "handshake", "open", "over"] = "hello"
        self._hello = b""
        self._in, self._out = codec.Splitter(MAX_PACKET), codec.Splitter(MAX_PACKET)
        self._version = codec.V311
        # A connection belongs to the test in which it began; one that outlives it has nothing to tell the next.
        self._told = listener.watch.tell
        self._is_watched = True
        self._was_cut = False
        self._was_closed = False
        self.transport: asyncio.Transport
        self.connection: Connection

    def _tell(self, kind: EventKind, **more: Any) -> None:
        if self._told is not None and self._is_watched:
            self._told(Event(kind, self._listener.clock(), self._number, **more))

    # The socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._listener.links.add(self)
        self._listener.open.add(self)
        self._tell("open")

    def data_received(self, data: bytes) -> None:
        if self._state == "hello":
            self._read_hello(data)
        self._incoming.write(data)
        self._pump()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.links.discard(self)
        self._listener.open.discard(self)
        if self._state == "hello":
            self._tell("closed", detail="device")
        elif self._state == "handshake":
            self._handshake_failed("the device closed the connection")
        elif self._state == "open":
            self._over()

    def _over(self) -> None:
        self._state = "over"
        self._listener.broker.links.discard(self)
        self.connection.lost()
        self._listener.broker.wake()
        self._tell("closed", detail=self._closer())

    def _closer(self) -> str:
        """Who ended it, and why when it was the broker."""
        if self._was_cut:
            return "advisor"
        if not self._was_closed or self.connection.ended == "CLIENT_INITIATED_DISCONNECT":
            return "device"
        return f"broker, {self.connection.ended or 'no CONNECT'}"

    def cut(self) -> None:
        """End the connection when what was written is sent, without a word of MQTT."""
        self._was_cut = True
        self.transport.close()

    # TLS

    def _read_hello(self, data: bytes) -> None:
        self._hello += data
        try:
            suites = cipher_suites(self._hello)
        except (ValueError, IndexError):
            suites = []
        if suites is not None:
            self._state = "handshake"
            self._tell("hello", suites=tuple(suites))

    def _pump(self) -> None:
        """Move TLS on as far as the bytes that came allow."""
        try:
            if self._state in ("hello", "handshake"):
                self._tls.do_handshake()
                self._open()
            while self._state == "open":
                data = self._tls.read(CHUNK)
                if not data:
                    self.transport.close()
                    break
                self._take(data)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            if self._state in ("hello", "handshake"):
                self._handshake_failed(str(error.reason or error).lower().replace("_", " "))
            self._flush()
            self.transport.close()
            return
        self._flush()

    def _handshake_failed(self, why: str) -> None:
        self._state = "over"
        self._tell("tls-failed", detail=why)

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def _open(self) -> None:
        self._state = "open"
        der = self._tls.getpeercert(True)
        watch = self._listener.watch
        peer = self.transport.get_extra_info("peername")
        source = str(peer[0]) if isinstance(peer, tuple) else ""
        if watch.principals and (der is None or certificate_id(der) not in watch.principals):
            self._is_watched = False
            self._listener.links.discard(self)
        self._tell("tls", detail=f"{self._tls.version()} {(self._tls.cipher() or ('',))[0]}")
        request = ConnectRequest(
            "", certificate=der, source_ip=source, listener="mqtts", alpn=self._tls.selected_alpn_protocol()
        )
        self.connection = Connection(self._listener.broker, self, request)

    # Packets

    def _take(self, data: bytes) -> None:
        """Bytes from the device: tell of each packet, and pass on what is not withheld."""
        if not self._is_watched:
            self._pass_on(data)
            return
        try:
            for first, body in self._in.feed(data):
                packet = self._decoded(first, body)
                if isinstance(packet, codec.Connect):
                    self._version = packet.version
                    self._listener.broker.forgive_connect(packet.client_id)
                self._tell("packet", packet=packet)
                if not self._withholds(first):
                    self._pass_on(codec.frame(first, body))
        except PeerError:
            self._pass_on(data)

    def _pass_on(self, data: bytes) -> None:
        if self._state != "open" or self.transport.is_closing():
            return
        # From its first packet on the broker watches over its keep-alive; a CONNECT that is withheld may wait.
        self._listener.broker.links.add(self)
        self.connection.feed(data)
        self._listener.broker.wake()

    def _decoded(self, first: int, body: bytes) -> codec.Packet | None:
        try:
            return codec.decode(first, body, self._version)
        except PeerError:
            return None  # The broker answers it.

    def _withholds(self, first: int) -> bool:
        return NAMES.get(first >> 4) in self._listener.watch.withheld

    # What the broker asks of a link

    def write(self, data: bytes) -> None:
        """Packets for the device: tell of each, and keep back what is withheld."""
        if self._state != "open":
            return
        packets: list[tuple[int, bytes]] = []
        if self._is_watched:
            packets = [(first, body) for first, body in self._out.feed(data) if not self._withholds(first)]
            data = b"".join(codec.frame(first, body) for first, body in packets)
        if data:
            self._tls.write(data)
            self._flush()
        # The script may cut the connection, so it is told when the device has the packet.
        for first, body in packets:
            self._tell("sent", packet=self._decoded(first, body))

    def close(self) -> None:
        """Close when what was written is sent."""
        self._was_closed = True
        self.transport.close()

    def pause_reading(self) -> None:
        """Read no more."""
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if not self.transport.is_closing():
            self.transport.resume_reading()
