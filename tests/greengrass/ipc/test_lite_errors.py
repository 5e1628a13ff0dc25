"""What greengrass-lite refuses, and with which words: a row for each `ipc_error` of its source."""

from __future__ import annotations

import json

import pytest

from foreshore.greengrass.eventstream import INT32, STRING, Header, encode

DEEP = ["k"] * 13
INVALID = "Received invalid parameters."
DENIED = "IPC Operation not authorized."
ACCESS = {
    "aws.greengrass.ipc.pubsub": {"p": {"operations": ["*"], "resources": ["ok/*"]}},
    "aws.greengrass.ipc.mqttproxy": {"p": {"operations": ["*"], "resources": ["ok/#"]}},
    "aws.greengrass.Cli": {"p": {"operations": ["aws.greengrass#RestartComponent"], "resources": ["gone"]}},
}
PAYLOAD = {"topicName": "ok/t", "payload": "eA=="}

# (operation, body, error code without "Error" or the response, message)
ROWS: list[tuple[str, object, str, str]] = [
    ("PublishToTopic", {}, "Service", INVALID),
    ("PublishToTopic", {"topic": 5, "publishMessage": {}}, "Service", INVALID),
    ("PublishToTopic", {"topic": "no/t", "publishMessage": {"binaryMessage": {"message": ""}}}, "Unauthorized", DENIED),
    ("SubscribeToTopic", {}, "Service", INVALID),
    ("SubscribeToTopic", {"topic": "no/t"}, "Unauthorized", DENIED),
    ("SubscribeToTopic", {"topic": "ok/" + "t" * 256}, "Service", "Failed to bind subscription."),
    ("PublishToIoTCore", {}, "Service", INVALID),
    ("PublishToIoTCore", {"topicName": "ok/t", "payload": 5}, "Service", INVALID),
    ("PublishToIoTCore", {**PAYLOAD, "qos": "x"}, "Service", "Failed to parse 'qos' string value."),
    ("PublishToIoTCore", {**PAYLOAD, "qos": 1.5}, "Service", "Key qos of invalid type."),
    ("PublishToIoTCore", {**PAYLOAD, "qos": True}, "Service", "Key qos of invalid type."),
    ("PublishToIoTCore", {**PAYLOAD, "qos": "3"}, "Service", "'qos' not a valid value."),
    ("PublishToIoTCore", {**PAYLOAD, "payload": "?"}, "Service", "'payload' is not valid base64."),
    ("PublishToIoTCore", {**PAYLOAD, "topicName": "no"}, "Unauthorized", DENIED),
    ("PublishToIoTCore", {**PAYLOAD, "qos": 2}, "Service", "Failed to publish the message."),
    ("PublishToIoTCore", {"topicName": "ok/t"}, "PublishToIoTCoreResponse", ""),
    ("SubscribeToIoTCore", {}, "Service", INVALID),
    ("SubscribeToIoTCore", {"topicName": "ok/t", "qos": []}, "Service", "Key qos of invalid type."),
    ("SubscribeToIoTCore", {"topicName": "no"}, "Unauthorized", DENIED),
    ("SubscribeToIoTCore", {"topicName": "ok/refused"}, "Service", "Failed to bind the subscription."),
    ("SubscribeToIoTCore", {"topicName": "ok/t"}, "SubscribeToIoTCoreResponse", ""),
    ("GetConfiguration", {"keyPath": "x"}, "Service", INVALID),
    ("GetConfiguration", {"keyPath": [1]}, "Service", INVALID),
    ("GetConfiguration", {"keyPath": ["gone"]}, "ResourceNotFound", "Key not found."),
    ("GetConfiguration", {"keyPath": DEEP}, "Service", "Config path depth larger than supported."),
    ("UpdateConfiguration", {}, "InvalidArguments", INVALID),
    ("UpdateConfiguration", {"timestamp": 1.0}, "InvalidArguments", INVALID),
    ("UpdateConfiguration", {"timestamp": "1", "valueToMerge": {}}, "InvalidArguments", INVALID),
    ("UpdateConfiguration", {"timestamp": 1.0, "valueToMerge": 1, "keyPath": [1]}, "InvalidArguments", INVALID),
    (
        "UpdateConfiguration",
        {"timestamp": 1.0, "valueToMerge": 1, "keyPath": DEEP},
        "Service",
        "Config path depth larger than supported.",
    ),
    (
        "UpdateConfiguration",
        {"timestamp": 1.0, "valueToMerge": {"accessControl": 1}},
        "InvalidArguments",
        "Config update is not allowed for following field [accessControl]",
    ),
    ("UpdateConfiguration", {"timestamp": 1.0, "valueToMerge": 1}, "Service", "Failed to update the configuration."),
    ("SubscribeToConfigurationUpdate", {"keyPath": "x"}, "Service", "Failed to validate the map."),
    (
        "SubscribeToConfigurationUpdate",
        {"keyPath": [1]},
        "Service",
        "Received invalid parameters: keyPath must be list of strings.",
    ),
    ("SubscribeToConfigurationUpdate", {"keyPath": ["gone"]}, "ResourceNotFound", "Key not found"),
    ("UpdateState", {}, "Service", INVALID),
    ("UpdateState", {"state": "DANCING"}, "Service", "Failed to update the lifecycle state."),
    (
        "ValidateAuthorizationToken",
        {"token": "x"},
        "Unauthorized",
        "Component does not have access to token verification IPC command.",
    ),
    ("RestartComponent", {}, "InvalidArguments", "Invalid arguments provided."),
    ("RestartComponent", {"componentName": "other"}, "Unauthorized", "Component not authorized to restart component."),
    ("RestartComponent", {"componentName": "gone"}, "ResourceNotFound", "Component not found."),
    ("CreateLocalDeployment", {}, "Service", DENIED),
    ("private#GetSystemConfig", {}, "InvalidArguments", INVALID),
    ("private#GetSystemConfig", {"key": "nothing"}, "Service", "Failed to read the system configuration."),
    ("ListComponents", {}, "Service", ""),
    ("GetThingShadow", {"thingName": "x"}, "Service", ""),
    ("PauseComponent", {"componentName": "c"}, "Service", ""),
]


