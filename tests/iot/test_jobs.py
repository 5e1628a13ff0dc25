"""Jobs with the SDK's own jobs client over MQTT, boto3 for both APIs, and the rules of rollouts, timeouts, retries."""

import asyncio
import json
import queue
from datetime import UTC, datetime

import pytest
from awscrt import mqtt
from awsiot import iotjobs

from foreshore.database import MEMORY
from foreshore.errors import AwsError
from foreshore.iot.job_devices import JobDevices, JobsData
from foreshore.iot.job_documents import S3Object, s3_object
from foreshore.iot.job_files import presigned_url
from foreshore.iot.job_rollouts import Rollouts
from foreshore.iot.job_schedules import cron
from foreshore.iot.job_templates import JobTemplates
from foreshore.iot.jobs import Jobs
from foreshore.iot.rules.actions.signing import Credentials
from foreshore.iot.store import Arns, Ground, Tags, open_database
from foreshore.seams import Publication
from tests.e2e.conftest import start, stop
from tests.iot.test_shadows import shadow_client

QOS = mqtt.QoS.AT_LEAST_ONCE
ARN = "arn:aws:iot:us-east-1:000000000000:thing/"


@pytest.fixture(scope="module")
def edge(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jobs")
    running = start(folder, folder / "home", "--only", "iot")
    yield running
    stop(running)


def test_the_sdks_jobs_client_runs_a_job(edge, tmp_path):
    iot = edge.boto3("iot")
    for name in ("pump-1", "pump-2"):
        iot.create_thing(thingName=name)
    connection, _ = shadow_client(edge, tmp_path)
    client = iotjobs.IotJobsClient(connection)
    got = {name: queue.Queue() for name in ("next", "started", "updated", "rejected", "described", "ended", "notify")}
    thing = {"thing_name": "pump-1"}
    pairs = {
        "next": ("next_job_execution_changed_events", iotjobs.NextJobExecutionChangedSubscriptionRequest(**thing)),
        "notify": ("job_executions_changed_events", iotjobs.JobExecutionsChangedSubscriptionRequest(**thing)),
        "started": (
            "start_next_pending_job_execution_accepted",
            iotjobs.StartNextPendingJobExecutionSubscriptionRequest(**thing),
        ),
    }
    for name, verb, word in (("updated", "Update", "accepted"), ("rejected", "Update", "rejected"),
                             ("described", "Describe", "accepted"), ("ended", "Describe", "rejected")):  # fmt: skip
        request = getattr(iotjobs, f"{verb}JobExecutionSubscriptionRequest")(job_id="+", **thing)
        pairs[name] = (f"{verb.lower()}_job_execution_{word}", request)
    for name, (what, request) in pairs.items():
        getattr(client, f"subscribe_to_{what}")(request, QOS, got[name].put)[0].result(20)

    targets = [ARN + "pump-1", ARN + "pump-2"]
    made = iot.create_job(jobId="reboot", targets=targets, document=json.dumps({"do": "reboot"}), description="d")
    assert made["jobArn"].endswith(":job/reboot")
    notice = got["next"].get(timeout=20)
    assert (notice.execution.job_id, notice.execution.status, notice.execution.job_document) == (
        "reboot",
        "QUEUED",
        {"do": "reboot"},
    )
    assert [each.job_id for each in got["notify"].get(timeout=20).jobs["QUEUED"]] == ["reboot"]

    client.publish_start_next_pending_job_execution(iotjobs.StartNextPendingJobExecutionRequest(**thing), QOS).result(
        20
    )
    started = got["started"].get(timeout=20)
    assert (started.execution.status, started.execution.version_number) == ("IN_PROGRESS", 2)

    wrong = iotjobs.UpdateJobExecutionRequest(job_id="reboot", status="SUCCEEDED", expected_version=9, **thing)
    client.publish_update_job_execution(wrong, QOS).result(20)
    refused = got["rejected"].get(timeout=20)
    assert (refused.code, refused.execution_state.status) == ("VersionMismatch", "IN_PROGRESS")

    described = iotjobs.DescribeJobExecutionRequest(job_id="reboot", **thing)
    client.publish_describe_job_execution(described, QOS).result(20)
    assert got["described"].get(timeout=20).execution.status == "IN_PROGRESS"

    done = iotjobs.UpdateJobExecutionRequest(job_id="reboot", status="SUCCEEDED", expected_version=2,
                                             status_details={"took": "3s"}, client_token="t", **thing)  # fmt: skip
    client.publish_update_job_execution(done, QOS).result(20)
    assert got["updated"].get(timeout=20).client_token == "t"
    assert got["next"].get(timeout=20).execution is None
    client.publish_describe_job_execution(described, QOS).result(20)
    assert got["ended"].get(timeout=20).code == iotjobs.RejectedErrorCode.TERMINAL_STATE_REACHED
    shown = iot.describe_job_execution(jobId="reboot", thingName="pump-1")["execution"]
    assert shown["statusDetails"] == {"detailsMap": {"took": "3s"}}

    details = iot.describe_job(jobId="reboot")["job"]
    assert details["status"] == "IN_PROGRESS"
    assert details["jobProcessDetails"]["numberOfSucceededThings"] == 1
    assert details["jobProcessDetails"]["numberOfQueuedThings"] == 1

    data = edge.boto3("iot-jobs-data")
    assert [each["jobId"] for each in data.get_pending_job_executions(thingName="pump-2")["queuedJobs"]] == ["reboot"]
    execution = data.start_next_pending_job_execution(thingName="pump-2")["execution"]
    assert json.loads(execution["jobDocument"]) == {"do": "reboot"}
    answer = data.update_job_execution(
        thingName="pump-2", jobId="reboot", status="FAILED", includeJobExecutionState=True
    )
    assert answer["executionState"]["status"] == "FAILED"
    assert iot.describe_job(jobId="reboot")["job"]["status"] == "COMPLETED"
    with pytest.raises(data.exceptions.InvalidStateTransitionException):
        data.update_job_execution(thingName="pump-2", jobId="reboot", status="SUCCEEDED")
    with pytest.raises(data.exceptions.ResourceNotFoundException):
        data.describe_job_execution(thingName="pump-2", jobId="nope")
    with pytest.raises(data.exceptions.TerminalStateException, match="neither IN_PROGRESS nor QUEUED"):
        data.describe_job_execution(thingName="pump-2", jobId="reboot")
    listed = iot.list_job_executions_for_job(jobId="reboot")["executionSummaries"]
    assert [each["jobExecutionSummary"]["status"] for each in listed] == ["SUCCEEDED", "FAILED"]
    connection.disconnect().result(20)


def test_a_reply_needs_no_subscription(edge, tmp_path):
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    answers, ready = queue.Queue(), queue.Queue()
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="bare", protocol=paho.MQTTv5)
    client.on_message = lambda _client, _userdata, message: answers.put((message.topic, json.loads(message.payload)))
    client.on_connect = lambda *_: ready.put(True)
    client.connect(*edge.host_port("mqtt"))
    client.loop_start()
    ready.get(timeout=20)
    client.publish("$aws/things/nobody/jobs/get", json.dumps({"clientToken": "x"}), qos=1)
    topic, answer = answers.get(timeout=20)
    assert topic == "$aws/things/nobody/jobs/get/accepted"
    assert (answer["inProgressJobs"], answer["queuedJobs"], answer["clientToken"]) == ([], [], "x")
    for wrong in ({"expectedVersion": "one"}, {"executionNumber": True}, {"stepTimeoutInMinutes": 1.5}):
        client.publish("$aws/things/nobody/jobs/none/update", json.dumps({"status": "SUCCEEDED", **wrong}), qos=1)
        assert answers.get(timeout=20)[1]["code"] == "InvalidRequest"
    client.publish("$aws/things/nobody/jobs/none/update", json.dumps({"status": "SUCCEEDED"}), qos=1)
    topic, answer = answers.get(timeout=20)
    assert (topic.rpartition("/")[2], answer["code"]) == ("rejected", "ResourceNotFound")
    client.disconnect()
    client.loop_stop()


