"""Time to live, what a kill leaves, and which export goes next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.greengrass.stream_manager.definitions import Export, read_definition
from foreshore.greengrass.stream_manager.frames import Failure
from foreshore.greengrass.stream_manager.s3_task import file_of, fill_key
from foreshore.greengrass.stream_manager.schedule import Turn, Waiting, choose, due_ms
from foreshore.greengrass.stream_manager.streams import Streams


def define(**changes: Any) -> Any:
    raw = {"name": "s", "maxSize": 4096, "streamSegmentSize": 1024, "strategyOnFull": 1, **changes}
    return read_definition(raw)


def test_time_to_live_drops_segments_whose_newest_is_too_old(tmp_path: Path) -> None:
    streams = Streams(tmp_path / "s.db")
    streams.create(define(timeToLiveMillis=60_000))
    for now, size in ((0, 600), (10_000, 600), (50_000, 300)):
        streams.append("s", b"x" * size, now)
    stream = streams.get("s")
    streams.expire(stream, 59_999)
    assert (stream.oldest, stream.size) == (0, 1500)
    streams.expire(stream, 60_001)
    assert (stream.oldest, stream.size) == (1, 900)
    streams.expire(stream, 110_001)
    assert (stream.oldest, stream.next, stream.size) == (3, 3, 0)
    assert streams.append("s", b"y", 110_002) == 3
    assert [message.sequence for message in streams.read("s", 0, 9)] == [3]
    streams.close()


@settings(max_examples=25, derandomize=True, deadline=None)
@given(st.lists(st.integers(1, 1500), max_size=25), st.integers(0, 24))
def test_a_stream_is_never_over_its_size_and_reloads_as_it_was(
    tmp_path_factory: Any, sizes: list[int], cut: int
) -> None:
    path = tmp_path_factory.mktemp("streams") / "s.db"
    streams = Streams(path)
    streams.create(define())
    for index, size in enumerate(sizes):
        if index == cut:
            before = streams.get("s")
            streams.close()
            streams = Streams(path)
            after = streams.get("s")
            assert (after.next, after.oldest, after.size) == (before.next, before.oldest, before.size)
        assert streams.append("s", bytes(size), 0) == index
        stream = streams.get("s")
        assert stream.size <= 4096
        kept = streams.read("s", 0, 99)
        assert [message.sequence for message in kept] == list(range(stream.oldest, stream.next))
        assert sum(len(message.payload) for message in kept) == stream.size
    streams.close()


APPENDER = """
import sys
from pathlib import Path
from foreshore.greengrass.stream_manager.definitions import read_definition
from foreshore.greengrass.stream_manager.streams import Streams
streams = Streams(Path(sys.argv[1]))
streams.create(read_definition({"name": "s", "strategyOnFull": 0}))
while True:
    print(streams.append("s", b"x" * 100, 0), flush=True)
