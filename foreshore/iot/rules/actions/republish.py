"""The republish action (developer guide, "Republish")."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from foreshore.iot.mqtt.topics import is_topic
from foreshore.iot.rules.actions.call import Call
from foreshore.iot.rules.actions.failures import ActionFailed
from foreshore.iot.rules.actions.templates import unescape_topic
from foreshore.seams import Publication

MAX_DEPTH = 16
"""Republishes in one chain. AWS has none it speaks of; a loop that nobody stops would never end here."""

_FORMATS = {"UNSPECIFIED_BYTES": 0, "UTF8_DATA": 1, "0": 0, "1": 1}


async def run_republish(call: Call, parameters: dict[str, Any]) -> None:
    """Publish the result on another topic, with the headers' MQTT 5 properties."""
    topic = unescape_topic(parameters["topic"])
    if not is_topic(topic):
        raise ActionFailed(f"{topic!r} is no topic that can be published to")
    if call.depth >= MAX_DEPTH:
        raise ActionFailed(f"the message was republished {MAX_DEPTH} times: the rules form a loop")
    publication = Publication(
        topic,
        call.payload,
        qos=int(parameters.get("qos") or 0),
        principal=call.message.principal,
        source_ip=call.message.source_ip,
        traceparent=call.traceparent,
    )
    _headers(publication, parameters.get("headers") or {})
    try:
        call.notes["publish"](publication)
    except ValueError as error:
        raise ActionFailed(str(error)) from None


def _headers(publication: Publication, headers: dict[str, Any]) -> None:
    publication.content_type = headers.get("contentType")
    publication.response_topic = headers.get("responseTopic")
    if headers.get("payloadFormatIndicator"):
        publication.payload_format = _FORMATS.get(headers["payloadFormatIndicator"])
        if publication.payload_format is None:
            raise ActionFailed(f"payloadFormatIndicator {headers['payloadFormatIndicator']!r} is unknown")
    if headers.get("messageExpiry"):
        try:
            publication.message_expiry_s = int(headers["messageExpiry"])
        except ValueError:
            raise ActionFailed(f"messageExpiry {headers['messageExpiry']!r} is no number of seconds") from None
    if headers.get("correlationData"):
        try:
            publication.correlation_data = base64.b64decode(headers["correlationData"], validate=True)
        except (binascii.Error, ValueError):
            raise ActionFailed("correlationData is no base64") from None
    publication.user_properties = [(pair["key"], pair["value"]) for pair in headers.get("userProperties") or []]
