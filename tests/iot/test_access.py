"""Access by policies: decisions are kept, and never older than the last change."""

import itertools
import json
import queue
import ssl
from datetime import UTC, datetime

import paho.mqtt.client as paho
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion

from foreshore.database import MEMORY
from foreshore.iot import policies
from foreshore.iot.access import PolicyAccess, _speaks_of_greengrass, certificate_context
from foreshore.iot.authority import Authority
from foreshore.iot.certificates import Certificates
from foreshore.iot.groups import ThingGroups
from foreshore.iot.indexing import FleetIndex
from foreshore.iot.mqtt.access import ConnectRequest
from foreshore.iot.policy_resources import PolicyResources
from foreshore.iot.presence import Presence
from foreshore.iot.registry import Registry
from foreshore.iot.resources import Resources
from foreshore.iot.store import Arns, Ground, Tags, open_database
from foreshore.shapes.service_model import CallContext
from tests.e2e.conftest import start, stop


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certs"), region="us-east-1", now=datetime.now(UTC))


class World:
    """A control plane without sockets: one certificate, two things, two groups, two policies."""

    def __init__(self, authority):
        ids = itertools.count()
        self.ground = Ground(open_database(MEMORY), Arns("us-east-1", "1" * 12), lambda: 1e9, lambda: str(next(ids)))
        tags = Tags(self.ground)
        self.certificates = Certificates(self.ground, authority, tags)
        self.policies = PolicyResources(self.ground, tags)
        self.registry = Registry(self.ground, tags)
        self.index = FleetIndex(self.ground, self.registry, lambda: Presence(lambda publication: None, lambda: 0))
        self.groups = self.index.groups = ThingGroups(self.ground, tags, self.registry, self.index.thing)
        self.policies.groups_of = self.groups.all_of
        self.access = PolicyAccess(self.certificates, self.policies, self.registry, self.ground.arns)
        self.ground.listeners.append(self.access.invalidate)
        issued = self.certificates.issue(active=True)
        self.der = ssl.PEM_cert_to_DER_cert(issued.certificate)
        self.certificate_id = issued.certificate_id
        self.principal = self.certificates.arn(issued.certificate_id)
        parts = [self.certificates, self.policies, self.registry, self.groups, self.index]
        self.operations = {name: each for part in parts for name, each in part.operations().items()}
        self.make = Resources(parts, self.registry, self.policies).make

    def call(self, operation, **params):
        return self.operations[operation](params, CallContext(operation, None, "r"))

    def identity(self, client_id="t1"):
        return self.access.identify(self.der, client_id, "127.0.0.1")


def document(*topics, effect="Allow"):
    resources = ["arn:aws:iot:*:*:" + topic for topic in topics]
    statement = {"Effect": effect, "Action": "iot:*", "Resource": resources}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


CHANGES = [
    ("AttachPolicy", {"policyName": "p", "target": "principal"}),
    ("DetachPolicy", {"policyName": "p", "target": "principal"}),
    ("AttachPolicy", {"policyName": "q", "target": "static"}),
    ("DetachPolicy", {"policyName": "q", "target": "static"}),
    ("SetDefaultPolicyVersion", {"policyName": "p", "policyVersionId": "1"}),
    ("SetDefaultPolicyVersion", {"policyName": "p", "policyVersionId": "2"}),
    ("AttachThingPrincipal", {"thingName": "t1", "principal": "principal"}),
    ("DetachThingPrincipal", {"thingName": "t1", "principal": "principal"}),
    ("AddThingToThingGroup", {"thingName": "t1", "thingGroupName": "child"}),
    ("RemoveThingFromThingGroup", {"thingName": "t1", "thingGroupName": "child"}),
    ("UpdateThing", {"thingName": "t1", "attributePayload": {"attributes": {"floor": "1"}}}),
    ("UpdateThing", {"thingName": "t1", "attributePayload": {"attributes": {"floor": "2"}}}),
    ("UpdateCertificate", {"certificateId": "certificate", "newStatus": "INACTIVE"}),
    ("UpdateCertificate", {"certificateId": "certificate", "newStatus": "ACTIVE"}),
]


@given(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=12))
@settings(derandomize=True, max_examples=60, deadline=None)
def test_a_kept_decision_is_never_older_than_the_last_change(authority, changes):
    world = World(authority)
    prefix = world.ground.arns.iot("thinggroup/")
    named = {
        "principal": world.principal, "static": prefix + "parent",
        "certificate": world.certificate_id,
    }  # fmt: skip
    world.call("CreateThing", thingName="t1")
    world.call("CreateThingGroup", thingGroupName="parent")
    world.call("CreateThingGroup", thingGroupName="child", parentGroupName="parent")
    variable = "topic/${iot:Connection.Thing.Attributes[floor]}"
    world.call("CreatePolicy", policyName="p", policyDocument=document("topic/a", variable))
    world.call("CreatePolicyVersion", policyName="p", policyDocument=document("topic/b", "client/t1"))
    world.call("CreatePolicy", policyName="q", policyDocument=document("topic/a", "topic/c"))
    kept = world.identity()
    questions = [("iot:Publish", f"topic/{name}") for name in ("a", "b", "c", "1", "2")] + [
        ("iot:Connect", "client/t1")
    ]
    for operation, params in changes:
        world.call(operation, **{key: named.get(value, value) if isinstance(value, str) else value
                                 for key, value in params.items()})  # fmt: skip
        for question in questions:
            fresh = world.identity()
            expected = fresh is not None and world.access.decide(fresh, *question).allowed
            assert world.access.allows(kept, *question) is expected, (operation, params, question)
            assert world.access.allows(kept, *question) is expected
    world.ground.database.close()


