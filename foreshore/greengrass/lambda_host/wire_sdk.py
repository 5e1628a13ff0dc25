"""The IPC client over the unmodified awsiotsdk (its V1 client: callbacks in order, on the CRT's event-loop thread).

With traces on, the SDK's Connection is wrapped, not changed: the wrapper adds a `traceparent` header to publishes and
reads it from delivered messages. AWS's nuclei never see such headers: the host wraps only when it is told to.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import awsiot.greengrasscoreipc
from awscrt.eventstream import Header
from awscrt.eventstream.rpc import ClientContinuationHandler
from awscrt.io import ClientBootstrap, DefaultHostResolver, EventLoopGroup, SocketDomain, SocketOptions
from awsiot import eventstreamrpc
from awsiot.greengrasscoreipc import client as sdk_client
from awsiot.greengrasscoreipc import model
from awsiot.greengrasscoreipc.client import GreengrassCoreIPCClient

from .wire import Disconnected, Done, Event, OnEvent, OnLost, Refused, TraceSlot

TRACE_HEADER = "traceparent"
WANTS_TRACE = ("foreshore-trace", "1")


def connect(socket: str, token: str, on_lost: OnLost, trace: TraceSlot | None, timeout_s: float = 10) -> SdkWire:
    """Connect and authenticate. Raises Disconnected."""
    lifecycle = _Lifecycle(on_lost)
    try:
        if trace is None:
            client = awsiot.greengrasscoreipc.connect(
                ipc_socket=socket, authtoken=token, lifecycle_handler=lifecycle, timeout=timeout_s
            )
            return SdkWire(client, None)
        connection = _connect_traced(socket, token, lifecycle, timeout_s)
    except Exception as error:
        raise Disconnected(f"can't connect to the nucleus at {socket}: {error!r}") from error
    incoming = TraceSlot()
    return SdkWire(GreengrassCoreIPCClient(_TracedConnection(connection, trace, incoming)), incoming)


def _connect_traced(socket: str, token: str, lifecycle: _Lifecycle, timeout_s: float) -> Any:
    group = EventLoopGroup(num_threads=1)
    options = SocketOptions()
    options.domain = SocketDomain.Local
    amend = eventstreamrpc.MessageAmendment.create_static_authtoken_amender(token)

    def amend_and_ask_for_traces() -> Any:
        amendment = amend()
        amendment.headers = [Header.from_string(*WANTS_TRACE)]
        return amendment

    connection = eventstreamrpc.Connection(
        host_name=socket,
        port=0,
        bootstrap=ClientBootstrap(group, DefaultHostResolver(group)),
        socket_options=options,
        connect_message_amender=amend_and_ask_for_traces,
    )
    connection.connect(lifecycle).result(timeout_s)
    return connection


class SdkWire:
    """Fills `wire.Wire`."""

    def __init__(self, client: Any, incoming: TraceSlot | None) -> None:
        self._client = client
        self._incoming = incoming or TraceSlot()

    def call(self, operation: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """One request and its answer. Raises Refused, Disconnected, TimeoutError."""
        operation_type = getattr(sdk_client, operation + "Operation")
        active = self._client._new_operation(operation_type)
        shape = getattr(model, operation + "Request")._from_payload(request)
        active._activate(shape)
        answer: dict[str, Any] = _wait(active._get_response(), timeout_s)._to_payload()
        return answer

    def publish(self, topic: str, payload: bytes, done: Done) -> None:
        """Send PublishToTopic without waiting. Raises Disconnected."""
        message = model.PublishMessage(binary_message=model.BinaryMessage(message=payload))
        self._send(
            self._client.new_publish_to_topic, model.PublishToTopicRequest(topic=topic, publish_message=message), done
        )

    def publish_cloud(self, topic: str, payload: bytes, qos: int, done: Done) -> None:
        """Send PublishToIoTCore without waiting. Raises Disconnected."""
        request = model.PublishToIoTCoreRequest(topic_name=topic, qos=str(qos), payload=payload)
        self._send(self._client.new_publish_to_iot_core, request, done)

    def _send(self, new_operation: Callable[[], Any], request: Any, done: Done) -> None:
        try:
            operation = new_operation()
            operation.activate(request)
        except eventstreamrpc.ConnectionClosedError as error:
            raise Disconnected("the connection to the nucleus is closed") from error
        operation.get_response().add_done_callback(lambda future: done(_error_of(future)))

    def subscribe(self, topic: str, on_event: OnEvent, timeout_s: float) -> None:
        """SubscribeToTopic. Raises Refused, Disconnected, TimeoutError."""
        operation = self._client.new_subscribe_to_topic(_LocalStream(on_event, self._incoming))
        operation.activate(model.SubscribeToTopicRequest(topic=topic))
        _wait(operation.get_response(), timeout_s)

    def subscribe_cloud(self, topic: str, qos: int, on_event: OnEvent, timeout_s: float) -> None:
        """SubscribeToIoTCore. Raises Refused, Disconnected, TimeoutError."""
        operation = self._client.new_subscribe_to_iot_core(_CloudStream(on_event, self._incoming))
        operation.activate(model.SubscribeToIoTCoreRequest(topic_name=topic, qos=str(qos)))
        _wait(operation.get_response(), timeout_s)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _wait(future: Future[Any], timeout_s: float) -> Any:
    try:
        return future.result(timeout_s)
    except TimeoutError:
        raise TimeoutError(f"the nucleus did not answer within {timeout_s:g} s") from None
    except Exception as error:
        raise _translated(error) from error


def _error_of(future: Future[Any]) -> Exception | None:
    error = future.exception()
    return None if error is None else _translated(error)


def _translated(error: BaseException) -> Exception:
    """SDK error shapes to Refused. nucleus lite leaves `message` empty; its text is in `_message`, which is lost."""
    if isinstance(error, model.GreengrassCoreIPCError):
        return Refused(type(error).__name__, getattr(error, "message", None) or "")
    if isinstance(error, (eventstreamrpc.StreamClosedError, eventstreamrpc.ConnectionClosedError)):
        return Disconnected("the nucleus closed the stream without an answer")
    return error if isinstance(error, Exception) else RuntimeError(repr(error))


class _Lifecycle(eventstreamrpc.LifecycleHandler):  # type: ignore[misc]
    def __init__(self, on_lost: OnLost) -> None:
        self._on_lost = on_lost

    def on_disconnect(self, reason: Exception | None) -> None:
        self._on_lost("" if reason is None else str(reason))

    def on_error(self, error: Exception) -> bool:
        return True


class _LocalStream(sdk_client.SubscribeToTopicStreamHandler):  # type: ignore[misc]
    """Turns SubscriptionResponseMessage into Event."""

    def __init__(self, on_event: OnEvent, incoming: TraceSlot) -> None:
        self._on_event = on_event
        self._incoming = incoming

    def on_stream_event(self, event: Any) -> None:
        trace = self._incoming.current
        binary = event.binary_message
        if binary is not None:
            context = binary.context
            self._on_event(Event(context.topic if context else "", binary.message or b"", None, trace))
        elif event.json_message is not None:
            context = event.json_message.context
            self._on_event(Event(context.topic if context else "", None, event.json_message.message, trace))


class _CloudStream(sdk_client.SubscribeToIoTCoreStreamHandler):  # type: ignore[misc]
    """Turns IoTCoreMessage into Event."""

    def __init__(self, on_event: OnEvent, incoming: TraceSlot) -> None:
        self._on_event = on_event
        self._incoming = incoming

    def on_stream_event(self, event: Any) -> None:
        if event.message is not None:
            self._on_event(Event(event.message.topic_name, event.message.payload or b"", None, self._incoming.current))


class _TracedConnection:
    """An SDK Connection whose streams carry `traceparent`; everything else is the SDK's own."""

    def __init__(self, connection: Any, outgoing: TraceSlot, incoming: TraceSlot) -> None:
        self._connection = connection
        self._outgoing = outgoing
        self._incoming = incoming

    def _new_stream(self, handler: Any) -> _TracedContinuation:
        wrapped = _TracedHandler(handler, self._incoming)
        return _TracedContinuation(self._connection._new_stream(wrapped), self._outgoing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class _TracedContinuation:
    def __init__(self, continuation: Any, outgoing: TraceSlot) -> None:
        self._continuation = continuation
        self._outgoing = outgoing

    def activate(self, **message: Any) -> Any:
        current = self._outgoing.current
        if current is not None and message["operation"].partition("#")[2].startswith("PublishTo"):
            message["headers"] = [*(message.get("headers") or ()), Header.from_string(TRACE_HEADER, current)]
        return self._continuation.activate(**message)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._continuation, name)


class _TracedHandler(ClientContinuationHandler):  # type: ignore[misc]
    def __init__(self, handler: Any, incoming: TraceSlot) -> None:
        self._handler = handler
        self._incoming = incoming

    def on_continuation_message(self, **message: Any) -> None:
        self._incoming.current = next((each.value for each in message["headers"] if each.name == TRACE_HEADER), None)
        self._handler.on_continuation_message(**message)

    def on_continuation_closed(self, **ending: Any) -> None:
        self._handler.on_continuation_closed(**ending)