def frame(stream: int, operation: str, body: object) -> bytes:

    name = f"aws.greengrass.{operation}" if operation.startswith("private#") else f"aws.greengrass#{operation}"
    headers = [Header(":message-type", INT32, 0), Header(":message-flags", INT32, 0)]
    headers += [Header(":stream-id", INT32, stream), Header("operation", STRING, name)]
    return encode(headers, json.dumps(body).encode())


def test_every_refusal_of_lite(rig, run) -> None:
    async def scenario() -> None:
        async with rig(profile="lite") as running:
            running.component("c", ACCESS)
            running.link.denied.add("ok/refused")
            client = await running.raw("c")
            for number, (operation, body, code, message) in enumerate(ROWS, 1):
                client.writer.write(frame(number, operation, body))
                shape, answer = await client.answer()
                wanted = code if code.endswith("Response") else code + "Error"
                assert (shape, answer.get("_message", "")) == (wanted, message), (operation, body)
                if wanted != code:
                    assert answer == {"_message": message, "_errorCode": wanted}

    run(scenario())


def test_the_stream_managers_tokens(rig, run) -> None:
    async def scenario() -> None:
        async with rig(profile="lite") as running:
            manager = await running.raw("aws.greengrass.StreamManager")
            shape, error = await manager.ask(1, "ValidateAuthorizationToken", {"token": "BAD"})
            text = "Invalid token used by stream manager when trying to authorize."
            assert (shape, error["_message"]) == ("InvalidTokenError", text)
            shape, answer = await manager.ask(
                2, "ValidateAuthorizationToken", {"token": running.core.tokens.issue("aws.greengrass.StreamManager")}
            )
            assert (shape, answer) == ("ValidateAuthorizationTokenResponse", {"isValid": True})

    run(scenario())


def test_system_configuration_has_no_model_type_and_is_lites_alone(rig, run) -> None:
    async def scenario() -> None:
        async with rig(profile="lite") as running:
            client = await running.raw("c")
            for number, (key, value) in enumerate((("thingName", "lab-core"), ("rootPath", str(running.core.root))), 1):
                client.writer.write(frame(number, "private#GetSystemConfig", {"key": key}))
                received = await client.receive()
                assert received is not None
                headers, payload = received
                assert "service-model-type" not in headers and headers[":message-flags"] == 0
                assert payload == b'{"value":"%s"}' % value.encode()
        async with rig(root=running.core.root / "classic") as running:
            client = await running.raw("c")
            client.writer.write(frame(1, "private#GetSystemConfig", {"key": "thingName"}))
            assert (await client.answer())[1] == {
                "error": "Unsupported operation",
                "operation": "aws.greengrass.private#GetSystemConfig",
            }

    run(scenario())


def test_the_classic_nucleus_is_read_from_lites(rig, run) -> None:
    async def scenario() -> None:
        async with rig(profile="lite") as running:
            running.core.configuration.merge("aws.greengrass.NucleusLite", ["awsRegion"], "eu-west-1", 5)
            client = await running.raw("c")
            body = {"componentName": "aws.greengrass.Nucleus", "keyPath": ["awsRegion"]}
            _, answer = await client.ask(1, "GetConfiguration", body)
            assert answer == {"componentName": "aws.greengrass.Nucleus", "value": {"awsRegion": "eu-west-1"}}
            assert (await client.ask(2, "SubscribeToConfigurationUpdate", body))[0].endswith("Response")
            running.core.configuration.merge("aws.greengrass.NucleusLite", ["awsRegion"], "us-east-1", 6)
            assert (await client.answer())[1] == {"configurationUpdateEvent": body}

    run(scenario())


@pytest.mark.parametrize("size", [10_012, 10_013])
def test_a_frame_of_10012_bytes_is_the_last_that_fits(rig, run, size: int) -> None:
    async def scenario() -> None:
        async with rig(profile="lite") as running:
            running.component("c", ACCESS)
            client = await running.raw("c")
            room = size - len(frame(1, "GetConfiguration", {"pad": ""}))
            client.writer.write(frame(1, "GetConfiguration", {"pad": "x" * room}))
            answer = await client.receive()
            assert (answer is not None) is (size == 10_012)

    run(scenario())
