"""IoT Core's entries in CloudWatch Logs: the options as a table, and a running edge with its backend."""

import json
import threading

import paho.mqtt.client as paho
import pytest
from botocore.exceptions import ClientError

from foreshore.iot.cloud_logs import LogOptions, Subject, read_options
from tests.e2e.conftest import start, stop

ROLE = "arn:aws:iam::000000000000:role/logs"


def target(kind, name, level):
    return {"logTarget": {"targetType": kind, "targetName": name}, "logLevel": level}


SUBJECT = Subject("c", "p", "10.0.0.1", 1, lambda: ["plants", "all"])
V2 = {"roleArn": ROLE, "defaultLogLevel": "ERROR"}
EVENT = {"eventType": "Connect", "logLevel": "INFO", "logDestination": "mine"}


@pytest.mark.parametrize(
    ("old", "new", "levels", "event", "level", "group"),
    [
        (None, None, [], "Connect", "ERROR", ""),
        ({"logLevel": "ERROR"}, None, [], "Connect", "ERROR", "AWSIotLogs"),
        ({"logLevel": "ERROR"}, None, [], "Connect", "INFO", ""),
        ({"logLevel": "DEBUG"}, V2, [], "Connect", "INFO", ""),
        (None, V2, [], "Connect", "ERROR", "AWSIotLogsV2"),
        (None, {**V2, "disableAllLogs": True}, [], "Connect", "ERROR", ""),
        (None, {**V2, "eventConfigurations": [EVENT]}, [], "Connect", "INFO", "mine"),
        (None, {**V2, "eventConfigurations": [EVENT]}, [], "Disconnect", "INFO", ""),
        (None, {**V2, "eventConfigurations": [{**EVENT, "logLevel": "DISABLED"}]}, [], "Connect", "ERROR", ""),
        (None, V2, [target("CLIENT_ID", "c", "DEBUG")], "Connect", "INFO", "AWSIotLogsV2"),
        (None, V2, [target("CLIENT_ID", "d", "DEBUG")], "Connect", "INFO", ""),
        (None, V2, [target("SOURCE_IP", "10.0.0.1", "INFO")], "Connect", "INFO", "AWSIotLogsV2"),
        (None, V2, [target("PRINCIPAL_ID", "p", "DISABLED")], "Connect", "ERROR", ""),
        (None, V2, [target("THING_GROUP", "all", "INFO")], "Connect", "INFO", "AWSIotLogsV2"),
        (None, V2, [target("DEFAULT", "", "INFO")], "Connect", "INFO", "AWSIotLogsV2"),
    ],
)
def test_where_an_entry_goes(old, new, levels, event, level, group):
    options = read_options(old, new, levels)
    assert options.group_for(event, level, SUBJECT) == group
    assert options.may_tell(event, level) or not group
    assert options.is_on or not group


def test_nothing_stands_in_the_brokers_way_while_nothing_is_logged(edge):
    iot, broker = edge.client(), edge.iot.broker
    assert not LogOptions().is_on
    for level, is_watched in (("DISABLED", False), ("INFO", True), ("DISABLED", False)):
        iot.set_v2_logging_options(roleArn=ROLE, defaultLogLevel=level)
        assert (broker.observer is not edge.iot.presence) is is_watched
        assert (broker.access is not edge.iot.access) is is_watched


def test_options_that_are_not_logged_are_said(edge):
    iot = edge.client()
    with pytest.raises(ClientError, match="NotConfiguredException"):
        iot.set_v2_logging_level(logTarget={"targetType": "CLIENT_ID", "targetName": "c"}, logLevel="INFO")
    events = [{"eventType": "Publish-Out", "logLevel": "INFO"}, {"eventType": "Connect", "logLevel": "DEBUG"}]
    iot.set_v2_logging_options(roleArn=ROLE, defaultLogLevel="DISABLED", eventConfigurations=events)
    assert "logging options: no entries are written for Publish-Out" in [line.text for line in edge.logs]
    assert len(iot.get_v2_logging_options()["eventConfigurations"]) == 2
    every = iot.get_v2_logging_options(verbose=True)["eventConfigurations"]
    shown = {each["eventType"]: each["logLevel"] for each in every}
    assert (shown["Connect"], shown["Subscribe"], shown["Publish-Out"]) == ("DEBUG", "DISABLED", "INFO")


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    statements = [
        {"Effect": "Allow", "Action": "*", "Resource": "*"},
        {"Effect": "Deny", "Action": "iot:Publish", "Resource": "arn:aws:iot:*:*:topic/secret"},
    ]
    (folder / "plain.json").write_text(json.dumps({"Version": "2012-10-17", "Statement": statements}))
    edge = start(folder, folder / "home", "--only", "iot", "--plain-policy", str(folder / "plain.json"))
    yield edge
    stop(edge)