# The rules, with a clock of our own


class Bench:
    """Jobs over a memory store; what is published is kept."""

    def __init__(self, things=()):
        self.now = 1_000_000.0
        self.sent = []
        ground = Ground(open_database(MEMORY), Arns("us-east-1", "0" * 12), lambda: self.now, lambda: "id")
        self.group = list(things)
        self.ground = ground
        for name in ("t", *map(chr, range(ord("a"), ord("k")))):
            ground.kind("thing").put(name, {"thingName": name})
        self.rollouts = Rollouts(ground, self, self, lambda kind: True, self)
        self.devices = JobDevices(ground, self.rollouts, self)
        self.templates = JobTemplates(ground, Tags(ground), self)
        self.jobs = Jobs(ground, Tags(ground), self.rollouts, self.templates, self)
        self.objects = {}

    def things_in(self, name, *, recursive=False):
        return self.group

    def publish(self, publication):
        self.sent.append((publication.topic, json.loads(publication.payload)))

    def add_listener(self, filter, callback):
        return None

    def deliver_to(self, client_id, publication):
        return False

    async def read(self, target):
        return self.objects[target]

    async def write(self, target, body):
        self.objects[target] = body

    def presign(self, method, target, seconds):
        return f"{method} {target.bucket} {target.key} {seconds}"

    def tick(self, seconds=0):
        self.now += seconds
        self.rollouts.tick()

    def create(self, job_id="j", targets=(ARN + "a",), **more):
        for name in (target.removeprefix(ARN) for target in targets):
            self.ground.kind("thing").put(name, {"thingName": name})
        return self.jobs.create({"jobId": job_id, "targets": list(targets), "document": "{}", **more}, None)

    def statuses(self, job_id="j"):
        return {e["thing"]: e["status"] for e in self.rollouts.executions.newest(job_id)}

    def job(self, job_id="j"):
        return self.jobs.describe({"jobId": job_id}, None)["job"]


