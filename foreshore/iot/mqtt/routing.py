"""From a topic to those who get its messages: the tries of subscriptions and listeners, and a cache of routes. Pure.

A `Route` belongs to one topic and is shared by every connection that publishes there. When subscriptions, listeners
or policies change, the routes concerned are marked stale in place and rebuilt by the next message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import reduce
from typing import Any

from foreshore.iot.mqtt.session import Session, Subscription
from foreshore.iot.mqtt.topics import TopicTree, TopicTrie, has_wildcard, parse_share
from foreshore.seams import Publication

MAX_ROUTES = 65_536
MAX_HEARD = 1_000

Listener = Callable[[Publication], None]


class Handle:
    """A registered listener; give it back to `remove_listener`."""

    __slots__ = ("callback", "filter")

    def __init__(self, filter: str, callback: Listener) -> None:
        self.filter = filter
        self.callback = callback


class Route:
    """One topic: its subscriptions (one a session), its share groups and its listeners. `stale` means: rebuild me.

    `field` is the topic with its two-byte length, `span_name` the name of its spans; `retained_s` the second in which
    a retained message was last written. `is_followed` tells whether somebody continues the trace of its messages
    (a listener, a core's link); `burst` counts messages that share the route's next span.
    """

    __slots__ = (
        "burst", "field", "groups", "is_followed", "listeners", "retained_s", "span_name", "stale", "subscriptions",
        "topic",
    )  # fmt: skip

    def __init__(self, topic: str) -> None:
        raw = topic.encode()
        self.topic = topic
        self.field = len(raw).to_bytes(2, "big") + raw
        self.span_name = f"publish {topic}"
        self.stale = True
        self.subscriptions: list[Subscription] = []
        self.groups: list[list[Subscription]] = []
        self.listeners: list[Listener] = []
        self.retained_s = -1e9
        self.is_followed = False
        self.burst = 0


class Router:
    """Subscriptions and listeners by filter, routes by topic. `may_receive(session, topic)` filters the former."""

    def __init__(self, *, hash_matches_parent: bool, may_receive: Callable[[Session, str], bool]) -> None:
        self._subscriptions: TopicTrie[Subscription] = TopicTrie(hash_matches_parent=hash_matches_parent)
        self._listeners: TopicTrie[Handle] = TopicTrie(hash_matches_parent=hash_matches_parent)
        self._routes: dict[str, Route] = {}
        self._tree: TopicTree[Route] = TopicTree(hash_matches_parent=hash_matches_parent)
        self._may_receive = may_receive
        self._heard: dict[str, bool] = {}
        self.share_members: Counter[str] = Counter()
        """How many sessions are in each share group, by its whole `$share/` filter."""

    def is_heard(self, topic: str) -> bool:
        """Whether there is any filter whose first two levels fit the topic's: a quick look, not a match."""
        known = self._heard.get(topic)
        if known is None:
            if len(self._heard) >= MAX_HEARD:
                self._heard.clear()
            known = self._subscriptions.may_match(topic) or self._listeners.may_match(topic)
            self._heard[topic] = known
        return known

    def route(self, topic: str) -> Route:
        """The fresh route of a topic. The cache is bounded: when it is full it is emptied and its routes orphaned;
        the caller finds out by `is_full` and drops its own references."""
        route = self._routes.get(topic)
        if route is None:
            route = self._routes[topic] = Route(topic)
            self._tree.set(topic, route)
        if route.stale:
            self.refresh(route)
        return route

    @property
    def is_full(self) -> bool:
        """Whether the cache must be emptied before it takes another topic."""
        return len(self._routes) >= MAX_ROUTES

    def clear(self) -> None:
        """Forget every route. Whoever holds one must drop it, since it will no longer be marked stale."""
        self._routes.clear()
        self._tree = TopicTree(hash_matches_parent=self._tree._hash_matches_parent)

    def refresh(self, route: Route) -> None:
        """Build a route anew: one delivery a session, at the highest QoS of its matching filters [MQTT-3.3.4-2]."""
        route.stale = False
        topic = route.topic
        merged: dict[int, Any] = {}
        groups: dict[tuple[str, str], list[Subscription]] = {}
        for one in self._subscriptions.match(topic):
            if not self._may_receive(one.session, topic):
                continue
            if one.group is not None:
                groups.setdefault((one.group, one.filter), []).append(one)
                continue
            key = id(one.session)
            if key in merged:
                merged[key] = Overlap(merged[key], one)
            else:
                merged[key] = one
        route.subscriptions = list(merged.values())
        route.groups = list(groups.values())
        route.listeners = [handle.callback for handle in self._listeners.match(topic)]
        members = [*route.subscriptions, *(one for group in route.groups for one in group)]
        route.is_followed = bool(route.listeners) or any(
            getattr(one.session.identity, "wants_trace", False) for one in members
        )

    def add(self, subscription: Subscription) -> None:
        """Add a subscription."""
        inner = inner_filter(subscription.filter)
        self._subscriptions.add(inner, subscription)
        if subscription.group is not None:
            self.share_members[subscription.filter] += 1
        self._touch(inner)

    def remove(self, subscription: Subscription) -> None:
        """Take a subscription away."""
        inner = inner_filter(subscription.filter)
        self._subscriptions.remove(inner, subscription)
        if subscription.group is not None:
            self.share_members[subscription.filter] -= 1
            if not self.share_members[subscription.filter]:
                del self.share_members[subscription.filter]
        self._touch(inner)

    def listen(self, handle: Handle) -> None:
        """Add a listener."""
        self._listeners.add(handle.filter, handle)
        self._touch(handle.filter)

    def unlisten(self, handle: Handle) -> None:
        """Take a listener away."""
        self._listeners.remove(handle.filter, handle)
        self._touch(handle.filter)

    def touch_all(self) -> None:
        """Mark every route stale."""
        for route in self._routes.values():
            route.stale = True

    def _touch(self, filter: str) -> None:
        self._heard.clear()
        if has_wildcard(filter):
            for route in self._tree.find(filter):
                route.stale = True
        else:
            exact = self._routes.get(filter)
            if exact is not None:
                exact.stale = True


def inner_filter(filter: str) -> str:
    """The filter itself, or what stands inside a `$share/` filter."""
    share = parse_share(filter)
    return share.filter if share else filter


class Overlap(Subscription):
    """Several filters of one session that match one topic: the highest QoS and every identifier [MQTT-3.3.4-3..5]."""

    __slots__ = ("parts",)

    def __init__(self, first: Subscription, second: Subscription) -> None:
        self.parts: list[Subscription] = [*first.parts, second] if isinstance(first, Overlap) else [first, second]
        super().__init__(
            first.session,
            first.filter,
            max(part.qos for part in self.parts),
            no_local=all(part.no_local for part in self.parts),
            retain_as_published=any(part.retain_as_published for part in self.parts),
        )
        self.special = any(part.special for part in self.parts)


def for_its_publisher(subscription: Subscription) -> Subscription | None:
    """What of a subscription gets its own client's messages: nothing that says no local [MQTT-3.8.3-3]."""
    parts = subscription.parts if isinstance(subscription, Overlap) else [subscription]
    heard = [part for part in parts if not part.no_local]
    if len(heard) == len(parts):
        return subscription
    return reduce(Overlap, heard) if heard else None


def identifiers(subscription: Subscription) -> tuple[int, ...]:
    """The subscription identifiers that go with a delivery, in rising order; it has no meaning [MQTT-3.3.4-4]."""
    parts = subscription.parts if isinstance(subscription, Overlap) else [subscription]
    return tuple(sorted(part.identifier for part in parts if part.identifier))
