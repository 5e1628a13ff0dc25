"""IoT policies: a table of documents, requests and decisions."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.iot.policies import PolicyError, decide, explain, parse, substitute

TOPIC = "arn:aws:iot:us-east-1:1:topic/"
BOTH_NAMES = ["LastWill", "PersistentConnect"]
BOTH = {"iot:connectattributes": BOTH_NAMES}


def policy(*statements):
    return parse({"Version": "2012-10-17", "Statement": list(statements)}, "p")


def allow(action, resource, **more):
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


@pytest.mark.parametrize(
    ("pattern", "resource", "expected"),
    [
        ("*", TOPIC + "a/b", True),
        (TOPIC + "a/*", TOPIC + "a/b/c", True),
        (TOPIC + "a/*", TOPIC + "a", False),
        (TOPIC + "a/?", TOPIC + "a/b", True),
        (TOPIC + "a/?", TOPIC + "a/bc", False),
        # MQTT wildcards are literals.
        (TOPIC + "a/+", TOPIC + "a/b", False),
        (TOPIC + "a/#", TOPIC + "a/b", False),
        ("arn:aws:iot:us-east-1:1:topicfilter/a/+", "arn:aws:iot:us-east-1:1:topicfilter/a/+", True),
        ("arn:aws:iot:us-east-1:1:topicfilter/a/*", "arn:aws:iot:us-east-1:1:topicfilter/a/+/#", True),
        (TOPIC + "A", TOPIC + "a", False),
        (TOPIC + "a.b[c]", TOPIC + "a.b[c]", True),
        (TOPIC + "a.b", TOPIC + "axb", False),
        (TOPIC + "${iot:ClientId}", TOPIC + "c1", True),
        (TOPIC + "${iot:clientid}/x", TOPIC + "c1/x", True),
        (TOPIC + "${iot:ClientId}", TOPIC + "c2", False),
        (TOPIC + "${iot:Unknown}", TOPIC + "${iot:Unknown}", False),
        (TOPIC + "${iot:Bad}/x", TOPIC + "any*/x", False),
        (TOPIC + "${iot:Long}", TOPIC + "x" * 1025, False),
        (TOPIC + "${iot:Several}", TOPIC + "two", True),
        (TOPIC + "${*}", TOPIC + "*", True),
        (TOPIC + "${*}", TOPIC + "a", False),
        (TOPIC + "${iot:Missing, 'c9'}", TOPIC + "c9", True),
        (TOPIC + "${iot:Connection.Thing.Attributes[Floor]}", TOPIC + "2", True),
    ],
)
def test_resources(pattern, resource, expected):
    context = {
        "iot:clientid": "c1",
        "iot:bad": "any*",
        "iot:long": "x" * 1025,
        "iot:several": ["one", "two"],
        "iot:connection.thing.attributes[floor]": "2",
    }
    assert decide([policy(allow("iot:Publish", pattern))], "iot:Publish", resource, context).allowed is expected


@pytest.mark.parametrize(
    ("action", "asked", "expected"),
    [
        ("iot:Publish", "iot:Publish", True),
        ("iot:publish", "iot:Publish", True),
        ("iot:*", "iot:Connect", True),
        ("*", "iot:Connect", True),
        ("iot:Pub*", "iot:Publish", True),
        ("iot:Publish", "iot:RetainPublish", False),
        (["iot:Connect", "iot:Publish"], "iot:Publish", True),
    ],
)
def test_actions(action, asked, expected):
    assert decide([policy(allow(action, "*"))], asked, TOPIC + "a", {}).allowed is expected


@pytest.mark.parametrize(
    ("operator", "key", "wanted", "context", "expected"),
    [
        ("StringEquals", "iot:ClientId", "c", {"iot:clientid": "c"}, True),
        ("StringEquals", "iot:ClientId", ["a", "c"], {"iot:clientid": "c"}, True),
        ("StringEquals", "iot:ClientId", "C", {"iot:clientid": "c"}, False),
        ("StringEqualsIgnoreCase", "iot:ClientId", "C", {"iot:clientid": "c"}, True),
        ("StringEquals", "iot:ClientId", "c", {}, False),
        ("StringEqualsIfExists", "iot:ClientId", "c", {}, True),
        ("StringNotEquals", "iot:ClientId", ["a", "b"], {"iot:clientid": "c"}, True),
        ("StringNotEquals", "iot:ClientId", ["a", "c"], {"iot:clientid": "c"}, False),
        ("StringNotEquals", "iot:ClientId", "a", {}, True),
        ("StringLike", "iot:ClientId", "sensor-*", {"iot:clientid": "sensor-1"}, True),
        ("StringNotLike", "iot:ClientId", "sensor-*", {"iot:clientid": "sensor-1"}, False),
        (
            "StringLike",
            "iot:ClientId",
            "${iot:Connection.Thing.ThingName}*",
            {"iot:clientid": "t1x", "iot:connection.thing.thingname": "t1"},
            True,
        ),
        ("StringEquals", "iot:ClientId", "${iot:Nothing}", {"iot:clientid": "c"}, False),
        ("NumericLessThan", "k:n", "5", {"k:n": "4.5"}, True),
        ("NumericGreaterThanEquals", "k:n", "5", {"k:n": "5"}, True),
        ("NumericEquals", "k:n", "5", {"k:n": "five"}, False),
        ("NumericNotEquals", "k:n", "5", {"k:n": "6"}, True),
        ("DateLessThan", "aws:CurrentTime", "2030-01-01T00:00:00Z", {"aws:currenttime": "2026-01-01T00:00:00Z"}, True),
        ("DateGreaterThan", "aws:EpochTime", "100", {"aws:epochtime": "200"}, True),
        ("Bool", "iot:Connection.Thing.IsAttached", "true", {"iot:connection.thing.isattached": "true"}, True),
        ("Bool", "iot:Connection.Thing.IsAttached", True, {"iot:connection.thing.isattached": "false"}, False),
        ("IpAddress", "aws:SourceIp", "10.0.0.0/8", {"aws:sourceip": "10.2.3.4"}, True),
        ("IpAddress", "aws:SourceIp", ["192.168.0.0/16", "::1"], {"aws:sourceip": "::1"}, True),
        ("NotIpAddress", "aws:SourceIp", "10.0.0.0/8", {"aws:sourceip": "10.2.3.4"}, False),
        ("ArnLike", "k:a", "arn:aws:iot:*:1:topic/a*", {"k:a": "arn:aws:iot:eu:1:topic/ab"}, True),
        ("ArnNotEquals", "k:a", "arn:aws:iot:eu:1:topic/a", {"k:a": "arn:aws:iot:eu:1:topic/b"}, True),
        ("ArnLike", "k:a", "arn:*:topic/a", {"k:a": "arn:aws:iot:eu:1:topic/a"}, False),
        ("BinaryEquals", "k:b", "YQ==", {"k:b": "YQ=="}, True),
        ("Null", "k:x", "true", {}, True),
        ("Null", "k:x", "false", {}, False),
        (
            "ForAnyValue:StringEquals",
            "iot:ConnectAttributes",
            "LastWill",
            BOTH,
            True,
        ),
        (
            "ForAllValues:StringEquals",
            "iot:ConnectAttributes",
            "LastWill",
            BOTH,
            False,
        ),
        ("ForAllValues:StringEquals", "iot:ConnectAttributes", "LastWill", {}, True),
        (
            "ForAllValues:StringEquals",
            "iot:ConnectAttributes",
            ["LastWill", "PersistentConnect"],
            {"iot:connectattributes": ["LastWill"]},
            True,
        ),
        ("ForAnyValue:StringEquals", "iot:ConnectAttributes", "LastWill", {}, False),
    ],
)
def test_conditions(operator, key, wanted, context, expected):
    found = policy(allow("iot:Connect", "*", Condition={operator: {key: wanted}}))
    assert decide([found], "iot:Connect", TOPIC + "c", context).allowed is expected


def test_an_explicit_deny_wins_over_every_policy():
    first = policy(allow("iot:*", "*"))
    second = policy(
        allow("iot:Publish", "*"), {"Sid": "no", "Effect": "Deny", "Action": "iot:Publish", "Resource": TOPIC + "b"}
    )
    assert decide([first, second], "iot:Publish", TOPIC + "a", {}).allowed
    decision = decide([first, second], "iot:Publish", TOPIC + "b", {})
    assert decision.outcome == "EXPLICIT_DENY"
    assert decision.statement.label == "p, statement 2 (no)"
    assert decide([], "iot:Publish", TOPIC + "b", {}).outcome == "IMPLICIT_DENY"


def test_every_statement_is_explained():
    found = policy(
        allow("iot:Connect", "*"),
        allow("iot:Pubish", "*"),
        allow("iot:Publish", TOPIC + "x"),
        allow("iot:Publish", TOPIC + "${iot:Connection.Thing.ThingName}"),
        allow("iot:Publish", "*", Condition={"Bool": {"iot:Connection.Thing.IsAttached": "true"}}),
        {"Effect": "Deny", "Action": "iot:Publish", "Resource": "*"},
    )
    decision, lines = explain([found], "iot:Publish", TOPIC + "a", {"iot:connection.thing.isattached": "false"})
    assert decision.outcome == "EXPLICIT_DENY"
    assert [line.partition(": ")[2] for line in lines] == [
        "is not about iot:Publish",
        "is not about iot:Publish (AWS IoT never asks for iot:Pubish)",
        f"no Resource matches {TOPIC}a",
        f"no Resource matches {TOPIC}a (no value for iot:Connection.Thing.ThingName)",
        "its condition Bool iot:Connection.Thing.IsAttached ['true'] does not hold for 'false'",
        "DENIES it",
    ]


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ("{", "p"),
        ("[]", "p"),
        ('{"Version": "2008-10-17", "Statement": []}', "p"),
        ('{"Version": "2012-10-17"}', "p"),
        ('{"Version": "2012-10-17", "Statement": [], "Extra": 1}', "p"),
        ({"Version": "2012-10-17", "Statement": [{"Effect": "Maybe"}]}, "p, statement 1"),
        (
            {"Version": "2012-10-17", "Statement": [allow("iot:Publish", "*"), allow("Publish", "*")]},
            "p, statement 2",
        ),
        ({"Version": "2012-10-17", "Statement": [allow("iot:Publish", "topic/a")]}, "p, statement 1"),
        ({"Version": "2012-10-17", "Statement": [allow([], "*")]}, "p, statement 1"),
        ({"Version": "2012-10-17", "Statement": [allow("iot:Publish", "*", NotAction="x")]}, "p, statement 1"),
        ({"Version": "2012-10-17", "Statement": [allow("iot:Publish", "*", Condition={"No": {}})]}, "p, statement 1"),
    ],
)
def test_malformed_documents(document, where):
    with pytest.raises(PolicyError) as caught:
        parse(document, "p")
    assert caught.value.where == where


@given(st.text(alphabet="ab/*?+#$", max_size=12), st.text(alphabet="ab/+#$", max_size=12))
@settings(derandomize=True, max_examples=150)
def test_a_pattern_matches_as_the_plain_rule_says(pattern, text):
    def plain(p, t):
        if not p:
            return not t
        if p[0] == "*":
            return plain(p[1:], t) or bool(t and plain(p, t[1:]))
        return bool(t) and p[0] in ("?", t[0]) and plain(p[1:], t[1:])

    found = policy(allow("iot:Publish", "arn:" + pattern))
    assert decide([found], "iot:Publish", "arn:" + text, {}).allowed is plain(pattern, text)


def test_unresolved_variables_are_named():
    unresolved = set()
    assert substitute("a/${iot:X}/b", {}, unresolved) == []
    assert unresolved == {"iot:X"}
