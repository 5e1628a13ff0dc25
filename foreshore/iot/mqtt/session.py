"""Messages on their way, subscriptions and the session state of a client (MQTT 5, section 4.1). Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Any, NamedTuple

from foreshore.iot.mqtt.codec import Will
from foreshore.iot.mqtt.properties import (
    MESSAGE_EXPIRY,
    SUBSCRIPTION_ID,
    TOPIC_ALIAS,
    USER_PROPERTY,
    encode_properties,
    write_text,
    write_varint,
)

if TYPE_CHECKING:
    from foreshore.iot.mqtt.connection import Connection

NOT_FORWARDED = frozenset((MESSAGE_EXPIRY, TOPIC_ALIAS, SUBSCRIPTION_ID))


class Message:
    """One accepted PUBLISH.

    `field` is the topic with its length, `properties` the MQTT 5 properties to forward, encoded without their length,
    `expires_ms` epoch milliseconds or None, `row` the id of its row in the store (0: none), `refs` how many queued
    deliveries refer to that row.
    """

    __slots__ = (
        "expires_ms",
        "field",
        "payload",
        "properties",
        "publisher",
        "qos",
        "refs",
        "retain",
        "row",
        "sent_ms",
        "traceparent",
    )

    def __init__(
        self,
        field: bytes,
        payload: bytes,
        qos: int = 0,
        retain: bool = False,
        properties: bytes = b"",
        expires_ms: int | None = None,
        publisher: Session | None = None,
        sent_ms: int = 0,
    ) -> None:
        self.field = field
        self.payload = payload
        self.qos = qos
        self.retain = retain
        self.properties = properties
        self.expires_ms = expires_ms
        self.publisher = publisher
        self.sent_ms = sent_ms
        self.traceparent: str | None = None
        self.row = 0
        self.refs = 0

    @property
    def topic(self) -> str:
        """The topic name."""
        return self.field[2:].decode()

    def size(self) -> int:
        """Bytes it holds, about."""
        return len(self.field) + len(self.payload) + len(self.properties) + 64

    def is_expired(self, now_ms: int) -> bool:
        """Whether its expiry has passed [MQTT-3.3.2-5]."""
        return self.expires_ms is not None and self.expires_ms <= now_ms

    def packet(
        self,
        version: int,
        first: int,
        now_ms: int,
        ids: Sequence[int] = (),
        extra: bytes = b"",
        field: bytes | None = None,
    ) -> Any:
        """The PUBLISH packet. At QoS 0 bytes; above, the pair of what stands before and after the packet identifier.

        `first` is the fixed header's first byte; `ids` subscription identifiers; `extra` encoded properties;
        `field` replaces the topic when an alias stands for it.
        """
        middle = b""
        if version == 5:
            middle = self.properties + extra
            if self.expires_ms is not None:
                # [MQTT-3.3.2-6]: the received value minus the time the message has waited.
                left = max(-(-(self.expires_ms - now_ms) // 1000), 0)
                middle += b"\x02" + left.to_bytes(4, "big")
            for one in ids:
                middle += b"\x0b" + write_varint(one)
            size = len(middle)
            middle = (bytes((size,)) if size < 128 else write_varint(size)) + middle
        field, payload = field or self.field, self.payload
        length = len(field) + len(middle) + len(payload)
        if first & 6:
            return bytes((first,)) + write_varint(length + 2) + field, middle + payload
        return b"".join((bytes((first,)), write_varint(length), field, middle, payload))


def trace_property(traceparent: str) -> bytes:
    """The encoded user property `traceparent`."""
    return b"\x26" + write_text("traceparent") + write_text(traceparent)


def forwardable(properties: dict[int, Any]) -> bytes:
    """Properties as they go on to subscribers, encoded, without their length [MQTT-3.3.2-17] [MQTT-3.3.2-20]."""
    kept = {key: value for key, value in properties.items() if key not in NOT_FORWARDED}
    if not kept:
        return b""
    encoded = encode_properties(kept)
    at = 1
    while encoded[at - 1] & 0x80:
        at += 1
    return encoded[at:]


def user_property(properties: dict[int, Any], name: str) -> str | None:
    """The first value of a user property."""
    for key, value in properties.get(USER_PROPERTY, ()):
        if key == name:
            return str(value)
    return None


class Delivery(NamedTuple):
    """A message for one session.

    `row` is the id of its row in the store, 0 when it is kept in memory only, below 0 when somebody waits for its
    acknowledgement; `share` is the `$share/` filter whose group it is for, "" for none.
    """

    message: Message
    qos: int
    retain: bool
    ids: tuple[int, ...]
    row: int
    share: str = ""


class Subscription:
    """One filter of one session. `special` marks what the short way through the router can't serve."""

    __slots__ = (
        "filter", "group", "identifier", "no_local", "qos", "retain_as_published", "retain_handling", "session",
        "special",
    )  # fmt: skip

    def __init__(
        self,
        session: Session,
        filter: str,
        qos: int,
        *,
        no_local: bool = False,
        retain_as_published: bool = False,
        retain_handling: int = 0,
        identifier: int = 0,
        group: str | None = None,
    ) -> None:
        self.session = session
        self.filter = filter
        self.qos = qos
        self.no_local = no_local
        self.retain_as_published = retain_as_published
        self.retain_handling = retain_handling
        self.identifier = identifier
        self.group = group
        self.special = no_local or retain_as_published or bool(identifier)