def test_a_rollout_keeps_its_rate():
    bench = Bench()
    bench.create(targets=[f"{ARN}{i}" for i in range(5)], jobExecutionsRolloutConfig={"maximumPerMinute": 2})
    assert len(bench.statuses()) == 2
    bench.tick()
    assert len(bench.statuses()) == 2
    bench.now += 60
    bench.tick()
    assert len(bench.statuses()) == 4


def test_an_exponential_rollout_grows():
    bench = Bench()
    growth = {"baseRatePerMinute": 1, "incrementFactor": 2.0, "rateIncreaseCriteria": {"numberOfNotifiedThings": 1}}
    rollout = {"exponentialRate": growth, "maximumPerMinute": 1000}
    bench.create(targets=[f"{ARN}{i}" for i in range(9)], jobExecutionsRolloutConfig=rollout)
    sizes = [len(bench.statuses())]
    for _ in range(2):
        bench.now += 60
        bench.tick()
        sizes.append(len(bench.statuses()))
    assert sizes == [1, 3, 9]


def test_a_rollout_may_grow_by_whichever_criterion_is_met_first():
    bench = Bench()
    either = {"numberOfNotifiedThings": 1000, "numberOfSucceededThings": 1}
    growth = {"baseRatePerMinute": 1, "incrementFactor": 2.0, "rateIncreaseCriteria": either}
    rollout = {"exponentialRate": growth, "maximumPerMinute": 1000}
    bench.create(targets=[f"{ARN}{i}" for i in range(9)], jobExecutionsRolloutConfig=rollout)
    bench.devices.start_next("0", {})
    bench.devices.update("0", "j", {"status": "SUCCEEDED"})
    bench.now += 60
    bench.tick()
    assert len(bench.statuses()) == 3


def test_both_timers_end_an_execution_and_retries_begin_another():
    bench = Bench()
    retry = {"criteriaList": [{"failureType": "TIMED_OUT", "numberOfRetries": 1}]}
    bench.create(timeoutConfig={"inProgressTimeoutInMinutes": 2}, jobExecutionsRetryConfig=retry)
    bench.devices.start_next("a", {})
    bench.now += 121
    bench.tick()
    assert bench.statuses() == {"a": "QUEUED"}
    execution = bench.devices.start_next("a", {"stepTimeoutInMinutes": 1})["execution"]
    assert (execution["executionNumber"], execution["approximateSecondsBeforeTimedOut"]) == (2, 60)
    bench.now += 61
    bench.tick()
    assert bench.statuses() == {"a": "TIMED_OUT"}
    assert bench.job()["status"] == "COMPLETED"


def test_too_many_failures_abort_a_job():
    bench = Bench()
    abort = {"failureType": "FAILED", "action": "CANCEL", "thresholdPercentage": 50.0, "minNumberOfExecutedThings": 1}
    bench.create(targets=[ARN + "a", ARN + "b"], abortConfig={"criteriaList": [abort]})
    bench.devices.start_next("a", {})
    bench.devices.update("a", "j", {"status": "FAILED"})
    assert bench.job()["status"] == "CANCELED"
    assert bench.statuses() == {"a": "FAILED", "b": "CANCELED"}


def test_a_continuous_job_takes_new_members():
    bench = Bench(["a"])
    bench.create(targets=["arn:aws:iot:us-east-1:000000000000:thinggroup/g"], targetSelection="CONTINUOUS")
    bench.group.append("b")
    bench.tick()
    assert bench.statuses() == {"a": "QUEUED", "b": "QUEUED"}
    bench.devices.start_next("a", {})
    bench.devices.update("a", "j", {"status": "SUCCEEDED"})
    assert bench.job()["status"] == "IN_PROGRESS"


