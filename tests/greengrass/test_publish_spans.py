"""Spans of local publishes: own ones up to a tick's share, then one a topic, and ids that never come twice."""

from foreshore.greengrass.publish_spans import SPANS_A_TICK, PublishSpans
from foreshore.greengrass.pubsub import PubSub, Subscription
from foreshore.seams import Span

GIVEN = f"00-{'a' * 32}-{'b' * 16}-01"


def spans_of() -> tuple[PublishSpans, list[Span]]:
    found: list[Span] = []
    return PublishSpans(found.append, 7), found


def test_beyond_the_ticks_share_a_topic_has_one_span() -> None:
    spans, found = spans_of()
    pubsub = PubSub()
    route, other = pubsub.route("t"), pubsub.route("u")
    assert not spans.is_shared(route, None)
    spans.left = 0
    assert [spans.is_shared(route, None) for _ in range(3)] == [True] * 3
    assert spans.is_shared(other, None)
    spans.settle(5)
    assert [(each.name, each.start_ns, each.attributes) for each in found] == [
        ("PublishToTopic t", 5, {"messages": 3}),
        ("PublishToTopic u", 5, {"messages": 1}),
    ]
    assert spans.left == SPANS_A_TICK and not spans.is_shared(route, None)
    spans.settle(6)
    assert len(found) == 2


def test_what_somebody_follows_is_never_shared() -> None:
    spans, _ = spans_of()
    spans.left = 0
    pubsub = PubSub()
    pubsub.subscribe(Subscription("t", "c", lambda message: None, others_only=False, follows=False))
    assert spans.is_shared(pubsub.route("t"), None) and not spans.is_shared(pubsub.route("t"), GIVEN)
    pubsub.subscribe(Subscription("t", "d", lambda message: None, others_only=False))
    assert not spans.is_shared(pubsub.route("t"), None)


def test_ids() -> None:
    spans, _ = spans_of()
    made = [spans.step(None) for _ in range(1000)]
    assert len({trace for trace, _, _ in made}) == len({span for _, _, span in made}) == 1000
    assert {(len(trace), parent, len(span)) for trace, parent, span in made} == {(32, "", 16)}
    assert spans.step(GIVEN)[:2] == ("a" * 32, "b" * 16)
    assert spans.step("nonsense")[1] == ""
