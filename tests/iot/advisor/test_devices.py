"""Device Advisor with real devices: a good one passes, and each bad one fails on the cases that its fault concerns."""

import json
import os
import ssl
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from awscrt import mqtt
from awsiot import mqtt_connection_builder
from botocore.exceptions import ClientError
from paho.mqtt.enums import CallbackAPIVersion

from tests.e2e.conftest import start, stop

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
FINISHED = ("PASS", "FAIL", "PASS_WITH_WARNINGS", "ERROR", "CANCELED", "STOPPED")
THING = "arn:aws:iot:us-east-1:000000000000:thing/"
TLS = ("TLS_Unsecure_Server_Cert", "TLS_Incorrect_Subject_Name_Server_Cert", "TLS_Expired_Server_Cert")
POLICY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}],
}


def definition(*tests, **configuration):
    """A suiteDefinitionConfiguration of test cases: ids, or pairs of id and configuration."""
    pairs = [(test, {}) if isinstance(test, str) else test for test in tests]
    rows = [{"name": case, "test": {"id": case}} | ({"configuration": more} if more else {}) for case, more in pairs]
    group = {"name": "group", "configuration": configuration, "tests": rows}
    return {
        "suiteDefinitionName": "suite", "devicePermissionRoleArn": "arn:aws:iam::000000000000:role/device",
        "rootGroup": json.dumps({"configuration": {}, "tests": [group]}),
    }  # fmt: skip


