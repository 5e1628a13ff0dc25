"""The test cases as scripts: events in, a verdict out; and the pure parts they stand on."""

import ssl
from types import SimpleNamespace

import orjson
import pytest

from foreshore.errors import AwsError, NotEmulated
from foreshore.iot.advisor.backoff import classify
from foreshore.iot.advisor.cases import CASES, SHADOW_TOKEN
from foreshore.iot.advisor.hello import cipher_suites
from foreshore.iot.advisor.script import Event, Script
from foreshore.iot.advisor.suite import default_root_group, read, with_ids
from foreshore.iot.mqtt.codec import Ack, Connack, Connect, Ping, Publish, Request, Suback, Subscribe
from foreshore.iot.policies import parse


@pytest.mark.parametrize(
    ("delays", "kind"),
    [
        ([], "none"),
        ([0.0, 0.01, 0.0, 0.02, 0.01], "none"),
        ([1.0, 1.0, 1.0, 1.0, 1.0], "constant"),
        ([1.0, 1.05, 0.98, 1.02, 1.0], "constant"),
        ([1, 2, 3, 4, 5], "linear"),
        ([0.5, 1.01, 1.52, 2.0, 2.5], "linear"),
        ([1, 2, 4, 8, 16], "exponential"),
        ([0.21, 0.4, 0.83, 1.6, 3.3], "exponential"),
        ([1, 2, 4, 4, 4], "exponential"),
        ([1, 1.5, 2.25, 3.4, 5.1], "exponential"),
        ([0.7, 1.9, 2.2, 7.1, 5.0], "jitter"),
        ([0.3, 0.2, 2.5, 1.0, 9.0], "jitter"),
    ],
)
def test_kinds_of_backoff(delays, kind):
    assert classify(delays) == kind


def test_the_cipher_suites_of_a_hello_in_pieces():
    context = ssl.create_default_context()
    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-SHA384")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost").do_handshake()
    hello = out.read()
    assert sorted(cipher_suites(hello)) == [0xC024, 0xC02F]
    assert all(cipher_suites(hello[:size]) is None for size in range(len(hello)))
    with pytest.raises(ValueError, match="not a TLS"):
        cipher_suites(b"\x10\x0c\x00\x04MQTT")


def group(*tests, **configuration):
    return orjson.dumps({"configuration": configuration, "tests": [{"name": "g", "tests": list(tests)}]}).decode()


def test_configurations_are_inherited_and_ids_given():
    test = {"name": "n", "configuration": {"B": 1}, "test": {"id": "mqtt_connect"}}
    numbers = iter("abc")
    text = with_ids(group(test, A=2, EXECUTION_TIMEOUT="7"), lambda: next(numbers))
    ((group_id, name, (found,)),) = read(text, CASES)
    assert (group_id, name, found.test_id, found.case, found.timeout_s) == ("a", "g", "b", "MQTT_Connect", 7.0)
    assert found.configuration == {"A": 2, "B": 1, "EXECUTION_TIMEOUT": "7"}


def test_the_default_suite_is_one():
    tests = [test for group in read(default_root_group(), CASES) for test in group.tests]
    assert {test.timeout_s for test in tests} == {300.0, 60.0}


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", "{}", '{"tests": []}', '{"tests": [{"name": "g"}]}', '{"tests": [{"tests": [{"name": "n"}]}]}',
        group({"test": {"id": "MQTT_Connect"}, "configuration": [1]}),
        group({"test": {"id": "MQTT_Connect"}, "configuration": {"EXECUTION_TIMEOUT": "soon"}}),
        group({"test": {"id": "MQTT_Connect"}, "configuration": {"EXECUTION_TIMEOUT": 0}}),
    ],
)  # fmt: skip
def test_what_is_no_suite(text):
    with pytest.raises(AwsError) as caught:
        read(text, CASES)
    assert caught.value.code == "ValidationException"


