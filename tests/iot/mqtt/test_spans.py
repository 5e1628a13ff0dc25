"""How many spans a broker writes: few messages one each, floods a bounded number whatever the topics."""

from itertools import count

from foreshore.iot.mqtt.routing import Route
from foreshore.iot.mqtt.spans import SPANS_A_TICK, TOPICS_A_TICK, Spans


def made():
    written, numbers = [], count(1)

    def new_ids():
        number = next(numbers)
        return f"{number:032x}", f"{number:016x}"

    return Spans(written.append, new_ids, lambda: 7), written


def test_nothing_shared_writes_nothing():
    spans, written = made()
    spans.left = 0
    spans.settle()
    assert written == []
    assert spans.left == SPANS_A_TICK


def test_a_topics_messages_share_a_span():
    spans, written = made()
    route = Route("a/b")
    for _ in range(5):
        spans.share(route)
    spans.settle()
    assert [(span.name, span.attributes) for span in written] == [("publish a/b", {"messages": 5})]
    spans.settle()
    assert len(written) == 1
    assert route.burst == 0


def test_many_topics_share_one_and_every_message_is_counted():
    spans, written = made()
    routes = [Route(f"devices/{number}") for number in range(500)]
    for number, route in enumerate(routes):
        for _ in range(2 if number < 7 else 1):
            spans.share(route)
    spans.settle()
    assert len(written) == TOPICS_A_TICK + 1
    assert {span.name for span in written[:7]} == {f"publish devices/{number}" for number in range(7)}
    assert written[-1].attributes == {"messages": 500 - TOPICS_A_TICK, "topics": 500 - TOPICS_A_TICK}
    assert sum(span.attributes["messages"] for span in written) == 507
    assert len({span.trace_id for span in written}) == len(written)
