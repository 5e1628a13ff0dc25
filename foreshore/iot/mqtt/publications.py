"""Between the broker's messages and the publications that services and listeners know. Pure."""

from __future__ import annotations

from foreshore.iot.mqtt import properties as p
from foreshore.iot.mqtt.connection import Connection
from foreshore.iot.mqtt.properties import Properties
from foreshore.iot.mqtt.routing import Route
from foreshore.iot.mqtt.session import Message, forwardable
from foreshore.seams import Publication


def message_of(publication: Publication, max_qos: int) -> Message:
    """A service's publication as a message for subscribers; its expiry is the broker's to set."""
    properties: Properties = {}
    pairs = (
        (p.PAYLOAD_FORMAT, publication.payload_format),
        (p.CONTENT_TYPE, publication.content_type),
        (p.RESPONSE_TOPIC, publication.response_topic),
        (p.CORRELATION_DATA, publication.correlation_data),
        (p.USER_PROPERTY, publication.user_properties or None),
    )
    for key, value in pairs:
        if value is not None:
            properties[key] = value
    raw = publication.topic.encode()
    return Message(
        len(raw).to_bytes(2, "big") + raw,
        publication.payload,
        min(publication.qos, max_qos),
        publication.retain,
        forwardable(properties) if properties else b"",
    )


def publication_of(
    connection: Connection | None,
    route: Route,
    message: Message,
    properties: Properties | None,
    wall_ns: int,
) -> Publication:
    """A client's message as listeners get it."""
    made = Publication(
        route.topic, message.payload, message.qos, message.retain,
        timestamp_ms=wall_ns // 1_000_000, traceparent=message.traceparent,
    )  # fmt: skip
    if connection is not None and connection.session is not None:
        made.client_id = connection.session.client_id
        made.principal = connection.session.principal
        made.source_ip = connection.peer.source_ip
    if properties:
        made.content_type = properties.get(p.CONTENT_TYPE)
        made.response_topic = properties.get(p.RESPONSE_TOPIC)
        made.correlation_data = properties.get(p.CORRELATION_DATA)
        made.payload_format = properties.get(p.PAYLOAD_FORMAT)
        made.message_expiry_s = properties.get(p.MESSAGE_EXPIRY)
        made.user_properties = list(properties.get(p.USER_PROPERTY, ()))
    return made
