"""Commands: the API with boto3, devices with awsiotsdk and paho, the rules with a clock of our own."""

import json
import queue
from concurrent.futures import Future

import cbor2
import pytest
from awscrt import mqtt5
from awsiot import mqtt5_client_builder
from botocore.exceptions import ClientError

from foreshore.database import MEMORY
from foreshore.errors import AwsError, NotEmulated
from foreshore.http import Request
from foreshore.iot import command_executions as executions
from foreshore.iot.command_payloads import check_definition, holds, payload_of, resolve
from foreshore.iot.commands import Commands
from foreshore.iot.store import Arns, Ground, Tags, open_database
from foreshore.seams import Publication
from foreshore.shapes.service_model import CallContext

PREFIX = "arn:aws:iot:us-east-1:000000000000:"
THING = PREFIX + "thing/pump"
POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}


def parameter(name):
    return "${aws:iot:commandexecution::parameter:" + name + "}"


TEMPLATE = {
    "payloadTemplate": json.dumps(
        {
            "power": parameter("power"),
            "level": parameter("level"),
            "text": "to " + parameter("level") + " in ${aws:iot:commandexecution::executionTimeoutSec} s",
        }
    ),
    "preprocessor": {"awsJsonSubstitution": {"outputFormat": "JSON"}},
    "mandatoryParameters": [
        {
            "name": "power", "defaultValue": {"S": "OFF"},
            "valueConditions": [{"comparisonOperator": "IN_SET", "operand": {"strings": ["ON", "OFF"]}}],
        },
        {
            "name": "level", "type": "INTEGER",
            "valueConditions": [
                {"comparisonOperator": "IN_RANGE", "operand": {"numberRange": {"min": "60", "max": "80"}}}
            ],
        },
    ],
}  # fmt: skip


class Device:
    """An MQTT 5 client of awsiotsdk; what comes is in the queue by topic, payload and packet."""

    def __init__(self, edge, files, client_id):
        connected, self.stopped, self.came = Future(), Future(), queue.Queue()
        self.client = mqtt5_client_builder.mtls_from_path(
            endpoint="localhost", port=edge.iot.mqtts_port, ca_filepath=str(edge.iot.authority.ca_path),
            cert_filepath=str(files.cert), pri_key_filepath=str(files.key), client_id=client_id,
            on_publish_received=lambda data: self.came.put(data.publish_packet),
            on_lifecycle_connection_success=connected.set_result, on_lifecycle_stopped=self.stopped.set_result,
        )  # fmt: skip
        self.client.start()
        connected.result(20)

    def subscribe(self, *filters):
        packet = mqtt5.SubscribePacket([mqtt5.Subscription(each, mqtt5.QoS.AT_LEAST_ONCE) for each in filters])
        assert all(code == 1 for code in self.client.subscribe(packet).result(20).reason_codes)

    def publish(self, topic, payload):
        packet = mqtt5.PublishPacket(topic=topic, payload=payload, qos=mqtt5.QoS.AT_LEAST_ONCE)
        self.client.publish(packet).result(20)

    def get(self):
        return self.came.get(timeout=20)

    def stop(self):
        self.client.stop()
        self.stopped.result(20)


@pytest.fixture
def device(edge, tmp_path):
    async def make():
        return edge.iot.ensure_thing("pump", policy_documents={"all": POLICY}, certs_folder=tmp_path / "device")

    made = Device(edge, edge.run(make()), "pump-client")
    yield made
    made.stop()