def test_connect_publish_subscribe_and_receive(authority):
    world = World(authority)
    world.make("AWS::IoT::Policy", "p", {"PolicyDocument": {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "iot:Connect", "Resource": "arn:aws:iot:*:*:client/c",
         "Condition": {"ForAllValues:StringEquals": {"iot:ConnectAttributes": "LastWill"}}},
        {"Effect": "Allow", "Action": "iot:Publish", "Resource": "arn:aws:iot:*:*:topic/*"},
        {"Effect": "Allow", "Action": "iot:RetainPublish", "Resource": "arn:aws:iot:*:*:topic/kept"},
        {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": "arn:aws:iot:*:*:topicfilter/a/#"},
        {"Effect": "Allow", "Action": "iot:Receive", "Resource": "arn:aws:iot:*:*:topic/a/1"},
    ]}})  # fmt: skip
    world.policies.attach_to("p", world.principal)

    def ask(**more):
        return world.access.connect(ConnectRequest(listener="mqtts", certificate=world.der, **more))

    assert ask(client_id="c").allowed
    assert ask(client_id="c", will_topic="w").allowed
    assert not ask(client_id="c", clean=False).allowed
    assert not ask(client_id="d").allowed
    identity = ask(client_id="c").identity
    access = world.access
    assert access.may_publish(identity, "x", False)
    assert not access.may_publish(identity, "x", True)
    assert access.may_publish(identity, "kept", True)
    assert access.may_subscribe(identity, "a/#")
    assert not access.may_subscribe(identity, "a/1")
    assert access.may_receive(identity, "a/1")
    assert not access.may_receive(identity, "a/2")
    assert access.connect(ConnectRequest("any", listener="mqtt")).allowed
    assert not access.connect(ConnectRequest("any", listener="wss")).allowed
    assert access.connect(ConnectRequest("any", listener="wss", authorization="AKID")).allowed
    world.ground.database.close()


def test_certificate_variables(authority):
    issued = authority.issue(datetime.now(UTC), common_name="device-7")
    context = certificate_context(ssl.PEM_cert_to_DER_cert(issued.certificate))
    assert context["iot:certificate.subject.commonname"] == "device-7"
    assert context["iot:certificate.subject.commonname.list"] == ["device-7"]
    assert context["iot:certificate.issuer.organization"] == "Foreshore"
    assert "subject.commonname" in context["iot:certificate.availablekeys"]
    assert int(context["iot:certificate.serialnumber"]) > 0


def test_a_policy_for_clients_of_the_plain_listener(tmp_path):
    """`foreshore dev --plain-policy`: as an ACL for tools and suites that speak MQTT without TLS."""
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": "*", "Resource": "*"},
            {"Effect": "Deny", "Action": "iot:Subscribe", "Resource": "arn:aws:iot:*:*:topicfilter/test/nosubscribe"},
            {"Effect": "Deny", "Action": "iot:Connect", "Resource": "arn:aws:iot:*:*:client/bad-*"},
        ],
    }
    (tmp_path / "plain.json").write_text(json.dumps(policy))
    running = start(
        tmp_path, tmp_path / "home", "--only", "iot", "--mqtt", "standard", "--plain-policy",
        str(tmp_path / "plain.json"),
    )  # fmt: skip
    try:
        granted, answers = queue.Queue(), {}
        for name in ("good", "bad-1"):
            client = paho.Client(CallbackAPIVersion.VERSION2, name)
            client.on_connect = lambda client, data, flags, code, properties: answers.setdefault(
                client._client_id.decode(), queue.Queue()
            ).put(code.value)
            answers[name] = queue.Queue()
            client.on_subscribe = lambda client, data, mid, codes, properties: granted.put([one.value for one in codes])
            client.connect(*running.host_port("mqtt"))
            client.loop_start()
            assert answers[name].get(timeout=20) == (0 if name == "good" else 0x87)
            if name == "good":
                client.subscribe([("test/nosubscribe", 0), ("test/other", 0)])
                assert granted.get(timeout=20) == [0x80, 0]
            client.disconnect()
            client.loop_stop()
    finally:
        stop(running)


def test_a_plain_policy_that_is_none(tmp_path):
    (tmp_path / "plain.json").write_text("{}")
    with pytest.raises(AssertionError, match=r"plain\.json"):
        start(tmp_path, tmp_path / "home", "--only", "iot", "--plain-policy", str(tmp_path / "plain.json"))


@pytest.mark.parametrize(
    ("actions", "is_core"),
    [
        (["iot:*"], False),
        (["iot:*", "greengrass:Discover"], False),
        (["GREENGRASS:DISCOVER"], False),
        (["greengrass:*"], True),
        (["greengrass:Discover", "Greengrass:ResolveComponentCandidates"], True),
    ],
)
def test_only_a_core_devices_link_carries_trace_context(actions, is_core):
    statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    assert _speaks_of_greengrass(policies.parse({"Version": "2012-10-17", "Statement": [statement]}, "p")) is is_core