class Session:
    """What outlives a connection: subscriptions, unacknowledged and waiting messages, inbound QoS 2 identifiers.

    `inflight` maps packet identifiers to deliveries, in sending order; None stands for a QoS 2 message that was
    received (PUBREC) and waits for PUBCOMP. The first `stored` of `queue` were there when the client came back, and are
    sent at a pace; what comes meanwhile stands behind them, and need not wait for them. `expiry_s` is the session
    expiry; `ended_s` the clock when it was left; `is_kept` whether the store knows it.
    """

    __slots__ = (
        "client_id", "connection", "ended_s", "expiry_s", "identity", "inflight", "is_kept", "last_id", "principal",
        "queue", "queued_bytes", "received", "stored", "subscriptions", "will",
    )  # fmt: skip

    def __init__(self, client_id: str, expiry_s: int = 0) -> None:
        self.client_id = client_id
        self.expiry_s = expiry_s
        self.connection: Connection | None = None
        self.subscriptions: dict[str, Subscription] = {}
        self.inflight: dict[int, Delivery | None] = {}
        self.queue: deque[Delivery] | tuple[()] = ()
        self.queued_bytes = 0
        self.stored = 0
        self.received: set[int] | tuple[()] = ()
        self.last_id = 0
        self.will: Will | None = None
        self.ended_s = 0.0
        self.is_kept = False
        self.identity: object = None
        self.principal = ""

    @property
    def is_persistent(self) -> bool:
        """Whether it outlives its connection."""
        return self.expiry_s > 0

    def next_id(self) -> int:
        """A packet identifier that is not in use [MQTT-2.2.1-4]."""
        inflight = self.inflight
        candidate = self.last_id + 1
        while candidate in inflight or candidate > 65535:
            candidate = 1 if candidate >= 65535 else candidate + 1
        self.last_id = candidate
        return candidate

    def push(self, delivery: Delivery, max_count: int, max_bytes: int) -> bool:
        """Put a delivery at the end of the queue; False when the queue is full."""
        size = delivery.message.size()
        if len(self.queue) >= max_count or self.queued_bytes + size > max_bytes:
            return False
        if isinstance(self.queue, tuple):
            self.queue = deque()
        self.queue.append(delivery)
        self.queued_bytes += size
        return True

    @property
    def is_waiting(self) -> bool:
        """Whether something waits that is not held back for its pace."""
        return len(self.queue) > self.stored

    def pop(self, may_take_stored: bool) -> Delivery | None:
        """Take the delivery that has waited longest, of those that may be sent."""
        if isinstance(self.queue, tuple):
            return None
        if self.stored and may_take_stored:
            self.stored -= 1
            delivery = self.queue.popleft()
        elif self.is_waiting:
            delivery = self.queue[self.stored]
            del self.queue[self.stored]
        else:
            return None
        if not self.queue:
            self.queue = ()
        self.queued_bytes -= delivery.message.size()
        return delivery

    def drop(self, topics: Set[str]) -> None:
        """Take what waits or was not acknowledged away, by topic."""
        for packet_id, one in list(self.inflight.items()):
            if one is not None and one.message.topic in topics:
                del self.inflight[packet_id]
        self.queue = deque(one for one in self.queue if one.message.topic not in topics) or ()
        self.queued_bytes = sum(one.message.size() for one in self.queue)

    def add_received(self, packet_id: int) -> bool:
        """Note an inbound QoS 2 identifier; False when it is already known [MQTT-4.3.3-10]."""
        if isinstance(self.received, tuple):
            self.received = set()
        if packet_id in self.received:
            return False
        self.received.add(packet_id)
        return True

    def drop_received(self, packet_id: int) -> bool:
        """Forget an inbound QoS 2 identifier at PUBREL; False when it was not known."""
        if isinstance(self.received, tuple) or packet_id not in self.received:
            return False
        self.received.discard(packet_id)
        return True