def test_a_device_gets_a_command_and_reports(edge, device):
    iot, data = edge.client(), edge.client("iot-jobs-data")
    base = "$aws/commands/things/pump/executions"
    device.subscribe(f"{base}/+/request/json", f"{base}/+/response/accepted/json", f"{base}/+/response/rejected/json")
    device.subscribe("$aws/events/commandExecution/+/#")
    made = iot.create_command(
        commandId="lock", payload={"content": b'{"lock":true}', "contentType": "application/json"}, displayName="Lock",
        tags=[{"Key": "a", "Value": "b"}],
    )  # fmt: skip
    assert made["commandArn"] == PREFIX + "command/lock"
    assert iot.list_tags_for_resource(resourceArn=made["commandArn"])["tags"] == [{"Key": "a", "Value": "b"}]
    started = data.start_command_execution(targetArn=THING, commandArn=made["commandArn"], executionTimeoutSeconds=900)
    execution = started["executionId"]

    came = sorted([device.get(), device.get()], key=lambda packet: packet.topic)
    assert [packet.topic for packet in came] == [
        f"{base}/{execution}/request/json", "$aws/events/commandExecution/lock/CREATED",
    ]  # fmt: skip
    request = came[0]
    assert (request.payload, request.content_type) == (b'{"lock":true}', "application/json")
    assert 890 < request.message_expiry_interval_sec <= 900

    report = {
        "deviceId": "pump", "executionId": execution, "status": "SUCCEEDED",
        "statusReason": {"reasonCode": "OK", "reasonDescription": "locked"},
        "result": {"sn": {"s": "ABC"}, "digital": {"b": True}, "raw": {"bin": "AAE="}},
    }  # fmt: skip
    device.publish(f"{base}/{execution}/response/json", json.dumps(report))
    came = sorted([device.get(), device.get()], key=lambda packet: packet.topic)
    assert came[0].topic == f"{base}/{execution}/response/accepted/json"
    assert json.loads(came[0].payload) == {"executionId": execution}
    event = json.loads(came[1].payload)
    assert came[1].topic == "$aws/events/commandExecution/lock/SUCCEEDED"
    assert event.pop("timestamp") > 1e12
    assert event == {
        "executionId": execution, "status": "SUCCEEDED", "eventType": "COMMAND_EXECUTION",
        "statusReason": {"reasonCode": "OK", "reasonDescription": "locked"},
        "commandArn": made["commandArn"], "targetArn": THING,
    }  # fmt: skip

    device.publish(f"{base}/{execution}/response/json", json.dumps({"status": "FAILED"}))
    refused = device.get()
    assert refused.topic == f"{base}/{execution}/response/rejected/json"
    error = json.loads(refused.payload)
    assert error == {
        "error": "TerminalStateReached",
        "errorMessage": "Command Execution status cannot be updated to FAILED since execution has already completed"
        " with status SUCCEEDED.",
        "executionId": execution,
    }

    got = iot.get_command_execution(executionId=execution, targetArn=THING, includeResult=True)
    assert got["status"] == "SUCCEEDED"
    assert got["result"] == {"sn": {"S": "ABC"}, "digital": {"B": True}, "raw": {"BIN": b"\x00\x01"}}
    assert "result" not in iot.get_command_execution(executionId=execution, targetArn=THING)
    assert got["completedAt"] >= got["createdAt"]
    listed = iot.list_command_executions(targetArn=THING, startedTimeFilter={"after": "2020-01-01T00:00"})
    assert [each["executionId"] for each in listed["commandExecutions"]] == [execution]
    iot.delete_command_execution(executionId=execution, targetArn=THING)
    with pytest.raises(iot.exceptions.ResourceNotFoundException):
        iot.get_command_execution(executionId=execution, targetArn=THING)


