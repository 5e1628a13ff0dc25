"""What connections share: sessions, routes, retained messages, wills, share groups, access and presence. Pure.

`server.py: Broker` adds sockets, timers and asynchronous access decisions. Clocks and ids come from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from foreshore.iot.mqtt import codec, reason
from foreshore.iot.mqtt import properties as p
from foreshore.iot.mqtt.access import (
    Access,
    ClientInfo,
    ConnectDecision,
    DisconnectReason,
    Observer,
)
from foreshore.iot.mqtt.connection import CHECKING, CLOSED, FOREVER, OPEN, Connection, connack, trace_of
from foreshore.iot.mqtt.connects import connack_properties, connect_problem, session_expiry
from foreshore.iot.mqtt.faults import Faults
from foreshore.iot.mqtt.limits import (
    NEVER,
    RESERVED_SUBSCRIBE,
    Limits,
    clamp_keep_alive,
    topic_problem,
)
from foreshore.iot.mqtt.properties import Properties
from foreshore.iot.mqtt.publications import message_of, publication_of
from foreshore.iot.mqtt.retained import Retained
from foreshore.iot.mqtt.routing import Handle, Route, Router, identifiers
from foreshore.iot.mqtt.session import Delivery, Message, Session, Subscription, forwardable
from foreshore.iot.mqtt.shares import Waiting
from foreshore.iot.mqtt.spans import Spans
from foreshore.iot.mqtt.store import Store
from foreshore.iot.mqtt.timers import Wheel
from foreshore.iot.mqtt.topics import has_wildcard, is_filter, is_topic, parse_share
from foreshore.seams import EmitSpan, Publication, Span, split_traceparent


class Core:
    """The broker without its sockets. Subclasses fill the four methods at the end."""

    def __init__(
        self,
        limits: Limits,
        access: Access,
        observer: Observer,
        store: Store | None,
        span: EmitSpan | None,
        *,
        rate_limits: bool,
        wall_ns: Callable[[], int],
        new_ids: Callable[[], tuple[str, str]],
        choose: Callable[[Sequence[Subscription]], Subscription],
    ) -> None:
        self.limits = limits
        self.access = access
        self.observer = observer
        self.store = store
        self.span = span
        self.rate_limits = rate_limits
        self.wall_ns = wall_ns
        self.new_ids = new_ids
        self.choose = choose
        self.now = 0.0
        self.wheel = Wheel()
        self.dirty: list[Connection] = []
        self.closing: list[Connection] = []
        self.sessions: dict[str, Session] = {}
        self.faults: dict[str, Faults] = {}
        self.counters: Counter[str] = Counter()
        self.waiting = Waiting()
        self.router = Router(hash_matches_parent=limits.hash_matches_parent, may_receive=self._may_receive)
        self.retained_messages = Retained(hash_matches_parent=limits.hash_matches_parent)
        self.spans = Spans(span, new_ids, wall_ns)
        self._last_connect: dict[str, float] = {}
        self._versions: dict[str, int] = {}

    def wall_ms(self) -> int:
        """Epoch milliseconds."""
        return self.wall_ns() // 1_000_000

    # Starting from what was kept

    def restore(self) -> None:
        """Read retained messages and sessions back; the rest of each session's expiry begins now."""
        if self.store is None:
            return
        now_ms = self.wall_ms()
        for topic, message in self.store.retained():
            if not message.is_expired(now_ms):
                self.retained_messages.set(topic, message)
        for session, ended_ms in self.store.sessions():
            self.sessions[session.client_id] = session
            for one in session.subscriptions.values():
                self.router.add(one)
            waited = 0.0 if ended_ms is None else (now_ms - ended_ms) / 1000
            self._left(session, self.now - waited)
            if ended_ms is None:
                self.store.save_session(session, now_ms)

    # CONNECT

    def on_connect(self, connection: Connection, packet: codec.Connect) -> None:
        """Check a CONNECT and ask for access."""
        connection.version = packet.version
        limits = self.limits
        request = connection.peer
        request.client_id = packet.client_id
        request.username = packet.username
        request.password = packet.password
        request.protocol_level = packet.version
        request.clean = packet.clean
        request.keep_alive = packet.keep_alive
        if packet.will is not None:
            request.will_topic = packet.will.topic
            request.will_payload = packet.will.payload
            request.will_retain = packet.will.retain
        problem = connect_problem(self.limits, packet)
        if problem:
            self.refuse(connection, problem, "CLIENT_ERROR")
            return
        if not packet.client_id:
            packet.properties[p.ASSIGNED_CLIENT_ID] = request.client_id = self.new_ids()[0]  # [MQTT-3.1.3-7]
        if self.rate_limits and limits.connect_interval and not self._may_connect_now(request.client_id):
            self.refuse(connection, reason.QUOTA_EXCEEDED, "THROTTLED")
            return
        connection.faults = self.faults.get(request.client_id)
        decision = self.access.connect(request)
        if isinstance(decision, ConnectDecision):
            self.decided(connection, packet, decision)
        else:
            connection.state = CHECKING
            connection.link.pause_reading()
            self.defer(decision, lambda answer: self._decided_later(connection, packet, answer))

    def _decided_later(self, connection: Connection, packet: codec.Connect, decision: ConnectDecision) -> None:
        if connection.state != CHECKING:
            return
        connection.link.resume_reading()
        self.decided(connection, packet, decision)
        connection.needed = 0
        connection.feed(b"")
        self.wake()

    def _may_connect_now(self, client_id: str) -> bool:
        last = self._last_connect.get(client_id)
        if last is not None and self.now - last < self.limits.connect_interval:
            return False
        if len(self._last_connect) > 50_000:
            self._last_connect.clear()
        self._last_connect[client_id] = self.now
        return True

    def forgive_connect(self, client_id: str) -> None:
        """The client's next CONNECT does not count as too early."""
        self._last_connect.pop(client_id, None)

    def refuse(self, connection: Connection, code: int, why: str, text: str = "") -> None:
        """Refuse a CONNECT: MQTT 5 gets a CONNACK, 3.1.1 one only in the standard profile (AWS closes silently)."""
        self.counters["connect_failed"] += 1
        if connection.peer.client_id:
            self.observer.connect_failed(connection.peer, why)
        if connection.version == 5 and code != reason.MALFORMED_PACKET:
            connection.send(connack(5, code, False, {p.REASON_STRING: text} if text else {}))
        elif not self.limits.aws and code in reason.CONNACK_311:
            connection.send(connack(4, code, False, {}))
        connection.state = CLOSED
        self.finish(connection)

    def decided(self, connection: Connection, packet: codec.Connect, decision: ConnectDecision) -> None:
        """Access has decided: refuse, or take over, open the session and send CONNACK."""
        request = connection.peer
        if not decision.allowed:
            self.refuse(connection, decision.reason_code, "AUTHORIZATION_FAILED")
            return
        client_id = request.client_id
        session = self.sessions.get(client_id)
        if session is not None and session.connection is not None:
            # [MQTT-3.1.4-3]: the new connection wins.
            session.connection.close(reason.SESSION_TAKEN_OVER, "DUPLICATE_CLIENTID")
            session = self.sessions.get(client_id)
        if session is not None and packet.clean:
            self.end_session(session)  # [MQTT-3.1.2-4]
            session = None
        present = session is not None
        if session is None:
            session = self.sessions[client_id] = Session(client_id)
        session.expiry_s = session_expiry(self.limits, packet)
        session.connection = connection
        session.identity = decision.identity
        session.principal = decision.principal
        session.will = packet.will
        connection.session = session
        connection.state = OPEN
        self._arm(connection, packet, decision)
        connection.info = self._client_info(connection, packet)
        if self.store is not None and (session.expiry_s or present):
            self._keep_session(session)
        properties = connack_properties(self.limits, connection, packet) if packet.version == 5 else {}
        if connection.faults is None or not connection.faults.swallows("CONNACK"):
            connection.send(connack(packet.version, reason.SUCCESS, present, properties))  # [MQTT-3.2.2-2/3]
        self.counters["connects"] += 1
        self.observer.connected(connection.info)
        if present:
            self._reassess(session)
            self.waiting.settle(session)
            connection.resend()
            for one in session.subscriptions.values():
                self._take_waiting(one)

    def _reassess(self, session: Session) -> None:
        """The identity may be another one: ask again who receives what."""
        for one in session.subscriptions.values():
            self.router.remove(one)
            self.router.add(one)

    def _arm(self, connection: Connection, packet: codec.Connect, decision: ConnectDecision) -> None:
        """Set the limits that the CONNECT and the profile agree on, and start the timers."""
        limits, properties = self.limits, packet.properties
        connection.keep_alive = clamp_keep_alive(limits, packet.keep_alive)
        connection.window = min(properties.get(p.RECEIVE_MAXIMUM, 65535), limits.send_window)
        connection.max_out = properties.get(p.MAXIMUM_PACKET, 0)
        connection.problem_info = properties.get(p.REQUEST_PROBLEM, 1) == 1
        connection.wanted_trace = packet.version == 5 and bool(getattr(decision.identity, "wants_trace", False))
        if not limits.aws and properties.get(p.TOPIC_ALIAS_MAXIMUM):
            connection.alias_limit = min(properties[p.TOPIC_ALIAS_MAXIMUM], limits.topic_alias_maximum)
            connection.aliases_out = {}
        connection.plain = not (
            connection.max_out or connection.wanted_trace or connection.paused or connection.alias_limit
        )
        if self.span is not None:
            connection.span_attributes = {"client_id": connection.peer.client_id, "principal": decision.principal}
        connection.silence = connection.keep_alive * 1.5 if connection.keep_alive else FOREVER
        if decision.ttl_s is not None:
            self.wheel.add(
                self.now + decision.ttl_s,
                lambda: connection.close(reason.NOT_AUTHORIZED, "CUSTOMAUTH_TTL_EXPIRATION"),
            )
        if limits.websocket_ttl and connection.peer.listener == "wss":
            self.wheel.add(
                self.now + limits.websocket_ttl,
                lambda: connection.close(reason.ADMINISTRATIVE_ACTION, "WEBSOCKET_TTL_EXPIRATION"),
            )

    def _client_info(self, connection: Connection, packet: codec.Connect) -> ClientInfo:
        request, session = connection.peer, connection.session
        assert session is not None
        if len(self._versions) > 50_000:
            self._versions.clear()
        version = self._versions[request.client_id] = self._versions.get(request.client_id, -1) + 1
        return ClientInfo(
            request.client_id, session.principal, request.source_ip, 0, request.listener, request.username,
            packet.version, packet.clean, connection.keep_alive, self.new_ids()[0], version, self.wall_ms(),
            session.expiry_s, True, session.identity,
        )  # fmt: skip

    # SUBSCRIBE and UNSUBSCRIBE

    def on_subscribe(self, connection: Connection, packet: codec.Subscribe) -> None:
        """Grant what may be granted, answer, then send retained messages."""
        limits, aws5 = self.limits, self.limits.aws and connection.version == 5
        ids = packet.properties.get(p.SUBSCRIPTION_ID, [0])
        if ids[0] and not limits.subscription_ids:
            connection.close(reason.SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED, "CLIENT_ERROR")
            return
        if limits.aws and any(one.qos > limits.max_qos for one in packet.requests):
            if aws5:
                connection.close(reason.QOS_NOT_SUPPORTED, "CLIENT_ERROR")
            return
        reasons: list[int] = []
        granted: list[tuple[Subscription, bool]] = []
        for one in packet.requests:
            code = self._subscribe_problem(connection, one, len(packet.requests))
            if code:
                if limits.aws and connection.version == 4 and code != reason.QUOTA_EXCEEDED:
                    connection.close(code, "AUTH_ERROR" if code == reason.NOT_AUTHORIZED else "CLIENT_ERROR")
                    return
                reasons.append(code if connection.version == 5 else reason.SUBACK_FAILURE_311)
                continue
            reasons.append(one.qos)
            granted.append(self._subscribe(connection, one, ids[0]))
        if connection.faults is None or not connection.faults.swallows("SUBACK"):
            connection.send(codec.encode(codec.Suback(packet.packet_id, reasons), connection.version))
        for subscription, is_new in granted:
            self._send_retained(connection, subscription, is_new)
            self._take_waiting(subscription)
        if granted and connection.info is not None:
            self.observer.subscribed(connection.info, [subscription.filter for subscription, _ in granted])

    def _subscribe_problem(self, connection: Connection, one: codec.Request, count: int) -> int:
        limits, session = self.limits, connection.session
        assert session is not None
        try:
            share = parse_share(one.filter)
        except ValueError:
            return reason.TOPIC_FILTER_INVALID
        inner = share.filter if share else one.filter
        if not is_filter(inner):
            return reason.TOPIC_FILTER_INVALID
        if share and one.no_local:
            raise p.breach("no local on a shared subscription")  # [MQTT-3.8.3-4]
        if topic_problem(limits, inner, RESERVED_SUBSCRIBE):
            return reason.TOPIC_FILTER_INVALID
        if not self.access.may_subscribe(session.identity, one.filter):
            return limits.denied_filter
        if limits.max_filters and count > limits.max_filters:
            return reason.QUOTA_EXCEEDED
        if (
            limits.max_subscriptions
            and one.filter not in session.subscriptions
            and len(session.subscriptions) >= limits.max_subscriptions
        ):
            return reason.QUOTA_EXCEEDED
        return 0

    def _subscribe(self, connection: Connection, one: codec.Request, identifier: int) -> tuple[Subscription, bool]:
        session = connection.session
        assert session is not None
        share = parse_share(one.filter)
        old = session.subscriptions.get(one.filter)
        if old is not None:
            self.router.remove(old)  # [MQTT-3.8.4-3]: replaced
        subscription = Subscription(
            session,
            one.filter,
            one.qos,
            no_local=one.no_local,
            retain_as_published=one.retain_as_published,
            retain_handling=one.retain_handling,
            identifier=identifier,
            group=share.group if share else None,
        )
        session.subscriptions[one.filter] = subscription
        self.router.add(subscription)
        if self.store is not None and session.expiry_s:
            self.store.save_subscription(subscription)
        return subscription, old is None

    def _send_retained(self, connection: Connection, one: Subscription, is_new: bool) -> None:
        """[MQTT-3.3.1-9..11]. AWS sends a retained message to an exact filter only."""
        if one.group is not None or one.retain_handling == 2 or (one.retain_handling == 1 and not is_new):
            return
        if not self.limits.wildcard_retained and has_wildcard(one.filter):
            return
        for message in self.retained_messages.find(one.filter, self.wall_ms()):
            if self._may_receive(one.session, message.topic):
                qos = min(message.qos, one.qos)
                connection.deliver(self._delivery(one.session, message, qos, True, identifiers(one)))

    def on_unsubscribe(self, connection: Connection, packet: codec.Unsubscribe) -> None:
        """[MQTT-3.10.4-1..5]"""
        session = connection.session
        assert session is not None
        reasons, gone = [], []
        for filter in packet.filters:
            old = session.subscriptions.pop(filter, None)
            if old is None:
                reasons.append(self._unsubscribe_reason(filter))
                continue
            self.router.remove(old)
            if self.store is not None and session.expiry_s:
                self.store.drop_subscription(old)
            reasons.append(reason.SUCCESS)
            gone.append(filter)
        answer = codec.Suback(packet.packet_id, reasons if connection.version == 5 else [], kind=p.UNSUBACK)
        if connection.faults is None or not connection.faults.swallows("UNSUBACK"):
            connection.send(codec.encode(answer, connection.version))
        if gone and connection.info is not None:
            self.observer.unsubscribed(connection.info, gone)

    def _unsubscribe_reason(self, filter: str) -> int:
        """The reason for a filter that was not subscribed to. AWS's list of UNSUBACK reasons has no 0x11."""
        try:
            share = parse_share(filter)
        except ValueError:
            return reason.TOPIC_FILTER_INVALID
        if not is_filter(share.filter if share else filter):
            return reason.TOPIC_FILTER_INVALID
        return reason.SUCCESS if self.limits.aws else reason.NO_SUBSCRIPTION_EXISTED

    # PUBLISH

    def route(self, topic: str) -> Route:
        """The route of a topic, fresh."""
        if self.router.is_full:
            self.router.clear()
            self._drop_cached_routes()
        return self.router.route(topic)

    def _drop_cached_routes(self) -> None:
        for session in self.sessions.values():
            if session.connection is not None:
                session.connection.routes.clear()

    def _may_receive(self, session: Session, topic: str) -> bool:
        return self.access.may_receive(session.identity, topic)

    def invalidate_access(self) -> None:
        """Policies have changed: every cached decision is dropped now."""
        self._drop_cached_routes()
        self.router.touch_all()

    def expiry(self, seconds: int) -> int:
        """Epoch milliseconds at which a message expires. AWS takes 0 for 1 and caps at seven days."""
        if self.limits.aws:
            seconds = min(max(seconds, 1), self.limits.message_expiry_max)
        return self.wall_ms() + seconds * 1000

    def may_retain_now(self, route: Route) -> bool:
        """One retained write a second and topic (AWS IoT Core quotas)."""
        if self.now - route.retained_s < self.limits.retained_interval:
            return False
        route.retained_s = self.now
        return True

    def accept(
        self, connection: Connection | None, route: Route, message: Message, properties: Properties | None
    ) -> None:
        """A client's PUBLISH was allowed: retain it, trace it, and give it to everybody."""
        if message.retain:
            self._retain(route.topic, message)
        if not route.is_followed and (self.span is None or (self.spans.left <= 0 and not properties)):
            self.spans.share(route)
            self.distribute(route, message)
            return
        self.spans.left -= 1
        start = self.wall_ns()
        given = split_traceparent(trace_of(properties))
        trace_id, span_id = self.new_ids()
        parent = ""
        if given is not None:
            trace_id, parent = given
        message.traceparent = f"00-{trace_id}-{span_id}-01"
        self.distribute(route, message)
        if route.listeners:
            self._tell_listeners(route, publication_of(connection, route, message, properties, start))
        if self.span is not None:
            attributes = connection.span_attributes if connection else None
            self.span(
                Span(
                    trace_id, span_id, parent, "iot", route.span_name, start, self.wall_ns() - start,
                    True, attributes,
                )
            )  # fmt: skip

    def _tell_listeners(self, route: Route, publication: Publication) -> None:
        for callback in route.listeners:
            try:
                callback(publication)
            except Exception as error:
                self.failed(f"a listener on {route.topic} failed", error)

    def _retain(self, topic: str, message: Message) -> None:
        message.sent_ms = message.sent_ms or self.wall_ms()
        self.retained_messages.set(topic, message)
        if self.store is not None:
            self.store.retain(topic, message)

    def distribute(self, route: Route, message: Message) -> None:
        """Give a message to every subscription of its route. The short way serves plain connections in place."""
        if route.stale:
            self.router.refresh(route)
        dirty, store, asked = self.dirty, self.store, message.qos
        zero4 = zero5 = one4 = one5 = shared = None
        for one in route.subscriptions:
            session = one.session
            connection = session.connection
            qos = one.qos if one.qos < asked else asked
            if one.special or connection is None or not connection.plain or qos == 2:
                self._deliver_long(one, message, qos)
                continue
            if qos == 0:
                if connection.version == 5:
                    if zero5 is None:
                        zero5 = message.packet(5, 0x30, self.wall_ms() if message.expires_ms else 0)
                    packet = zero5
                else:
                    if zero4 is None:
                        zero4 = message.packet(4, 0x30, 0)
                    packet = zero4
                out = connection.out
                if not out:
                    dirty.append(connection)
                out.append(packet)
                continue
            inflight = session.inflight
            if session.queue or len(inflight) >= connection.window or (store is not None and session.expiry_s):
                connection.deliver(self._delivery(session, message, 1, False, ()))
                continue
            if shared is None:
                shared = Delivery(message, 1, False, (), 0)
            packet_id = session.last_id + 1
            if packet_id > 65535 or packet_id in inflight:
                packet_id = session.next_id()
            else:
                session.last_id = packet_id
            inflight[packet_id] = shared
            if connection.version == 5:
                if one5 is None:
                    one5 = message.packet(5, 0x32, self.wall_ms() if message.expires_ms else 0)
                before, after = one5
            else:
                if one4 is None:
                    one4 = message.packet(4, 0x32, 0)
                before, after = one4
            out = connection.out
            if not out:
                dirty.append(connection)
            out += (before, packet_id.to_bytes(2, "big"), after)
        for group in route.groups:
            self._deliver_shared(group, message)

    def _deliver_long(self, one: Subscription, message: Message, qos: int) -> bool:
        session = one.session
        if one.no_local and message.publisher is session:
            return False  # [MQTT-3.8.3-3]
        retain = one.retain_as_published and message.retain  # [MQTT-3.3.1-12/13]
        connection = session.connection
        if connection is not None:
            delivery = self._delivery(session, message, qos, retain, identifiers(one))
            return connection.deliver(delivery)
        if qos and session.expiry_s:
            return self.enqueue(session, self._delivery(session, message, qos, retain, identifiers(one)))
        return False

    def _delivery(self, session: Session, message: Message, qos: int, retain: bool, ids: tuple[int, ...]) -> Delivery:
        row = 0
        if qos and self.store is not None and session.expiry_s:
            message.sent_ms = message.sent_ms or self.wall_ms()
            row = self.store.enqueue(session.client_id, message, qos, retain, ids)
        return Delivery(message, qos, retain, ids, row)

    def _deliver_shared(self, group: list[Subscription], message: Message) -> None:
        """One member of the group gets it: a connected one at random, else a persistent one [MQTT-4.8.2-4]."""
        online = [one for one in group if one.session.connection is not None]
        ready = [one for one in online if one.session.connection and not one.session.connection.paused] or online
        if ready:
            one = self.choose(ready)
            self._deliver_long(one, message, min(one.qos, message.qos))
            return
        members = [one for one in group if one.session.expiry_s and min(one.qos, message.qos)]
        if members:
            one = self.choose(members)
            delivery = self._delivery(one.session, message, min(one.qos, message.qos), False, identifiers(one))
            if self.enqueue(one.session, delivery):
                self.waiting.note(one.filter, one.session, delivery)

    def _take_waiting(self, one: Subscription) -> None:
        """A member of a share group is there: what waits with absent members goes to it."""
        if one.group is None:
            return
        for delivery in self.waiting.take(one.filter, one.session):
            self._deliver_long(one, delivery.message, min(one.qos, delivery.qos))
            self.settled(delivery)

    def _bequeath(self, session: Session) -> None:
        """A session ends: what waited with it for its share groups goes to another member, if there is one."""
        for filter, delivery in self.waiting.abandon(session):
            for group in self.route(delivery.message.topic).groups:
                if group[0].filter == filter:
                    self._deliver_shared(group, delivery.message)
            self.settled(delivery)

    def enqueue(self, session: Session, delivery: Delivery) -> bool:
        """Keep a delivery for later; when the session's queue is full it is dropped and counted."""
        message = delivery.message
        message.sent_ms = message.sent_ms or self.wall_ms()
        if session.push(delivery, self.limits.max_queued, self.limits.max_queued_bytes):
            return True
        self.settled(delivery)
        self.counters["dropped"] += 1
        return False

    def settled(self, delivery: Delivery) -> None:
        """A delivery is acknowledged or given up."""
        if delivery.row and self.store is not None:
            self.store.settle(delivery)

    def is_outdated(self, connection: Connection, delivery: Delivery) -> bool:
        """Whether an unacknowledged message has expired or is beyond AWS's time of redelivery."""
        now_ms, message = self.wall_ms(), delivery.message
        window = self.limits.redelivery_5 if connection.version == 5 else self.limits.redelivery_311
        too_old = bool(window and message.sent_ms and now_ms - message.sent_ms > window * 1000)
        return too_old or message.is_expired(now_ms)

    # As a service

    def _message_of(self, publication: Publication) -> Message:
        message = message_of(publication, self.limits.max_qos)
        if publication.message_expiry_s is not None:
            message.expires_ms = self.expiry(publication.message_expiry_s)
        return message

    def publish(self, publication: Publication) -> None:
        """Publish as a service does: no policy, no quota. Raises ValueError for a malformed topic."""
        if not is_topic(publication.topic):
            raise ValueError(f"not a topic name: {publication.topic!r}")
        route = self.route(publication.topic)
        message = self._message_of(publication)
        if message.retain:
            self._retain(route.topic, message)
        self._serve(route, message, publication)
        self.wake()

    def _serve(self, route: Route, message: Message, publication: Publication) -> None:
        start = self.wall_ns()
        given = split_traceparent(publication.traceparent)
        trace_id, span_id = self.new_ids()
        if given is not None:
            trace_id = given[0]
        message.traceparent = f"00-{trace_id}-{span_id}-01"
        self.distribute(route, message)
        if route.listeners:
            told = replace(
                publication,
                traceparent=message.traceparent,
                timestamp_ms=publication.timestamp_ms or start // 1_000_000,
            )
            self._tell_listeners(route, told)
        if self.span is not None:
            self.span(
                Span(
                    trace_id, span_id, given[1] if given else "", "iot", route.span_name, start,
                    self.wall_ns() - start, True, None,
                )
            )  # fmt: skip

    def deliver_to(self, client_id: str, publication: Publication) -> bool:
        """Send straight to one connected client, subscribed or not; False when it is not connected."""
        session = self.sessions.get(client_id)
        if session is None or session.connection is None:
            return False
        message = self._message_of(publication)
        message.traceparent = publication.traceparent
        delivered = session.connection.deliver(Delivery(message, message.qos, False, (), 0))
        self.wake()
        return delivered

    def is_heard(self, topic: str) -> bool:
        """Whether anybody may hear of a topic; False only when nobody can: then a service may save its message."""
        return self.router.is_heard(topic)

    def add_listener(self, filter: str, callback: Callable[[Publication], None]) -> Handle:
        """Call back for every message on topics that match, whoever published it. Raises ValueError."""
        if not is_filter(filter):
            raise ValueError(f"not a topic filter: {filter!r}")
        handle = Handle(filter, callback)
        self.router.listen(handle)
        return handle

    def remove_listener(self, handle: Handle) -> None:
        """Stop calling back; a handle that was removed before is fine."""
        self.router.unlisten(handle)

    # The end of connections and sessions

    def on_disconnect(self, connection: Connection, packet: codec.Disconnect) -> None:
        """The client says goodbye; with any reason but 0 its will is sent all the same."""
        session = connection.session
        assert session is not None
        if p.SESSION_EXPIRY in packet.properties:
            asked = packet.properties[p.SESSION_EXPIRY]
            if asked and not session.expiry_s:
                raise p.breach("a session expiry after none")  # 3.14.2.2.2
            session.expiry_s = min(asked, self.limits.session_expiry_max)
        if packet.reason == reason.SUCCESS:
            session.will = None  # [MQTT-3.14.4-3]
        connection.said_goodbye = True
        self.over(connection, "CLIENT_INITIATED_DISCONNECT", client_initiated=True)
        self.finish(connection)

    def over(self, connection: Connection, aws: DisconnectReason, *, client_initiated: bool) -> None:
        """A connection has ended: free its session, see to its will, tell the observer."""
        was_open = connection.state == OPEN
        connection.state = CLOSED
        connection.routes.clear()
        session = connection.session
        if session is None or not was_open:
            return
        if session.connection is connection:
            session.connection = None
            self._left(session, self.now)
        if connection.info is not None:
            connection.info.connected = False
            self.observer.disconnected(connection.info, aws, client_initiated)

    def _left(self, session: Session, ended_s: float) -> None:
        """A session is without connection since `ended_s`: time its will and its end."""
        session.ended_s = ended_s
        will = session.will
        if not session.expiry_s:
            self.end_session(session)
            return
        if self.store is not None:
            self.store.save_session(session, self.wall_ms() - int((self.now - ended_s) * 1000))
        if will is not None:
            delay = will.properties.get(p.WILL_DELAY, 0)
            if delay:
                self.wheel.add(ended_s + min(delay, session.expiry_s), lambda: self._will_due(session, will))
            else:
                self._send_will(session)
        if session.expiry_s != NEVER:
            self.wheel.add(ended_s + session.expiry_s, lambda: self._session_due(session, ended_s))

    def _will_due(self, session: Session, will: codec.Will) -> None:
        if session.connection is None and session.will is will:
            self._send_will(session)

    def _session_due(self, session: Session, ended_s: float) -> None:
        if session.connection is None and session.ended_s == ended_s:
            self.end_session(session)

    def end_session(self, session: Session) -> None:
        """Forget a session and all it kept [MQTT-4.1.0-2]; a will that waits is sent now [MQTT-3.1.2-8]."""
        if self.sessions.get(session.client_id) is session:
            del self.sessions[session.client_id]
        if session.will is not None:
            self._send_will(session)
        for one in session.subscriptions.values():
            self.router.remove(one)
        if session.queue or session.inflight:
            self._let_go(session)
        if session.is_kept and self.store is not None:
            self.store.drop_session(session)

    def _let_go(self, session: Session) -> None:
        """Nobody will acknowledge what the session kept: hand on what others may take, give up the rest."""
        self._bequeath(session)
        for delivery in (*session.queue, *session.inflight.values()):
            if delivery is not None:
                self.settled(delivery)
        session.queue = ()
        session.inflight.clear()

    def _send_will(self, session: Session) -> None:
        will, session.will = session.will, None
        if will is None or not self.access.may_publish(session.identity, will.topic, will.retain):
            return
        raw = will.topic.encode()
        properties = {key: value for key, value in will.properties.items() if key != p.WILL_DELAY}
        message = Message(
            len(raw).to_bytes(2, "big") + raw,
            will.payload,
            will.qos,
            will.retain,
            forwardable(properties),
            None,
            session,
        )
        if p.MESSAGE_EXPIRY in properties:
            message.expires_ms = self.expiry(properties[p.MESSAGE_EXPIRY])
        route = self.route(will.topic)
        if message.retain:
            self._retain(route.topic, message)
        publication = Publication(
            will.topic, will.payload, will.qos, will.retain, session.client_id, session.principal,
            traceparent=trace_of(properties), user_properties=list(properties.get(p.USER_PROPERTY, ())),
        )  # fmt: skip
        self._serve(route, message, publication)

    def _keep_session(self, session: Session) -> None:
        assert self.store is not None
        self.store.save_session(session, None)
        for one in session.subscriptions.values():
            self.store.save_subscription(one)

    def finish(self, connection: Connection) -> None:
        """Close the link once what is on the way to it has been written."""
        self.closing.append(connection)
        self.wake()

    # Flushing

    @property
    def has_work(self) -> bool:
        """Whether `flush` has something to do."""
        return bool(self.dirty or self.closing or (self.store is not None and self.store.is_pending))

    def flush(self) -> None:
        """Write every connection's output, once a loop turn; what must be durable is committed first."""
        if self.store is not None and self.store.is_pending:
            self.store.commit()
        dirty, self.dirty = self.dirty, []
        for connection in dirty:
            out = connection.out
            if out and (not connection.paused or connection.state == CLOSED):
                data = out[0] if len(out) == 1 else b"".join(out)
                out.clear()
                connection.link.write(data)
        if self.closing:
            closing, self.closing = self.closing, []
            for connection in closing:
                connection.link.close()

    # What the shell fills in

    def wake(self) -> None:
        """Something is dirty: see that `flush` is called soon."""
        raise NotImplementedError

    def defer(self, decision: Awaitable[ConnectDecision], then: Callable[[ConnectDecision], None]) -> None:
        """Wait for an access decision, then call back; a failure of it counts as a refusal."""
        raise NotImplementedError

    def delay_reading(self, connection: Connection) -> None:
        """Read no more from a connection within this second."""
        raise NotImplementedError

    def failed(self, what: str, error: Exception) -> None:
        """Report a failure of somebody else's code that must not stop the broker."""
        raise NotImplementedError
