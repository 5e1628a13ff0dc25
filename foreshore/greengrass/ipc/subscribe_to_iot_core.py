"""SubscribeToIoTCore: a stream of messages from IoT Core. The first answer waits for the link, as on a device."""

from __future__ import annotations

import binascii

from foreshore.errors import AwsError
from foreshore.greengrass.ipc.operation import (
    EMPTY,
    Call,
    Member,
    Operation,
    Reply,
    anything,
    invalid_arguments,
    service_error,
    text,
)
from foreshore.greengrass.ipc.publish_to_iot_core import authorize, read_lite_qos, read_qos
from foreshore.seams import Publication


async def handle(call: Call) -> Reply:
    """Authorize, subscribe at the broker, answer; messages that come before the answer wait for it."""
    topic = call.request.get("topicName")
    if topic is None:
        raise invalid_arguments("Topic is required")
    is_lite = call.core.profile == "lite"
    qos = read_lite_qos(call.request) if is_lite else 0
    authorize(call, "SubscribeToIoTCore", topic)
    if not is_lite:
        qos = read_qos(call.request)

    def deliver(publication: Publication) -> None:
        call.send_traced({"message": message(publication, lite=call.core.profile == "lite")}, publication.traceparent)

    try:
        call.on_close(await call.core.subscribe_to_cloud(topic, qos, deliver))
    except AwsError as error:
        text = f"Subscribe to topic {topic} failed with error {error.message}"
        raise service_error(text, lite="Failed to bind the subscription.") from error
    return EMPTY


def message(publication: Publication, *, lite: bool) -> dict[str, object]:
    """MQTTMessage; absent properties are left out. Classic always says `retain` and `payloadFormat`."""
    body: dict[str, object] = {
        "topicName": publication.topic,
        "payload": binascii.b2a_base64(publication.payload, newline=False).decode(),
    }
    if lite:
        return body
    body["retain"] = publication.retain
    body["payloadFormat"] = str(publication.payload_format or 0)
    if publication.user_properties:
        body["userProperties"] = [{"key": key, "value": value} for key, value in publication.user_properties]
    if publication.message_expiry_s is not None:
        body["messageExpiryIntervalSeconds"] = publication.message_expiry_s
    if publication.correlation_data is not None:
        body["correlationData"] = binascii.b2a_base64(publication.correlation_data, newline=False).decode()
    if publication.response_topic is not None:
        body["responseTopic"] = publication.response_topic
    if publication.content_type is not None:
        body["contentType"] = publication.content_type
    return body


OPERATION = Operation(
    "SubscribeToIoTCore",
    handle,
    {"topicName": Member(text), "qos": Member(text)},
    event="IoTCoreMessage",
    lite=True,
    lite_members={"topicName": Member(text, True), "qos": Member(anything)},
)
