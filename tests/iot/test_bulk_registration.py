"""Bulk registration with boto3 against a backend's S3, and what ends a task early."""

import json
import urllib.request

import pytest

from foreshore.database import MEMORY
from foreshore.errors import AwsError
from foreshore.iot.bulk_registration import BulkRegistration
from foreshore.iot.store import Arns, Ground, open_database
from tests.e2e.conftest import start, stop

TEMPLATE = {
    "Parameters": {"Name": {"Type": "String"}},
    "Resources": {"thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "Name"}}}},
}
ROLE = "arn:aws:iam::000000000000:role/bulk-registration"


@pytest.fixture(scope="module")
def edge(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bulk")
    running = start(folder, folder / "home", "--only", "iot")
    yield running
    stop(running)


def wait(iot, task):
    while True:
        found = iot.describe_thing_registration_task(taskId=task)
        if found["status"] not in ("InProgress", "Cancelling"):
            return found


def test_things_of_a_file(edge):
    iot, s3 = edge.boto3("iot"), edge.boto3("s3")
    s3.create_bucket(Bucket="bulk")
    lines = [b'{"Name": "one"}', b'{"Name": "two"}', b"no JSON", b'{"Name": "not valid!"}', b'{"Other": "x"}']
    s3.put_object(Bucket="bulk", Key="in.json", Body=b"\n".join(lines))
    given = {"templateBody": json.dumps(TEMPLATE), "inputFileBucket": "bulk", "roleArn": ROLE}
    task = iot.start_thing_registration_task(inputFileKey="in.json", **given)["taskId"]
    done = wait(iot, task)
    assert (done["status"], done["successCount"], done["failureCount"]) == ("Completed", 2, 3)
    assert done["percentageProgress"] == 100
    assert {each["thingName"] for each in iot.list_things()["things"]} == {"one", "two"}
    assert task in iot.list_thing_registration_tasks(status="Completed")["taskIds"]
    rows = {}
    for kind in ("RESULTS", "ERRORS"):
        (link,) = iot.list_thing_registration_task_reports(taskId=task, reportType=kind)["resourceLinks"]
        with urllib.request.urlopen(link) as answer:
            rows[kind] = [json.loads(line) for line in answer.read().splitlines()]
    assert [row["lineNumber"] for row in rows["RESULTS"]] == [1, 2]
    assert rows["RESULTS"][0]["response"]["ResourceArns"]["thing"].endswith(":thing/one")
    assert [row["lineNumber"] for row in rows["ERRORS"]] == [3, 4, 5]
    assert "ThingName is missing or not valid" in rows["ERRORS"][1]["errorMessage"]

    task = iot.start_thing_registration_task(inputFileKey="none.json", **given)["taskId"]
    failed = wait(iot, task)
    assert failed["status"] == "Failed"
    assert "can't be read" in failed["message"]
    assert iot.list_thing_registration_task_reports(taskId=task, reportType="ERRORS")["resourceLinks"] == []
    with pytest.raises(iot.exceptions.InvalidRequestException):
        iot.stop_thing_registration_task(taskId=task)
    with pytest.raises(iot.exceptions.ResourceNotFoundException):
        iot.describe_thing_registration_task(taskId="none")
    with pytest.raises(iot.exceptions.InvalidRequestException):
        iot.start_thing_registration_task(inputFileKey="in.json", **{**given, "templateBody": "{"})


class Files:
    """S3 in memory: reading runs `on_read` first."""

    def __init__(self, body):
        self.body, self.written, self.on_read = body, {}, lambda: None

    async def read(self, target, /, limit=None):
        self.on_read()
        return self.body

    async def write(self, target, body, /):
        self.written[target.key] = body

    def presign(self, method, target, seconds, /):
        return target.key


def run(coroutine):
    with pytest.raises(StopIteration):
        coroutine.send(None)


def test_a_task_that_is_stopped_and_one_that_a_restart_ended():
    ground = Ground(open_database(MEMORY), Arns("us-east-1", "0" * 12), lambda: 1.0, lambda: "task")
    files, spawned = Files(b'{"Name": "one"}'), []
    tasks = BulkRegistration(ground, None, files, spawned.append)
    params = {"templateBody": json.dumps(TEMPLATE), "inputFileBucket": "b", "inputFileKey": "k", "roleArn": ROLE}
    tasks.start(params, None)
    files.on_read = lambda: tasks.stop({"taskId": "task"}, None)
    run(spawned.pop())
    shown = tasks.describe({"taskId": "task"}, None)
    assert (shown["status"], shown["successCount"], files.written) == ("Cancelled", 0, {})
    tasks.start(params, None)
    spawned.pop().close()
    again = BulkRegistration(ground, None, files, spawned.append)
    assert again.describe({"taskId": "task"}, None)["status"] == "Failed"
    with pytest.raises(AwsError, match="not found"):
        again.describe({"taskId": "other"}, None)