def test_a_client_gets_other_payloads_and_answers_in_cbor(edge, device):
    iot, data = edge.client(), edge.client("iot-jobs-data")
    base = "$aws/commands/clients/pump-client/executions"
    device.subscribe(f"{base}/+/request", f"{base}/+/request/cbor", f"{base}/+/response/accepted/cbor")
    arn = iot.create_command(commandId="raw", payload={"content": b"\x00\xff"})["commandArn"]
    target = PREFIX + "client/pump-client"
    execution = data.start_command_execution(targetArn=target, commandArn=arn)["executionId"]
    packet = device.get()
    assert (packet.topic, packet.payload) == (f"{base}/{execution}/request", b"\x00\xff")
    assert packet.content_type == "application/octet-stream"
    device.publish(f"{base}/{execution}/response/cbor", cbor2.dumps({"status": "IN_PROGRESS"}))
    packet = device.get()
    assert packet.topic == f"{base}/{execution}/response/accepted/cbor"
    assert cbor2.loads(packet.payload) == {"executionId": execution}
    assert iot.get_command_execution(executionId=execution, targetArn=target)["status"] == "IN_PROGRESS"

    dynamic = {**TEMPLATE, "preprocessor": {"awsJsonSubstitution": {"outputFormat": "CBOR"}}}
    arn = iot.create_command(commandId="dynamic", **dynamic)["commandArn"]
    parameters = {"level": {"I": 75}}
    execution = data.start_command_execution(targetArn=target, commandArn=arn, parameters=parameters)["executionId"]
    packet = device.get()
    assert packet.topic == f"{base}/{execution}/request/cbor"
    assert cbor2.loads(packet.payload) == {"power": "OFF", "level": 75, "text": "to 75 in 10 s"}
    got = iot.get_command_execution(executionId=execution, targetArn=target)
    assert got["parameters"] == {"power": {"S": "OFF"}, "level": {"I": 75}}
    with pytest.raises(data.exceptions.ValidationException, match="IN_RANGE"):
        data.start_command_execution(targetArn=target, commandArn=arn, parameters={"level": {"I": 81}})
    shown = iot.get_command(commandId="dynamic")
    assert shown["mandatoryParameters"][1]["type"] == "INTEGER"
    listed = iot.list_commands(commandParameterName="level")["commands"]
    assert [each["commandId"] for each in listed] == ["dynamic"]


def test_what_the_api_refuses(edge):
    iot, data = edge.client(), edge.client("iot-jobs-data")
    iot.create_thing(thingName="pump")
    payload = {"content": b"{}", "contentType": "application/json"}
    arn = iot.create_command(commandId="c", payload=payload)["commandArn"]
    with pytest.raises(iot.exceptions.ConflictException) as conflict:
        iot.create_command(commandId="c", payload=payload)
    assert conflict.value.response["resourceId"] == "c"
    with pytest.raises(ClientError) as refused:
        iot.create_command(commandId="f", namespace="AWS-IoT-FleetWise", payload=payload)
    assert refused.value.response["Error"]["Code"] == "NotEmulated"
    for wrong in ({"targetArn": PREFIX + "thing/none"}, {"commandArn": PREFIX + "command/none"}):
        with pytest.raises(data.exceptions.ResourceNotFoundException):
            data.start_command_execution(**{"targetArn": THING, "commandArn": arn, **wrong})
    for wrong in ({"targetArn": PREFIX + "thinggroup/g"}, {"executionTimeoutSeconds": 43201}):
        with pytest.raises(data.exceptions.ValidationException):
            data.start_command_execution(**{"targetArn": THING, "commandArn": arn, **wrong})
    same = {"targetArn": THING, "commandArn": arn, "clientToken": "t"}
    first = data.start_command_execution(**same)
    assert data.start_command_execution(**same)["executionId"] == first["executionId"]
    with pytest.raises(data.exceptions.ConflictException):
        data.start_command_execution(**same, executionTimeoutSeconds=11)
    with pytest.raises(iot.exceptions.ConflictException):
        iot.delete_command_execution(executionId=first["executionId"], targetArn=THING)
    for wrong in ({}, {"commandArn": arn, "targetArn": THING}):
        with pytest.raises(iot.exceptions.ValidationException):
            iot.list_command_executions(**wrong)
    iot.update_command(commandId="c", deprecated=True)
    with pytest.raises(data.exceptions.ValidationException, match="deprecated"):
        data.start_command_execution(targetArn=THING, commandArn=arn)
    with pytest.raises(iot.exceptions.ConflictException):
        iot.update_command(commandId="c", displayName="new")
    assert iot.update_command(commandId="c", deprecated=False, displayName="new")["displayName"] == "new"
    assert iot.delete_command(commandId="c")["statusCode"] == 202
    assert [each["pendingDeletion"] for each in iot.list_commands()["commands"]] == [True]
    assert iot.get_command(commandId="c")["pendingDeletion"] is True
    assert iot.delete_command(commandId="none")["statusCode"] == 204