def test_cancelling():
    bench = Bench()
    bench.create(targets=[ARN + "a", ARN + "b"])
    bench.devices.start_next("a", {})
    bench.jobs.cancel({"jobId": "j"}, None)
    assert bench.statuses() == {"a": "IN_PROGRESS", "b": "CANCELED"}
    with pytest.raises(AwsError, match="can't be canceled"):
        bench.jobs.cancel_execution({"jobId": "j", "thingName": "a"}, None)
    bench.jobs.cancel_execution({"jobId": "j", "thingName": "a", "force": True}, None)
    assert bench.statuses()["a"] == "CANCELED"
    with pytest.raises(AwsError):
        bench.jobs.cancel({"jobId": "j"}, None)


def test_events_tell_of_the_job_and_its_executions():
    bench = Bench()
    bench.create()
    bench.devices.start_next("a", {})
    bench.devices.update("a", "j", {"status": "SUCCEEDED"})
    bench.create("k", description="d", comment="c")
    bench.jobs.cancel({"jobId": "k", "comment": "why"}, None)
    bench.jobs.delete({"jobId": "k"}, None)
    events = [(topic.removeprefix("$aws/events/"), message) for topic, message in bench.sent if "/events/" in topic]
    assert [topic for topic, _ in events] == [
        "jobExecution/j/succeeded", "job/j/completed", "job/k/cancellation_in_progress", "jobExecution/k/canceled",
        "job/k/canceled", "job/k/deletion_in_progress", "jobExecution/k/deleted", "job/k/deleted",
    ]  # fmt: skip
    completed, canceled = events[1][1], events[4][1]
    assert completed == {
        "eventType": "JOB", "eventId": "id", "timestamp": 1000000, "operation": "completed", "jobId": "j",
        "status": "COMPLETED", "targetSelection": "SNAPSHOT", "targets": [ARN + "a"], "completedAt": 1000000000,
        "createdAt": 1000000000, "lastUpdatedAt": 1000000000,
        "jobProcessDetails": {
            "numberOfCanceledThings": 0, "numberOfRejectedThings": 0, "numberOfFailedThings": 0,
            "numberOfRemovedThings": 0, "numberOfSucceededThings": 1,
        },
    }  # fmt: skip
    assert (canceled["status"], canceled["description"], canceled["comment"]) == ("CANCELED", "d", "why")
    assert [message["status"] for _, message in events[5::2]] == ["DELETION_IN_PROGRESS", "DELETED"]


def test_templates_and_what_is_refused():
    bench = Bench()
    windows = [{"startTime": "cron(0 8 ? * * *)", "durationInMinutes": 60}]
    bench.templates.create(
        {"jobTemplateId": "t", "document": '{"x": 1}', "description": "d", "maintenanceWindows": windows}, None
    )
    arn = bench.templates.describe({"jobTemplateId": "t"}, None)["jobTemplateArn"]
    params = {"jobId": "j", "targets": [ARN + "a"], "jobTemplateArn": arn, "targetSelection": "CONTINUOUS"}
    bench.jobs.create(params, None)
    assert bench.jobs.document_of({"jobId": "j"}, None) == {"document": '{"x": 1}'}
    assert bench.job()["schedulingConfig"] == {"maintenanceWindows": windows}
    refused = [
        ({"document": "{"}, "not JSON"),
        ({"document": ""}, "One of document"),
        ({"targets": ["arn:aws:s3:::x"]}, "Invalid target"),
        ({"jobTemplateArn": arn, "documentParameters": {"p": "v"}}, "managed templates"),
        ({"document": '["${aws:iot:s3-presigned-url:https://s3.us-east-1.amazonaws.com/b/k}"]'}, "presignedUrlConfig"),
        ({"timeoutConfig": {"inProgressTimeoutInMinutes": 10081}}, "inProgressTimeoutInMinutes"),
        ({"destinationPackageVersions": ["arn"]}, "software packages"),
        ({"namespaceId": "mine"}, "does not emulate jobs in a namespace"),
    ]
    for more, words in refused:
        with pytest.raises(AwsError, match=words):
            bench.create("k", **more)
    with pytest.raises(AwsError, match="already exists"):
        bench.create()


