"""What clients ask of the broker: to connect, subscribe, and end; their sessions, wills, access and presence. Pure.

`server.py: Broker` adds sockets, timers and asynchronous access decisions. Clocks and ids come from there.
"""

from __future__ import annotations

import abc
from collections.abc import Awaitable, Callable

from foreshore.iot.mqtt import codec, reason
from foreshore.iot.mqtt import properties as p
from foreshore.iot.mqtt.access import (
    ClientInfo,
    ConnectDecision,
    DisconnectReason,
)
from foreshore.iot.mqtt.connection import CHECKING, CLOSED, FOREVER, OPEN, Connection, connack, trace_of
from foreshore.iot.mqtt.connects import connack_properties, connect_problem, session_expiry
from foreshore.iot.mqtt.delivery import Deliveries
from foreshore.iot.mqtt.limits import (
    NEVER,
    RESERVED_SUBSCRIBE,
    clamp_keep_alive,
    share_is_full,
    topic_problem,
)
from foreshore.iot.mqtt.refresh import refresh_later
from foreshore.iot.mqtt.routing import identifiers
from foreshore.iot.mqtt.session import Message, Session, Subscription, forwardable
from foreshore.iot.mqtt.topics import has_wildcard, is_filter, is_well_formed, parse_share
from foreshore.seams import Publication


class Core(Deliveries):
    """The broker without its sockets. The shell fills the abstract methods."""

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
        decision = self.access.connect(request)
        if isinstance(decision, ConnectDecision):
            self.decided(connection, packet, decision)
        else:
            connection.state = CHECKING
            connection.waiting = True
            connection.link.pause_reading()
            self.defer(decision, lambda answer: self._decided_later(connection, packet, answer))

    def _decided_later(self, connection: Connection, packet: codec.Connect, decision: ConnectDecision) -> None:
        if connection.state != CHECKING:
            return
        self.decided(connection, packet, decision)
        connection.go_on()
        self.wake()

    def _may_connect_now(self, client_id: str) -> bool:
        self.read_clock()
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
        connection.ended = why
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
        connection.send(connack(packet.version, reason.SUCCESS, present, properties))  # [MQTT-3.2.2-2/3]
        self.counters["connects"] += 1
        self.observer.connected(connection.info)
        if present:
            self.reassess(session)
            self.waiting.settle(session)
            self._drop_forbidden(session)
            connection.resend()
            for one in session.subscriptions.values():
                self._take_waiting(one)

    def reassess(self, session: Session) -> None:
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
        refresh_later(self, connection, decision)
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
            request.client_id, session.principal, request.source_ip, request.source_port, request.listener,
            request.username, packet.version, packet.clean, connection.keep_alive, self.new_ids()[0], version,
            self.wall_ms(), session.expiry_s, True, session.identity,
        )  # fmt: skip

    # SUBSCRIBE and UNSUBSCRIBE

    def on_subscribe(self, connection: Connection, packet: codec.Subscribe) -> None:
        """Grant what may be granted, answer, then send retained messages."""
        limits, aws5 = self.limits, self.limits.aws and connection.version == 5
        self._check_filters([one.filter for one in packet.requests])
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
        if limits.aws and connection.version == 4:
            for one in packet.requests:  # Before any is granted: what is refused leaves nothing behind.
                code = self._subscribe_problem(connection, one, len(packet.requests))
                if code not in (0, reason.QUOTA_EXCEEDED):
                    connection.close(code, "AUTH_ERROR" if code == reason.NOT_AUTHORIZED else "CLIENT_ERROR")
                    return
        for one in packet.requests:
            code = self._subscribe_problem(connection, one, len(packet.requests))
            if code:
                reasons.append(code if connection.version == 5 else reason.SUBACK_FAILURE_311)
                continue
            reasons.append(one.qos)
            granted.append(self._subscribe(connection, one, ids[0]))
        connection.send(codec.encode(codec.Suback(packet.packet_id, reasons), connection.version))
        for subscription, is_new in granted:
            self._send_retained(connection, subscription, is_new)
            self._take_waiting(subscription)
        if granted and connection.info is not None:
            self.observer.subscribed(connection.info, [subscription.filter for subscription, _ in granted])

    def _check_filters(self, filters: list[str]) -> None:
        """By the standard a misplaced wildcard ends the connection [MQTT-4.13.1-1], 3.1.1 [MQTT-4.8.0-1]: 0x8F is for
        filters that are correctly formed (table 3-8). AWS answers it for both. Raises PeerError.
        """
        if not self.limits.aws and not all(is_well_formed(filter) for filter in filters):
            raise p.malformed("topic filter")

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
        if one.filter in session.subscriptions:
            return 0
        if limits.max_subscriptions and len(session.subscriptions) >= limits.max_subscriptions:
            return reason.QUOTA_EXCEEDED
        if share and share_is_full(limits, self.router.share_members, one.filter):
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
        self._check_filters(packet.filters)
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
        self.over(connection, "CLIENT_INITIATED_DISCONNECT", client_initiated=True)
        self.finish(connection)

    def on_websocket_close(self, connection: Connection) -> None:
        """The client's Close frame. To AWS it says what DISCONNECT says (IoT Core, "Lifecycle events"); the standard
        knows DISCONNECT alone, so that the will is sent [MQTT-3.1.2-8]."""
        session = connection.session
        if session is not None and session.connection is connection and self.limits.aws:
            session.will = None
        self.over(connection, "CLIENT_INITIATED_DISCONNECT", client_initiated=True)

    def over(self, connection: Connection, aws: DisconnectReason, *, client_initiated: bool) -> None:
        """A connection has ended: free its session, see to its will, tell the observer."""
        was_open = connection.state == OPEN
        connection.state = CLOSED
        connection.ended = connection.ended or aws
        connection.routes.clear()
        session = connection.session
        if session is None or not was_open:
            return
        if session.connection is connection:
            session.connection = None
            self.read_clock()
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
            self.wheel.add(ended_s + session.expiry_s, lambda: self._session_due(session))

    def _will_due(self, session: Session, will: codec.Will) -> None:
        if session.connection is None and session.will is will:
            self._send_will(session)

    def _session_due(self, session: Session) -> None:
        """Each leave sets a timer; that of an earlier one finds that the expiry now in force has not passed."""
        if session.connection is None and self.now - session.ended_s >= session.expiry_s:
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
            if delivery is not None and not delivery.share:
                self.settled(delivery)
        session.queue = ()
        session.stored = 0
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

    @abc.abstractmethod
    def defer(self, decision: Awaitable[ConnectDecision], then: Callable[[ConnectDecision], None]) -> None:
        """Wait for an access decision, then call back; a failure of it counts as a refusal."""

    @abc.abstractmethod
    def call_on(self, connection: Connection) -> None:
        """Call the connection's `go_on` when others had their turn."""

    @abc.abstractmethod
    def delay_reading(self, connection: Connection) -> None:
        """Read no more from a connection within this second."""