# The rules, with a clock of our own


class Bench:
    """Commands over a memory store; what is published is kept."""

    def __init__(self):
        self.now, self.ids, self.sent = 1_000_000.0, 0, []
        self.ground = Ground(open_database(MEMORY), Arns("us-east-1", "0" * 12), lambda: self.now, self.new_id)
        self.ground.kind("thing").put("pump", {"thingName": "pump"})
        self.commands = self.again()
        self.commands.create({"commandId": "c", "payload": {"content": b"x"}}, None)

    def again(self):
        return Commands(self.ground, Tags(self.ground), self, lambda *_: None)

    def new_id(self):
        self.ids += 1
        return f"e{self.ids}"

    def publish(self, publication):
        self.sent.append((publication.topic, publication.payload))

    def add_listener(self, filter, callback):
        self.respond = callback

    def start(self, **more):
        context = CallContext("StartCommandExecution", Request("POST", "/", []), "r")
        params = {"commandArn": PREFIX + "command/c", "targetArn": THING, **more}
        return self.commands.start(params, context)["executionId"]

    def report(self, execution, payload, form="/json"):
        raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        topic = f"$aws/commands/things/pump/executions/{execution}/response{form}"
        self.respond(Publication(topic, raw, client_id="d"))
        topic, answer = self.sent[-1]
        return topic.removesuffix(form).rpartition("/")[2], json.loads(answer)

    def get(self, execution):
        return self.commands.get_execution({"executionId": execution, "targetArn": THING}, None)


def test_the_cloud_times_out_and_the_device_may_override_it():
    bench = Bench()
    execution = bench.start()
    bench.now += 10
    bench.commands.tick()
    got = bench.get(execution)
    assert (got["status"], got["statusReason"]) == ("TIMED_OUT", {"reasonCode": "$NO_RESPONSE_FROM_DEVICE"})
    assert "completedAt" not in got
    assert bench.sent[-1][0] == "$aws/events/commandExecution/c/TIMED_OUT"
    assert bench.report(execution, {"status": "IN_PROGRESS"})[1]["error"] == "InvalidStateTransition"
    late = {"status": "TIMED_OUT", "statusReason": {"reasonCode": "SLOW"}}
    assert bench.report(execution, late)[0] == "accepted"
    assert bench.get(execution)["statusReason"] == {"reasonCode": "SLOW"}
    assert bench.report(execution, {"status": "SUCCEEDED"})[1]["error"] == "TerminalStateReached"


def test_a_restart_forgets_no_deadline_and_the_end_of_its_time_removes_an_execution():
    bench = Bench()
    execution = bench.start()
    bench.commands = bench.again()
    bench.now += 11
    bench.commands.tick()
    assert bench.get(execution)["status"] == "TIMED_OUT"
    bench.now += executions.KEPT_S
    bench.commands.tick()
    with pytest.raises(AwsError, match="does not exist"):
        bench.get(execution)