def test_a_managed_template_takes_parameters():
    bench = Bench()
    listed = bench.templates.list_managed({}, None)["managedJobTemplates"]
    assert [each["templateName"] for each in listed] == [
        "AWS-Download-File", "AWS-Install-Application", "AWS-Reboot", "AWS-Remove-Application",
        "AWS-Restart-Application", "AWS-Run-Command", "AWS-Start-Application", "AWS-Stop-Application",
    ]  # fmt: skip
    found = bench.templates.describe_managed({"templateName": "AWS-Download-File"}, None)
    assert found["templateArn"] == "arn:aws:iot:us-east-1::jobtemplate/AWS-Download-File:1.0"
    assert [each["key"] for each in found["documentParameters"] if not each["optional"]] == ["downloadUrl", "filePath"]
    params = {"jobId": "j", "targets": [ARN + "a"], "jobTemplateArn": found["templateArn"]}
    for given, words in (({}, "is required"), ({"downloadUrl": "u", "filePath": "p", "x": "y"}, "no parameter")):
        with pytest.raises(AwsError, match=words):
            bench.jobs.create({**params, "documentParameters": given}, None)
    given = {"downloadUrl": 'https://x/"y"', "filePath": "p"}
    bench.jobs.create({**params, "documentParameters": given}, None)
    action = bench.devices.describe("a", "$next", {})["execution"]["jobDocument"]["steps"][0]["action"]
    assert action["input"] == {"handler": "download-file.sh", "args": ['https://x/"y"', "p"], "path": ""}
    assert bench.job()["documentParameters"] == given
    before = bench.jobs.document_of({"jobId": "j", "beforeSubstitution": True}, None)["document"]
    assert "${aws:iot:parameter:downloadUrl}" in before
    with pytest.raises(AwsError, match="cannot be found"):
        bench.templates.describe_managed({"templateName": "AWS-Reboot", "templateVersion": "9.9"}, None)


# Schedules


def at(bench, seconds):
    return datetime.fromtimestamp(bench.now + seconds, UTC).strftime("%Y-%m-%dT%H:%M")


def test_a_scheduled_job_begins_and_stops_its_rollout():
    bench = Bench()
    config = {"startTime": at(bench, 3600), "endTime": at(bench, 7200)}
    bench.create(
        targets=[f"{ARN}{i}" for i in range(3)], schedulingConfig=config,
        jobExecutionsRolloutConfig={"maximumPerMinute": 2},
    )  # fmt: skip
    assert bench.job()["status"] == "SCHEDULED"
    bench.tick(3000)
    assert bench.statuses() == {}
    bench.tick(660)
    assert (bench.job()["status"], len(bench.statuses())) == ("IN_PROGRESS", 2)
    assert bench.job()["jobProcessDetails"]["processingTargets"] == [ARN + "2"]
    bench.now += 3600
    bench.tick()
    assert len(bench.statuses()) == 2
    for thing in ("0", "1"):
        bench.devices.start_next(thing, {})
        bench.devices.update(thing, "j", {"status": "SUCCEEDED"})
    assert bench.job()["status"] == "COMPLETED"


@pytest.mark.parametrize(
    ("behavior", "expected"),
    [
        ("CANCEL", {"a": "IN_PROGRESS", "b": "CANCELED"}),
        ("FORCE_CANCEL", {"a": "CANCELED", "b": "CANCELED"}),
        ("STOP_ROLLOUT", {"a": "IN_PROGRESS", "b": "QUEUED"}),
    ],
)
def test_what_the_end_time_does(behavior, expected):
    bench = Bench()
    config = {"endTime": at(bench, 3600), "endBehavior": behavior}
    bench.create(targets=[ARN + "a", ARN + "b"], schedulingConfig=config)
    bench.devices.start_next("a", {})
    bench.tick(3700)
    assert bench.statuses() == expected
    assert bench.job()["status"] == ("IN_PROGRESS" if behavior == "STOP_ROLLOUT" else "CANCELED")


def test_a_maintenance_window_holds_new_members_back():
    bench = Bench(["a"])  # It is 13:46:40 on a Monday.
    window = {"startTime": "cron(0 14 ? * * *)", "durationInMinutes": 30}
    group = "arn:aws:iot:us-east-1:000000000000:thinggroup/g"
    bench.create(targets=[group], targetSelection="CONTINUOUS", schedulingConfig={"maintenanceWindows": [window]})
    shown = bench.job()
    assert shown["status"] == "SCHEDULED"
    assert [each["startTime"] for each in shown["scheduledJobRollouts"]][:2] == ["1970-01-12T14:00", "1970-01-13T14:00"]
    assert len(shown["scheduledJobRollouts"]) == 7
    bench.tick(900)
    assert bench.statuses() == {"a": "QUEUED"}
    bench.group.append("b")
    bench.tick(1800)
    assert bench.statuses() == {"a": "QUEUED"}
    bench.tick(24 * 3600 - 1200)
    assert bench.statuses() == {"a": "QUEUED", "b": "QUEUED"}


