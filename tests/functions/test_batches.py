"""Event source mappings as values: settings, filters, records, answers."""

import base64
import json

import pytest

from foreshore.errors import AwsError, NotEmulated
from foreshore.functions import batches
from foreshore.functions.patterns import check, matches

QUEUE = "arn:aws:sqs:us-east-1:000000000000:q"
STREAM = "arn:aws:kinesis:us-east-1:000000000000:stream/s"


def source(**more):
    return batches.read_source("u", {"EventSourceArn": QUEUE, "FunctionName": "fn", **more})


def test_defaults_are_awss():
    queue = source()
    assert (queue.kind, queue.batch_size, queue.window_s, queue.enabled) == ("sqs", 10, 0, True)
    stream = source(EventSourceArn=STREAM, StartingPosition="LATEST")
    assert (stream.batch_size, stream.retries, stream.max_age_s, stream.parallelization, stream.bisect) == (
        100,
        -1,
        -1,
        1,
        False,
    )


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"BatchSize": 11}, AwsError),
        ({"EventSourceArn": QUEUE + ".fifo", "BatchSize": 11, "MaximumBatchingWindowInSeconds": 1}, AwsError),
        ({"EventSourceArn": STREAM}, AwsError),
        ({"EventSourceArn": "arn:aws:kafka:us-east-1:000000000000:cluster/c"}, NotEmulated),
        ({"TumblingWindowInSeconds": 5}, AwsError),
        (
            {
                "EventSourceArn": STREAM,
                "StartingPosition": "LATEST",
                "TumblingWindowInSeconds": 5,
                "ParallelizationFactor": 2,
            },
            NotEmulated,
        ),
        ({"FilterCriteria": {"Filters": [{"Pattern": "{oops"}]}}, AwsError),
        ({"FilterCriteria": {"Filters": [{"Pattern": '{"a": [{"near": 1}]}'}]}}, AwsError),
    ],
)
def test_settings_that_are_refused(more, error):
    with pytest.raises(error):
        source(**more)


@pytest.mark.parametrize(
    ("payload", "failed"),
    [
        (b"null", []),
        (b"", []),
        (b"{}", []),
        (b'{"batchItemFailures": []}', []),
        (b'{"batchItemFailures": null}', []),
        (b'{"batchItemFailures": [{"itemIdentifier": "2"}]}', ["2"]),
        (b'{"batchItemFailures": [{"itemIdentifier": ""}]}', None),
        (b'{"batchItemFailures": [{"itemIdentifier": null}]}', None),
        (b'{"batchItemFailures": [{"itemIdentifier": "9"}]}', None),
        (b'{"batchItemFailures": [{"item_identifier": "1"}]}', None),
        (b'{"batch_item_failures": [{"itemIdentifier": "1"}]}', None),
        (b'{"batchItemFailures": "1"}', None),
    ],
)
def test_what_a_function_reports(payload, failed):
    assert batches.failed_ids(payload, ["1", "2"]) == failed


@pytest.mark.parametrize(
    ("pattern", "value", "fits"),
    [
        ({"a": [1]}, {"a": 1}, True),
        ({"a": [1, 2]}, {"a": 2}, True),
        ({"a": [1]}, {"a": "1"}, False),
        ({"a": [True]}, {"a": 1}, False),
        ({"a": [None]}, {"a": None}, True),
        ({"a": ["x"]}, {}, False),
        ({"a": ["x"]}, {"a": ["y", "x"]}, True),
        ({"a": {"b": ["x"]}}, {"a": {"b": "x"}}, True),
        ({"a": {"b": ["x"]}}, {"a": 1}, False),
        ({"a": ["x"], "b": ["y"]}, {"a": "x", "b": "z"}, False),
        ({"a": [{"prefix": "ab"}]}, {"a": "abc"}, True),
        ({"a": [{"suffix": "bc"}]}, {"a": "abc"}, True),
        ({"a": [{"wildcard": "a*c*"}]}, {"a": "abcd"}, True),
        ({"a": [{"equals-ignore-case": "AB"}]}, {"a": "ab"}, True),
        ({"a": [{"anything-but": ["x"]}]}, {"a": "y"}, True),
        ({"a": [{"anything-but": {"prefix": "x"}}]}, {"a": "xy"}, False),
        ({"a": [{"anything-but": ["x"]}]}, {}, False),
        ({"a": [{"exists": True}]}, {"a": None}, True),
        ({"a": [{"exists": False}]}, {}, True),
        ({"a": [{"exists": False}]}, {"a": 1}, False),
        ({"a": [{"numeric": [">", 1, "<=", 3]}]}, {"a": 3}, True),
        ({"a": [{"numeric": [">", 1, "<=", 3]}]}, {"a": 1}, False),
        ({"$or": [{"a": [1]}, {"b": [2]}]}, {"b": 2}, True),
        ({"$or": [{"a": [1]}, {"b": [2]}]}, {"b": 3}, False),
    ],
)
def test_patterns(pattern, value, fits):
    check(pattern)
    assert matches(pattern, value) is fits


def test_a_filter_looks_into_bodies_and_data():
    queue = source(FilterCriteria={"Filters": [{"Pattern": json.dumps({"body": {"n": [1]}})}]})
    assert batches.passes(queue, {"body": '{"n": 1}'})
    assert not batches.passes(queue, {"body": "text"})
    stream = source(
        EventSourceArn=STREAM,
        StartingPosition="LATEST",
        FilterCriteria={"Filters": [{"Pattern": '{"data": {"n": [1]}}'}]},
    )

    def record(data):
        return {"kinesis": {"data": base64.b64encode(data).decode(), "partitionKey": "p"}}

    assert batches.passes(stream, record(b'{"n": 1}'))
    assert not batches.passes(stream, record(b'{"n": 2}'))
    assert not batches.passes(stream, record(b"\xff"))


def test_one_key_stays_in_one_lane():
    records = [{"kinesis": {"partitionKey": f"k{n % 7}", "data": ""}} for n in range(70)]
    lanes = {}
    for record in records:
        lanes.setdefault(record["kinesis"]["partitionKey"], set()).add(batches.lane_of(record, 4))
    assert all(len(lane) == 1 for lane in lanes.values())
    assert len(set.union(*lanes.values())) > 1
