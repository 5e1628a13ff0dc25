"""The shell of event-stream RPC: sockets, JSON, tasks and back-pressure around `rpc.Connection`.

Every answer and event of one loop turn leaves a connection in one write. A peer that does not read is not read from
either, and events beyond its bound are dropped and counted: it delays nobody.
"""

from __future__ import annotations

import asyncio
import os
import socket
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import orjson

from foreshore.errors import AwsError, ForeshoreError, PeerError, UserError
from foreshore.greengrass import rpc
from foreshore.greengrass.eventstream import STRING, Header, encode_headers
from foreshore.greengrass.ipc.operation import EMPTY, Call, Checks, Operation, Reply, checks_of, first_complaint
from foreshore.greengrass.pubsub import LocalMessage

HIGH_WATER = 256 * 1024
MAX_WAITING_BYTES = 8 * 1024 * 1024
LINGER_S = 1.0
MAX_SOCKET_PATH = 107

_JSON = Header(":content-type", STRING, "application/json")
_internal_error = rpc.Frame(
    rpc.APPLICATION_ERROR, rpc.TERMINATE_STREAM, [Header(":content-type", STRING, "text/plain")]
).fixed(b"InternalServerError")


Authenticate = Callable[[Mapping[str, object], bytes], tuple[str, Sequence[Header]] | None]


class Api(NamedTuple):
    """A modelled service: its name, its shapes' prefix, its operations by bare name, and its error shapes."""

    service: str
    prefix: str
    operations: Mapping[str, Operation]
    errors: frozenset[str]
    default_error: str


class Prepared(NamedTuple):
    """An operation with its frames: the response, the response whose payload is `{}`, and the events. `is_plain` when
    it neither streams nor needs a component of AWS's."""

    operation: Operation
    is_plain: bool
    checks: Checks
    response: rpc.Frame
    empty: Callable[[int], bytes]
    event: rpc.Frame | None


class Stream:
    """A stream that stays open. `waiting` are events that came before the response, None once it is out."""

    __slots__ = ("event", "name", "stops", "take", "task", "waiting")

    def __init__(self, name: str, event: rpc.Frame | None) -> None:
        self.name = name
        self.event = event
        self.take: Callable[[dict[str, Any]], None] | None = None
        self.waiting: list[tuple[bytes, str | None]] | None = []
        self.stops: list[Callable[[], None]] = []
        self.task: asyncio.Task[None] | None = None