def test_schedules_that_are_refused():
    bench = Bench()
    window = {"startTime": "cron(0 14 ? * * *)", "durationInMinutes": 30}
    refused = [
        {"startTime": at(bench, 60)},
        {"startTime": at(bench, 367 * 24 * 3600)},
        {"startTime": "soon"},
        {"startTime": at(bench, 3600), "endTime": at(bench, 3700)},
        {"endTime": at(bench, 3 * 365 * 24 * 3600)},
        {"endBehavior": "CANCEL"},
        {"maintenanceWindows": [window]},
        {"maintenanceWindows": [{**window, "startTime": "0 14 * * *"}]},
    ]
    for config in refused:
        with pytest.raises(AwsError):
            bench.create(schedulingConfig=config)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cron(0 12 * * ? *)", ["1970-01-02T12:00", "1970-01-03T12:00"]),
        ("cron(0/20 8-9 ? * MON-FRI *)", ["1970-01-02T08:00", "1970-01-02T08:20"]),
        ("cron(0 0 L * ? *)", ["1970-01-31T00:00", "1970-02-28T00:00"]),
        ("cron(0 0 15W * ? *)", ["1970-01-15T00:00", "1970-02-16T00:00"]),
        ("cron(0 0 ? * 6#3 *)", ["1970-01-16T00:00", "1970-02-20T00:00"]),
        ("cron(0 0 ? * FRIL *)", ["1970-01-30T00:00", "1970-02-27T00:00"]),
        ("cron(30 6 1 JAN,JUL ? 1971-1973)", ["1971-01-01T06:30", "1971-07-01T06:30"]),
    ],
)
def test_cron_expressions(text, expected):
    moments = cron(text).after(86400.0)
    found = [datetime.fromtimestamp(next(moments), UTC).strftime("%Y-%m-%dT%H:%M") for _ in expected]
    assert found == expected


@pytest.mark.parametrize(
    "text",
    [
        "cron(0 12 * *)",
        "cron(0 12 * * * *)",
        "cron(0 12 ? * ? *)",
        "cron(60 0 ? * * *)",
        "cron(0 0 ? * MON-XYZ *)",
        "x",
    ],
)
def test_cron_expressions_that_are_refused(text):
    with pytest.raises(AwsError, match=r"cron expression|has to be"):
        cron(text)


# Documents


def test_a_document_from_s3_and_presigned_urls():
    bench = Bench()
    get = "${aws:iot:s3-presigned-url:https://s3.us-east-1.amazonaws.com/bucket/a b.bin}"
    put = "${aws:iot:s3-presigned-url-upload:https://bucket.s3.amazonaws.com/${thingName}/${jobId}-${executionNumber}}"
    text = json.dumps({"get": get, "put": put})
    bench.objects[S3Object("docs", "folder/job.json", "7")] = text.encode()
    source = "https://docs.s3.us-east-1.amazonaws.com/folder/job.json?versionId=7"
    params = {"jobId": "j", "targets": [ARN + "a"], "documentSource": source}
    role = {"roleArn": "arn:aws:iam::000000000000:role/files", "expiresInSec": 60}
    asyncio.run(bench.jobs.create({**params, "presignedUrlConfig": role}, None))
    execution = bench.devices.start_next("a", {})["execution"]
    assert execution["jobDocument"] == {"get": "GET bucket a b.bin 60", "put": "PUT bucket a/j-1 60"}
    assert bench.jobs.document_of({"jobId": "j"}, None) == {"document": text}
    assert bench.jobs.describe({"jobId": "j"}, None)["documentSource"] == source


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://s3.amazonaws.com/b/k", S3Object("b", "k")),
        ("https://s3-eu-west-1.amazonaws.com/b/k", S3Object("b", "k")),
        ("https://s3.dualstack.eu-west-1.amazonaws.com/b/a/k", S3Object("b", "a/k")),
        ("https://my.bucket.s3.eu-west-1.amazonaws.com/a%20k", S3Object("my.bucket", "a k")),
        ("https://b.s3.amazonaws.com/k?versionId=v", S3Object("b", "k", "v")),
    ],
)
def test_s3_addresses(url, expected):
    assert s3_object(url) == expected


@pytest.mark.parametrize(
    "url", ["http://s3.amazonaws.com/b/k", "https://example.com/b/k", "https://s3.amazonaws.com/b", "s3://b/k"]
)
def test_addresses_that_are_none_of_s3(url):
    with pytest.raises(AwsError, match=r"names no|is no"):
        s3_object(url)


