"""Local publish/subscribe between components: who gets a message. Pure; delivery is the subscriber's callback.

Filters are MQTT's (`+`, `#`; MQTT 5, section 4.7), matched by a tree of levels. The answer for a topic is cached until
a subscription comes or goes, so a publish to a known topic costs one lookup.
"""

from __future__ import annotations

from collections.abc import Callable

import orjson

MAX_CACHED = 10_000


class LocalMessage:
    """One message on local pub/sub. `payload` is the bytes (for a JSON message, its UTF-8 text); `source` is the
    publishing component's name; `event` is SubscriptionResponseMessage as JSON; `traceparent` is empty for a message
    of a burst that nobody follows. `frames` keeps the event's frames by stream id: subscribers share them."""

    __slots__ = ("event", "frames", "payload", "source", "topic", "traceparent")

    def __init__(self, topic: str, payload: bytes, source: str, traceparent: str, event: bytes) -> None:
        self.topic = topic
        self.payload = payload
        self.source = source
        self.traceparent = traceparent
        self.event = event
        self.frames: dict[int, bytes] = {}


Deliver = Callable[[LocalMessage], None]


class Subscription:
    """One subscription. `others_only` is receive mode RECEIVE_MESSAGES_FROM_OTHERS; `follows` says whether it passes
    the trace on, so that each of its messages needs a trace of its own. Compared by identity."""

    __slots__ = ("deliver", "filter", "follows", "others_only", "source")

    def __init__(self, filter: str, source: str, deliver: Deliver, *, others_only: bool, follows: bool = True) -> None:
        self.filter = filter
        self.source = source
        self.deliver = deliver
        self.others_only = others_only
        self.follows = follows


class Route:
    """What is known of a topic until a subscription comes or goes. `tail` ends its events; `burst` counts the
    messages that share the next span."""

    __slots__ = ("burst", "is_followed", "span_name", "subscriptions", "tail", "topic")

    def __init__(self, topic: str, subscriptions: tuple[Subscription, ...]) -> None:
        self.topic = topic
        self.subscriptions = subscriptions
        self.is_followed = any(each.follows for each in subscriptions)
        self.span_name = f"PublishToTopic {topic}"
        self.tail = b',"context":{"topic":' + orjson.dumps(topic) + b"}}}"
        self.burst = 0

    def event(self, member: bytes, body: bytes) -> bytes:
        """SubscriptionResponseMessage as JSON; `body` is the message's own JSON."""
        return b'{"' + member + b'":{"message":' + body + self.tail

    def deliver(self, message: LocalMessage) -> int:
        """Give a message to every subscription but those that want none of their own; give to how many."""
        delivered = 0
        source = message.source
        for subscription in self.subscriptions:
            if subscription.others_only and subscription.source == source:
                continue
            subscription.deliver(message)
            delivered += 1
        return delivered


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
        self._cache: dict[str, Route] = {}
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

    def route(self, topic: str) -> Route:
        """The route of a topic name, its subscriptions in no particular order."""
        found = self._cache.get(topic)
        if found is None:
            matched: list[Subscription] = []
            _match(self._root, topic.split("/"), 0, matched)
            found = Route(topic, tuple(matched))
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            self._cache[topic] = found
        return found

    def publish(self, message: LocalMessage) -> int:
        """Deliver to every matching subscription but those that want no messages of their own; give how many."""
        return self.route(message.topic).deliver(message)


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
