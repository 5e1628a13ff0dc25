"""PublishToIoTCore: through the spooler to IoT Core. Answered when the message is kept or sent."""

from __future__ import annotations

import binascii
from typing import Any

from foreshore.errors import AwsError
from foreshore.greengrass.authorization import MQTT_PROXY
from foreshore.greengrass.ipc.operation import (
    EMPTY,
    Call,
    Member,
    Operation,
    Reply,
    anything,
    blob,
    boolean,
    integer,
    invalid_arguments,
    list_of,
    one_of,
    service_error,
    structure,
    text,
    unauthorized,
)
from foreshore.seams import Publication

MAX_PAYLOAD = 128 * 1024


async def handle(call: Call) -> Reply:
    """Authorize, check, hand to the spooler. The MQTT proxy says only "Not Authorized"."""
    request = call.request
    topic = request.get("topicName")
    if call.core.profile == "lite":
        await _handle_lite(call, str(topic))
        return EMPTY
    if topic is None:
        raise invalid_arguments("Topic is required")
    authorize(call, "PublishToIoTCore", topic)
    if request.get("payload") is None:
        raise invalid_arguments("Payload is required")
    publication = read_publication(call, topic, request)
    if len(publication.payload) > MAX_PAYLOAD:
        reason = f"the publish request exceeds the maximum message size of {MAX_PAYLOAD} bytes"
        raise service_error(f"Publish to topic {topic} failed: {reason}")
    try:
        pending = call.core.publish_to_cloud(publication, call.component)
        if pending is not None:
            await pending
    except AwsError as error:
        raise service_error(f"Publish to topic {topic} failed: {error.message}") from error
    return EMPTY


async def _handle_lite(call: Call, topic: str) -> None:
    """Lite's order: QoS, payload, policy; both may be left out. It knows no MQTT 5 properties."""
    qos = read_lite_qos(call.request)
    try:
        payload = binascii.a2b_base64(call.request.get("payload") or "", strict_mode=True)
    except ValueError:
        raise service_error("'payload' is not valid base64.") from None
    authorize(call, "PublishToIoTCore", topic)
    try:
        if qos == 2:
            raise AwsError("InvalidRequest", "IoT Core takes no QoS 2")
        now = call.core.now_ms()
        publication = Publication(topic, payload, qos=qos, timestamp_ms=now, traceparent=call.traceparent)
        pending = call.core.publish_to_cloud(publication, call.component)
        if pending is not None:
            await pending
    except AwsError as error:
        raise service_error("Failed to publish the message.") from error


def read_lite_qos(request: dict[str, Any]) -> int:
    """QoS 0 to 2 as text or number, 0 when it is left out. Raises ServiceError."""
    qos = request.get("qos")
    if qos is None:
        return 0
    if isinstance(qos, str):
        if not qos.lstrip("-").isdecimal():
            raise service_error("Failed to parse 'qos' string value.")
        qos = int(qos)
    if type(qos) is not int:
        raise service_error("Key qos of invalid type.")
    if not 0 <= qos <= 2:
        raise service_error("'qos' not a valid value.")
    return qos


def authorize(call: Call, operation: str, topic: str) -> None:
    """Raise UnauthorizedError with the proxy's short text."""
    if not call.core.authorization.is_allowed(call.component, MQTT_PROXY, operation, topic):
        raise unauthorized("Not Authorized")


def read_qos(request: dict[str, Any]) -> int:
    """QoS 0 or 1. Raises InvalidArgumentsError."""
    qos = request.get("qos")
    if qos is None:
        raise invalid_arguments("QoS is required")
    if qos not in ("0", "1"):
        raise invalid_arguments(f"Invalid QoS value: {qos}")
    return int(qos)


def read_publication(call: Call, topic: str, request: dict[str, Any]) -> Publication:
    """The request as a Publication with its MQTT 5 properties."""
    correlation = request.get("correlationData")
    return Publication(
        topic,
        binascii.a2b_base64(request["payload"]),
        qos=read_qos(request),
        retain=bool(request.get("retain")),
        timestamp_ms=call.core.now_ms(),
        traceparent=call.traceparent,
        content_type=request.get("contentType"),
        response_topic=request.get("responseTopic"),
        correlation_data=binascii.a2b_base64(correlation) if correlation is not None else None,
        payload_format=int(request["payloadFormat"]) if request.get("payloadFormat") is not None else None,
        message_expiry_s=request.get("messageExpiryIntervalSeconds"),
        user_properties=[(item["key"], item["value"]) for item in request.get("userProperties") or ()],
    )


OPERATION = Operation(
    "PublishToIoTCore",
    handle,
    {
        "topicName": Member(text),
        "qos": Member(text),
        "payload": Member(blob),
        "retain": Member(boolean),
        "userProperties": Member(list_of(structure({"key": Member(text, True), "value": Member(text, True)}))),
        "messageExpiryIntervalSeconds": Member(integer),
        "correlationData": Member(blob),
        "responseTopic": Member(text),
        "payloadFormat": Member(one_of("0", "1")),
        "contentType": Member(text),
    },
    lite=True,
    lite_members={"topicName": Member(text, True), "payload": Member(text), "qos": Member(anything)},
)