@pytest.mark.parametrize(
    "placeholder",
    [
        "${aws:iot:s3-presigned-url:https://s3.amazonaws.com/b/${thingName}}",
        "${aws:iot:s3-presigned-url-upload:https://s3.amazonaws.com/${thingName}/k}",
        "${aws:iot:s3-presigned-url-upload:https://s3.amazonaws.com/b/${other}}",
        "${aws:iot:s3-presigned-url-upload:https://s3.amazonaws.com/b/${jobId}${jobId}${jobId}}",
    ],
)
def test_keywords_that_are_refused(placeholder):
    role = {"roleArn": "arn:aws:iam::000000000000:role/files"}
    with pytest.raises(AwsError, match=r"[Kk]eyword"):
        Bench().create(document=json.dumps([placeholder]), presignedUrlConfig=role)


def test_a_presigned_url_is_what_botocore_signs():
    import botocore.session
    from botocore.auth import S3SigV4QueryAuth
    from botocore.awsrequest import AWSRequest

    target = S3Object("bucket", "folder/a b+c.bin")
    given = Credentials("AKIDEXAMPLE", "secret", "token")
    url = presigned_url(
        given, method="GET", base="http://127.0.0.1:4566", target=target, seconds=60, region="us-east-1",
        stamp="20300102T030405Z",
    )  # fmt: skip
    request = AWSRequest("GET", "http://127.0.0.1:4566/bucket/folder/a%20b%2Bc.bin")
    signer = S3SigV4QueryAuth(botocore.credentials.Credentials(*given), "s3", "us-east-1", 60)
    request.context["timestamp"] = "20300102T030405Z"
    signer._modify_request_before_signing(request)
    prepared = signer.canonical_request(request)
    signature = signer.signature(signer.string_to_sign(request, prepared), request)
    assert url.endswith(f"&X-Amz-Signature={signature}")


def test_an_object_of_the_backend(tmp_path):
    import urllib.request

    running = start(tmp_path, tmp_path / "home", "--only", "iot")
    try:
        s3, iot, data = (running.boto3(name) for name in ("s3", "iot", "iot-jobs-data"))
        s3.create_bucket(Bucket="jobs")
        s3.put_object(Bucket="jobs", Key="firmware.bin", Body=b"firmware")
        address = "https://s3.us-east-1.amazonaws.com/jobs/"
        get = "${aws:iot:s3-presigned-url:" + address + "firmware.bin}"
        put = "${aws:iot:s3-presigned-url-upload:" + address + "logs/${thingName}.txt}"
        s3.put_object(Bucket="jobs", Key="job.json", Body=json.dumps({"get": get, "put": put}).encode())
        arn = iot.create_thing(thingName="pump")["thingArn"]
        role = {"roleArn": "arn:aws:iam::000000000000:role/files"}
        with pytest.raises(iot.exceptions.InvalidRequestException, match="can't be read"):
            iot.create_job(jobId="j", targets=[arn], documentSource=address + "none", presignedUrlConfig=role)
        iot.create_job(jobId="j", targets=[arn], documentSource=address + "job.json", presignedUrlConfig=role)
        execution = data.start_next_pending_job_execution(thingName="pump")["execution"]
        document = json.loads(execution["jobDocument"])
        with urllib.request.urlopen(document["get"]) as answer:
            assert answer.read() == b"firmware"
        with urllib.request.urlopen(urllib.request.Request(document["put"], b"log", method="PUT")) as answer:
            assert answer.status == 200
        assert s3.get_object(Bucket="jobs", Key="logs/pump.txt")["Body"].read() == b"log"
        iot.delete_thing(thingName="pump")
        assert iot.describe_job(jobId="j")["job"]["jobProcessDetails"]["numberOfRemovedThings"] == 1
    finally:
        stop(running)


# Targets that change


def test_leaving_the_group_of_a_continuous_job_removes_what_is_queued():
    bench = Bench(["a", "b"])
    bench.create(targets=["arn:aws:iot:us-east-1:000000000000:thinggroup/g"], targetSelection="CONTINUOUS")
    bench.devices.start_next("b", {})
    bench.group.clear()
    bench.tick()
    assert bench.statuses() == {"a": "REMOVED", "b": "IN_PROGRESS"}
    bench.group.append("a")
    bench.tick()
    assert bench.statuses() == {"a": "QUEUED", "b": "IN_PROGRESS"}
    assert bench.devices.start_next("a", {})["execution"]["executionNumber"] == 2


