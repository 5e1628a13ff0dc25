"""The `iot-data` API: publishing over HTTP, retained messages, connections, and shadows by delegation.

One table of operations serves the AWS endpoint (SigV4, unrestricted, as local IAM is) and devices over mutual TLS,
whose policies are asked. Which of the two a request is, `identify` says.

Source: AWS IoT data API reference; developer guide, "HTTPS", "Working with HTTPS topics".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Protocol

import orjson

from foreshore.errors import AwsError, NotEmulated
from foreshore.http import Request, Response
from foreshore.iot.access import Identity
from foreshore.iot.listing import tokens
from foreshore.iot.mqtt.access import ClientInfo
from foreshore.iot.mqtt.topics import is_topic
from foreshore.iot.presence import Presence, connection_of
from foreshore.iot.store import Document
from foreshore.seams import Publication
from foreshore.shapes.service_model import CallContext, OperationHandler

Params = dict[str, Any]
MAX_PAYLOAD = 128 * 1024
MAX_EXPIRY_S = 604_800
CONFIRMATION_S, MAX_CONFIRMATION_S = 5, 15
_FORMATS = {"UNSPECIFIED_BYTES": 0, "UTF8_DATA": 1}


class RetainedInfo(Protocol):
    """One retained message, listed."""

    topic: str
    payload_size: int
    qos: int
    modified_ms: int


class Bus(Protocol):
    """What of the broker the data plane uses."""

    def publish(self, publication: Publication, /) -> None: ...

    def retained(self, topic: str, /) -> Publication | None: ...

    def client(self, client_id: str, /) -> ClientInfo | None: ...

    def disconnect(self, client_id: str, /) -> bool: ...

    def forget(self, client_id: str, /) -> bool: ...

    def subscriptions(self, client_id: str, /) -> list[tuple[str, int]]: ...

    def deliver_to(self, client_id: str, publication: Publication, /) -> bool: ...


class Shadows(Protocol):
    """The shadow service: documents as JSON bytes; errors are AwsErrors of the data API. `name` is "" for classic."""

    def get(self, thing: str, name: str, /) -> bytes: ...

    def update(self, thing: str, name: str, payload: bytes, /) -> bytes: ...

    def delete(self, thing: str, name: str, /) -> bytes: ...

    def names(self, thing: str, /) -> list[str]: ...


Identify = Callable[[Request], Identity | None]
"""The device behind a request; None for an IAM caller. Raises AwsError for nobody at all."""
Require = Callable[[Identity, str, str], None]
"""Raises AwsError unless the identity may do an action on a resource."""


Confirm = Callable[[str, Publication, float], Awaitable[bool]]
"""Deliver to a client and wait some seconds for its acknowledgement; False when none came."""


class DataPlane:
    """The operations of `iot-data`. `shadows` is given later by the service that owns them."""

    def __init__(
        self,
        bus: Bus,
        presence: Presence,
        identify: Identify,
        require: Require,
        may_receive: Callable[[object, str], bool],
        forget_will: Callable[[str], None],
        retained_list: Callable[[], list[Any]],
        clock: Callable[[], float],
        confirm: Confirm,
    ) -> None:
        self._bus = bus
        self._presence = presence
        self._identify = identify
        self._require = require
        self._may_receive = may_receive
        self._forget_will = forget_will
        self._retained_list = retained_list
        self._clock = clock
        self._confirm = confirm
        self.shadows: Shadows | None = None

    def operations(self) -> dict[str, OperationHandler]:
        """AWS's operations by name."""
        return {
            "Publish": self.publish,
            "GetRetainedMessage": self.get_retained,
            "ListRetainedMessages": self.list_retained,
            "GetConnection": self.get_connection,
            "DeleteConnection": self.delete_connection,
            "ListSubscriptions": self.list_subscriptions,
            "SendDirectMessage": self.send_direct,
            "GetThingShadow": self.get_shadow,
            "UpdateThingShadow": self.update_shadow,
            "DeleteThingShadow": self.delete_shadow,
            "ListNamedShadowsForThing": self.list_shadows,
        }

    def permit(self, context: CallContext, action: str, resource: str) -> Identity | None:
        """Ask the policies of the device behind a request; None for an IAM caller. Raises AwsError."""
        identity = self._identify(context.request)
        if identity is not None:
            self._require(identity, action, resource)
        return identity

    # Messages

    def publish(self, params: Params, context: CallContext) -> Response:
        """Publish. Reserved topics are refused, except Basic Ingest; the answer's body is what devices read."""
        topic = params["topic"]
        retain = bool(params.get("retain", False))
        check_topic(topic)
        identity = self.permit(context, "iot:Publish", f"topic/{topic}")
        if retain:
            if topic.startswith("$"):
                raise AwsError("InvalidRequestException", "Topics that begin with $ can't be retained.", 400)
            self.permit(context, "iot:RetainPublish", f"topic/{topic}")
        publication = self._publication(topic, params, context, identity)
        publication.retain = retain
        publication.qos = params.get("qos", 0)
        self._bus.publish(publication)
        body = orjson.dumps({"message": "OK", "traceId": context.request_id})
        return Response(
            200,
            [(b"Content-Type", b"application/json"), (b"x-amzn-RequestId", context.request_id.encode())],
            body,
        )

    def _publication(self, topic: str, params: Params, context: CallContext, identity: Identity | None) -> Publication:
        payload = params.get("payload", b"")
        if len(payload) > MAX_PAYLOAD:
            raise AwsError("RequestEntityTooLargeException", f"The payload exceeds {MAX_PAYLOAD} bytes.", 413)
        expiry = params.get("messageExpiry")
        request = context.request
        return Publication(
            topic,
            payload,
            principal=identity.principal if identity else context.access_key or None,
            source_ip=request.peer[0] or None,
            timestamp_ms=int(self._clock() * 1000),
            traceparent=request.header("traceparent") or None,
            content_type=params.get("contentType"),
            response_topic=params.get("responseTopic"),
            correlation_data=_base64(params.get("correlationData")),
            payload_format=_FORMATS.get(params.get("payloadFormatIndicator", "")),
            message_expiry_s=min(max(expiry, 1), MAX_EXPIRY_S) if expiry is not None else None,
            user_properties=_user_properties(params.get("userProperties")),
        )

    def get_retained(self, params: Params, context: CallContext) -> Document:
        """GetRetainedMessage."""
        topic = params["topic"]
        self.permit(context, "iot:GetRetainedMessage", f"topic/{topic}")
        found = self._bus.retained(topic)
        if found is None:
            raise AwsError("ResourceNotFoundException", f"No retained message on topic {topic}", 404)
        properties = [{key: value} for key, value in found.user_properties]
        return {
            "topic": topic,
            "payload": found.payload,
            "qos": found.qos,
            "lastModifiedTime": found.timestamp_ms,
            "userProperties": orjson.dumps(properties) if properties else None,
        }

    def list_retained(self, params: Params, context: CallContext) -> Document:
        """ListRetainedMessages."""
        self.permit(context, "iot:ListRetainedMessages", "*")
        shown = [
            {
                "topic": each.topic,
                "payloadSize": each.payload_size,
                "qos": each.qos,
                "lastModifiedTime": each.modified_ms,
            }
            for each in self._retained_list()
        ]
        return tokens(shown, params, "retainedTopics", key=lambda each: str(each["topic"]))

    # Connections

    def get_connection(self, params: Params, context: CallContext) -> Document:
        """GetConnection: of a client that is connected, or was since the start."""
        client_id = params["clientId"]
        self.permit(context, "iot:GetConnection", f"client/{client_id}")
        client = self._bus.client(client_id)
        known = self._presence.clients.get(client_id)
        if known is None and client is None:
            raise AwsError("ResourceNotFoundException", f"Client {client_id} not found", 404)
        client = client or (known.client if known else None)
        answer: Document = {"clientId": client_id, "connected": known.connected if known else True}
        if known is not None:
            answer["thingName"] = known.thing
            answer["connectedSince" if known.connected else "disconnectedSince"] = known.timestamp_ms
            answer["disconnectReason"] = known.disconnect_reason or None
        return {**answer, **connection_of(client, bool(params.get("includeSocketInformation")))}

    def delete_connection(self, params: Params, context: CallContext) -> None:
        """DeleteConnection: ends the connection, and its session with `cleanSession`; its will is sent or not."""
        client_id = params["clientId"]
        self.permit(context, "iot:DeleteConnection", f"client/{client_id}")
        if params.get("preventWillMessage"):
            self._forget_will(client_id)
        ended = self._bus.forget(client_id) if params.get("cleanSession") else self._bus.disconnect(client_id)
        if not ended:
            raise AwsError("ResourceNotFoundException", f"Client {client_id} is not connected", 404)

    def list_subscriptions(self, params: Params, context: CallContext) -> Document:
        """ListSubscriptions of a session."""
        client_id = params["clientId"]
        self.permit(context, "iot:ListSubscriptions", f"client/{client_id}")
        if client_id not in self._presence.clients and self._bus.client(client_id) is None:
            raise AwsError("ResourceNotFoundException", f"Client {client_id} not found", 404)
        shown = [{"topicFilter": filter, "qos": qos} for filter, qos in sorted(self._bus.subscriptions(client_id))]
        return tokens(shown, params, "subscriptions", key=lambda each: str(each["topicFilter"]))

    async def send_direct(self, params: Params, context: CallContext) -> Document:
        """SendDirectMessage: to one connected client, subscribed or not, whose policy lets it receive.

        At QoS 0, or with `confirmation` at QoS 1: then GatewayTimeoutException when no PUBACK came in time.
        """
        client_id, topic = params["clientId"], params["topic"]
        if not is_topic(topic):
            raise AwsError("InvalidRequestException", f"Invalid topic {topic}", 400)
        identity = self.permit(context, "iot:SendDirectMessage", f"client/{client_id}")
        timeout = params.get("timeout", CONFIRMATION_S)
        if not 1 <= timeout <= MAX_CONFIRMATION_S:
            raise AwsError("InvalidRequestException", f"timeout is 1 to {MAX_CONFIRMATION_S}", 400)
        client = self._bus.client(client_id)
        if client is None:
            raise AwsError("ResourceNotFoundException", f"Client {client_id} is not connected", 404)
        if not self._may_receive(client.identity, topic):
            raise AwsError("ForbiddenException", f"Client {client_id} may not receive on {topic}", 403)
        publication = self._publication(topic, params, context, identity)
        if params.get("confirmation"):
            if not await self._confirm(client_id, replace(publication, qos=1), timeout):
                text = "The delivery confirmation was not received from the client within the specified timeout period."
                raise AwsError("GatewayTimeoutException", text, 504)
        elif not self._bus.deliver_to(client_id, publication):
            raise AwsError("ResourceNotFoundException", f"Client {client_id} is not connected", 404)
        return {"message": "OK", "traceId": context.request_id}

    # Shadows

    def _shadows(self) -> Shadows:
        if self.shadows is None:
            raise NotEmulated("device shadows")
        return self.shadows

    def get_shadow(self, params: Params, context: CallContext) -> Document:
        """GetThingShadow."""
        thing, name = self._shadow_of(params, context, "iot:GetThingShadow")
        return {"payload": self._shadows().get(thing, name)}

    def update_shadow(self, params: Params, context: CallContext) -> Document:
        """UpdateThingShadow; notifications are published as for MQTT."""
        thing, name = self._shadow_of(params, context, "iot:UpdateThingShadow")
        return {"payload": self._shadows().update(thing, name, params["payload"])}

    def delete_shadow(self, params: Params, context: CallContext) -> Document:
        """DeleteThingShadow."""
        thing, name = self._shadow_of(params, context, "iot:DeleteThingShadow")
        return {"payload": self._shadows().delete(thing, name)}

    def _shadow_of(self, params: Params, context: CallContext, action: str) -> tuple[str, str]:
        thing, name = params["thingName"], params.get("shadowName") or ""
        self.permit(context, action, f"thing/{thing}/{name}" if name else f"thing/{thing}")
        return thing, name

    def list_shadows(self, params: Params, context: CallContext) -> Document:
        """ListNamedShadowsForThing."""
        thing = params["thingName"]
        self.permit(context, "iot:ListNamedShadowsForThing", f"thing/{thing}")
        names = sorted(name for name in self._shadows().names(thing) if name)
        page = tokens(names, {**params, "maxResults": params.get("pageSize")}, "results", default=25)
        return {**page, "timestamp": int(self._clock())}


