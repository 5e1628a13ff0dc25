"""Local publish/subscribe: MQTT filters, receive modes, the cache."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.greengrass.pubsub import LocalMessage, PubSub, Subscription

MATCHES = [
    ("a/b", "a/b", True),
    ("a/b", "a/b/c", False),
    ("a/+", "a/b", True),
    ("a/+", "a/", True),
    ("a/+", "a", False),
    ("+", "a", True),
    ("+/+", "a/b", True),
    ("#", "a/b", True),
    ("a/#", "a", True),
    ("a/#", "a/b/c", True),
    ("a/#", "ab", False),
    ("a/+/c", "a/b/c", True),
    ("a//b", "a//b", True),
    ("A", "a", False),
]


def message(topic: str, source: str = "me") -> LocalMessage:
    return LocalMessage(topic, b"x", source, "", b"{}")


@pytest.mark.parametrize(("filter", "topic", "matches"), MATCHES)
def test_filters(filter: str, topic: str, matches: bool) -> None:
    pubsub, got = PubSub(), []
    pubsub.subscribe(Subscription(filter, "c", got.append, others_only=False))
    assert pubsub.publish(message(topic)) == int(matches)
    assert len(got) == int(matches)


def test_others_only_skips_the_components_own() -> None:
    pubsub, got = PubSub(), []
    pubsub.subscribe(Subscription("t", "c", got.append, others_only=True))
    assert pubsub.publish(message("t", "c")) == 0
    assert pubsub.publish(message("t", "d")) == 1


def test_the_cache_follows_subscriptions() -> None:
    pubsub, got = PubSub(), []
    assert pubsub.publish(message("t")) == 0
    first = Subscription("t", "c", got.append, others_only=False)
    pubsub.subscribe(first)
    second = Subscription("+", "c", got.append, others_only=False)
    pubsub.subscribe(second)
    assert pubsub.publish(message("t")) == 2
    pubsub.unsubscribe(first)
    pubsub.unsubscribe(first)
    assert pubsub.publish(message("t")) == 1
    pubsub.unsubscribe(second)
    assert pubsub.count == 0 and pubsub.publish(message("t")) == 0
    assert pubsub._root.children == {}


levels = st.sampled_from(["a", "b", "", "+"])
filters = st.builds(
    lambda names, end: "/".join([*names, *end]), st.lists(levels, min_size=1, max_size=4), st.sampled_from([[], ["#"]])
)
topics = st.lists(st.sampled_from(["a", "b", ""]), min_size=1, max_size=4).map("/".join)


def slow_match(filter: str, topic: str) -> bool:
    wanted, names = filter.split("/"), topic.split("/")
    for at, name in enumerate(wanted):
        if name == "#":
            return True
        if at >= len(names) or (name != "+" and name != names[at]):
            return False
    return len(wanted) == len(names)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.lists(filters, max_size=8), st.lists(topics, min_size=1, max_size=4), st.data())
def test_the_tree_agrees_with_a_scan(patterns: list[str], names: list[str], data: st.DataObject) -> None:
    pubsub = PubSub()
    alive = [Subscription(pattern, "c", lambda m: None, others_only=False) for pattern in patterns]
    for subscription in alive:
        pubsub.subscribe(subscription)
    for gone in data.draw(st.lists(st.sampled_from(alive), unique=True, max_size=3)) if alive else []:
        pubsub.unsubscribe(gone)
        alive.remove(gone)
    for name in names:
        expected = [s for s in alive if slow_match(s.filter, name)]
        assert sorted(map(id, pubsub.route(name).subscriptions)) == sorted(map(id, expected))
