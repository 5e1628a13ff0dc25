"""`foreshore shadow` and `foreshore job` as processes against a running edge."""

import json
import os
import subprocess
import sys

import pytest

from tests.e2e.conftest import start, stop


@pytest.fixture(scope="module")
def edge(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    running = start(folder, folder / "home", "--only", "iot")
    for name in ("pump", "valve"):
        running.boto3("iot").create_thing(thingName=name)
    yield running
    stop(running)


def environment(edge):
    return {**os.environ, "FORESHORE_ENDPOINTS": str(edge.home / "endpoints.json")}


def foreshore(edge, *argv, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "foreshore", *argv], env=environment(edge), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stdout + done.stderr


def test_a_shadow_is_updated_read_and_deleted(edge, tmp_path):
    made = json.loads(foreshore(edge, "shadow", "update", "pump", "--desired", '{"rpm": 900}', "--reported", "{}"))
    assert made["state"]["desired"] == {"rpm": 900}
    assert json.loads(foreshore(edge, "shadow", "get", "pump"))["state"]["delta"] == {"rpm": 900}
    (tmp_path / "wish.json").write_text('{"state": {"reported": {"rpm": 900}}}')
    foreshore(edge, "shadow", "update", "pump", str(tmp_path / "wish.json"), "--version", str(made["version"]))
    assert "delta" not in json.loads(foreshore(edge, "shadow", "get", "pump"))["state"]
    foreshore(edge, "shadow", "update", "pump", '{"state": {"desired": {}}}', "--name", "limits")
    assert foreshore(edge, "shadow", "list", "pump") == "limits\n"
    foreshore(edge, "shadow", "delete", "pump", "--name", "limits")
    assert foreshore(edge, "shadow", "list", "pump") == ""


def test_what_is_wrong_with_a_shadow_is_said(edge):
    assert "error[ResourceNotFoundException]" in foreshore(edge, "shadow", "get", "valve", code=1)
    refused = foreshore(edge, "shadow", "update", "pump", "--desired", '{"a": 1}', "--version", "999", code=1)
    assert "error[ConflictException]" in refused
    assert "this is not JSON" in foreshore(edge, "shadow", "update", "pump", "{", code=2)
    assert "give DOCUMENT" in foreshore(edge, "shadow", "update", "pump", code=2)


def test_a_shadow_is_watched(edge):
    watcher = subprocess.Popen(
        [sys.executable, "-m", "foreshore", "shadow", "watch", "valve", "-n", "3", "--json"],
        env=environment(edge), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert watcher.stderr.readline() == "watching $aws/things/valve/shadow\n"
    foreshore(edge, "shadow", "update", "valve", "--desired", '{"open": true}')
    out, _ = watcher.communicate(timeout=30)
    messages = {found["event"]: found["document"] for found in map(json.loads, out.splitlines())}
    assert set(messages) == {"update/accepted", "update/delta", "update/documents"}
    assert messages["update/delta"]["state"] == {"open": True}


def test_a_job_is_created_followed_and_ended(edge):
    edge.boto3("iot").create_thing_group(thingGroupName="all")
    edge.boto3("iot").add_thing_to_thing_group(thingGroupName="all", thingName="valve")
    arn = foreshore(edge, "job", "create", "update-1", '{"do": "it"}', "--thing", "pump", "--group", "all")
    assert arn.endswith(":job/update-1\n")
    assert foreshore(edge, "job", "list").split() == ["update-1", "IN_PROGRESS"]
    assert json.loads(foreshore(edge, "job", "details", "update-1", "--document")) == {"do": "it"}
    assert sorted(foreshore(edge, "job", "executions", "update-1").split("\n")) == [
        "", f"{'pump':<36} QUEUED", f"{'valve':<36} QUEUED"
    ]  # fmt: skip
    for thing in ("pump", "valve"):
        device = edge.boto3("iot-jobs-data")
        device.start_next_pending_job_execution(thingName=thing)
        device.update_job_execution(jobId="update-1", thingName=thing, status="SUCCEEDED")
    assert foreshore(edge, "job", "watch", "update-1") == "COMPLETED Succeeded=2\n"
    assert "SUCCEEDED" in foreshore(edge, "job", "executions", "--thing", "pump")
    foreshore(edge, "job", "delete", "update-1")
    assert foreshore(edge, "job", "list") == ""


def test_a_canceled_job_exits_with_1(edge):
    foreshore(edge, "job", "create", "never", "{}", "--thing", "pump")
    assert foreshore(edge, "job", "cancel", "never") == "never: canceled\n"
    assert "CANCELED" in foreshore(edge, "job", "watch", "never", code=1)
    assert "error[ResourceNotFoundException]" in foreshore(edge, "job", "details", "none", code=1)
    assert "give --thing or --group" in foreshore(edge, "job", "create", "x", "{}", code=2)
