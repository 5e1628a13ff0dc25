"""PublishToTopic: to every local subscriber. No subscriber is success; a wildcard in the topic is not."""

from __future__ import annotations

import binascii

import orjson

from foreshore.greengrass.authorization import PUBSUB
from foreshore.greengrass.ipc.operation import (
    EMPTY,
    Call,
    Member,
    Operation,
    Reply,
    invalid_arguments,
    mapping,
    service_error,
    text,
)

LITE_TOPIC_LIMIT = 256
_LITE_INVALID = "Received invalid parameters."


def handle(call: Call) -> Reply:
    """Authorize, check, publish. JSON messages keep their nulls."""
    request = call.request
    topic: str = request["topic"]
    call.authorize(PUBSUB, "PublishToTopic", topic)
    lite = call.core.profile == "lite"
    if not lite and ("+" in topic or "#" in topic or "*" in topic):
        raise invalid_arguments("Publish topic must not contain a wildcard.")
    if lite and len(topic.encode()) > LITE_TOPIC_LIMIT:
        raise service_error(_LITE_INVALID)
    member, body, payload = _message(request["publishMessage"], lite)
    call.core.publish(topic, payload, call.component, call.traceparent, member=member, body=body)
    return EMPTY


def _message(message: dict[str, object], lite: bool) -> tuple[bytes, bytes, bytes]:
    """(union member, its `message` as JSON, the payload's bytes). Exactly one member of the union is set."""
    binary, json = message.get("binaryMessage"), message.get("jsonMessage")
    if (binary is None) == (json is None):
        raise invalid_or_lite("publishMessage must hold one of binaryMessage and jsonMessage", lite)
    if isinstance(binary, dict):
        coded = binary.get("message")
        if isinstance(coded, str):
            try:
                # Strict base64 has no character that JSON escapes.
                if not lite:
                    return b"binaryMessage", b'"%s"' % coded.encode(), binascii.a2b_base64(coded, strict_mode=True)
                return b"binaryMessage", orjson.dumps(coded), binascii.a2b_base64(coded)
            except ValueError:
                if lite:  # it passes on what it does not read (observed)
                    return b"binaryMessage", orjson.dumps(coded), b""
        raise invalid_or_lite("binaryMessage.message must be base64 text", lite)
    if isinstance(json, dict) and json.get("message") is not None:
        payload = orjson.dumps(json["message"])
        return b"jsonMessage", payload, payload
    raise invalid_or_lite("jsonMessage.message is required", lite)


def invalid_or_lite(message: str, lite: bool) -> Exception:
    """Classic's InvalidArgumentsError, or lite's ServiceError."""
    return service_error(_LITE_INVALID) if lite else invalid_arguments(message)


OPERATION = Operation(
    "PublishToTopic",
    handle,
    {"topic": Member(text, True), "publishMessage": Member(mapping, True)},
    lite=True,
)