class Session(asyncio.Protocol):
    """One client: `rpc.Handler` for the protocol below it, `operation.Session` for the calls above it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection = rpc.Connection(self, server.rules)
        self._out = self._connection.out
        self._streams: dict[int, Stream] = {}
        self._is_paused = False
        self._is_dirty = False
        self._waiting_bytes = 0
        self._dropped = 0
        self._linger: asyncio.TimerHandle | None = None
        self.component = ""
        self.is_traced = False

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER)
        if not self._server.admit(self):
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._linger is not None:
            return
        server = self._server
        server.is_receiving = True
        try:
            self._connection.receive(data)
        except PeerError as error:
            server.say(self.component, "WARN", f"IPC connection closed: {error.what}")
            self._end(lingering=bool(self._out))
        else:
            if self._connection.is_refused:
                self._end(lingering=True)
            elif self._out:
                self.flush()
        finally:
            server.is_receiving = False
            if server.dirty:
                server.flush_dirty()

    def _end(self, *, lingering: bool) -> None:
        """Write what is left and close. Closed at once, the client may report a broken socket instead of our word."""
        self.flush()
        if lingering and self._server.rules.answers_control:
            self._linger = asyncio.get_running_loop().call_later(LINGER_S, self.transport.close)
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.sessions.discard(self)
        if self._linger is not None:
            self._linger.cancel()
        for stream_id in list(self._streams):
            self._close_stream(stream_id)

    def pause_writing(self) -> None:
        self._is_paused = True
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self._is_paused = False
        self._waiting_bytes = 0
        if self._dropped:
            self._server.say(self.component, "WARN", f"stalled on IPC: {self._dropped} events were dropped")
            self._dropped = 0
        self.flush()
        if not self._is_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def flush(self) -> None:
        """Write what is gathered, unless the transport is full."""
        self._is_dirty = False
        if self._is_paused or not self._out:
            return
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        if not self.transport.is_closing():
            self.transport.write(data)

    def _wake(self) -> None:
        if not self._is_dirty:
            self._is_dirty = True
            self._server.wake(self)

    # rpc.Handler

    def connect(self, headers: Mapping[str, object], payload: bytes) -> Sequence[Header] | None:
        """Authenticate the client."""
        admitted = self._server.authenticate(headers, payload)
        if admitted is None:
            return None
        self.component, more = admitted
        self.is_traced = headers.get("foreshore-trace") in ("1", 1)
        return more

    def request(self, stream_id: int, incoming: rpc.Incoming, payload: bytes) -> None:
        """Start an operation."""
        prepared = self._server.table.get(incoming.operation)
        if prepared is None or incoming.type != rpc.APPLICATION_MESSAGE:
            self._out.append(self._server.unknown(stream_id, incoming.operation))
            return
        try:
            request = orjson.loads(payload)
            if not isinstance(request, dict):
                raise ValueError("the payload must be a JSON object")
        except ValueError:
            self._out.append(self._server.malformed(stream_id))
            return
        try:
            wrong = first_complaint(prepared.checks, request)
            if wrong is not None:
                raise self._server.invalid(prepared.operation, wrong)
            given = incoming.headers.get("traceparent")
            traceparent = given if isinstance(given, str) else None
            call = Call(self, self._server.core, self.component, stream_id, request, traceparent)
            if prepared.is_plain:
                reply = prepared.operation.handle(call)
                if reply is EMPTY:
                    self._out.append(prepared.empty(stream_id))
                    return
            else:
                reply = self._open(prepared, stream_id, call)
            self._take(prepared, stream_id, reply)
        except Exception as error:
            self._close_stream(stream_id)
            self._out.append(self._server.failed(stream_id, self.component, prepared.operation.name, error))

    def _open(self, prepared: Prepared, stream_id: int, call: Call) -> Reply | Awaitable[Reply]:
        """Start an operation that streams, or that a component of AWS's adds."""
        if prepared.operation.plugin:
            self._server.on_plugin(self.component, prepared.operation.plugin)
        if prepared.event is not None:
            self._hold(stream_id, prepared)
        return prepared.operation.handle(call)

    def _take(self, prepared: Prepared, stream_id: int, reply: Reply | Awaitable[Reply]) -> None:
        if isinstance(reply, dict):
            self._answer(prepared, stream_id, reply)
            return
        stream = self._streams.get(stream_id) or self._hold(stream_id, prepared)
        stream.task = asyncio.ensure_future(self._answer_later(prepared, stream_id, reply))

    def message(self, stream_id: int, incoming: rpc.Incoming, payload: bytes) -> None:
        """A client's stream event; an operation that takes none ignores it."""
        stream = self._streams[stream_id]
        if stream.take is None:
            return
        try:
            stream.take(orjson.loads(payload))
        except Exception as error:
            name = stream.name
            self._close_stream(stream_id)
            self._out.append(self._server.failed(stream_id, self.component, name, error))

    def cancel(self, stream_id: int) -> None:
        """The client closed a stream."""
        self._close_stream(stream_id)

    # operation.Session

    def send_event(self, stream_id: int, event: Mapping[str, object], traceparent: str | None = None) -> None:
        """Encode and send a stream event."""
        self._send_encoded(stream_id, orjson.dumps(event), traceparent)

    def receiver(self, stream_id: int) -> Callable[[LocalMessage], None]:
        """What sends local messages as events of a held stream. A frame is made once a message and stream id."""
        stream = self._streams[stream_id]
        frame_of = stream.event.encode if stream.event is not None else None

        def receive(message: LocalMessage) -> None:
            if self._is_paused or self.is_traced or stream.waiting is not None or frame_of is None:
                self._send_encoded(stream_id, message.event, message.traceparent)
                return
            frame = message.frames.get(stream_id)
            if frame is None:
                frame = message.frames[stream_id] = frame_of(stream_id, message.event)
            self._out.append(frame)
            if not self._is_dirty:
                self._wake()

        return receive

    def _send_encoded(self, stream_id: int, payload: bytes, traceparent: str | None) -> None:
        """Send a stream event; a closed stream is fine, an unanswered one keeps it."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.event is None:
            return
        if stream.waiting is not None:
            if len(stream.waiting) < 10_000:
                stream.waiting.append((payload, traceparent))
            else:
                self._dropped += 1
            return
        self._send(stream.event, stream_id, payload, traceparent)

    def _send(self, event: rpc.Frame, stream_id: int, payload: bytes, traceparent: str | None) -> None:
        more = encode_headers([Header("traceparent", STRING, traceparent)]) if self.is_traced and traceparent else b""
        frame = event.encode(stream_id, payload, more)
        if self._is_paused:
            self._waiting_bytes += len(frame)
            if self._waiting_bytes > MAX_WAITING_BYTES:
                if not self._dropped:
                    self._server.say(self.component, "WARN", "stalled on IPC: dropping events until it reads again")
                self._dropped += 1
                return
        self._out.append(frame)
        self._wake()

    def on_close(self, stream_id: int, stop: Callable[[], None]) -> None:
        """Run `stop` when the stream ends; at once if it has ended."""
        stream = self._streams.get(stream_id)
        if stream is None:
            stop()
        else:
            stream.stops.append(stop)

    def on_event(self, stream_id: int, take: Callable[[dict[str, Any]], None]) -> None:
        """Give the client's stream events to `take`."""
        self._streams[stream_id].take = take

    # streams

    def _hold(self, stream_id: int, prepared: Prepared) -> Stream:
        # Lite lets a client use a stream id again: what it held before is over.
        self._close_stream(stream_id)
        stream = self._streams[stream_id] = Stream(prepared.operation.name, prepared.event)
        self._connection.held.add(stream_id)
        return stream

    def _close_stream(self, stream_id: int) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is None:
            return
        self._connection.held.discard(stream_id)
        if stream.task is not None and stream.task is not asyncio.current_task():
            stream.task.cancel()
        stream.waiting = []  # A subscription on its way out finds no stream.
        for stop in stream.stops:
            stop()

    def _answer(self, prepared: Prepared, stream_id: int, reply: Reply) -> None:
        frame = prepared.response.encode(stream_id, orjson.dumps(reply)) if reply else prepared.empty(stream_id)
        self._out.append(frame)
        if prepared.event is None:
            return
        stream = self._streams.get(stream_id)
        if stream is not None and stream.waiting is not None:
            waiting, stream.waiting = stream.waiting, None
            for payload, traceparent in waiting:
                self._send(prepared.event, stream_id, payload, traceparent)

    async def _answer_later(self, prepared: Prepared, stream_id: int, pending: Awaitable[Reply]) -> None:
        try:
            reply = await pending
            if stream_id not in self._streams:
                return
            self._answer(prepared, stream_id, reply)
            if prepared.event is None:
                self._close_stream(stream_id)
        except Exception as error:
            if stream_id not in self._streams:
                return
            self._close_stream(stream_id)
            self._out.append(self._server.failed(stream_id, self.component, prepared.operation.name, error))
        self._wake()


