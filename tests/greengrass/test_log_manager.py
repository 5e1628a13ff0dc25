"""Log uploads from a running core, read back by boto3: rotation, restart, deletion, groups and streams."""

import json
import re
import textwrap
import time
from datetime import UTC, datetime

import pytest

from tests.e2e.conftest import start, stop

LOGS = "aws.greengrass.LogManager"
TALKER = textwrap.dedent("""
    RecipeFormatVersion: '2020-01-25'
    ComponentName: com.example.Talker
    ComponentVersion: 1.0.0
    Manifests:
      - Platform: {os: linux}
        Lifecycle:
          run: echo hello from the component; exec sleep 600
""")
GROUP = "/aws/greengrass/UserComponent/us-east-1/"


def write(folder, components):
    configuration = {
        "periodicUploadIntervalSec": "0.2",
        "logsUploaderConfiguration": {
            "systemLogsConfiguration": {"uploadToCloudWatch": "true"},
            "componentLogsConfigurationMap": components,
        },
    }
    update = {"merge": json.dumps(configuration)}
    components = {
        "com.example.Talker": {"componentVersion": "1.0.0"},
        LOGS: {"componentVersion": "2.3.9", "configurationUpdate": update},
    }
    (folder / "recipes").mkdir(exist_ok=True)
    (folder / "recipes/talker.yaml").write_text(TALKER)
    (folder / "recipes/deployment.json").write_text(json.dumps({"components": components}))


def messages(edge, group):
    """Every message of a group, in the order of its streams."""
    logs = edge.boto3("logs")
    try:
        streams = logs.describe_log_streams(logGroupName=group)["logStreams"]
    except logs.exceptions.ResourceNotFoundException:
        return []
    found = []
    for stream in streams:
        assert re.fullmatch(r"/\d{4}/\d\d/\d\d/thing/[\w-]+", stream["logStreamName"])
        found += logs.get_log_events(logGroupName=group, logStreamName=stream["logStreamName"], startFromHead=True)[
            "events"
        ]
    return [event["message"] for event in found]


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def lines(*numbers):
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return "".join(f"{now} line {number}\n" for number in numbers)


def numbers(edge):
    return [int(text.rpartition(" ")[2]) for text in messages(edge, GROUP + "own")]


def test_logs_reach_cloudwatch_logs_once(tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    own = {"logFileRegex": r"own.*\.txt", "logFileDirectoryPath": str(folder), "deleteLogFileAfterCloudUpload": "true"}
    write(tmp_path, {"com.example.Talker": {}, "own": own})
    file = folder / "own.txt"
    file.write_text(lines(1, 2) + "no end yet")
    edge = start(tmp_path, tmp_path / "home", "--only", "iot,greengrass")
    try:
        until(lambda: any("hello from the component" in text for text in messages(edge, GROUP + "com.example.Talker")))
        system = "/aws/greengrass/GreengrassSystemComponent/us-east-1/System"
        until(lambda: any("deployment" in text for text in messages(edge, system)))
        until(lambda: numbers(edge) == [1, 2])
        # Rotated: what is left of it is uploaded, then it is removed.
        rotated = folder / "own_1.txt"
        file.rename(rotated)
        file.write_text(lines(4))
        until(lambda: not rotated.exists())
        until(lambda: "no end yet" in " ".join(messages(edge, GROUP + "own")))
        until(lambda: any(text.endswith("line 4") for text in messages(edge, GROUP + "own")))
        assert file.exists()
    finally:
        stop(edge)
    # Another start goes on where the file was.
    with file.open("a") as stream:
        stream.write(lines(5))
    edge = start(tmp_path, tmp_path / "home", "--only", "iot,greengrass")
    try:
        until(lambda: any(text.endswith("line 5") for text in messages(edge, GROUP + "own")))
        assert sum(text.endswith("line 4") for text in messages(edge, GROUP + "own")) == 1
    finally:
        stop(edge)


@pytest.mark.parametrize("limit", ["1", "100"])
def test_the_disk_space_limit_removes_the_oldest(tmp_path, limit):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for number in range(3):
        (folder / f"own{number}.txt").write_text(lines(*range(20)))
    own = {"logFileRegex": r"own.*\.txt", "logFileDirectoryPath": str(folder), "diskSpaceLimit": limit}
    write(tmp_path, {"own": own})
    edge = start(tmp_path, tmp_path / "home", "--only", "iot,greengrass")
    try:
        until(lambda: len(numbers(edge)) == 60)
        if limit == "1":
            until(lambda: len(list(folder.iterdir())) == 1)
        else:
            assert len(list(folder.iterdir())) == 3
    finally:
        stop(edge)