class Bench:
    """An edge with a thing to test, and the advisor's API as boto3 sees it."""

    def __init__(self, edge, name="pump-1"):
        self.edge = edge
        self.name = name
        self.api = edge.client("iotdeviceadvisor")
        folder = edge.folder / name
        folder.mkdir()

        async def make():
            return edge.iot.ensure_thing(name, policy_documents={"all": POLICY}, certs_folder=folder)

        self.files = edge.run(make())
        self.arn = THING + name

    def start(self, configuration):
        made = self.api.create_suite_definition(suiteDefinitionConfiguration=configuration)
        identifier = made["suiteDefinitionId"]
        started = self.api.start_suite_run(
            suiteDefinitionId=identifier, suiteRunConfiguration={"primaryDevice": {"thingArn": self.arn}}
        )
        return {"suiteDefinitionId": identifier, "suiteRunId": started["suiteRunId"]}, started["endpoint"]

    def finish(self, run):
        while True:
            found = self.api.get_suite_run(**run)
            if found["status"] in FINISHED:
                return found
            time.sleep(0.05)

    def verdicts(self, configuration, *device):
        """Run a suite against a device program; gives {case: (status, failure or warnings)}."""
        run, endpoint = self.start(configuration)
        with self.device(endpoint, *device):
            found = self.finish(run)
        tests = found["testResult"]["groups"][0]["tests"]
        return {
            one["testCaseDefinitionId"]: (one["status"], one.get("failure") or one.get("warnings", "")) for one in tests
        }

    @contextmanager
    def device(self, endpoint, program, *arguments):
        host, _, port = endpoint.rpartition(":")
        environment = {
            **os.environ, "FORESHORE_ADVISOR_HOST": host, "FORESHORE_ADVISOR_PORT": port, "FORESHORE_THING": self.name,
            "FORESHORE_CERT": str(self.files.cert), "FORESHORE_KEY": str(self.files.key),
            "FORESHORE_CA": str(self.files.ca), "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        process = subprocess.Popen([sys.executable, str(HERE / program), *arguments], env=environment)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def bench(edge):
    return Bench(edge)


def statuses(verdicts):
    return {case: status for case, (status, _) in verdicts.items()}


def test_a_good_device_passes(bench):
    cases = (
        "TLS_Connect", *TLS, "TLS_Large_Size_Server_Cert", "MQTT_Connect", "MQTT_Publish", "MQTT_Subscribe",
        "MQTT_No_Ack_PingResp", "MQTT_Client_Puback_QoS1", "TLS_Receive_Maximum_Size_Fragments",
        "Shadow_Publish_Reported_State", ("Shadow_Update_Reported_State", {"DESIRED_STATE": {"valve": "open"}}),
        ("Job_Execution", {"JOB_DOCUMENT": '{"do":"reboot"}'}),
        ("MQTT_Persistent_Session_Happy_Case", {"TRIGGER_TOPIC": "pump-1/commands"}),
        ("MQTT_Expired_Persistent_Session", {"TRIGGER_TOPIC": "pump-1/commands"}),
    )  # fmt: skip
    found = bench.verdicts(definition(*cases, EXECUTION_TIMEOUT="20"), "paho_device.py", "--first", "0.05")
    assert set(statuses(found).values()) == {"PASS"}, found


def test_a_device_that_trusts_anybody_fails_on_the_certificates_alone(bench):
    found = bench.verdicts(
        definition("TLS_Connect", *TLS, "MQTT_Connect", EXECUTION_TIMEOUT="20"),
        "paho_device.py", "--lax", "--first", "0.05",
    )  # fmt: skip
    assert statuses(found) == {"TLS_Connect": "PASS", **dict.fromkeys(TLS, "FAIL"), "MQTT_Connect": "PASS"}


def test_backoff_and_who_has_none(bench):
    case = "MQTT_Reconnect_Backoff_Retries_On_Server_Disconnect"
    good = bench.verdicts(definition(case, EXECUTION_TIMEOUT="20"), "paho_device.py", "--first", "0.06")
    assert good[case][0] == "PASS_WITH_WARNINGS"
    assert "exponential backoff without jitter" in good[case][1]
    suite = definition(case, "MQTT_ReconnectionAfterSuccessfulConnection", EXECUTION_TIMEOUT="20")
    bad = bench.verdicts(suite, "paho_device.py", "--eager")
    assert set(statuses(bad).values()) == {"FAIL"}
    assert "no backoff" in bad[case][1]


def test_who_tries_again_and_who_does_not(bench):
    for case in ("MQTT_Publish_Retry_No_Puback", "MQTT_Subscribe_Retry_No_Suback"):
        found = bench.verdicts(definition(case, EXECUTION_TIMEOUT="20"), "retrying_device.py")
        assert found == {case: ("PASS", "")}
    found = bench.verdicts(definition("MQTT_Publish_Retry_No_Puback", EXECUTION_TIMEOUT="2"), "paho_device.py")
    assert "publish again without PUBACK" in found["MQTT_Publish_Retry_No_Puback"][1]


def test_awss_own_device_sdk_passes_and_nobody_else_is_disturbed(bench):
    received = []
    neighbour = paho.Client(CallbackAPIVersion.VERSION2, "neighbour", protocol=paho.MQTTv5)
    neighbour.on_connect = lambda client, *rest: client.subscribe("neighbourhood", 1)
    neighbour.on_subscribe = lambda client, *rest: client.publish("neighbourhood", "1", 1)
    neighbour.on_message = lambda client, data, message: received.append(message)
    gone = []
    neighbour.on_disconnect = lambda *rest: gone.append(rest)
    neighbour.connect("127.0.0.1", bench.edge.iot.mqtt_port)
    neighbour.loop_start()
    run, endpoint = bench.start(definition("MQTT_Subscribe", "MQTT_Publish", EXECUTION_TIMEOUT="20"))
    host, _, port = endpoint.rpartition(":")
    connection = mqtt_connection_builder.mtls_from_path(
        endpoint=host, port=int(port), cert_filepath=str(bench.files.cert), pri_key_filepath=str(bench.files.key),
        ca_filepath=str(bench.files.ca), client_id=bench.name, reconnect_min_timeout_secs=1, clean_session=True,
        on_connection_resumed=lambda connection, return_code, session_present, **rest: act(connection),
    )  # fmt: skip

    def act(device):
        device.subscribe("pump-1/commands", mqtt.QoS.AT_LEAST_ONCE)
        device.publish("pump-1/readings", "1", mqtt.QoS.AT_LEAST_ONCE)

    connection.connect().result(20)
    act(connection)
    found = bench.finish(run)
    connection.disconnect().result(20)
    tests = found["testResult"]["groups"][0]["tests"]
    assert [test["status"] for test in tests] == ["PASS"] * 2, tests
    assert len(received) == 1
    assert gone == []
    neighbour.disconnect()
    neighbour.loop_stop()


def test_another_device_at_the_endpoint_is_served_and_not_watched(bench):
    other = Bench(bench.edge, "other")
    run, endpoint = bench.start(definition("MQTT_Publish_Retry_No_Puback", EXECUTION_TIMEOUT="20"))
    client = paho.Client(CallbackAPIVersion.VERSION2, "other", protocol=paho.MQTTv5)
    context = ssl.create_default_context(cafile=str(other.files.ca))
    context.load_cert_chain(other.files.cert, other.files.key)
    client.tls_set_context(context)
    client.connect("localhost", int(endpoint.rpartition(":")[2]))
    client.loop_start()
    sent = client.publish("other/readings", "1", 1)
    sent.wait_for_publish(20)
    assert sent.is_published()
    broker = bench.edge.iot.broker
    assert [link.connection.peer.client_id for link in broker.links] == ["other"]  # its keep-alive is watched
    bench.api.stop_suite_run(**run)
    assert bench.finish(run)["status"] == "STOPPED"
    client.disconnect()
    client.loop_stop()


def test_the_verdict_tells_why_the_broker_hung_up(bench):
    case = ("MQTT_Publish", {"TOPIC_FOR_PUBLISH_VALIDATION": "never", "EXECUTION_TIMEOUT": "2"})
    run, endpoint = bench.start(definition(case))
    host, _, port = endpoint.rpartition(":")
    device = paho.Client(CallbackAPIVersion.VERSION2, bench.name)
    device.tls_set(str(bench.files.ca), str(bench.files.cert), str(bench.files.key))
    device.on_connect = lambda client, *rest: client.publish("$reserved", b"", 1)
    device.connect(host, int(port))
    while device.loop(0.1) == paho.MQTT_ERR_SUCCESS:
        pass
    test = bench.finish(run)["testResult"]["groups"][0]["tests"][0]
    assert test["failure"].endswith("within 2 seconds. The broker closed its connection: CLIENT_ERROR.")


def test_the_api(bench):
    api = bench.api
    made = api.create_suite_definition(suiteDefinitionConfiguration=definition("MQTT_Connect"), tags={"a": "1"})
    identifier = made["suiteDefinitionId"]
    assert made["suiteDefinitionArn"].endswith(f":suitedefinition/{identifier}")
    changed = api.update_suite_definition(
        suiteDefinitionId=identifier, suiteDefinitionConfiguration=definition("MQTT_Connect", "MQTT_Publish")
    )
    assert changed["suiteDefinitionVersion"] == "v2"
    first = api.get_suite_definition(suiteDefinitionId=identifier, suiteDefinitionVersion="v1")
    assert (first["latestVersion"], first["tags"]) == ("v2", {"a": "1"})
    assert [row["suiteDefinitionId"] for row in api.list_suite_definitions()["suiteDefinitionInformationList"]] == [
        identifier
    ]
    assert api.get_endpoint(thingArn=bench.arn)["endpoint"].startswith("localhost:")
    device = {"primaryDevice": {"thingArn": bench.arn}}
    started = api.start_suite_run(suiteDefinitionId=identifier, suiteRunConfiguration=device)
    run = {"suiteDefinitionId": identifier, "suiteRunId": started["suiteRunId"]}
    refusals = [
        (api.start_suite_run, {"suiteDefinitionId": identifier, "suiteRunConfiguration": device}, "ConflictException"),
        (api.get_suite_definition, {"suiteDefinitionId": "x" * 12}, "ResourceNotFoundException"),
        (api.get_suite_run, {**run, "suiteRunId": "x" * 12}, "ResourceNotFoundException"),
        (
            api.create_suite_definition,
            {"suiteDefinitionConfiguration": {**definition("MQTT_Connect"), "rootGroup": "{"}},
            "ValidationException",
        ),
        (
            api.create_suite_definition,
            {"suiteDefinitionConfiguration": definition("MQTT_Long_Duration")},
            "NotEmulated",
        ),
    ]
    for call, parameters, code in refusals:
        with pytest.raises(ClientError) as caught:
            call(**parameters)
        assert caught.value.response["Error"]["Code"] == code
    api.stop_suite_run(**run)
    found = bench.finish(run)
    assert found["status"] == "STOPPED"
    assert [test["status"] for test in found["testResult"]["groups"][0]["tests"]] == ["STOPPED", "CANCELED"]
    (row,) = api.list_suite_runs(suiteDefinitionId=identifier)["suiteRunsList"]
    assert (row["status"], row["passed"]) == ("STOPPED", 0)
    assert "/_foreshore/device-advisor/" in api.get_suite_run_report(**run)["qualificationReportDownloadUrl"]
    api.tag_resource(resourceArn=made["suiteDefinitionArn"], tags={"b": "2"})
    api.untag_resource(resourceArn=made["suiteDefinitionArn"], tagKeys=["a"])
    assert api.list_tags_for_resource(resourceArn=made["suiteDefinitionArn"])["tags"] == {"b": "2"}
    api.delete_suite_definition(suiteDefinitionId=identifier)
    assert api.list_suite_definitions()["suiteDefinitionInformationList"] == []


def advise(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "foreshore", "-C", str(folder), "device-advisor", *arguments],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip


def test_the_command_starts_an_edge_and_the_device_and_reports(tmp_path):
    device = ("--", sys.executable, str(HERE / "paho_device.py"), "--lax")
    tests = ("--test", "MQTT_Connect", "--test", "TLS_Unsecure_Server_Cert", "--test", "Security_Device_Policies")
    done = advise(tmp_path, "--thing", "pump-1", "--timeout", "30", "--json", *tests, *device)
    report = json.loads(done.stdout)
    assert {row["test"]: row["status"] for row in report["tests"]} == {
        "MQTT_Connect": "PASS", "TLS_Unsecure_Server_Cert": "FAIL", "Security_Device_Policies": "PASS",
    }  # fmt: skip
    assert any("CONNECT 3.1.1 as 'pump-1'" in line for line in report["tests"][0]["log"])
    assert done.returncode == 1, done.stderr


def test_the_command_uses_the_edge_that_runs(tmp_path):
    running = start(tmp_path, tmp_path / ".foreshore", "--only", "iot")
    try:
        iot = running.boto3("iot")
        iot.create_thing(thingName="pump-1")
        made = iot.create_keys_and_certificate(setAsActive=True)
        iot.create_policy(policyName="all", policyDocument=json.dumps(POLICY))
        iot.attach_policy(policyName="all", target=made["certificateArn"])
        iot.attach_thing_principal(thingName="pump-1", principal=made["certificateArn"])
        files = tmp_path / ".foreshore" / "devices" / "pump-1"
        files.mkdir(parents=True)
        (files / "certificate.pem").write_text(made["certificatePem"])
        (files / "private.key").write_text(made["keyPair"]["PrivateKey"])
        suite = tmp_path / "suite.json"
        suite.write_text(json.dumps({"suiteDefinitionConfiguration": definition("MQTT_Connect", "MQTT_Publish")}))
        device = ("--", sys.executable, str(HERE / "paho_device.py"))
        done = advise(tmp_path, "--thing", "pump-1", "--suite", str(suite), *device)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[1:] == [
            "PASS                group / MQTT_Connect",
            "PASS                group / MQTT_Publish",
            "PASS: 2 of 2 tests passed",
        ]
        by_certificate = ("--certificate", made["certificateArn"], "--test", "Security_Device_Policies")
        done = advise(tmp_path, *by_certificate)
        assert (done.returncode, "all, statement 1 allows iot:*, *" in done.stdout) == (1, True)
    finally:
        stop(running)


def test_the_command_refuses_what_it_does_not_know(tmp_path):
    done = advise(tmp_path, "--thing", "pump-1", "--test", "MQTT_Long_Duration")
    assert (done.returncode, "MQTT_Long_Duration" in done.stderr) == (2, True)
    suite = tmp_path / "suite.json"
    suite.write_text("{")
    done = advise(tmp_path, "--thing", "pump-1", "--suite", str(suite))
    assert (done.returncode, "suite.json" in done.stderr) == (2, True)
    assert "MQTT_No_Ack_PingResp" in advise(tmp_path, "--list").stdout