def test_a_command_is_deleted_after_12_hours_and_at_once_when_long_deprecated():
    bench = Bench()
    assert bench.commands.delete({"commandId": "c"}, None) == {"statusCode": 202}
    bench.now += 12 * 3600 + 1
    bench.commands.tick()
    with pytest.raises(AwsError, match="does not exist"):
        bench.commands.get({"commandId": "c"}, None)
    bench.commands.create({"commandId": "c", "payload": {"content": b"x"}}, None)
    bench.commands.change({"commandId": "c", "deprecated": True}, None)
    bench.now += 12 * 3600 + 1
    assert bench.commands.delete({"commandId": "c"}, None) == {"statusCode": 204}


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"{", "InvalidJson"),
        (b"[]", "InvalidRequest"),
        ({"status": "CREATED"}, "InvalidRequest"),
        ({"status": "FAILED", "statusReason": {"reasonDescription": "x"}}, "InvalidRequest"),
        ({"status": "FAILED", "statusReason": {"reasonCode": "lower"}}, "InvalidRequest"),
        ({"status": "FAILED", "statusReason": {"reasonCode": "A", "reasonDescription": "a\nb"}}, "InvalidRequest"),
        ({"status": "SUCCEEDED", "result": {}}, "InvalidRequest"),
        ({"status": "SUCCEEDED", "result": {"a": "text"}}, "InvalidRequest"),
        ({"status": "SUCCEEDED", "result": {"a": {"S": "text"}}}, "InvalidRequest"),
        ({"status": "SUCCEEDED", "result": {"a": {"b": "true"}}}, "InvalidRequest"),
        ({"status": "SUCCEEDED", "result": {"a": {"bin": "*"}}}, "InvalidRequest"),
        ({"status": "SUCCEEDED", "result": {"a b": {"s": "x"}}}, "InvalidRequest"),
    ],
)
def test_what_a_device_may_not_report(payload, code):
    bench = Bench()
    execution = bench.start()
    outcome, answer = bench.report(execution, payload)
    assert (outcome, answer["error"], answer["executionId"]) == ("rejected", code, execution)
    assert bench.get(execution)["status"] == "CREATED"


def test_a_report_for_another_execution_or_without_a_format():
    bench = Bench()
    assert bench.report("none", {"status": "FAILED"})[1]["error"] == "ResourceNotFound"
    execution = bench.start()
    assert bench.report(execution, {"status": "FAILED"}, form="")[1] == {"executionId": execution}
    assert bench.sent[-1][0].endswith(f"/{execution}/response/accepted")


def test_pages_newest_first():
    bench = Bench()
    made = []
    for _ in range(5):
        bench.now += 1
        made.append(bench.start())
    params = {"targetArn": THING, "maxResults": 3}
    first = bench.commands.list_executions(params, None)
    rest = bench.commands.list_executions({**params, "nextToken": first["nextToken"]}, None)
    assert [e["executionId"] for page in (first, rest) for e in page["commandExecutions"]] == made[::-1]
    up = bench.commands.list_executions({"targetArn": THING, "sortOrder": "ASCENDING"}, None)
    assert [e["executionId"] for e in up["commandExecutions"]] == made
    with pytest.raises(AwsError, match="no time"):
        bench.commands.list_executions({"targetArn": THING, "startedTimeFilter": {"after": "soon"}}, None)
    late = {"targetArn": THING, "completedTimeFilter": {"after": "2000-01-01T00:00"}}
    assert bench.commands.list_executions(late, None)["commandExecutions"] == []


def condition(operator, **operand):
    return {"comparisonOperator": operator, "operand": operand}


