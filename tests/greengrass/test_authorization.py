"""accessControl: which component may do what on which resource."""

import pytest

from foreshore.greengrass.authorization import (
    LIFECYCLE,
    MQTT_PROXY,
    PUBSUB,
    SECRETS,
    Authorization,
    compile_resource,
    denial,
)

STANDARD = [
    ("*", "anything/at/all", True),
    ("a/*", "a/b/c", True),
    ("a/*", "a/", True),
    ("a/*", "a", False),
    ("a/*/c", "a/b/x/c", True),
    ("a/*/c", "a/c", False),
    ("*c", "abc", True),
    ("a*c*e", "abcde", True),
    ("a*c*e", "abde", False),
    ("#", "a", False),
    ("#", "#", True),
    ("a/#", "a/b", False),
    ("a/#", "a/#", True),
    ("a/+/c", "a/b/c", False),
    ("a/+/c", "a/+/c", True),
    ("a", "A", False),
    ("a.c", "abc", False),
    ("a${*}c", "a*c", True),
    ("a${*}c", "abc", False),
    ("a${?}", "a?", True),
    ("a${$}b", "a$b", True),
    ("$aws/things/t/shadow*", "$aws/things/t/shadow/name/n", True),
    ("a", "a\n", False),
]
MQTT = [
    ("#", "a/b/c", True),
    ("a/#", "a/b/c", True),
    ("a/#", "a", True),
    ("a/#", "a/", True),
    ("a/#", "ab", False),
    ("a/#/b", "a/x/b", False),
    ("a/#/b", "a/#/b", True),
    ("a#", "ab", False),
    ("a/+/c", "a/b/c", True),
    ("a/+/c", "a/b/x/c", False),
    ("a/+/c", "a//c", True),
    ("a/+", "a/b", True),
    ("a/+", "a/b/c", False),
    ("+", "a", True),
    ("+", "a/b", False),
    ("+/b", "a/b", True),
    ("a+/b", "ax/b", False),
    ("a+/b", "a+/b", True),
    ("a/*", "a/b/c", True),
    ("*/+/#", "x/y/z", True),
    ("abc/*xy/#", "abc/12xy", True),
]


@pytest.mark.parametrize(("pattern", "resource", "matches"), STANDARD)
def test_standard_resources(pattern: str, resource: str, matches: bool) -> None:
    assert compile_resource(pattern, mqtt=False)(resource) is matches


@pytest.mark.parametrize(("pattern", "resource", "matches"), MQTT)
def test_mqtt_resources(pattern: str, resource: str, matches: bool) -> None:
    assert compile_resource(pattern, mqtt=True)(resource) is matches


@pytest.mark.parametrize("pattern", ["", "a?", "a${x}", "${", "a${*b", "${**}"])
def test_void_resources(pattern: str) -> None:
    with pytest.raises(ValueError, match="Resource"):
        compile_resource(pattern, mqtt=False)


def _one(service: str, operations: object, resources: object) -> Authorization:
    authorization = Authorization()
    authorization.load("c", {service: {"p": {"operations": operations, "resources": resources}}})
    return authorization


@pytest.mark.parametrize(
    ("operations", "resources", "operation", "resource", "allowed"),
    [
        (["aws.greengrass#PublishToTopic"], ["t"], "PublishToTopic", "t", True),
        (["aws.greengrass#PublishToTopic"], ["t"], "SubscribeToTopic", "t", False),
        (["*"], ["t"], "SubscribeToTopic", "t", True),
        (["*"], [], "PublishToTopic", "t", False),
        (["*"], None, "PublishToTopic", "t", False),
        (["*"], [], "PublishToTopic", None, True),
        (["*"], ["t"], "PublishToTopic", None, True),
        (["PublishToTopic"], ["*"], "PublishToTopic", "t", False),
        ("*", "t", "PublishToTopic", "t", True),
    ],
)
def test_decisions(operations: object, resources: object, operation: str, resource: str | None, allowed: bool) -> None:
    assert _one(PUBSUB, operations, resources).is_allowed("c", PUBSUB, operation, resource) is allowed


def test_deny_by_default_and_by_component() -> None:
    authorization = _one(PUBSUB, ["*"], ["*"])
    assert authorization.is_allowed("c", PUBSUB, "PublishToTopic", "t")
    assert not authorization.is_allowed("other", PUBSUB, "PublishToTopic", "t")
    assert not authorization.is_allowed("c", MQTT_PROXY, "PublishToIoTCore", "t")


def test_a_reload_forgets_cached_decisions() -> None:
    authorization = _one(PUBSUB, ["*"], ["t"])
    assert authorization.is_allowed("c", PUBSUB, "PublishToTopic", "t")
    authorization.load("c", {PUBSUB: {"p": {"operations": ["*"], "resources": ["u"]}}})
    assert not authorization.is_allowed("c", PUBSUB, "PublishToTopic", "t")
    assert authorization.is_allowed("c", PUBSUB, "PublishToTopic", "u")
    authorization.load("c", None)
    assert not authorization.is_allowed("c", PUBSUB, "PublishToTopic", "u")


@pytest.mark.parametrize(
    ("access", "reason"),
    [
        ("text", "not a map"),
        ({PUBSUB: []}, "not a map of policies"),
        ({"aws.greengrass.ipc.nope": {"p": {}}}, "not registered"),
        ({PUBSUB: {"p": {"resources": ["*"]}}}, "operations are missing"),
        ({PUBSUB: {"p": 5}}, "operations are missing"),
        ({PUBSUB: {"p": {"operations": ["aws.greengrass#GetThingShadow"], "resources": ["*"]}}}, "not registered"),
        ({PUBSUB: {"p": {"operations": ["*"], "resources": ["a?"]}}}, "isn't supported as a wildcard"),
    ],
)
def test_what_is_skipped_is_said(access: object, reason: str) -> None:
    (finding,) = Authorization().load("c", access)
    assert reason in finding.reason


def test_one_void_resource_leaves_the_others() -> None:
    authorization = _one(PUBSUB, ["*"], ["a?", "b"])
    assert authorization.is_allowed("c", PUBSUB, "PublishToTopic", "b")


def test_names_of_properties_compare_without_case() -> None:
    authorization = Authorization()
    authorization.load("c", {LIFECYCLE: {"p": {"Operations": ["*"], "RESOURCES": ["x"]}}})
    assert authorization.is_allowed("c", LIFECYCLE, "PauseComponent", "x")


def test_resources_named_for_an_operation() -> None:
    assert _one(SECRETS, ["*"], ["b", "a"]).resources("c", SECRETS, "GetSecretValue") == ["a", "b"]


def test_a_denial_names_principal_operation_and_resource() -> None:
    assert denial("c", PUBSUB, "PublishToTopic", "t") == (
        "Principal c is not authorized to perform aws.greengrass.ipc.pubsub:aws.greengrass#PublishToTopic on resource t"
    )
