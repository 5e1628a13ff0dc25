"""Log files as CloudWatch Logs events: configuration, where an event begins, its time, batches within the limits."""

import json

import pytest

from foreshore.greengrass.log_events import (
    MAX_BATCH_BYTES,
    MAX_EVENT_BYTES,
    MAX_EVENTS,
    batches,
    events_of,
    read_settings,
    stream_of,
)

NOW = 1_795_000_000_000
LINE = "2026-11-18T{:02d}:06:40.000Z [INFO] (main) c: {}"


def source(**item):
    settings, findings = read_settings({"logsUploaderConfiguration": {"componentLogsConfigurationMap": {"c": item}}})
    assert findings == []
    return settings.sources[0]


def test_settings_in_all_their_forms():
    settings, findings = read_settings(
        {
            "periodicUploadIntervalSec": "0.5",
            "logsUploaderConfiguration": {
                "systemLogsConfiguration": {
                    "uploadToCloudWatch": "true", "minimumLogLevel": "WARN", "diskSpaceLimit": "10",
                    "diskSpaceLimitUnit": "MB", "deleteLogFileAfterCloudUpload": "false",
                },
                "componentLogsConfigurationMap": {"com.a": {"deleteLogFileAfterCloudUpload": "true"}},
                "componentLogsConfiguration": [
                    {"componentName": "com.b", "logFileRegex": r"b\d+\.txt", "logFileDirectoryPath": "/var/b",
                     "diskSpaceLimit": "3"},
                    {"componentName": "com.a", "logFileRegex": "the map wins"},
                ],
            },
        }
    )  # fmt: skip
    assert findings == [] and settings.interval_s == 0.5
    a, b, system = settings.sources
    assert a.group("eu-west-1") == "/aws/greengrass/UserComponent/eu-west-1/com.a"
    assert system.group("eu-west-1") == "/aws/greengrass/GreengrassSystemComponent/eu-west-1/System"
    assert (a.deletes, a.limit, b.limit, system.limit, system.level) == (True, None, 3072, 10 * 1024**2, "WARN")
    assert a.pattern.search("com.a_2026_11_21_09_0.log") and not a.pattern.search("comXa.log")
    assert system.pattern.search("greengrass.log") and (b.folder, a.folder) == ("/var/b", "")
    assert read_settings({})[0].sources == ()
    off = {"logsUploaderConfiguration": {"systemLogsConfiguration": {"uploadToCloudWatch": "false"}}}
    assert read_settings(off)[0].sources == ()


@pytest.mark.parametrize(
    ("configuration", "text"),
    [
        ({"periodicUploadIntervalSec": "0"}, "greater than 0"),
        ({"periodicUploadIntervalSec": "soon"}, "greater than 0"),
        ({"logFileRegex": "("}, "no regular expression"),
        ({"minimumLogLevel": "LOUD"}, "minimumLogLevel must be one of"),
        ({"diskSpaceLimit": "3", "diskSpaceLimitUnit": "TB"}, "diskSpaceLimit"),
    ],
)
def test_mistakes_are_found(configuration, text):
    wrapped = {"logsUploaderConfiguration": {"componentLogsConfigurationMap": {"c": configuration}}, **configuration}
    assert text in " ".join(read_settings(wrapped)[1])


def test_lines_become_events():
    text = "\n".join([LINE.format(10, "one"), "  at x", "Caused by y", LINE.format(11, "two"), LINE.format(12, "cut")])
    found = list(events_of(text.encode(), 100, source(), NOW))
    assert [event.message.splitlines()[1:] for event in found] == [["  at x", "Caused by y"], []]
    assert found[0].time_ms == 1_794_996_400_000 and found[1].time_ms - found[0].time_ms == 3_600_000
    assert found[-1].end == 100 + text.rindex("\n") + 1
    assert len(list(events_of(text.encode(), 0, source(), NOW, is_end=True))) == 3
    other = list(events_of(b"a\nb\n", 0, source(multiLineStartPattern="^."), NOW))
    assert [event.message for event in other] == ["a", "b"] and other[0].time_ms == NOW


def test_the_level_applies_to_lines_in_json():
    lines = [{"level": level, "timestamp": NOW - 5, "message": "m"} for level in ("DEBUG", "WARN")]
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    kept = [event for event in events_of(data, 0, source(minimumLogLevel="WARN"), NOW) if event.message]
    assert [json.loads(event.message)["level"] for event in kept] == ["WARN"] and kept[0].time_ms == NOW - 5
    text = (LINE.format(10, "DEBUG in text is not filtered") + "\n").encode()
    assert [event.message for event in events_of(text, 0, source(minimumLogLevel="ERROR"), NOW)] != [""]


def test_batches_keep_the_limits_and_lose_nothing():
    assert stream_of(NOW, "a:b") == "/2026/11/18/thing/a+b"
    data = b"".join((LINE.format(10, i) + "\n").encode() for i in range(MAX_EVENTS + 5))
    first, second = batches(data, 0, source(), "t", NOW)
    assert (len(first.events), len(second.events), second.end) == (MAX_EVENTS, 5, len(data))
    data = b"".join((LINE.format(10, "x" * 100_000) + "\n").encode() for _ in range(25))
    found = list(batches(data, 7, source(), "t", NOW))
    assert all(batch.size <= MAX_BATCH_BYTES for batch in found) and sum(len(batch.events) for batch in found) == 25
    assert [batch.end for batch in found] == sorted({batch.end for batch in found}) and found[-1].end == 7 + len(data)
    data = (LINE.format(10, "é" * MAX_EVENT_BYTES) + "\n").encode()
    pieces = [text for batch in batches(data, 0, source(), "t", NOW) for _, text in batch.events]
    assert len(pieces) == 3 and "".join(pieces) == data.decode().rstrip("\n")
    assert max(len(piece.encode()) for piece in pieces) <= MAX_EVENT_BYTES


def test_days_are_streams_and_old_lines_are_left_out():
    days = ["2026-10-01", "2026-11-17", "2026-11-18", "2026-11-19"]
    data = "".join(f"{day}T01:00:00Z line\n" for day in days).encode()
    found = list(batches(data, 0, source(), "t", NOW))
    assert [batch.stream for batch in found] == ["/2026/11/17/thing/t", "/2026/11/18/thing/t"]
    assert found[-1].end == len(data)
    data = b"2026-11-18T02:00:00Z late\n2026-11-18T01:00:00Z early\n"
    [batch] = batches(data, 0, source(), "t", NOW)
    assert [event["message"][-5:] for event in batch.request()] == ["early", " late"]