@pytest.mark.parametrize(
    ("operator", "operand", "value", "expected"),
    [
        ("EQUALS", {"number": "5"}, {"I": 5}, True),
        ("EQUALS", {"number": "5.0"}, {"D": 5.0}, True),
        ("NOT_EQUALS", {"number": "5"}, {"L": 6}, True),
        ("LESS_THAN", {"number": "18446744073709551615"}, {"UL": "18446744073709551614"}, True),
        ("LESS_THAN_EQUALS", {"number": "5"}, {"I": 5}, True),
        ("GREATER_THAN", {"number": "5"}, {"I": 5}, False),
        ("GREATER_THAN_EQUALS", {"number": "5"}, {"I": 5}, True),
        ("IN_RANGE", {"numberRange": {"min": "1", "max": "5"}}, {"I": 5}, True),
        ("NOT_IN_RANGE", {"numberRange": {"min": "1", "max": "5"}}, {"I": 5}, False),
        ("NOT_IN_RANGE", {"numberRange": {"min": "1", "max": "5"}}, {"I": 6}, True),
        ("IN_SET", {"numbers": ["1", "2"]}, {"I": 2}, True),
        ("NOT_IN_SET", {"numbers": ["1", "2"]}, {"I": 2}, False),
        ("EQUALS", {"string": "a"}, {"S": "a"}, True),
        ("NOT_EQUALS", {"string": "a"}, {"S": "a"}, False),
        ("NOT_IN_SET", {"strings": ["a", "b"]}, {"S": "c"}, True),
    ],
)
def test_conditions(operator, operand, value, expected):
    assert holds(condition(operator, **operand), value) is expected


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({}, "Exactly one"),
        ({"payload": {"content": b"x"}, **TEMPLATE}, "Exactly one"),
        ({"payload": {}}, "content is required"),
        ({"payload": {"content": b"x" * 32769}}, "exceeds 32768"),
        ({"payload": {"content": b"x", "contentType": "json"}}, "type/subtype"),
        ({"payload": {"content": b"x"}, "roleArn": "arn:aws:iam::1:role/r"}, "roleArn"),
        ({**TEMPLATE, "payloadTemplate": "{"}, "not valid JSON"),
        ({**TEMPLATE, "payloadTemplate": "{}"}, "no placeholder"),
        ({**TEMPLATE, "preprocessor": None}, "preprocessor"),
        ({**TEMPLATE, "mandatoryParameters": None}, "mandatoryParameters is required"),
        ({**TEMPLATE, "mandatoryParameters": [{"name": "a"}, {"name": "a"}]}, "twice"),
        ({**TEMPLATE, "mandatoryParameters": [{"name": "a", "type": "LONG", "value": {"I": 1}}]}, "member L"),
        ({**TEMPLATE, "mandatoryParameters": [{"name": "a", "value": {"I": 2**31}}]}, "out of range"),
        ({**TEMPLATE, "mandatoryParameters": [{"name": "a", "value": {"I": 1, "S": "1"}}]}, "exactly one member"),
    ],
)
def test_definitions_that_are_refused(params, words):
    with pytest.raises(AwsError, match=words):
        check_definition(params)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("BOOLEAN", condition("EQUALS", string="true")),
        ("STRING", condition("EQUALS", number="1")),
        ("INTEGER", condition("EQUALS", string="1")),
        ("INTEGER", condition("LESS_THAN", numbers=["1"])),
        ("INTEGER", condition("LESS_THAN", number="one")),
    ],
)
def test_conditions_that_do_not_fit_their_type(kind, given):
    with pytest.raises(AwsError):
        check_definition({**TEMPLATE, "mandatoryParameters": [{"name": "a", "type": kind, "valueConditions": [given]}]})


def test_a_value_comes_from_the_request_then_the_command_then_its_default():
    declared = [{"name": "a", "value": {"I": 2}, "defaultValue": {"I": 3}}]
    assert resolve(declared, {"a": {"I": 1}}) == {"a": {"I": 1}}
    assert resolve(declared, {}) == {"a": {"I": 2}}
    assert resolve([{"name": "a", "defaultValue": {"I": 3}}], {}) == {"a": {"I": 3}}
    with pytest.raises(AwsError, match="has no value"):
        resolve([{"name": "a"}], {})
    with pytest.raises(AwsError, match="b has no value"):
        payload_of({**TEMPLATE, "payloadTemplate": '["${aws:iot:commandexecution::parameter:b}"]'}, {}, 1)


def test_typed_placeholders():
    names = {"l": {"L": 2**40}, "d": {"D": 1.5}, "b": {"B": False}, "u": {"UL": "7"}, "x": {"BIN": b"\x01"}}
    text = json.dumps({name: parameter(name) for name in names})
    command = {**TEMPLATE, "payloadTemplate": text}
    expected = {"l": 2**40, "d": 1.5, "b": False, "u": 7, "x": "AQ=="}
    assert json.loads(payload_of(command, names, 1)[0]) == expected
    command["preprocessor"] = {"awsJsonSubstitution": {"outputFormat": "CBOR"}}
    assert cbor2.loads(payload_of(command, names, 1)[0]) == {**expected, "x": b"\x01"}


def test_fleetwise_is_refused_loudly():
    with pytest.raises(NotEmulated):
        Bench().commands.create({"commandId": "f", "namespace": "AWS-IoT-FleetWise"}, None)