def check_topic(topic: str) -> None:
    """A topic that HTTP may publish to. Raises AwsError InvalidRequestException."""
    levels = topic.split("/")
    size = len(topic.encode())
    if topic.startswith("$aws/rules/"):
        levels, size = levels[3:], size - len("/".join(levels[:3]).encode()) - 1
    elif topic.startswith("$") and not topic.startswith(("$aws/things/", "$aws/commands/")):
        raise AwsError("InvalidRequestException", f"Invalid topic: {topic} is reserved", 400)
    if not is_topic(topic) or len(levels) > 8 or size > 256:
        raise AwsError("InvalidRequestException", f"Invalid topic: {topic}", 400)


def _base64(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise AwsError("InvalidRequestException", "correlationData has to be base64", 400) from None


def _user_properties(text: str | None) -> list[tuple[str, str]]:
    """The JSON array of one-pair objects that the header holds (base64 is taken off already).

    Who gives boto3 the "JSON string" of the API reference sends it as a JSON string: encoded twice.
    """
    if not text:
        return []
    try:
        pairs = orjson.loads(text)
        if isinstance(pairs, str):
            pairs = orjson.loads(pairs)
        return [(str(key), str(value)) for pair in pairs for key, value in pair.items()]
    except (orjson.JSONDecodeError, AttributeError, TypeError):
        raise AwsError("InvalidRequestException", "userProperties has to be a JSON array of objects", 400) from None
