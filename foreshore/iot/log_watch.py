"""Makes log entries of what happens at the broker and in the rules, while the account's logging options want any. Pure.

While they want none, nothing of this stands in anybody's way: observer, access and listeners of the broker are then
what they are without it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from foreshore.iot.access import Identity
from foreshore.iot.cloud_logs import DENIED, SHADOW_EVENTS, LogOptions, Subject, client_fields, entry, shadow_answer
from foreshore.iot.mqtt.access import Access, ClientInfo, ConnectDecision, ConnectRequest, DisconnectReason, Observer
from foreshore.iot.mqtt.server import Broker
from foreshore.seams import LogLine, Publication, split_traceparent


@dataclass(slots=True)
class World:
    """What the watch needs: `options()` in force, `put(group, now_ns, text)`, the time, ids, and a client's groups."""

    account: str
    options: Callable[[], LogOptions]
    put: Callable[[str, int, str], None]
    wall_ns: Callable[[], int]
    new_uuid: Callable[[], str]
    groups_of: Callable[[str], Iterable[str]]


class LogWatch:
    """Stands before a broker's observer and access while logs are wanted. `apply` follows the options."""

    def __init__(self, world: World, broker: Broker) -> None:
        self._world = world
        self._broker = broker
        self._options = LogOptions()
        self._own: tuple[Observer, Access] = (broker.observer, broker.access)
        self._handles: list[Any] = []

    def apply(self) -> None:
        """The options have changed."""
        self._options = options = self._world.options()
        for handle in self._handles:
            self._broker.remove_listener(handle)
        self._handles.clear()
        observer, access = self._own
        self._broker.observer = _Observer(self, observer) if options.is_on else observer
        self._broker.access = _Access(self, access) if options.is_on else access
        self._broker.invalidate_access()
        if options.may_tell("Publish-In", "INFO"):
            self._handles = [self._broker.add_listener(each, self._published) for each in ("#", "$aws/#")]
        for end, level in (("accepted", "INFO"), ("rejected", "ERROR")):
            if any(options.may_tell(event, level) for event in SHADOW_EVENTS.values()):
                filters = (f"$aws/things/+/shadow/+/{end}", f"$aws/things/+/shadow/name/+/+/{end}")
                self._handles += [self._broker.add_listener(each, self._answered) for each in filters]

    # Entries

    def tell(self, event: str, level: str, subject: Subject, trace: str = "", **more: Any) -> None:
        """Write an entry of the broker, if the options want it."""
        self._write(event, level, subject, trace, {**client_fields(subject), **more})

    def _write(self, event: str, level: str, subject: Subject, trace: str, more: dict[str, Any]) -> None:
        group = self._options.group_for(event, level, subject)
        if group:
            now, world = self._world.wall_ns(), self._world
            trace = trace or world.new_uuid()
            fields = entry(event, level, now_ns=now, account=world.account, trace=trace, **more)
            world.put(group, now, orjson.dumps(fields).decode())

    def rule(self, line: LogLine) -> None:
        """A line of the rules engine; most are entries already."""
        if not self._options.is_on or not line.text.startswith("{"):
            return
        found = orjson.loads(line.text)
        subject = self.subject(found["clientId"], found["principalId"])
        group = self._options.group_for(found["eventType"], line.level, subject)
        if group:
            self._world.put(group, line.time_ns, line.text)

    def subject(self, client_id: str, principal: str = "", ip: str = "", port: int = 0) -> Subject:
        """Whom an entry is about."""
        return Subject(client_id, principal, ip, port, lambda: self._world.groups_of(client_id))

    def client(self, client: ClientInfo) -> Subject:
        """A connected client."""
        return self.subject(client.client_id, client.principal, client.source_ip, client.source_port)

    def denied(self, event: str, identity: object, topic: str) -> None:
        """A client may not do what it asked for."""
        client_id = (identity.client_id if isinstance(identity, Identity) else None) or ""
        client = self._broker.client(client_id)
        subject = self.client(client) if client is not None else self.subject(client_id)
        self.tell(event, "ERROR", subject, topicName=topic, **DENIED)

    def _published(self, publication: Publication) -> None:
        client_id, principal = publication.client_id or "", publication.principal or ""
        if not client_id and not principal:
            return  # A service's own message.
        client = self._broker.client(client_id) if client_id else None
        port = client.source_port if client is not None else 0
        subject = self.subject(client_id, principal, publication.source_ip or "", port)
        self.tell("Publish-In", "INFO", subject, _trace_of(publication), topicName=publication.topic)

    def _answered(self, publication: Publication) -> None:
        answer = shadow_answer(publication.topic)
        if answer is None or publication.client_id:
            return
        thing = answer.thing
        subject = Subject(groups=lambda: self._world.groups_of(thing))
        more = {"protocol": "MQTT", "deviceShadowName": answer.shadow, "topicName": answer.topic}
        level = "INFO" if answer.is_accepted else "ERROR"
        self._write(answer.event, level, subject, _trace_of(publication), more)


class _Observer:
    """Tells of presence, then tells the broker's own observer."""

    def __init__(self, watch: LogWatch, own: Observer) -> None:
        self._watch = watch
        self._own = own

    def connected(self, client: ClientInfo, /) -> None:
        self._watch.tell("Connect", "INFO", self._watch.client(client))
        self._own.connected(client)

    def disconnected(self, client: ClientInfo, reason: DisconnectReason, client_initiated: bool, /) -> None:
        self._watch.tell("Disconnect", "INFO", self._watch.client(client), disconnectReason=reason)
        self._own.disconnected(client, reason, client_initiated)

    def connect_failed(self, request: ConnectRequest, reason: str, /) -> None:
        subject = self._watch.subject(request.client_id, ip=request.source_ip, port=request.source_port)
        more = DENIED if reason == "AUTHORIZATION_FAILED" else {"reason": reason}
        self._watch.tell("Connect", "ERROR", subject, **more)
        self._own.connect_failed(request, reason)

    def subscribed(self, client: ClientInfo, filters: list[str], /) -> None:
        for each in filters:
            self._watch.tell("Subscribe", "INFO", self._watch.client(client), topicName=each)
        self._own.subscribed(client, filters)

    def unsubscribed(self, client: ClientInfo, filters: list[str], /) -> None:
        for each in filters:
            self._watch.tell("Unsubscribe", "INFO", self._watch.client(client), topicName=each)
        self._own.unsubscribed(client, filters)


class _Access:
    """Asks the broker's own access, and tells of what it denies."""

    def __init__(self, watch: LogWatch, own: Access) -> None:
        self._watch = watch
        self._own = own

    def connect(self, request: ConnectRequest, /) -> ConnectDecision | Awaitable[ConnectDecision]:
        return self._own.connect(request)

    def may_publish(self, identity: object, topic: str, retain: bool, /) -> bool:
        allowed = self._own.may_publish(identity, topic, retain)
        if not allowed:
            self._watch.denied("Publish-In", identity, topic)
        return allowed

    def may_subscribe(self, identity: object, filter: str, /) -> bool:
        allowed = self._own.may_subscribe(identity, filter)
        if not allowed:
            self._watch.denied("Subscribe", identity, filter)
        return allowed

    def may_receive(self, identity: object, topic: str, /) -> bool:
        return self._own.may_receive(identity, topic)


def _trace_of(publication: Publication) -> str:
    """The message's trace id as a UUID; "" without one."""
    ids = split_traceparent(publication.traceparent)
    if ids is None:
        return ""
    trace_id = ids[0]
    return "-".join((trace_id[:8], trace_id[8:12], trace_id[12:16], trace_id[16:20], trace_id[20:]))
