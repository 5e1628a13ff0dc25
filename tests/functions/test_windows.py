"""Tumbling windows as values."""

from foreshore.functions.windows import MAX_STATE, Window


def record(arrival):
    return {"kinesis": {"approximateArrivalTimestamp": arrival, "sequenceNumber": "1"}}


def test_records_are_split_by_window():
    window = Window(10)
    runs = window.split([record(arrival) for arrival in (10.0, 19.9, 20.0, 35.0, 36.0)])
    assert [(start, len(run)) for start, run in runs] == [(10.0, 2), (20.0, 1), (30.0, 2)]


def test_the_envelope():
    window = Window(120)
    window.start, window.state = 0.0, {"n": 1}
    assert window.envelope("shard", "arn", is_final=True) == {
        "window": {"start": "1970-01-01T00:00:00Z", "end": "1970-01-01T00:02:00Z"}, "state": {"n": 1},
        "shardId": "shard", "eventSourceARN": "arn", "isFinalInvokeForWindow": True, "isWindowTerminatedEarly": False,
    }  # fmt: skip


def test_the_state():
    window = Window(1)
    assert window.take(b'{"state": {"a": 1}}')
    assert window.state == {"a": 1}
    assert window.take(b"null")
    assert window.state == {}
    assert not window.take(b'{"state": {"a": "%s"}}' % (b"x" * MAX_STATE))


def test_the_end():
    window = Window(10)
    assert not window.is_over(100.0)
    window.start = 90.0
    assert not window.is_over(99.9)
    assert window.is_over(100.0)
    window.close()
    assert not window.is_over(1000.0)