"""


def test_what_append_returned_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    process = subprocess.Popen([sys.executable, "-c", APPENDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    last = -1
    while last < 200:
        last = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    rest = process.stdout.read().splitlines()
    process.wait()
    process.stdout.close()
    last = max([last, *(int(line) for line in rest[:-1])])
    streams = Streams(path)
    stream = streams.get("s")
    assert stream.next > last
    assert [message.sequence for message in streams.read("s", 0, 10**6)] == list(range(stream.next))
    streams.close()


@pytest.mark.parametrize(
    ("export", "waiting", "turn", "expected"),
    [
        ({}, Waiting(0, 0), {}, None),
        ({}, Waiting(1, 500), {}, 0),
        ({"disabled": True}, Waiting(1, 500), {}, None),
        ({"batch_interval_ms": 1000, "batch_size": 5}, Waiting(4, 500), {}, 1500),
        ({"batch_interval_ms": 1000, "batch_size": 5}, Waiting(5, 500), {}, 0),
        ({}, Waiting(1, 500), {"paused_until_ms": 900}, 900),
    ],
)
def test_when_an_export_is_due(export: dict[str, Any], waiting: Waiting, turn: dict[str, int], expected: Any) -> None:
    assert due_ms(Turn("s", Export("http", "h", **export), **turn), waiting) == expected


def test_priority_then_patience() -> None:
    low, old, new = (
        Turn("s", Export("http", name, priority=priority), last_ms=last)
        for name, priority, last in (("low", 10, 0), ("old", 1, 5), ("new", 1, 9))
    )
    one = Waiting(1, 0)
    assert choose([(low, one), (new, one), (old, one)], 10) == (old, None)
    old.fail(10)
    assert choose([(low, one), (old, one)], 10) == (low, None)
    assert choose([(low, Waiting(0, 0)), (old, one)], 10) == (None, 1010)
    old.fail(1010)
    assert old.paused_until_ms == 3010
    for _ in range(10):
        old.fail(0)
    assert old.paused_until_ms == 300_000
    old.succeed(7)
    assert choose([(old, one)], 7) == (old, None)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (None, "definition is required"),
        ({"name": "a/b"}, "name must have"),
        ({"maxSize": 10}, "maxSize must be"),
        ({"strategyOnFull": None}, "strategyOnFull must be 0 or 1"),
        ({"timeToLiveMillis": 5}, "timeToLiveMillis"),
        ({"streamSegmentSize": 8192}, "must not be greater"),
        ({"exportDefinition": {"IotSitewise": [{"identifier": "s", "batchSize": 11}]}}, "from 1 to 10"),
        ({"exportDefinition": {"iotAnalytics": [{"identifier": "a"}]}}, "closed by AWS"),
        ({"exportDefinition": {"firehose": [{"identifier": "f"}]}}, "no export destination"),
        ({"exportDefinition": {"s3TaskExecutor": [{"identifier": "t", "priority": 11}]}}, "priority"),
        (
            {"exportDefinition": {"s3TaskExecutor": [{"identifier": "t", "sizeThresholdForMultipartUploadBytes": 9}]}},
            "sizeThresholdForMultipartUploadBytes",
        ),
        ({"exportDefinition": {"kinesis": [{"identifier": "", "kinesisStreamName": "x"}]}}, "identifier"),
        ({"exportDefinition": {"kinesis": [{"identifier": "k" * 256, "kinesisStreamName": "x"}]}}, "identifier"),
        ({"exportDefinition": {"http": [{"identifier": "h", "uri": "ftp://x"}]}}, "http://"),
        ({"exportDefinition": {"http": [{"identifier": "h", "uri": "http://x", "exportFormat": 2}]}}, "exportFormat"),
        ({"exportDefinition": {"kinesis": [{"identifier": "h"}]}}, "kinesisStreamName is required"),
        (
            {"exportDefinition": {"kinesis": [{"identifier": "k", "kinesisStreamName": "x", "batchSize": 501}]}},
            "batchSize",
        ),
        ({"exportDefinition": {"kinesis": [{"identifier": "k", "kinesisStreamName": "x"}] * 2}}, "must be unique"),
    ],
)
def test_definitions_that_are_refused(raw: Any, text: str) -> None:
    with pytest.raises(Failure, match=text):
        define(**raw) if raw is not None else read_definition(None)


def test_keys_and_urls() -> None:
    now = datetime(2026, 11, 21, 7, 5, 9, tzinfo=UTC)
    assert fill_key("a/!{timestamp:yyyy/MM/dd}/!{timestamp:HHmmss}.csv", now) == "a/2026/11/21/070509.csv"
    assert file_of("file:///a%20b") == file_of("/a b") == "/a b"
    for wrong in (lambda: fill_key("!{timestamp:QQ}", now), lambda: file_of("http://x/y"), lambda: file_of("file:x")):
        with pytest.raises(ValueError):
            wrong()