def test_a_test_case_that_is_not_emulated():
    with pytest.raises(NotEmulated, match="MQTT_Long_Duration"):
        read(group({"test": {"id": "MQTT_Long_Duration"}}), CASES)


class Orders:
    thing = "t"

    def __init__(self):
        self.given = []

    def drop(self):
        self.given.append("drop")

    def publish(self, topic, payload):
        self.given.append(("publish", topic))

    def forget_session(self):
        self.given.append("forget")

    def desire(self, state, shadow):
        self.given.append(("desire", shadow))

    def create_job(self, document, source):
        return "j"

    def policies(self):
        return self.found


def play(case, events, orders=None, **configuration):
    """A case's verdict on events; (kind or packet, time, link) are written short. "s:" marks what was sent."""
    script = Script(CASES[case], configuration, orders or Orders())
    for number, event in enumerate(events):
        if not isinstance(event, Event):
            what, at, link = (*event, 1, 1)[:3] if isinstance(event, tuple) else (event, number, 1)
            event = Event(what, at, link) if isinstance(what, str) else Event("packet", at, link, what)
        script.feed(event)
    script.time_out(9)
    return script.verdict


def sent(packet, link=1):
    return Event("sent", 0.0, link, packet)


JOIN = (Connect("d", 4, False, 30), sent(Connack()))
REFUSED = Event("closed", 0.0, 1, None, "broker, AUTH_ERROR")
PUB = Publish("a", b"x", 1, packet_id=5)
SUB = Subscribe(6, [Request("a", 1)])


def attempts(delays):
    """Connections that get no CONNACK; the device waits for the given times in between."""
    at, events = 0.0, [*JOIN, ("closed", 0.0)]
    for link, delay in enumerate([*delays, 0], 2):
        events += [("open", at, link), (Connect("d", 4), at, link), ("closed", at + 1, link)]
        at += 1 + delay
    return events


def cuts(delays):
    """Connections that are cut after their CONNACK."""
    at, events = 0.0, []
    for link, delay in enumerate([*delays, 0], 1):
        events += [("open", at, link), (Connect("d", 4), at, link), sent(Connack(), link), ("closed", at + 1, link)]
        at += 1 + delay
    return events


STATE = Publish("$aws/things/t/shadow/update", b'{"state":{"reported":{"v":1}}}', 1, packet_id=1)
JOB = "$aws/things/t/jobs/j/update"
TRIGGER = {"TRIGGER_TOPIC": "a"}