def entries(edge, group, wanted):
    """Everything in a log group, once it has an entry for which `wanted` holds."""
    logs, found = edge.boto3("logs"), []
    for _ in range(200):
        try:
            found = [json.loads(each["message"]) for each in logs.filter_log_events(logGroupName=group)["events"]]
        except ClientError:
            found = []
        if any(map(wanted, found)):
            return found
        threading.Event().wait(0.05)
    raise AssertionError(found)


def test_a_devices_day_is_in_the_logs(running):
    iot = running.boto3("iot")
    iot.set_v2_logging_options(roleArn=ROLE, defaultLogLevel="INFO")
    actions = [{"republish": {"topic": "out", "roleArn": ROLE}}]
    iot.create_topic_rule(ruleName="copy", topicRulePayload={"sql": "SELECT * FROM 'in'", "actions": actions})
    heard, gone = threading.Event(), threading.Event()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, "c1")
    client.on_message = lambda *_: heard.set()
    client.on_disconnect = lambda *_: gone.set()
    client.on_connect = lambda *_: client.subscribe("out", 1)
    client.on_subscribe = lambda *_: client.publish("in", b'{"a": 1}', 1)
    client.connect(*running.host_port("mqtt"))
    client.loop_start()
    assert heard.wait(20)
    client.publish("$aws/things/pump/shadow/name/motor/update", b'{"state": {"desired": {"a": 1}}}', 1)
    client.publish("$aws/things/pump/shadow/update", b"no JSON", 1)
    client.publish("secret", b"x", 0)
    assert gone.wait(20)
    client.loop_stop()
    found = entries(running, "AWSIotLogsV2", lambda each: each["eventType"] == "Disconnect")
    told = {each["eventType"]: each for each in found if each["status"] == "Success"}
    assert set(told) >= {"Connect", "Subscribe", "Publish-In", "RuleExecution", "Disconnect"}
    assert told["Connect"]["clientId"] == "c1" and told["Connect"]["sourceIp"] == "127.0.0.1"
    assert told["Connect"]["protocol"] == "MQTT" and told["Connect"]["sourcePort"] > 0
    assert told["Connect"]["logLevel"] == "INFO" and told["Connect"]["accountId"] == "000000000000"
    assert told["Subscribe"]["topicName"] == "out"
    (published,) = [each for each in found if (each["eventType"], each.get("topicName")) == ("Publish-In", "in")]
    assert published["traceId"] == told["RuleExecution"]["traceId"]
    assert told["RuleExecution"]["ruleName"] == "copy"
    shadow = told["UpdateThingShadow"]
    assert (shadow["deviceShadowName"], shadow["protocol"]) == ("motor", "MQTT")
    assert shadow["topicName"] == "$aws/things/pump/shadow/name/motor/update"
    failed = {each["eventType"]: each for each in found if each["status"] == "Failure"}
    wrong, refused = failed["UpdateThingShadow"], failed["Publish-In"]
    assert (wrong["deviceShadowName"], wrong["logLevel"]) == ("pump", "ERROR")
    assert (refused["eventType"], refused["topicName"], refused["logLevel"]) == ("Publish-In", "secret", "ERROR")
    assert (refused["reason"], refused["clientId"]) == ("AUTHORIZATION_FAILURE", "c1")
    iot.set_v2_logging_options(disableAllLogs=True)


def test_an_event_type_has_a_group_of_its_own(running):
    iot = running.boto3("iot")
    event = {"eventType": "Publish-In", "logLevel": "INFO", "logDestination": "published"}
    iot.set_v2_logging_options(
        roleArn=ROLE, defaultLogLevel="DISABLED", disableAllLogs=False, eventConfigurations=[event]
    )
    running.boto3("iot-data").publish(topic="a/b", payload=b"x")
    (one,) = entries(running, "published", lambda each: True)
    assert (one["protocol"], one["topicName"], one["principalId"]) == ("HTTP", "a/b", "x")
    iot.set_v2_logging_options(disableAllLogs=True)
