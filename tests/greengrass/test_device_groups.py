"""Device groups: selection rules and policies."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.errors import NotEmulated, UserError
from foreshore.greengrass.bridge import read_bridge
from foreshore.greengrass.device_certificates import read_certificate_settings
from foreshore.greengrass.device_groups import is_allowed, matches, read_groups, read_rule


def groups(rule: str, *statements: dict[str, Any]) -> dict[str, Any]:
    policies = {"p": {str(number): statement for number, statement in enumerate(statements)}}
    return {"deviceGroups": {"definitions": {"g": {"selectionRule": rule, "policyName": "p"}}, "policies": policies}}


ANY = {"operations": ["mqtt:publish"], "resources": ["mqtt:topic:*"]}


@pytest.mark.parametrize(
    ("rule", "thing", "selected"),
    [
        ("thingName: lamp1", "lamp1", True),
        ("thingName: lamp1", "lamp2", False),
        ("thingName:lamp*", "lamp22", True),
        ("thingName: *mp2*", "lamp22", True),
        (r"thingName: Team\:Lamp*", "Team:Lamp1", True),
        ("thingName: *", "x", True),
        ("thingName: a OR thingName: b", "b", True),
        ("thingName: a* AND thingName: *z", "az", True),
        ("thingName: a* AND thingName: *z", "ay", False),
        ("thingName: b OR thingName: a* AND thingName: *z", "abz", True),
    ],
)
def test_selection_rules(rule: str, thing: str, selected: bool) -> None:
    assert is_allowed(read_groups(groups(rule, ANY)), thing, "mqtt:publish", "mqtt:topic:t") is selected


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "thing: x",
        "thingName:",
        "thingName: a OR",
        "thingName: a b",
        'thingName: "a"',
        "thingName: a:b",
        "thingName: a*b",
        "thingName : a",
        "thingName: a or thingName: b",
    ],
)
def test_bad_selection_rules(rule: str) -> None:
    with pytest.raises(UserError, match="selection rule"):
        read_rule(rule)


@pytest.mark.parametrize(
    ("statements", "operation", "resource", "allowed"),
    [
        ([ANY], "mqtt:publish", "mqtt:topic:a/b", True),
        ([ANY], "mqtt:subscribe", "mqtt:topicfilter:a", False),
        ([ANY], "mqtt:publish", "mqtt:topicfilter:a", False),
        ([{"operations": ["mqtt:*"], "resources": ["*"]}], "mqtt:subscribe", "mqtt:topicfilter:a", True),
        ([{"operations": ["*"], "resources": ["*"]}], "mqtt:connect", "mqtt:clientId:c", True),
        (
            [{"operations": ["mqtt:publish"], "resources": ["mqtt:topic:${iot:Connection.Thing.ThingName}/x"]}],
            "mqtt:publish",
            "mqtt:topic:lamp1/x",
            True,
        ),
        (
            [{"operations": ["mqtt:connect"], "resources": ["mqtt:clientId:lamp*"]}],
            "mqtt:connect",
            "mqtt:clientId:lamp1",
            True,
        ),
        ([{**ANY, "resources": ["mqtt:topic:a/+/c"]}], "mqtt:publish", "mqtt:topic:a/b/c", False),
        ([{**ANY, "resources": []}, ANY], "mqtt:publish", "mqtt:topic:a/b", True),
        ([{"operations": [], "resources": ["*"]}], "mqtt:publish", "mqtt:topic:a/b", False),
        ([{"operations": ["*"], "resources": ["*"]}], "publish", "mqtt:topic:a", False),
        ([{"operations": ["*"], "resources": ["*"]}], "mqtt:publish", "topic", False),
        ([{"operations": ["*"], "resources": ["*"]}], "mqtt:publish", "mqtt:topic:", False),
        ([{"operations": ["mqtt:publish"]}], "mqtt:publish", "mqtt:topic:a", False),
    ],
)
def test_policies(statements: list[dict[str, Any]], operation: str, resource: str, allowed: bool) -> None:
    found = read_groups(groups("thingName: lamp*", *statements))
    assert is_allowed(found, "lamp1", operation, resource) is allowed
    assert not is_allowed(found, "other", operation, resource)


@pytest.mark.parametrize(
    "configuration",
    [
        {"deviceGroups": 5},
        {"deviceGroups": {"definitions": {"g": {"selectionRule": "thingName: a", "policyName": "none"}}}},
        {"deviceGroups": {"definitions": {"g": 5}}},
        groups("thingName: a", {**ANY, "effect": "DENY"}),
        groups("thingName: a", {**ANY, "resources": ["mqtt:topic:${iot:Connection.Thing.Nothing}"]}),
        groups("thingName: a", {**ANY, "resources": "*"}),
        {"deviceGroups": {"formatVersion": "2020-01-01"}},
        groups("thingName: a", {"operations": "mqtt:publish"}),
        groups("thingName: a", 5),  # type: ignore[arg-type]
    ],
)
def test_bad_configurations(configuration: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        read_groups(configuration)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.text("ab*", max_size=6), st.text("ab", max_size=8))
def test_patterns_agree_with_a_regular_expression(pattern: str, text: str) -> None:
    import re

    expected = re.fullmatch(".*".join(re.escape(part) for part in pattern.split("*")), text) is not None
    assert matches(pattern, text) is expected


def test_services_must_agree() -> None:
    with pytest.raises(ValueError, match="is not same as resource"):
        is_allowed([], "lamp1", "mqtt:publish", "http:topic:a")


KEYS = st.sampled_from(
    [
        "deviceGroups", "definitions", "policies", "selectionRule", "policyName", "operations", "resources", "p",
        "formatVersion", "certificateAuthority", "certificates", "caType", "certificateUri", "privateKeyUri",
        "serverCertificateValiditySeconds", "mqttTopicMapping", "topic", "source", "target", "mqtt", "version",
        "mqtt5RouteOptions",
    ]
)  # fmt: skip
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.sampled_from(["thingName: a*", "p", "LocalMqtt", "IotCore", "mqtt5", "a/#", "file:///x", "http://[", "*"]),
)  # fmt: skip


@settings(max_examples=300, derandomize=True, deadline=None)
@given(
    st.recursive(
        st.dictionaries(KEYS, LEAVES, max_size=4),
        lambda inner: st.dictionaries(KEYS, st.one_of(inner, LEAVES, st.lists(LEAVES, max_size=2)), max_size=4),
        max_leaves=12,
    )
)
def test_any_configuration_is_read_or_refused(configuration: dict[str, Any]) -> None:
    for reader in (read_groups, read_bridge, read_certificate_settings):
        try:
            reader(configuration)
        except (UserError, NotEmulated) as error:
            assert str(error)
