"""What AWS's greengrass-cli sends, as its Java client writes it: members it leaves null, empty names, its principal."""

from __future__ import annotations

import base64
from typing import Any

import pytest

CLIENT = "greengrass-cli#user-1000"
UNKNOWN = "11111111-1111-4111-8111-111111111111"


def test_its_topics_need_no_policy(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            client = await running.raw(CLIENT)
            body: dict[str, Any] = {"topic": "any/topic", "receiveMode": "RECEIVE_ALL_MESSAGES"}
            assert await client.ask(1, "SubscribeToTopic", body) == ("SubscribeToTopicResponse", {})
            said = base64.b64encode(b"hello").decode()
            await_both = {"topic": "any/topic", "publishMessage": {"binaryMessage": {"message": said}}}
            client.request(2, "PublishToTopic", await_both)
            answers = dict([await client.answer(), await client.answer()])
            assert answers["SubscriptionResponseMessage"]["binaryMessage"]["message"] == said
            body = {"topicName": "cloud/any", "qos": "1", "payload": said}
            assert await client.ask(3, "PublishToIoTCore", body) == ("PublishToIoTCoreResponse", {})
            assert [each.payload for each in running.link.published] == [b"hello"]
            body = {"topicName": "cloud/#", "qos": "0"}
            assert (await client.ask(4, "SubscribeToIoTCore", body))[0] == "SubscribeToIoTCoreResponse"
            # A component whose name only looks alike gets no such rights.
            other = await running.raw("aws.greengrass.cli")
            assert (await other.ask(1, "PublishToTopic", await_both))[0] == "UnauthorizedError"

    run(scenario())


@pytest.mark.parametrize(
    ("operation", "body", "error", "message"),
    [
        ("GetComponentDetails", {"componentName": ""}, "InvalidArgumentsError", "Component name cannot be empty"),
        ("RestartComponent", {"componentName": None}, "InvalidArgumentsError", "Component name cannot be empty"),
        *[
            (operation, {"componentName": "no"}, "ResourceNotFoundError",
             "Component with name no not found in Greengrass")
            for operation in ("GetComponentDetails", "RestartComponent", "StopComponent")
        ],
        ("GetLocalDeploymentStatus", {"deploymentId": "x"}, "InvalidArgumentsError",
         "Invalid deploymentId format received. DeploymentId is a UUID"),
        ("GetLocalDeploymentStatus", {"deploymentId": UNKNOWN}, "ResourceNotFoundError", "Cannot find deployment"),
        ("CancelLocalDeployment", {"deploymentId": UNKNOWN}, "ResourceNotFoundError",
         f"Cannot find the deployment id provided {UNKNOWN}"),
        ("CreateLocalDeployment", {"groupName": "a:b"}, "InvalidArgumentsError",
         "Thing group name cannot contain colon characters"),
    ],
)  # fmt: skip
def test_its_mistakes_get_the_words_of_the_device(
    rig, run, operation: str, body: dict[str, object], error: str, message: str
) -> None:
    async def scenario() -> None:
        async with rig() as running:
            client = await running.raw(CLIENT)
            shape, said = await client.ask(1, operation, body)
            assert (shape, said["message"]) == (error, message)
            if operation.endswith("Deployment") and error == "ResourceNotFoundError":
                assert (said["resourceType"], said["resourceName"]) == ("LocalDeployment", UNKNOWN)

    run(scenario())
