"""The stream manager of one core: the TCP server and the task that exports. Shell; every date comes from here."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from foreshore.errors import PeerError, UserError
from foreshore.greengrass.stream_manager import frames
from foreshore.greengrass.stream_manager.cbor import decode
from foreshore.greengrass.stream_manager.definitions import Export, read_definition, stream_name
from foreshore.greengrass.stream_manager.destinations import Destinations, TryAgain
from foreshore.greengrass.stream_manager.frames import Failure, Operation, Status
from foreshore.greengrass.stream_manager.schedule import Turn, Waiting, choose
from foreshore.greengrass.stream_manager.streams import Stream, Streams

SERVER_VERSION = "1.1.0"
MAX_READ_COUNT = 2**31 - 1
EXPIRE_EVERY_S = 30.0
FAULT_PAUSE_S = 5.0
STOP_S = 1.0

Authenticate = Callable[[str | None], bool]
Say = Callable[[str, str], None]


class StreamManager:
    """Listens on 127.0.0.1. `authenticate(token)` says whether a component holds the token (its SVCUID); `say(level,
    text)` writes a log line; `environment()` has AWS_ENDPOINT_URL for exports."""

    def __init__(
        self,
        *,
        state: Path,
        region: str,
        authenticate: Authenticate,
        environment: Callable[[], dict[str, str]],
        say: Say,
        port: int = 0,
    ) -> None:
        self.port = port
        self._state = state
        self._authenticate = authenticate
        self._say = say
        self._destinations = Destinations(region, environment)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._appended = asyncio.Event()
        self._turns: dict[tuple[str, str], Turn] = {}

    @property
    def address(self) -> str:
        """`host:port`, as the ready line has it."""
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Load what is durable, listen, export. Raises UserError when the port is taken or the state unusable."""
        if self._server is not None:
            return
        self.streams = Streams(self._state)
        try:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        except OSError as error:
            self.streams.close()
            mend = "stop what listens there, or choose other ports with --port-base"
            raise UserError(
                f"can't listen for stream manager clients: {error.strerror}", code="port-taken",
                where=f"127.0.0.1:{self.port}", mend=mend,
            ) from error  # fmt: skip
        self.port = self._server.sockets[0].getsockname()[1]
        self._is_stopping = False
        self._exporter = asyncio.ensure_future(self._export())

    async def stop(self) -> None:
        """Let the batch being exported end, then close connections and streams; a second call does nothing."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        self._is_stopping = True
        self._appended.set()
        await asyncio.wait({self._exporter}, timeout=STOP_S)
        self._exporter.cancel()
        for writer in list(self._clients):
            writer.transport.abort()
        while self._clients:
            await asyncio.sleep(0)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(self._exporter, *self._tasks, return_exceptions=True)
        await self._destinations.close()
        self.streams.close()

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # clients

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: frames in order; a read that waits delays nothing behind it."""
        self._clients.add(writer)
        cutter = frames.Reader()
        connected = False
        try:
            while data := await reader.read(256 * 1024):
                for number, payload in cutter.feed(data):
                    if connected:
                        await self._take(number, payload, writer)
                    elif not (connected := self._connect(number, payload, writer)):
                        return
                await writer.drain()
        except (PeerError, ConnectionError) as error:
            self._say("WARN", f"a stream manager client was disconnected: {error}")
        finally:
            self._clients.discard(writer)
            writer.close()

    def _connect(self, number: int, payload: bytes, writer: asyncio.StreamWriter) -> bool:
        """Answer the first frame; whether the client may go on."""
        request = _request(payload)
        status, text, version = Status.SUCCESS, None, frames.PROTOCOL_VERSION
        offered = [request.get("protocolVersion"), *(request.get("otherSupportedProtocolVersions") or ())]
        shared = [each for each in frames.SUPPORTED_VERSIONS if each in offered]
        if number != Operation.CONNECT:
            status, text = Status.UNEXPECTED_OPERATION, "The first request must be Connect"
        elif not shared:
            status, text = Status.UNSUPPORTED_PROTOCOL_VERSION, f"Protocol versions {offered} are not supported"
        elif not self._authenticate(request.get("authToken")):
            status, text = Status.UNAUTHORIZED, "The authentication token is not a component's"
        else:
            version = shared[-1]
        answer = {
            "requestId": request.get("requestId"),
            "status": int(status),
            "errorMessage": text,
            "protocolVersion": version,
            "supportedProtocolVersions": list(frames.SUPPORTED_VERSIONS),
            "serverVersion": SERVER_VERSION,
            "clientIdentifier": request.get("requestId"),
        }
        writer.write(frames.CONNECT_VERSION + frames.encode(Operation.CONNECT_RESPONSE, answer))
        return status is Status.SUCCESS

    async def _take(self, number: int, payload: bytes, writer: asyncio.StreamWriter) -> None:
        """Answer one request, now or, for a read that waits, later."""
        request = _request(payload)
        if number == Operation.READ and _options(request).get("readTimeoutMillis"):
            self._spawn(self._read_later(request, writer))
        else:
            self._answer(number, request, writer)

    def _answer(self, number: int, request: Mapping[str, Any], writer: asyncio.StreamWriter) -> None:
        """Carry a request out and write its response."""
        if number not in frames.RESPONSES or number == Operation.CONNECT:
            body = {"status": int(Status.UNKNOWN_OPERATION), "errorMessage": f"Unknown operation {number}"}
            writer.write(
                frames.encode(Operation.UNKNOWN_OPERATION_ERROR, {"requestId": request.get("requestId"), **body})
            )
            return
        try:
            body = {"status": int(Status.SUCCESS), **self._carry_out(Operation(number), request)}
        except Failure as failure:
            body = {"status": int(failure.status), "errorMessage": failure.message}
        writer.write(
            frames.encode(frames.RESPONSES[Operation(number)], {"requestId": request.get("requestId"), **body})
        )

    def _carry_out(self, operation: Operation, request: Mapping[str, Any]) -> dict[str, Any]:
        """The members of a successful response. Raises Failure."""
        match operation:
            case Operation.APPEND:
                payload = request.get("payload")
                if not isinstance(payload, bytes) or not payload:
                    raise Failure(Status.INVALID_REQUEST, "payload must not be empty")
                return {"sequenceNumber": self.append(stream_name(request.get("name")), payload)}
            case Operation.READ:
                return {"messages": self._read(request)}
            case Operation.CREATE:
                self.create(request.get("definition"))
            case Operation.UPDATE:
                self.streams.update(read_definition(request.get("definition")))
            case Operation.DELETE:
                self.streams.delete(stream_name(request.get("name")))
            case Operation.LIST:
                return {"streams": self.streams.names()}
            case Operation.DESCRIBE:
                return {"messageStreamInfo": self.describe(stream_name(request.get("name")))}
        self._refresh()
        return {}

    def create(self, definition: Any) -> None:
        """Make a stream of a definition as it is on the wire. Raises Failure."""
        self.streams.create(read_definition(definition))
        self._refresh()

    def append(self, name: str, payload: bytes) -> int:
        """Take a message in and wake exports and waiting reads. Raises Failure."""
        sequence = self.streams.append(name, payload, _now_ms())
        self._appended.set()
        return sequence

    def describe(self, name: str) -> dict[str, Any]:
        """MessageStreamInfo."""
        stream = self.streams.get(name)
        self.streams.expire(stream, _now_ms())
        exports = [self._export_status(stream, export) for export in stream.definition.exports]
        return {
            "definition": stream.definition.raw,
            "storageStatus": {
                "oldestSequenceNumber": stream.oldest,
                "newestSequenceNumber": stream.next - 1,
                "totalBytes": stream.size,
            },
            "exportStatuses": exports,
        }

    def _export_status(self, stream: Stream, export: Export) -> dict[str, Any]:
        progress = self.streams.progress(stream.definition.name, export.identifier)
        found = {
            "exportConfigIdentifier": export.identifier,
            "lastExportedSequenceNumber": progress.last,
            "lastExportTime": progress.time_ms,
            "errorMessage": progress.error,
            "exportedBytesFromStream": progress.bytes,
            "exportedMessagesCount": progress.messages,
        }
        return {key: value for key, value in found.items() if value is not None}

    def _read(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        """At least minMessageCount messages. Raises Failure(NOT_ENOUGH_MESSAGES)."""
        name = stream_name(request.get("streamName"))
        options = _options(request)
        least = _count(options, "minMessageCount", 1)
        most = _count(options, "maxMessageCount", least)
        start = _count(options, "desiredStartSequenceNumber", 0, 0)
        if least > most:
            raise Failure(Status.INVALID_REQUEST, "minMessageCount must not be greater than maxMessageCount")
        stream = self.streams.get(name)
        self.streams.expire(stream, _now_ms())
        if stream.next - max(start, stream.oldest) < least:
            raise Failure(Status.NOT_ENOUGH_MESSAGES, f"The stream {name} has not enough messages from {start} on")
        found = self.streams.read(name, start, most)
        if len(found) < least:
            raise Failure(Status.RESPONSE_PAYLOAD_TOO_LARGE, "minMessageCount messages do not fit into one response")
        return [
            {"streamName": name, "sequenceNumber": each.sequence, "ingestTime": each.ingest_ms, "payload": each.payload}
            for each in found
        ]

    async def _read_later(self, request: Mapping[str, Any], writer: asyncio.StreamWriter) -> None:
        """Answer a read as soon as it has enough messages, at the latest when its time is over."""
        deadline = asyncio.get_running_loop().time() + _options(request)["readTimeoutMillis"] / 1000
        while True:
            try:
                self._read(request)
            except Failure as failure:
                left_s = deadline - asyncio.get_running_loop().time()
                if failure.status is Status.NOT_ENOUGH_MESSAGES and left_s > 0:
                    await self._next_append(left_s)
                    continue
            break
        self._answer(Operation.READ, request, writer)

    async def _next_append(self, timeout_s: float) -> None:
        """Wait for the next message of any stream."""
        self._appended.clear()
        try:
            await asyncio.wait_for(self._appended.wait(), timeout_s)
        except TimeoutError:
            return

    # exports

    def _refresh(self) -> None:
        """Take up new exports, forget those that are gone, wake the exporter."""
        wanted = {
            (name, export.identifier): export
            for name in self.streams.names()
            for export in self.streams.get(name).definition.exports
        }
        self._turns = {
            key: self._turns[key] if key in self._turns and self._turns[key].export == export else Turn(key[0], export)
            for key, export in wanted.items()
        }
        self._appended.set()

    def _waiting(self, turn: Turn) -> Waiting:
        stream = self.streams.get(turn.stream)
        start = self._start_of(turn, stream)
        count = max(0, stream.next - start)
        if not count or turn.export.batch_interval_ms is None:
            return Waiting(count, 0)
        return Waiting(count, self.streams.read(turn.stream, start, 1)[0].ingest_ms)

    def _start_of(self, turn: Turn, stream: Stream) -> int:
        """The first message that the export has not done with."""
        last = self.streams.progress(turn.stream, turn.export.identifier).last
        return max(last + 1, turn.export.start, stream.oldest)

    async def _export(self) -> None:
        """Send batches, one after the other, for as long as the service runs."""
        self._refresh()
        while not self._is_stopping:
            try:
                await self._next_append(await self._export_once())
            except UserError as error:
                self._say("ERROR", f"exports pause: {error}")
                await asyncio.sleep(FAULT_PAUSE_S)

    async def _export_once(self) -> float:
        """Send what is due; give how many seconds to wait for a message at most. Raises UserError (a full disk)."""
        while not self._is_stopping:
            for name in self.streams.names():
                self.streams.expire(self.streams.get(name), _now_ms())
            turn, look_again_ms = choose([(turn, self._waiting(turn)) for turn in self._turns.values()], _now_ms())
            if turn is None:
                pause_s = EXPIRE_EVERY_S if look_again_ms is None else max(0.001, (look_again_ms - _now_ms()) / 1000)
                return min(pause_s, EXPIRE_EVERY_S)
            await self._send(turn)
        return 0.0

    async def _send(self, turn: Turn) -> None:
        """Send one batch and keep how far it came."""
        name, export = turn.stream, turn.export
        start = self._start_of(turn, self.streams.get(name))
        batch = self.streams.read(name, start, export.batch_size, 4 * 1024 * 1024)
        progress = self.streams.progress(name, export.identifier)
        progress.time_ms = _now_ms()
        try:
            outcome = await self._destinations.send(name, export, batch)
        except TryAgain as failure:
            turn.fail(_now_ms())
            progress.error = str(failure)
            if turn.failures == 1:
                self._say("WARN", f"stream {name}, export {export.identifier}: {failure}; trying again")
        else:
            turn.succeed(_now_ms())
            done = batch[: outcome.done]
            progress.last = done[-1].sequence
            progress.error = outcome.error
            progress.messages += len(done)
            progress.bytes += 0 if outcome.error else sum(len(message.payload) for message in done)
            for level, status in outcome.statuses:
                self._tell(export, level, status)
        self.streams.note_progress(name, export.identifier, progress)

    def _tell(self, export: Export, level: int, status: Mapping[str, Any]) -> None:
        """Append a status message to the export's status stream."""
        if not export.status_stream or level > export.status_level:
            return
        try:
            self.append(export.status_stream, json.dumps(status).encode())
        except Failure as failure:
            self._say("ERROR", f"status stream {export.status_stream}: {failure.message}")


def _request(payload: bytes) -> dict[str, Any]:
    value = decode(payload)
    if not isinstance(value, dict):
        raise PeerError("a request must be a map")
    return value


def _options(request: Mapping[str, Any]) -> Mapping[str, Any]:
    options = request.get("readMessagesOptions") or {}
    return options if isinstance(options, Mapping) else {}


def _count(options: Mapping[str, Any], key: str, default: int, least: int = 1) -> int:
    value = options.get(key)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise Failure(Status.INVALID_REQUEST, f"{key} must be a whole number of at least {least}")
    return value


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
