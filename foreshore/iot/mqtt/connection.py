"""One MQTT connection as a state machine: bytes in by `feed`, bytes out in `out`. Pure: no socket, no clock.

The PUBLISH and PUBACK paths read the packet in place; every other packet goes through codec.py. What concerns more
than one connection is the broker's (broker.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from foreshore.errors import PeerError
from foreshore.iot.mqtt import codec, reason
from foreshore.iot.mqtt import properties as p
from foreshore.iot.mqtt.access import ClientInfo, ConnectRequest, DisconnectReason
from foreshore.iot.mqtt.codec import Ack, Connack, Disconnect
from foreshore.iot.mqtt.limits import RESERVED_PUBLISH, is_answer, properties_too_big, topic_problem
from foreshore.iot.mqtt.properties import Properties, breach, decode_properties, malformed
from foreshore.iot.mqtt.routing import Route
from foreshore.iot.mqtt.session import Delivery, Message, Session, forwardable, trace_property, user_property
from foreshore.iot.mqtt.topics import is_topic

if TYPE_CHECKING:
    from foreshore.iot.mqtt.broker import Core

MAX_CACHED_TOPICS = 512
MAX_UNREAD_ANSWERS = 10_000
MAX_WORK_A_TURN = 64
"""Filters, topics not met before and retained messages of one client that are handled before others have their turn."""
CONNECT_TIMEOUT_S = 10.0
FOREVER = float("inf")
NO_ALIASES: dict[bytes, int] = {}

NEW, CHECKING, OPEN, CLOSED = range(4)
"""States: before CONNECT, while access decides, connected, over."""


class Link(Protocol):
    """The transport below a connection."""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Connection:
    """State of one connection. `peer` is a `ConnectRequest` with what the transport knows, filled at CONNECT.

    `out` collects what the next flush writes; a connection with an empty `out` is not on the broker's dirty list.
    `plain` is true when the router's short way may append to `out` without looking: nothing paused, no packet limit,
    no trace property wanted. `routes` caches, by topic bytes, the decision to allow a publish and its route. It is
    closed after `silence` seconds in which nothing was `heard`, or since it was opened when no CONNECT came. `ended`
    is AWS's reason for its end, "" before. While it is `waiting` (for access to decide, or for its next turn) what
    comes is kept; `work` counts what it did in this turn; `held` is true while AWS's quota on bytes stops its reading.
    """

    __slots__ = (
        "alias_limit", "aliases", "aliases_out", "bytes_in", "chunk_bytes", "chunks", "core", "ended", "heard", "held",
        "info", "keep_alive", "link", "max_out", "needed", "out", "out_bytes", "paused", "peer", "plain",
        "problem_info", "published", "rate_second", "replay_left", "routes", "session", "silence", "span_attributes",
        "state", "version", "waiting", "wanted_trace", "window", "work",
    )  # fmt: skip

    def __init__(self, core: Core, link: Link, peer: ConnectRequest) -> None:
        self.core = core
        self.link = link
        self.peer = peer
        self.state = NEW
        self.version = 4
        self.session: Session | None = None
        self.info: ClientInfo | None = None
        self.out: list[bytes] = []
        self.out_bytes = 0
        self.paused = False
        self.plain = True
        self.max_out = 0
        self.window = 65535
        self.routes: dict[bytes, Route] = {}
        self.aliases: dict[int, bytes] | None = None
        self.aliases_out: dict[bytes, int] = NO_ALIASES
        self.alias_limit = 0
        self.chunks: list[bytes] | None = None
        self.chunk_bytes = 0
        self.needed = 0
        self.heard = core.now
        self.silence = CONNECT_TIMEOUT_S
        self.keep_alive = 0
        self.rate_second = 0
        self.replay_left = 0
        self.published = 0
        self.bytes_in = 0
        self.wanted_trace = False
        self.span_attributes: dict[str, object] | None = None
        self.problem_info = True
        self.ended = ""
        self.held = False
        self.waiting = False
        self.work = 0

    # Bytes in

    def feed(self, data: bytes) -> None:
        """Take what came; handle each packet that is complete."""
        if self.chunks is not None:
            self.chunks.append(data)
            self.chunk_bytes += len(data)
            if self.chunk_bytes < self.needed:
                return
            data = b"".join(self.chunks)
            self.chunks = None
        if self.state:  # A client that dribbles its CONNECT gains no time by it.
            self.heard = self.core.now
        at, end, stop = 0, len(data), 0
        limit = self.core.limits.max_packet
        try:
            while end - at >= 2 and self.state != CLOSED:
                if self.waiting:
                    stop = 0
                    break
                length = data[at + 1]
                if length < 128:
                    start = at + 2
                    stop = start + length
                else:
                    head = codec.packet_head(data, at, end, limit, self.version)
                    if head is None:
                        stop = 0
                        break
                    start, stop = head
                if stop > end:
                    break
                first = data[at]
                if first & 0xF0 == 0x30 and self.state == OPEN:
                    self._on_publish(first, data, start, stop)
                else:
                    self._on_packet(first, data, start, stop)
                at = stop
        except PeerError as error:
            self._fail(error)
        if self.paused and len(self.out) > MAX_UNREAD_ANSWERS:
            self.link.pause_reading()  # It sends without reading our answers: the last resort.
        if at < end and self.state != CLOSED:
            rest = data[at:]
            self.chunks = [rest]
            self.chunk_bytes = len(rest)
            self.needed = max(stop - at, self.chunk_bytes + 1)

    def works(self, amount: int) -> None:
        """Costly work was done: at some point others have their turn first, and what else came waits."""
        self.work += amount
        if self.work >= MAX_WORK_A_TURN:
            self.pass_turn()

    def pass_turn(self) -> None:
        """Read and handle nothing more until the shell calls `go_on`."""
        self.work = 0
        if self.state == OPEN and not self.waiting:
            self.waiting = True
            self.link.pause_reading()
            self.core.call_on(self)

    def go_on(self) -> None:
        """The next turn."""
        self.waiting = False
        if self.state == OPEN:
            self.needed = 0
            self.feed(b"")
        self.read_on()

    def release(self) -> None:
        """The time of a throttled client has come."""
        self.held = False
        self.read_on()

    def read_on(self) -> None:
        """Read again, unless there is another reason not to."""
        if not (self.waiting or self.held or (self.paused and len(self.out) > MAX_UNREAD_ANSWERS)):
            self.link.resume_reading()

    def _on_packet(self, first: int, data: bytes, start: int, stop: int) -> None:
        kind = first >> 4
        if self.state == NEW:
            if first != 0x10:
                raise breach("the first packet must be CONNECT")  # [MQTT-3.1.0-1]
            self.core.on_connect(self, codec.decode_connect(kind, data[start:stop], 0))
        elif kind == p.CONNECT:
            raise breach("a second CONNECT")  # [MQTT-3.1.0-2]
        elif first == 0x40:
            self._on_puback(data, start, stop)
        elif first == 0xC0:
            if stop != start:
                raise malformed("PINGREQ with a body")
            self.send(codec.PINGRESP_BYTES)  # [MQTT-3.12.4-1]
        else:
            self._on_rare(kind, codec.decode(first, data[start:stop], self.version))

    def _on_rare(self, kind: int, packet: codec.Packet) -> None:
        match packet:
            case codec.Subscribe():
                self.core.on_subscribe(self, packet)
                self.works(len(packet.requests))
            case codec.Unsubscribe():
                self.core.on_unsubscribe(self, packet)
                self.works(len(packet.filters))
            case Disconnect():
                self.core.on_disconnect(self, packet)
            case Ack() if self.core.limits.max_qos == 2 and kind in (p.PUBREC, p.PUBREL, p.PUBCOMP):
                self._on_qos2(packet)
            case Ack():
                raise PeerError("QoS 2 is not supported", reason.QOS_NOT_SUPPORTED)
            case _:
                raise breach("a packet that a client may not send here")  # [MQTT-3.1.0-2]

    def _fail(self, error: PeerError) -> None:
        """End the connection for the peer's fault [MQTT-4.8.0-1] [MQTT-4.13.1-1]."""
        code = error.reason or reason.MALFORMED_PACKET
        if code == reason.PACKET_TOO_LARGE and self.core.limits.aws:
            code = reason.QUOTA_EXCEEDED  # 0x95 is not among AWS's DISCONNECT reasons.
        if self.state in (NEW, CHECKING):
            self.core.refuse(self, code, "CLIENT_ERROR", error.what)
        else:
            self.close(code, "CLIENT_ERROR", error.what)

    # PUBLISH in

    def _on_publish(self, first: int, data: bytes, start: int, stop: int) -> None:
        qos = first >> 1 & 3
        at = start + 2
        if at > stop:
            raise malformed("packet ends early")
        at += data[start] << 8 | data[start + 1]
        topic = data[start + 2 : at]
        packet_id = b""
        if qos:
            packet_id = data[at : at + 2]
            at += 2
        if at > stop:
            raise malformed("packet ends early")
        if packet_id == b"\0\0":
            raise malformed("packet identifier 0")  # [MQTT-2.2.1-3]
        core = self.core
        properties: Properties | None = None
        encoded = b""
        if self.version == 5:
            if at >= stop:
                raise malformed("packet ends early")
            if data[at]:
                before = at
                properties, at = decode_properties(data, at, stop, p.PUBLISH)
                if p.TOPIC_ALIAS in properties:
                    topic = self._alias(topic, properties[p.TOPIC_ALIAS])
                if p.SUBSCRIPTION_ID in properties:
                    raise breach("a subscription identifier in a client's PUBLISH")  # [MQTT-3.3.4-6]
                encoded = (
                    forwardable(properties)
                    if p.MESSAGE_EXPIRY in properties or p.TOPIC_ALIAS in properties
                    else data[before + (1 if data[before] < 128 else 2 if data[before + 1] < 128 else 3) : at]
                )
            else:
                at += 1
        if (qos > 1 and core.limits.max_qos < 2) or qos == 3 or (first & 8 and not qos):
            self._bad_publish(qos, packet_id)
            return
        if core.rate_limits and not self._within_rate(stop - start):
            self._over_rate(qos, packet_id)
            return
        route = self.routes.get(topic)
        if route is None or first & 1 or route.stale:
            found = self._allow(topic, first, qos, packet_id)
            if found is None:
                return
            route = found
        payload = data[at:stop]
        if (core.limits.max_payload and len(payload) > core.limits.max_payload) or (
            properties is not None
            and len(encoded) > core.limits.max_content_type
            and properties_too_big(core.limits, properties)
        ):
            self.refuse_publish(qos, packet_id, reason.QUOTA_EXCEEDED, "CLIENT_ERROR")
            return
        if qos == 2 and self._is_repeated(packet_id):
            return
        message = Message(route.field, payload, qos, first & 1 == 1, encoded, None, self.session)
        if properties is not None and p.MESSAGE_EXPIRY in properties:
            message.expires_ms = core.expiry(properties[p.MESSAGE_EXPIRY])
        core.accept(self, route, message, properties)
        if qos == 1:
            out = self.out
            if not out:
                core.dirty.append(self)
            out.append(b"\x40\x02" + packet_id)
        elif qos == 2:
            self.send(b"\x50\x02" + packet_id)

    def _bad_publish(self, qos: int, packet_id: bytes) -> None:
        if qos != 2:
            raise malformed("publish flags")  # [MQTT-3.3.1-4] [MQTT-3.3.1-2]
        # AWS: QoS 2 gets no answer in 3.1.1 and DISCONNECT 0x9B in 5.
        if self.version == 5:
            raise PeerError("QoS 2 is not supported", reason.QOS_NOT_SUPPORTED)

    def _is_repeated(self, packet_id: bytes) -> bool:
        """Whether a QoS 2 message came before; it is then acknowledged again and not passed on [MQTT-4.3.3-10]."""
        session = self.session
        assert session is not None
        if len(session.received) >= self.core.limits.receive_maximum and self.version == 5:
            raise PeerError("receive maximum exceeded", reason.RECEIVE_MAXIMUM_EXCEEDED)  # [MQTT-3.3.4-9]
        if session.add_received(int.from_bytes(packet_id, "big")):
            return False
        self.send(b"\x50\x02" + packet_id)
        return True

    def _within_rate(self, size: int) -> bool:
        limits, second = self.core.limits, int(self.core.now)
        if second != self.rate_second:
            self.rate_second, self.published, self.bytes_in = second, 0, 0
        self.published += 1
        self.bytes_in += size
        if limits.byte_rate and self.bytes_in > limits.byte_rate:
            self.core.delay_reading(self)
        return not limits.publish_rate or self.published <= limits.publish_rate

    def _over_rate(self, qos: int, packet_id: bytes) -> None:
        """Discard a publish beyond the quota (AWS IoT Core quotas: "publish requests per second per connection")."""
        self.core.counters["discarded"] += 1
        if qos and self.version == 5:
            self.send(b"\x40\x04" + packet_id + bytes((reason.QUOTA_EXCEEDED, 0)))

    def _alias(self, topic: bytes, alias: int) -> bytes:
        if not 0 < alias <= self.core.limits.topic_alias_maximum:
            raise PeerError(f"topic alias {alias}", reason.TOPIC_ALIAS_INVALID)  # [MQTT-3.3.2-8] [MQTT-3.3.2-9]
        if self.aliases is None:
            self.aliases = {}
        if topic:
            self.aliases[alias] = topic
            return topic
        known = self.aliases.get(alias)
        if known is None:
            raise breach("an unknown topic alias")  # 3.3.4
        return known

    def _allow(self, raw: bytes, first: int, qos: int, packet_id: bytes) -> Route | None:
        """Decide on a topic not decided yet, or on a retained publish; answer a refusal and give None."""
        core, session = self.core, self.session
        assert session is not None
        self.works(1)
        try:
            topic = raw.decode()
        except UnicodeDecodeError as error:
            raise malformed("topic is not UTF-8") from error
        if "\0" in topic:
            raise malformed("string contains U+0000")  # [MQTT-1.5.4-2]
        if not is_topic(topic):
            if not topic and self.version == 5:
                raise breach("neither topic nor alias")
            raise PeerError("topic name", reason.TOPIC_NAME_INVALID if topic else reason.MALFORMED_PACKET)
        retain = first & 1 == 1
        reserved = core.limits.aws and topic[0] == "$"
        if topic_problem(core.limits, topic, RESERVED_PUBLISH) or (reserved and (retain or is_answer(topic))):
            self.refuse_publish(qos, packet_id, reason.TOPIC_NAME_INVALID, "CLIENT_ERROR")
            return None
        if not core.access.may_publish(session.identity, topic, retain):
            self.refuse_publish(qos, packet_id, reason.NOT_AUTHORIZED, "AUTH_ERROR")
            return None
        route = core.route(topic)
        if not retain:
            if len(self.routes) >= MAX_CACHED_TOPICS:
                self.routes.clear()
            self.routes[raw] = route
        elif core.rate_limits and not core.may_retain_now(route):
            self._over_rate(qos, packet_id)
            return None
        return route

    def refuse_publish(self, qos: int, packet_id: bytes, code: int, aws: DisconnectReason) -> None:
        """Refuse one PUBLISH. AWS: MQTT 5 QoS 1 gets a PUBACK and stays; anything else is disconnected.

        In the standard profile QoS 0 and 3.1.1 messages are dropped (and acknowledged) [MQTT-3.3.5-2].
        """
        if qos and self.version == 5:
            self.send((b"\x40\x04" if qos == 1 else b"\x50\x04") + packet_id + bytes((code, 0)))
        elif self.core.limits.aws:
            self.close(code, aws)
        elif qos:
            self.send((b"\x40\x02" if qos == 1 else b"\x50\x02") + packet_id)

    # Acknowledgements of what we sent

    def _on_puback(self, data: bytes, start: int, stop: int) -> None:
        if stop - start != 2:
            codec.decode_ack(p.PUBACK, data[start:stop], self.version)
        session = self.session
        assert session is not None
        delivery = session.inflight.pop(data[start] << 8 | data[start + 1], None)
        if delivery is not None and delivery.row:
            self.core.acknowledged(delivery)
        if session.queue:
            self.drain()

    def _on_qos2(self, packet: Ack) -> None:
        session = self.session
        assert session is not None
        packet_id = packet.packet_id
        if packet.kind == p.PUBREL:
            # [MQTT-4.3.3-11]; an unknown identifier is answered 0x92.
            known = session.drop_received(packet_id)
            self.send_ack(p.PUBCOMP, packet_id, reason.SUCCESS if known else reason.PACKET_ID_NOT_FOUND)
        elif packet.kind == p.PUBREC:
            known = packet_id in session.inflight
            delivery = session.inflight.get(packet_id)
            if delivery is not None and delivery.row:
                self.core.settled(delivery)
            if packet.reason >= 0x80:
                session.inflight.pop(packet_id, None)
                self.drain()
                return
            if known:
                session.inflight[packet_id] = None
            self.send_ack(p.PUBREL, packet_id, reason.SUCCESS if known else reason.PACKET_ID_NOT_FOUND)
        else:
            session.inflight.pop(packet_id, None)
            self.drain()

    # Out

    def send(self, data: bytes) -> None:
        """Put a packet on the way with the next flush."""
        if not self.out:
            self.core.dirty.append(self)
        self.out.append(data)
        if self.paused:
            self.out_bytes += len(data)

    def send_ack(self, kind: int, packet_id: int, code: int) -> None:
        """Send an acknowledgement; MQTT 3.1.1 has no reason."""
        self.send(codec.encode_ack(Ack(kind, packet_id, code), self.version))

    def deliver(self, delivery: Delivery) -> bool:
        """Send a message now or queue it; False when it is dropped. The long way; the router has a short one."""
        session = self.session
        if session is None or self.state != OPEN:
            return False
        message, qos = delivery.message, delivery.qos
        if qos == 0:
            if self.paused and self.out_bytes > self.core.limits.max_unsent_bytes:
                self.core.counters["dropped"] += 1
                return False
            extra, field = self._extra(message)
            packet = message.packet(
                self.version, 0x30 | delivery.retain, self.core.wall_ms(), delivery.ids, extra, field
            )
            if self.max_out and len(packet) > self.max_out:
                return False  # [MQTT-3.1.2-25]
            self.send(packet)
            return True
        if self.paused or session.is_waiting or len(session.inflight) >= self.window:
            return self.core.enqueue(session, delivery)
        return self._transmit(session, delivery)

    def _extra(self, message: Message) -> tuple[bytes, bytes | None]:
        """Properties that only this client gets, and its topic field when a topic alias replaces the topic."""
        extra, field = b"", None
        if self.wanted_trace and message.traceparent is not None and b"\x00\x0btraceparent" not in message.properties:
            extra = trace_property(message.traceparent)
        if self.alias_limit:
            alias = self.aliases_out.get(message.field)
            if alias is not None:
                field = b"\0\0"
            elif len(self.aliases_out) < self.alias_limit:
                alias = self.aliases_out[message.field] = len(self.aliases_out) + 1
            if alias is not None:
                extra += b"\x23" + alias.to_bytes(2, "big")
        return extra, field

    def _transmit(self, session: Session, delivery: Delivery, packet_id: int = 0, dup: int = 0) -> bool:
        first = 0x30 | dup | delivery.qos << 1 | delivery.retain
        extra, field = self._extra(delivery.message)
        before, after = delivery.message.packet(self.version, first, self.core.wall_ms(), delivery.ids, extra, field)
        if self.max_out and len(before) + 2 + len(after) > self.max_out:
            self.core.settled(delivery)  # [MQTT-3.1.2-25]: as if it had been sent
            return False
        packet_id = packet_id or session.next_id()
        session.inflight[packet_id] = delivery
        if not self.out:
            self.core.dirty.append(self)
        self.out += (before, packet_id.to_bytes(2, "big"), after)
        return True

    def drain(self) -> None:
        """Send queued messages as far as the window, the pace of stored ones and the socket allow."""
        session, core = self.session, self.core
        if session is None or self.state != OPEN:
            return
        while session.queue and not self.paused and len(session.inflight) < self.window:
            stored = session.stored
            delivery = session.pop(self.replay_left > 0)
            if delivery is None:
                return
            if session.stored < stored:
                self.replay_left -= 1
            if delivery.message.is_expired(core.wall_ms()):
                core.settled(delivery)  # [MQTT-3.3.2-5]
            else:
                self._transmit(session, delivery)

    def resend(self) -> None:
        """After a reconnect: send again what was not acknowledged, in order [MQTT-4.4.0-1] [MQTT-4.6.0-1]."""
        session = self.session
        assert session is not None
        dup = 0 if self.core.limits.aws else 8
        for packet_id, delivery in list(session.inflight.items()):
            if delivery is None:
                self.send_ack(p.PUBREL, packet_id, 0)
                continue
            del session.inflight[packet_id]
            if self.core.is_outdated(self, delivery):
                self.core.settled(delivery)
            else:
                self._transmit(session, delivery, packet_id, dup)
        session.stored = len(session.queue) if self.core.replay_rate else 0
        self.replay()

    def replay(self) -> None:
        """Send what this second allows of the stored messages; go on in the next."""
        session, core = self.session, self.core
        if session is None or session.connection is not self:
            return
        self.replay_left = core.replay_rate
        self.drain()
        if session.stored:
            core.wheel.add(core.now + 1.0, self.replay)

    # The socket's back-pressure

    def pause(self) -> None:
        """The socket's buffer is full."""
        self.paused = True
        self.plain = False

    def resume(self) -> None:
        """The socket takes bytes again."""
        self.paused = False
        self.out_bytes = 0
        self.read_on()
        self.plain = not (self.max_out or self.wanted_trace or self.alias_limit)
        if self.out:
            self.core.dirty.append(self)
        self.drain()

    # The end

    def close(self, code: int, aws: DisconnectReason, text: str = "") -> None:
        """End the connection from our side; an MQTT 5 client is told why [MQTT-3.14.0-1]."""
        if self.state == CLOSED:
            return
        if self.state == OPEN and self.version == 5 and code:
            packet = codec.encode(Disconnect(code, {p.REASON_STRING: text} if text and self.problem_info else {}), 5)
            if self.max_out and len(packet) > self.max_out:
                packet = codec.encode(Disconnect(code), 5)  # [MQTT-3.14.2-3]
            self.send(packet)
        self.core.over(self, aws, client_initiated=False)
        self.core.finish(self)

    def was_silent(self) -> None:
        """Nothing came for too long: no CONNECT, or no packet in one and a half keep-alives [MQTT-3.1.2-22]."""
        if self.state == OPEN:
            self.close(reason.KEEP_ALIVE_TIMEOUT, "MQTT_KEEP_ALIVE_TIMEOUT")
        elif self.state == NEW:
            self.link.close()

    def lost(self) -> None:
        """The socket is gone."""
        if self.state != CLOSED:
            self.core.over(self, "CONNECTION_LOST", client_initiated=False)


def connack(version: int, code: int, session_present: bool, properties: Properties) -> bytes:
    """A CONNACK; in 3.1.1 the reason is turned into a return code."""
    if version == 5:
        return codec.encode(Connack(session_present, code, properties), 5)
    return bytes((0x20, 2, session_present, reason.CONNACK_311[code]))


def trace_of(properties: Properties | None) -> str | None:
    """The publisher's own `traceparent` user property."""
    return user_property(properties, "traceparent") if properties else None
