"""Jobs with the SDK's own jobs client over MQTT, boto3 for both APIs, and the rules of rollouts, timeouts, retries."""

import json
import queue

import pytest
from awscrt import mqtt
from awsiot import iotjobs

from foreshore.database import MEMORY
from foreshore.errors import AwsError, NotEmulated
from foreshore.iot.jobs import Jobs
from foreshore.iot.store import Arns, Ground, Tags, open_database
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
    got = {name: queue.Queue() for name in ("next", "started", "updated", "rejected", "described", "notify")}
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
                             ("described", "Describe", "accepted")):  # fmt: skip
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

    done = iotjobs.UpdateJobExecutionRequest(job_id="reboot", status="SUCCEEDED", expected_version=2,
                                             status_details={"took": "3s"}, client_token="t", **thing)  # fmt: skip
    client.publish_update_job_execution(done, QOS).result(20)
    assert got["updated"].get(timeout=20).client_token == "t"
    assert got["next"].get(timeout=20).execution is None
    client.publish_describe_job_execution(iotjobs.DescribeJobExecutionRequest(job_id="reboot", **thing), QOS).result(20)
    assert got["described"].get(timeout=20).execution.status_details == {"took": "3s"}

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
        self.jobs = Jobs(ground, Tags(ground), self, self, lambda kind: True)

    def things_in(self, name, *, recursive=False):
        return self.group

    def publish(self, publication):
        self.sent.append((publication.topic, json.loads(publication.payload)))

    def add_listener(self, filter, callback):
        return None

    def deliver_to(self, client_id, publication):
        return False

    def create(self, job_id="j", targets=(ARN + "a",), **more):
        return self.jobs.create({"jobId": job_id, "targets": list(targets), "document": "{}", **more}, None)

    def statuses(self, job_id="j"):
        return {e["thing"]: e["status"] for e in self.jobs._newest(job_id)}

    def job(self, job_id="j"):
        return self.jobs.describe({"jobId": job_id}, None)["job"]


def test_a_rollout_keeps_its_rate():
    bench = Bench()
    bench.create(targets=[f"{ARN}{i}" for i in range(5)], jobExecutionsRolloutConfig={"maximumPerMinute": 2})
    assert len(bench.statuses()) == 2
    bench.jobs.tick()
    assert len(bench.statuses()) == 2
    bench.now += 60
    bench.jobs.tick()
    assert len(bench.statuses()) == 4


def test_an_exponential_rollout_grows():
    bench = Bench()
    growth = {"baseRatePerMinute": 1, "incrementFactor": 2.0, "rateIncreaseCriteria": {"numberOfNotifiedThings": 1}}
    rollout = {"exponentialRate": growth, "maximumPerMinute": 1000}
    bench.create(targets=[f"{ARN}{i}" for i in range(9)], jobExecutionsRolloutConfig=rollout)
    sizes = [len(bench.statuses())]
    for _ in range(2):
        bench.now += 60
        bench.jobs.tick()
        sizes.append(len(bench.statuses()))
    assert sizes == [1, 3, 9]


def test_both_timers_end_an_execution_and_retries_begin_another():
    bench = Bench()
    retry = {"criteriaList": [{"failureType": "TIMED_OUT", "numberOfRetries": 1}]}
    bench.create(timeoutConfig={"inProgressTimeoutInMinutes": 2}, jobExecutionsRetryConfig=retry)
    bench.jobs.start_next("a", {})
    bench.now += 121
    bench.jobs.tick()
    assert bench.statuses() == {"a": "QUEUED"}
    execution = bench.jobs.start_next("a", {"stepTimeoutInMinutes": 1})["execution"]
    assert (execution["executionNumber"], execution["approximateSecondsBeforeTimedOut"]) == (2, 60)
    bench.now += 61
    bench.jobs.tick()
    assert bench.statuses() == {"a": "TIMED_OUT"}
    assert bench.job()["status"] == "COMPLETED"


def test_too_many_failures_abort_a_job():
    bench = Bench()
    abort = {"failureType": "FAILED", "action": "CANCEL", "thresholdPercentage": 50.0, "minNumberOfExecutedThings": 1}
    bench.create(targets=[ARN + "a", ARN + "b"], abortConfig={"criteriaList": [abort]})
    bench.jobs.start_next("a", {})
    bench.jobs.update_execution("a", "j", {"status": "FAILED"})
    assert bench.job()["status"] == "CANCELED"
    assert bench.statuses() == {"a": "FAILED", "b": "CANCELED"}


def test_a_continuous_job_takes_new_members():
    bench = Bench(["a"])
    bench.create(targets=["arn:aws:iot:us-east-1:000000000000:thinggroup/g"], targetSelection="CONTINUOUS")
    bench.group.append("b")
    bench.jobs.tick()
    assert bench.statuses() == {"a": "QUEUED", "b": "QUEUED"}
    bench.jobs.start_next("a", {})
    bench.jobs.update_execution("a", "j", {"status": "SUCCEEDED"})
    assert bench.job()["status"] == "IN_PROGRESS"


def test_cancelling():
    bench = Bench()
    bench.create(targets=[ARN + "a", ARN + "b"])
    bench.jobs.start_next("a", {})
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
    bench.jobs.start_next("a", {})
    bench.jobs.update_execution("a", "j", {"status": "SUCCEEDED"})
    topics = [topic for topic, _ in bench.sent if topic.startswith("$aws/events/")]
    assert topics == [
        "$aws/events/job/j/created",
        "$aws/events/jobExecution/j/succeeded",
        "$aws/events/job/j/completed",
    ]


def test_templates_and_what_is_not_emulated():
    bench = Bench()
    bench.jobs.create_template(
        {"jobTemplateId": "t", "document": '{"x": "${aws:iot:parameter:p}"}', "description": "d"}, None
    )
    arn = bench.jobs.describe_template({"jobTemplateId": "t"}, None)["jobTemplateArn"]
    params = {"jobId": "j", "targets": [ARN + "a"], "jobTemplateArn": arn, "documentParameters": {"p": "v"}}
    bench.jobs.create(params, None)
    assert bench.jobs.document_of({"jobId": "j"}, None) == {"document": '{"x": "v"}'}
    with pytest.raises(NotEmulated):
        bench.create("k", schedulingConfig={"startTime": "x"})
    with pytest.raises(AwsError, match="not JSON"):
        bench.jobs.create({"jobId": "k", "targets": [ARN + "a"], "document": "{"}, None)
    with pytest.raises(AwsError, match="already exists"):
        bench.create()
    with pytest.raises(AwsError, match="Invalid target"):
        bench.create("k", targets=["arn:aws:s3:::x"])