def test_a_snapshot_stays_what_it_was():
    bench = Bench(["a", "b"])
    bench.create(targets=["arn:aws:iot:us-east-1:000000000000:thinggroup/g"], jobExecutionsRolloutConfig={"maximumPerMinute": 1})  # fmt: skip  # noqa: E501
    bench.group[:] = ["a", "c"]
    bench.tick(60)
    bench.tick(60)
    assert bench.statuses() == {"a": "QUEUED", "b": "QUEUED"}


def test_a_restart_keeps_jobs_where_they_were():
    bench = Bench()
    bench.create(targets=[ARN + "a", ARN + "b"])
    bench.devices.start_next("a", {})
    again = Rollouts(bench.ground, bench, bench, lambda kind: True, bench)
    assert [each["status"] for each in again.executions.pending("a")] == ["IN_PROGRESS"]
    assert again.counts("j")["numberOfQueuedThings"] == 1


def test_deleting_an_execution_needs_its_end_or_force():
    bench = Bench()
    bench.create(targets=[ARN + "a", ARN + "b"])
    one = {"jobId": "j", "thingName": "a", "executionNumber": 1}
    with pytest.raises(AwsError, match="QUEUED"):
        bench.jobs.delete_execution(one, None)
    bench.jobs.delete_execution({**one, "force": True}, None)
    assert bench.sent[-1][0] == "$aws/things/a/jobs/notify-next"
    assert "execution" not in bench.sent[-1][1]


def test_a_rollout_of_1500_things_at_the_default_rate():
    things = [f"t{number:04}" for number in range(1500)]
    bench = Bench(things)
    bench.create(targets=["arn:aws:iot:us-east-1:000000000000:thinggroup/g"])
    assert len(bench.statuses()) == 1000
    bench.tick(60)
    assert len(bench.statuses()) == 1500


def test_a_group_that_takes_long_to_look_at_is_looked_at_seldom():
    bench = Bench(["a"])
    looks = []

    def slowly(name, *, recursive=False):
        looks.append(bench.now)
        bench.now += 1
        return bench.group

    bench.create(targets=["arn:aws:iot:us-east-1:000000000000:thinggroup/g"], targetSelection="CONTINUOUS")
    bench.things_in = slowly
    bench.tick()
    count = len(looks)
    bench.tick(5)
    assert len(looks) == count
    bench.tick(60)
    assert len(looks) > count


def test_numbers_as_text_are_what_the_older_sdks_send():
    bench = Bench()
    bench.create()
    bench.devices.start_next("a", {})
    request = {"status": "SUCCEEDED", "expectedVersion": "2", "executionNumber": "1", "clientToken": "c"}
    topic = "$aws/things/a/jobs/j/update"
    bench.devices._on_request(Publication(topic, json.dumps(request).encode(), client_id="d"))
    assert (topic + "/accepted", {"timestamp": 1000000, "clientToken": "c"}) in bench.sent
    assert bench.statuses() == {"a": "SUCCEEDED"}


def test_an_execution_names_its_thing_over_http_only():
    """As in the walk-through of the job samples of AWS's device SDKs, which print what the service sent."""
    bench = Bench()
    bench.create()
    topic = "$aws/things/a/jobs/start-next"
    bench.devices._on_request(Publication(topic, b'{"clientToken": "c"}', client_id="d"))
    [answer] = [message for to, message in bench.sent if to == topic + "/accepted"]
    assert answer["execution"]["jobId"] == "j" and "thingName" not in answer["execution"]
    data = JobsData(bench.devices, lambda context, action, resource: None)
    shown = data.describe({"thingName": "a", "jobId": "$next"}, None)["execution"]
    assert shown["thingName"] == "a" and isinstance(shown["jobDocument"], str)


def test_status_details_are_text_and_plain_values_become_text():
    bench = Bench()
    bench.create()
    topic = "$aws/things/a/jobs/"
    for wrong in (["x"], "x", {"k": None}, {"k": {"deep": 1}}):
        for action in ("start-next", "j/update"):
            request = json.dumps({"status": "IN_PROGRESS", "statusDetails": wrong}).encode()
            bench.devices._on_request(Publication(topic + action, request, client_id="d"))
            assert (bench.sent[-1][0], bench.sent[-1][1]["code"]) == (topic + action + "/rejected", "InvalidRequest")
    request = {
        "status": "SUCCEEDED",
        "statusDetails": {"didSucceed": True, "took": 3},
        "includeJobExecutionState": True,
    }
    bench.devices._on_request(Publication(topic + "j/update", json.dumps(request).encode(), client_id="d"))
    [answer] = [message for to, message in bench.sent if to == topic + "j/update/accepted"]
    assert answer["executionState"]["statusDetails"] == {"didSucceed": "true", "took": "3"}