class Server:
    """Listens, admits sessions, and shapes errors for its profile."""

    def __init__(
        self,
        api: Api,
        core: Any,
        authenticate: Authenticate,
        *,
        rules: rpc.Rules = rpc.CLASSIC,
        max_sessions: int = 10_000,
        say: Callable[[str, str, str], None] = lambda component, level, text: None,
        on_plugin: Callable[[str, str], None] = lambda component, plugin: None,
    ) -> None:
        self._api = api
        self.core = core
        self.authenticate = authenticate
        self.rules = rules
        self.is_lite = rules is rpc.LITE
        self._max_sessions = max_sessions
        self.say = say
        self.on_plugin = on_plugin
        self.sessions: set[Session] = set()
        self.dirty: list[Session] = []
        self.is_receiving = False
        self._server: asyncio.Server | None = None
        self._errors: dict[str, rpc.Frame] = {}
        self.table = {
            name if "#" in name else api.prefix + name: self._prepare(operation)
            for name, operation in api.operations.items()
        }
        self._unknown = rpc.Frame(rpc.APPLICATION_ERROR, rpc.TERMINATE_STREAM, [_JSON])

    def _prepare(self, operation: Operation) -> Prepared:
        flags = 0 if operation.event else self.rules.unary_flags
        named = operation.name + "Response" if operation.response is None else operation.response
        response = self._frame(flags, named)
        event = self._frame(0, operation.event) if operation.event else None
        is_plain = event is None and not operation.plugin
        members = operation.lite_members if self.is_lite and operation.lite_members else operation.members
        return Prepared(operation, is_plain, checks_of(members), response, response.fixed(b"{}"), event)

    def _frame(self, flags: int, shape: str) -> rpc.Frame:
        model = [Header("service-model-type", STRING, self._api.prefix + shape)] if shape else []
        return rpc.Frame(rpc.APPLICATION_MESSAGE, flags, [_JSON, *model])

    # listening

    async def start_unix(self, path: Path) -> None:
        """Listen on a socket file that anybody on the machine may open (mode 0666, as the nucleus sets it)."""
        listener = bind_unix(path)
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: Session(self), sock=listener, backlog=1024
        )

    async def start_tcp(self, host: str, port: int) -> int:
        """Listen on TCP, port 0 for a free one; give the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Session(self), host, port, backlog=1024)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening and close every session."""
        if self._server is None:
            return
        self._server.close()
        for session in list(self.sessions):
            session.flush()
            session.transport.abort()
        await self._server.wait_closed()
        self._server = None

    def admit(self, session: Session) -> bool:
        """Whether one more session fits."""
        if len(self.sessions) >= self._max_sessions:
            self.say("", "WARN", f"IPC connection refused: {self._max_sessions} are open")
            return False
        self.sessions.add(session)
        return True

    def wake(self, session: Session) -> None:
        """Flush a session when what has been received is worked through, or else at the end of this loop turn."""
        if not self.dirty and not self.is_receiving:
            asyncio.get_running_loop().call_soon(self.flush_dirty)
        self.dirty.append(session)

    def flush_dirty(self) -> None:
        """Flush every session that has something to write."""
        dirty, self.dirty = self.dirty, []
        for session in dirty:
            session.flush()

    # errors

    def unknown(self, stream_id: int, operation: str) -> bytes:
        """The answer to an operation that is not in the model (classic sends no model type, lite an empty text)."""
        if self.is_lite:
            return self._error(stream_id, "ServiceError", "", {})
        body = {"error": "Unsupported operation", "operation": operation}
        return self._unknown.encode(stream_id, orjson.dumps(body))

    def malformed(self, stream_id: int) -> bytes:
        """The answer to a payload that is no JSON object."""
        return self._error(stream_id, "ServiceError", "", {}) if self.is_lite else _internal_error(stream_id)

    def invalid(self, operation: Operation, wrong: str) -> AwsError:
        """The error for a request member that is missing or of another kind."""
        if self.is_lite:
            return AwsError(*operation.lite_invalid)
        return AwsError("InvalidArgumentsError", wrong)

    def failed(self, stream_id: int, component: str, operation: str, error: Exception) -> bytes:
        """The answer for an operation that raised: its error shape, or classic's InternalServerError for a bug."""
        if isinstance(error, AwsError):
            code = error.code if error.code in self._api.errors else self._api.default_error
            text = getattr(error, "lite", error.message) if self.is_lite else error.message
            if code == "UnauthorizedError":
                self.say(component, "WARN", error.message)
            return self._error(stream_id, code, text, error.extra)
        if isinstance(error, UserError):
            return self._error(stream_id, self._api.default_error, error.what, {})
        if isinstance(error, (ForeshoreError, OSError)):
            return self._error(stream_id, self._api.default_error, str(error), {})
        detail = "".join(traceback.format_exception(error)).rstrip()
        self.say(component, "ERROR", f"{operation} failed: {detail}")
        return self.malformed(stream_id)

    def _error(self, stream_id: int, code: str, text: str, extra: Mapping[str, object]) -> bytes:
        frame = self._errors.get(code)
        if frame is None:
            model = Header("service-model-type", STRING, self._api.prefix + code)
            frame = rpc.Frame(rpc.APPLICATION_ERROR, rpc.TERMINATE_STREAM, [_JSON, model])
            self._errors[code] = frame
        body: dict[str, object] = {"_message": text, "_errorCode": code}
        if not self.is_lite:
            body = {"message": text, "_service": self._api.service, **body, **extra}
        return frame.encode(stream_id, orjson.dumps(body))


def bind_unix(path: Path) -> socket.socket:
    """A listening socket file, mode 0666. A stale file is replaced. Raises UserError when another process listens.

    A path of more than 107 bytes does not fit in sockaddr_un (unix(7)); it is reached through its folder's descriptor.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder: int | None = None
    try:
        address = str(path)
        if len(address.encode()) > MAX_SOCKET_PATH:
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            address = f"/proc/self/fd/{folder}/{path.name}"
        if path.is_socket():
            _refuse_if_alive(address, path)
            path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(address)
            path.chmod(0o666)
        except OSError:
            listener.close()
            raise
        return listener
    finally:
        if folder is not None:
            os.close(folder)


def _refuse_if_alive(address: str, path: Path) -> None:
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(address)
    except OSError:
        return
    finally:
        probe.close()
    raise UserError(
        "another core listens on this socket",
        code="socket-taken",
        where=str(path),
        mend="stop the other `foreshore dev`, or give this core another root",
    )
