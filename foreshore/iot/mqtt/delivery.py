"""From one message to everybody who gets it: routes, spans, retained messages, share groups, queues. Pure.

`broker.py: Core` builds on it what clients ask for: connections, sessions and subscriptions.
"""

from __future__ import annotations

import abc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from foreshore.iot.mqtt.access import (
    Access,
    Observer,
)
from foreshore.iot.mqtt.connection import Connection, trace_of
from foreshore.iot.mqtt.limits import (
    Limits,
)
from foreshore.iot.mqtt.properties import Properties
from foreshore.iot.mqtt.publications import message_of, publication_of
from foreshore.iot.mqtt.retained import Retained
from foreshore.iot.mqtt.routing import Handle, Route, Router, for_its_publisher, identifiers
from foreshore.iot.mqtt.session import Delivery, Message, Session, Subscription
from foreshore.iot.mqtt.shares import Waiting
from foreshore.iot.mqtt.spans import Spans
from foreshore.iot.mqtt.store import Store
from foreshore.iot.mqtt.timers import Wheel
from foreshore.iot.mqtt.topics import is_filter, is_topic
from foreshore.seams import EmitSpan, Publication, Span, split_traceparent

MAX_CONFIRMATIONS = 10_000
"""Acknowledgements that are waited for at once; beyond it the oldest is given up."""


class Deliveries(abc.ABC):
    """What the broker's connections share, and the way of a message through it."""

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
        self.replay_rate = limits.stored_replay if rate_limits else 0
        self.wall_ns = wall_ns
        self.new_ids = new_ids
        self.choose = choose
        self.now = 0.0
        self.wheel = Wheel()
        self.dirty: list[Connection] = []
        self.closing: list[Connection] = []
        self.sessions: dict[str, Session] = {}
        self.counters: Counter[str] = Counter()
        self.waiting = Waiting()
        self.router = Router(hash_matches_parent=limits.hash_matches_parent, may_receive=self._may_receive)
        self.retained_messages = Retained(hash_matches_parent=limits.hash_matches_parent)
        self.spans = Spans(span, new_ids, wall_ns)
        self._last_connect: dict[str, float] = {}
        self._versions: dict[str, int] = {}
        self._confirmations: dict[int, Callable[[], None]] = {}
        self._last_confirmation = 0

    def wall_ms(self) -> int:
        """Epoch milliseconds."""
        return self.wall_ns() // 1_000_000

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
        self.read_clock()
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
        if message.publisher is session:
            heard = for_its_publisher(one)
            if heard is None:
                return False
            one, qos = heard, min(heard.qos, qos)
        retain = one.retain_as_published and message.retain  # [MQTT-3.3.1-12/13]
        connection = session.connection
        if connection is not None:
            share = one.filter if one.group is not None else ""
            delivery = self._delivery(session, message, qos, retain, identifiers(one), share)
            return connection.deliver(delivery)
        if qos and session.expiry_s:
            return self.enqueue(session, self._delivery(session, message, qos, retain, identifiers(one)))
        return False

    def _delivery(
        self, session: Session, message: Message, qos: int, retain: bool, ids: tuple[int, ...], share: str = ""
    ) -> Delivery:
        row = 0
        if qos and self.store is not None and session.expiry_s:
            message.sent_ms = message.sent_ms or self.wall_ms()
            row = self.store.enqueue(session.client_id, message, qos, retain, ids)
        return Delivery(message, qos, retain, ids, row, share)

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
            qos, ids = min(one.qos, message.qos), identifiers(one)
            delivery = self._delivery(one.session, message, qos, False, ids, one.filter)
            if self.enqueue(one.session, delivery):
                self.waiting.note(one.filter, one.session, delivery)

    def _take_waiting(self, one: Subscription) -> None:
        """A member of a share group is there: what waits with absent members goes to it, so much a second."""
        session = one.session
        if one.group is None or session.connection is None or session.subscriptions.get(one.filter) is not one:
            return
        most = (self.rate_limits and self.limits.shared_replay) or self.limits.max_queued
        taken = self.waiting.take(one.filter, session, most)
        for delivery in taken:
            self._deliver_long(one, delivery.message, min(one.qos, delivery.qos))
            self.settled(delivery)
        if len(taken) == most:
            self.wheel.add(self.now + 1.0, lambda: self._take_waiting(one))

    def _bequeath(self, session: Session) -> None:
        """A session ends: what it had of its share groups, unacknowledged or waiting, goes to another member, if there
        is one (MQTT 5, section 4.8.2; IoT Core, "Shared Subscriptions")."""
        waited = self.waiting.abandon(session)
        taken = [one for one in (*session.inflight.values(), *session.queue) if one is not None and one.share]
        for filter, delivery in [(one.share, one) for one in taken] + waited:
            for group in self.route(delivery.message.topic).groups:
                if group[0].filter == filter:
                    self._deliver_shared(group, delivery.message)
            self.settled(delivery)

    def _drop_forbidden(self, session: Session) -> None:
        """Receive is asked at delivery, and of what waits now: it came in under older policies, or before a restart."""
        waiting = [one for one in (*session.inflight.values(), *session.queue) if one is not None]
        topics = {one.message.topic for one in waiting}
        forbidden = {topic for topic in topics if not self._may_receive(session, topic)}
        if not forbidden:
            return
        session.drop(forbidden)
        for one in waiting:
            if one.message.topic in forbidden:
                self.settled(one)

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
        if delivery.row > 0 and self.store is not None:
            self.store.settle(delivery)

    def acknowledged(self, delivery: Delivery) -> None:
        """The client acknowledged a delivery that is kept, or that somebody waits for."""
        confirmed = self._confirmations.pop(delivery.row, None)
        if confirmed is not None:
            confirmed()
        else:
            self.settled(delivery)

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

    def deliver_to(self, client_id: str, publication: Publication, confirmed: Callable[[], None] | None = None) -> bool:
        """Send straight to one connected client, subscribed or not; False when it is not connected.

        `confirmed` is called when the client acknowledges, which takes QoS 1.
        """
        session = self.sessions.get(client_id)
        if session is None or session.connection is None:
            return False
        message = self._message_of(publication)
        message.traceparent = publication.traceparent
        row = 0
        if confirmed is not None:
            if len(self._confirmations) >= MAX_CONFIRMATIONS:
                del self._confirmations[next(iter(self._confirmations))]
            self._last_confirmation -= 1
            row = self._last_confirmation
            self._confirmations[row] = confirmed
        delivered = session.connection.deliver(Delivery(message, message.qos, False, (), row))
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

    # What the shell fills in

    @abc.abstractmethod
    def wake(self) -> None:
        """Something is dirty: see that `flush` is called soon."""

    @abc.abstractmethod
    def failed(self, what: str, error: Exception) -> None:
        """Report a failure of somebody else's code that must not stop the broker."""

    @abc.abstractmethod
    def read_clock(self) -> None:
        """Set `now` to the present; between the timers' steps it may be behind by one."""
