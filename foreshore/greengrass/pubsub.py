"""Local publish/subscribe between components: who gets a message. Pure; delivery is the subscriber's callback.

Filters are MQTT's (`+`, `#`; MQTT 5, section 4.7), matched by a tree of levels. The answer for a topic is cached until
a subscription comes or goes, so a publish to a known topic costs one lookup.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

MAX_CACHED = 10_000


class LocalMessage(NamedTuple):
    """One message on local pub/sub. `payload` is the bytes (for a JSON message, its UTF-8 text); `source` is the
    publishing component's name; `event` is SubscriptionResponseMessage as JSON."""

    topic: str
    payload: bytes
    source: str
    traceparent: str
    event: bytes


Deliver = Callable[[LocalMessage], None]


class Subscription:
    """One subscription. `others_only` is receive mode RECEIVE_MESSAGES_FROM_OTHERS. Compared by identity."""

    __slots__ = ("deliver", "filter", "others_only", "source")

    def __init__(self, filter: str, source: str, deliver: Deliver, *, others_only: bool) -> None:
        self.filter = filter
        self.source = source
        self.deliver = deliver
        self.others_only = others_only


class _Level:
    __slots__ = ("children", "here")

    def __init__(self) -> None:
        self.children: dict[str, _Level] = {}
        self.here: list[Subscription] = []


def has_wildcard(filter: str) -> bool:
    """Whether a subscription's topic holds an MQTT wildcard level."""
    return "+" in filter or "#" in filter


class PubSub:
    """All local subscriptions of one core."""

    def __init__(self) -> None:
        self._root = _Level()
        self._cache: dict[str, tuple[Subscription, ...]] = {}
        self.count = 0

    def subscribe(self, subscription: Subscription) -> None:
        """Add a subscription."""
        level = self._root
        for name in subscription.filter.split("/"):
            level = level.children.setdefault(name, _Level())
        level.here.append(subscription)
        self.count += 1
        self._cache.clear()

    def unsubscribe(self, subscription: Subscription) -> None:
        """Take a subscription away; one that is not there is fine."""
        path = [self._root]
        names = subscription.filter.split("/")
        for name in names:
            child = path[-1].children.get(name)
            if child is None:
                return
            path.append(child)
        if subscription not in path[-1].here:
            return
        path[-1].here.remove(subscription)
        self.count -= 1
        for index in range(len(names), 0, -1):
            if path[index].children or path[index].here:
                break
            del path[index - 1].children[names[index - 1]]
        self._cache.clear()

    def subscribers(self, topic: str) -> tuple[Subscription, ...]:
        """The subscriptions whose filter matches a topic name, in no particular order."""
        found = self._cache.get(topic)
        if found is None:
            matched: list[Subscription] = []
            _match(self._root, topic.split("/"), 0, matched)
            found = tuple(matched)
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            self._cache[topic] = found
        return found

    def publish(self, message: LocalMessage) -> int:
        """Deliver to every matching subscription but those that want no messages of their own; give how many."""
        delivered = 0
        source = message.source
        for subscription in self.subscribers(message.topic):
            if subscription.others_only and subscription.source == source:
                continue
            subscription.deliver(message)
            delivered += 1
        return delivered


def _match(level: _Level, names: list[str], at: int, found: list[Subscription]) -> None:
    children = level.children
    multi = children.get("#")
    if multi is not None:
        found += multi.here
    if at == len(names):
        found += level.here
        return
    exact = children.get(names[at])
    if exact is not None and names[at] not in ("+", "#"):
        _match(exact, names, at + 1, found)
    single = children.get("+")
    if single is not None:
        _match(single, names, at + 1, found)
