"""Client device auth: selection rules, policies, sessions."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.errors import UserError
from foreshore.greengrass.client_devices import (
    Certificate,
    ClientDeviceAuth,
    is_allowed,
    matches,
    read_groups,
    read_rule,
)


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
        ('thingName: "lamp*"', "lamp22", True),
        ("thingName: *", "x", True),
        ("thingName: a OR thingName: b", "b", True),
        ("thingName: a* AND thingName: *z", "az", True),
        ("thingName: a* AND thingName: *z", "ay", False),
        ("thingName: b OR thingName: a* AND thingName: *z", "abz", True),
    ],
)
def test_selection_rules(rule: str, thing: str, selected: bool) -> None:
    assert is_allowed(read_groups(groups(rule, ANY)), thing, "mqtt:publish", "mqtt:topic:t") is selected


@pytest.mark.parametrize("rule", ["", "thing: x", "thingName:", "thingName: a OR", "thingName: a b"])
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
        ([ANY, {**ANY, "effect": "DENY", "resources": ["mqtt:topic:no"]}], "mqtt:publish", "mqtt:topic:no", False),
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
        groups("thingName: a", {"resources": ["*"]}),
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


def test_sessions() -> None:
    async def identify(pem: str) -> str | None:
        return "lamp1" if pem == "PEM" else None

    numbers = iter(range(10))
    auth = ClientDeviceAuth(identify, lambda: Certificate("k", "p", "c", ["ca"]), lambda: f"token-{next(numbers)}")

    async def scenario() -> None:
        connect = {"operations": ["mqtt:connect"], "resources": ["mqtt:clientId:${iot:Connection.Thing.ThingName}"]}
        auth.configure(groups("thingName: lamp*", ANY, connect))
        assert await auth.verify("PEM") and not await auth.verify("other")
        token = await auth.token({"certificatePem": "PEM", "clientId": "lamp1"})
        assert auth.authorize(token, "mqtt:publish", "mqtt:topic:x")
        assert not auth.authorize(token, "mqtt:subscribe", "mqtt:topicfilter:x")
        assert auth.may("lamp1", "mqtt:publish", "mqtt:topic:x")
        with pytest.raises(KeyError):
            auth.authorize("nope", "mqtt:publish", "mqtt:topic:x")
        for credential in ({}, {"certificatePem": "PEM"}, {"certificatePem": "other", "clientId": "lamp1"},
                           {"certificatePem": "PEM", "clientId": "lamp2"}):  # fmt: skip
            with pytest.raises(PermissionError):
                await auth.token(credential)
        sent: list[dict[str, object]] = []
        stop = auth.certificate_updates(sent.append)
        auth.rotated()
        stop()
        auth.rotated()
        assert len(sent) == 2
        with pytest.raises(UserError):
            auth.configure({"deviceGroups": 5})
        assert not auth.authorize(token, "mqtt:publish", "mqtt:topic:x")

    asyncio.run(scenario())