# (case, events, configuration, status, a word of the reason)
PLAYS = [
    ("TLS_Connect", ["open", "tls"], {}, "PASS", ""),
    ("TLS_Connect", ["open", "tls-failed"], {}, "FAIL", "handshake"),
    ("TLS_Connect", [], {}, "FAIL", "did not open a TLS connection within 9 seconds"),
    ("TLS_Unsecure_Server_Cert", ["tls-failed"], {}, "PASS", ""),
    ("TLS_Unsecure_Server_Cert", ["tls"], {}, "FAIL", "must not trust"),
    ("TLS_Expired_Server_Cert", [Event("tls-failed", 0, 1, None, "certificate expired alert")], {}, "PASS", ""),
    ("TLS_Expired_Server_Cert", ["tls-failed"], {}, "PASS_WITH_WARNINGS", "without a TLS alert"),
    ("TLS_Support_AWS_IoT_Cipher_Suites", [Event("hello", 0, suites=(0x1301, 0xC02F))], {}, "PASS", ""),
    ("TLS_Support_AWS_IoT_Cipher_Suites", [Event("hello", 0, suites=(0x1301, 0x0005))],
     {}, "PASS_WITH_WARNINGS", "0005"),
    ("TLS_Support_AWS_IoT_Cipher_Suites", [Event("hello", 0, suites=(0x0035,))],
     {}, "PASS_WITH_WARNINGS", "recommended"),
    ("TLS_Support_AWS_IoT_Cipher_Suites", [Event("hello", 0, suites=(0x0005,))], {}, "FAIL", "no cipher suite"),
    ("MQTT_Connect", JOIN, {}, "PASS", ""),
    ("MQTT_Connect", ["open", "tls"], {}, "FAIL", "send CONNECT"),
    ("MQTT_Connect", [Connect("d"), ("closed", 0)], {}, "FAIL", "iot:Connect"),
    ("MQTT_Publish", [*JOIN, REFUSED, *JOIN, REFUSED], {}, "FAIL",
     "within 9 seconds. The broker closed its connection 2 times: AUTH_ERROR."),
    ("MQTT_Connect_Exponential_Backoff_Retries", attempts([1, 2, 4, 8, 16]), {}, "PASS", ""),
    ("MQTT_Connect_Exponential_Backoff_Retries", attempts([2, 2, 2, 2, 2]), {}, "FAIL", "a constant backoff"),
    ("MQTT_Connect_Exponential_Backoff_Retries", attempts([1, 2, 3, 4, 5]), {}, "FAIL", "a linear backoff"),
    ("MQTT_Connect_Exponential_Backoff_Retries", attempts([0, 0, 0, 0, 0]), {}, "FAIL", "no backoff"),
    ("MQTT_Connect_Exponential_Backoff_Retries", attempts([1, 2]), {}, "FAIL", "attempt"),
    ("MQTT_Reconnect_Backoff_Retries_On_Server_Disconnect", attempts([0.7, 1.9, 2.2, 7.1, 5]), {}, "PASS", ""),
    ("MQTT_Reconnect_Backoff_Retries_On_Server_Disconnect", attempts([1, 2, 4, 8, 16]), {},
     "PASS_WITH_WARNINGS", "jitter"),
    ("MQTT_Reconnect_Backoff_Retries_On_Unstable_Connection", cuts([0.7, 1.9, 2.2, 7.1, 5]), {}, "PASS", ""),
    ("MQTT_Reconnect_Backoff_Retries_On_Unstable_Connection", cuts([1, 2, 4, 8, 16]), {},
     "PASS_WITH_WARNINGS", "jitter"),
    ("MQTT_Reconnect_Backoff_Retries_On_Unstable_Connection", cuts([1, 1, 1, 1, 1]), {}, "FAIL", "a constant backoff"),
    ("MQTT_Reconnect_Backoff_Retries_On_Unstable_Connection", cuts([1, 3, 2, 7, 5]), {"RECONNECTION_ATTEMPTS": 6},
     "FAIL", "did not reconnect within 9 seconds"),
    ("MQTT_ReconnectionAfterSuccessfulConnection", [*JOIN, ("closed", 3.0), ("open", 4.1, 2)], {}, "PASS", ""),
    ("MQTT_ReconnectionAfterSuccessfulConnection", [*JOIN, ("closed", 3.0), ("open", 3.5, 2)],
     {}, "FAIL", "0.50 seconds"),
    ("MQTT_Publish", [PUB], {}, "PASS", ""),
    ("MQTT_Publish", [PUB], {"TOPIC_FOR_PUBLISH_VALIDATION": "b"}, "FAIL", "publish to b"),
    ("MQTT_Publish", [PUB], {"PAYLOAD_FOR_PUBLISH_VALIDATION": "x"}, "PASS", ""),
    ("MQTT_Publish_Retry_No_Puback", [PUB, PUB], {}, "PASS", ""),
    ("MQTT_Publish_Retry_No_Puback", [PUB], {}, "FAIL", "publish again without PUBACK"),
    ("MQTT_Publish_Retry_No_Puback", [PUB, ("closed", 1)], {}, "FAIL", "disconnected"),
    ("MQTT_Publish_Retry_No_Puback", [PUB, Publish("a", b"x", 1, packet_id=6)],
     {}, "FAIL", "another packet identifier"),
    ("MQTT_Publish_Retained_Messages", [PUB, Publish("a", b"", 0, True)], {}, "PASS", ""),
    ("MQTT_Publish_Retained_Messages", [PUB], {}, "FAIL", "retained"),
    ("MQTT_Publish_User_Property", [Publish("a", b"", properties={0x26: [("k", "v")]})],
     {"USER_PROPERTIES": [{"name": "k", "value": "v"}]}, "PASS", ""),
    ("MQTT_Publish_User_Property", [PUB], {}, "FAIL", "user properties"),
    ("MQTT_Subscribe", [SUB], {}, "PASS", ""),
    ("MQTT_Subscribe", [SUB], {"TOPIC_LIST_FOR_SUBSCRIPTION_VALIDATION_ID": ["a", "b"]}, "FAIL", "subscribe to b"),
    ("MQTT_Subscribe_Retry_No_Suback", [SUB, SUB], {}, "PASS", ""),
    ("MQTT_Subscribe_Retry_No_Suback", [SUB, Subscribe(7, SUB.requests)], {}, "FAIL", "another packet identifier"),
    ("MQTT_No_Ack_PingResp", [*JOIN, Ping(12), ("closed", 5)], {}, "PASS", ""),
    ("MQTT_No_Ack_PingResp", [*JOIN, Ping(12)], {}, "FAIL", "disconnect without PINGRESP"),
    ("MQTT_No_Ack_PingResp", [Connect("d", 4), sent(Connack())], {}, "FAIL", "keep-alive of 0"),
    ("MQTT_Client_Puback_QoS1", [SUB, sent(Suback(6, [1])), sent(Publish("a", b"hi", 1, packet_id=3)), Ack(4, 3)],
     {"PAYLOAD_FOR_PUBLISH_VALIDATION": "hi"}, "PASS", ""),
    ("MQTT_Client_Puback_QoS1", [SUB, sent(Suback(6, [1])), sent(Publish("a", b"hi", 1, packet_id=3))],
     {"PAYLOAD_FOR_PUBLISH_VALIDATION": "hi"}, "FAIL", "acknowledge"),
    ("MQTT_Persistent_Session_Happy_Case",
     [*JOIN, SUB, sent(Suback(6, [1])), ("closed", 1), (Connect("d", 4, False), 2, 2),
      sent(Publish("a", b"kept", 1, packet_id=1), 2), (Ack(4, 1), 3, 2)], {**TRIGGER, "PAYLOAD": "kept"}, "PASS", ""),
    ("MQTT_Persistent_Session_Happy_Case",
     [*JOIN, SUB, sent(Suback(6, [1])), ("closed", 1), (Connect("d", 4, False), 2, 2), (SUB, 3, 2)], TRIGGER,
     "FAIL", "subscribed to a again"),
    ("MQTT_Persistent_Session_Happy_Case", [Connect("d", 4, True), sent(Connack())],
     TRIGGER, "FAIL", "persistent session"),
    ("MQTT_Expired_Persistent_Session",
     [*JOIN, SUB, sent(Suback(6, [1])), ("closed", 1), (Connect("d", 4, False), 2, 2), sent(Connack(), 2), (SUB, 3, 2),
      sent(Suback(6, [1]), 2)], TRIGGER, "PASS", ""),
    ("MQTT_Expired_Persistent_Session",
     [*JOIN, SUB, sent(Suback(6, [1])), ("closed", 1), (Connect("d", 4, False), 2, 2), sent(Connack(), 2)], TRIGGER,
     "FAIL", "subscribe to a"),
    ("Shadow_Publish_Reported_State", [STATE], {"REPORTED_STATE": {"v": 1}}, "PASS", ""),
    ("Shadow_Publish_Reported_State", [STATE], {"REPORTED_STATE": {"v": 2}}, "FAIL", '{"v":2}'),
    ("Shadow_Publish_Reported_State", [STATE], {"SHADOW_NAME": "s"}, "FAIL", "shadow"),
    ("Shadow_Update_Reported_State", [sent(Suback(6, [1])), STATE], {"DESIRED_STATE": {"v": 1}}, "PASS", ""),
    ("Shadow_Update_Reported_State", [STATE], {}, "FAIL", "DESIRED_STATE"),
    ("Job_Execution", [Publish(JOB, b'{"status":"IN_PROGRESS"}'), Publish(JOB, b'{"status":"SUCCEEDED"}')],
     {"JOB_DOCUMENT": "{}"}, "PASS", ""),
    ("Job_Execution", [Publish(JOB, b'{"status":"FAILED"}')], {"JOB_DOCUMENT": "{}"}, "FAIL", "has failed"),
    ("Job_Execution", [Publish(JOB, b"[")], {"JOB_JOBID": "j"}, "FAIL", "not a JSON object"),
    ("Job_Execution", [], {}, "FAIL", "JOB_DOCUMENT"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("case", "events", "configuration", "status", "reason"), PLAYS, ids=[f"{row[0]}-{row[3]}" for row in PLAYS]
)
def test_verdicts(case, events, configuration, status, reason):
    verdict = play(case, events, **configuration)
    assert (verdict.status, reason in verdict.failure + verdict.warnings) == (status, True), verdict


def test_what_a_case_withholds_and_orders():
    orders = Orders()
    script = Script(CASES["MQTT_Publish_Retry_No_Puback"], {}, orders)
    assert script.scene.withheld == {"PUBACK"}
    play("Shadow_Update_Reported_State", [sent(Suback(6, [1])), STATE], orders, DESIRED_STATE={"v": 1}, SHADOW_NAME="")
    assert orders.given == [("desire", ""), ("desire", "")]
    assert SHADOW_TOKEN == "DeviceAdvisorShadowTestCaseSetup"


def test_jitter_is_judged_in_both_rounds():
    """The device is connected first, then refused five times, let in, cut off, and all of it again."""

    def device(*rounds):
        at, link, events = 0.0, 1, [*JOIN, ("closed", 0.0)]
        for delays in rounds:
            for delay in delays:
                link += 1
                events += [("open", at, link), (Connect("d", 4), at, link), ("closed", at + 1, link)]
                at += 1 + delay
            link += 1
            events += [("open", at, link), (Connect("d", 4), at, link), sent(Connack(), link), ("closed", at, link)]
        return events

    case = "MQTT_Connect_Jitter_Backoff_Retries"
    good, even = [0.7, 1.9, 2.2, 7.1, 5.0], [1, 1, 1, 1, 1]
    assert play(case, device(good, [0.2, 2.9, 1.2, 4.1, 8.0])).status == "PASS"
    assert play(case, device([1, 2, 4, 8, 16], [1, 2, 4, 8, 16])).status == "PASS_WITH_WARNINGS"
    assert play(case, device(good, even)).status == "FAIL"


@pytest.mark.parametrize(
    ("action", "resource", "status"),
    [
        ("iot:Connect", "arn:aws:iot:us-east-1:1:client/${iot:Connection.Thing.ThingName}", "PASS"),
        ("iot:Publish", "arn:aws:iot:us-east-1:1:topic/${iot:Connection.Thing.ThingName}/*", "PASS"),
        ("iot:Publish", "arn:aws:iot:us-east-1:1:topic/*", "FAIL"),
        ("iot:Connect", "*", "FAIL"),
        ("iot:*", "arn:aws:iot:us-east-1:1:client/a", "FAIL"),
    ],
)
def test_policies_with_bare_wildcards(action, resource, status):
    document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": action, "Resource": resource}]}
    orders = SimpleNamespace(policies=lambda: [parse(orjson.dumps(document), "p")], thing="")
    assert Script(CASES["Security_Device_Policies"], {}, orders).verdict.status == status
