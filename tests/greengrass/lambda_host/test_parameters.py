"""Lambda parameters from a component's configuration."""

from __future__ import annotations

from typing import Any

import pytest

from foreshore.greengrass.lambda_host.parameters import (
    IOT_CORE,
    PUB_SUB,
    BadParameters,
    EventSource,
    Parameters,
    Route,
    find_routes,
    matches,
    read_parameters,
)


def test_defaults_are_those_of_lambda_execution_parameters() -> None:
    assert read_parameters({}) == Parameters(
        max_queue_size=1000, max_instances=100, max_idle_s=60, timeout_s=3, status_timeout_s=60, encoding="json"
    )


@pytest.mark.parametrize(
    "configuration",
    [
        {
            "eventSources": [{"topic": "a/+", "type": "PUB_SUB"}, {"topic": "b", "type": "IOT_CORE"}],
            "environmentVariables": {"A": "1", "B": {"c": [1]}},
            "pinned": False,
            "maxQueueSize": 5,
        },
        {
            "pubsubTopics": {"0": {"topic": "a/+", "type": "PubSub"}, "1": {"topic": "b", "type": "IotCore"}},
            "lambdaExecutionParameters": {"EnvironmentVariables": {"A": "1", "B": {"c": [1]}}},
            "pinned": "false",
            "maxQueueSize": "5",
        },
        {
            "lambda": {
                "eventSources": {"x": {"topic": "a/+"}, "y": {"topic": "b", "type": "iot_core"}},
                "environmentVariables": {"A": 1, "B": '{"c": [1]}'},
                "pinned": "False",
                "maxQueueSize": "5",
            }
        },
    ],
    ids=["api", "device, as lite gives it", "under lambda, as maps"],
)
def test_spellings(configuration: dict[str, Any]) -> None:
    found = read_parameters(configuration)
    assert found.event_sources == (EventSource("a/+", PUB_SUB), EventSource("b", IOT_CORE))
    assert found.environment == {"A": "1", "B": '{"c": [1]}'}
    assert (found.pinned, found.max_queue_size) == (False, 5)


@pytest.mark.parametrize(
    ("configuration", "text"),
    [
        ({"eventSources": "x"}, "eventSources: expected a list or a map"),
        ({"eventSources": [{"type": "PUB_SUB"}]}, "eventSources: each entry needs a topic"),
        ({"eventSources": [{"topic": "a", "type": "SQS"}]}, "type of 'a' is PUB_SUB or IOT_CORE, not 'SQS'"),
        ({"routes": [{"topic": "a", "qos": 2}]}, "qos of 'a' is 0 or 1"),
        ({"timeoutInSeconds": "soon"}, "timeoutInSeconds: expected a number"),
        ({"timeoutInSeconds": True}, "timeoutInSeconds: expected a number"),
        ({"maxQueueSize": 0}, "maxQueueSize: expected a number of at least 1"),
        ({"maxQueueSize": "nan"}, "maxQueueSize"),
        ({"pinned": "perhaps"}, "pinned: expected true or false"),
        ({"inputPayloadEncodingType": "xml"}, "inputPayloadEncodingType: json or binary"),
        ({"environmentVariables": []}, "environmentVariables: expected a map"),
    ],
)
def test_mistakes_name_the_key(configuration: dict[str, Any], text: str) -> None:
    with pytest.raises(BadParameters, match=text.replace("?", r"\?")):
        read_parameters(configuration)


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/+", "a/b", True),
        ("a/+", "a/b/c", False),
        ("a/+", "a", False),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("+/b", "a/b", True),
        ("+", "/a", False),
        ("+/+", "/a", True),
        ("#", "$aws/x", False),
        ("+/x", "$aws/x", False),
        ("$aws/#", "$aws/x", True),
        ("a/b/c", "a/b", False),
    ],
)
def test_matches(topic_filter: str, topic: str, expected: bool) -> None:
    assert matches(topic_filter, topic) is expected


def test_one_route_a_type() -> None:
    routes = (Route("a/#", PUB_SUB), Route("a/+", PUB_SUB, 0), Route("#", IOT_CORE, 0))
    assert find_routes(routes, "a/b") == [routes[0], routes[2]]
    assert find_routes(routes[:2], "b") == []
