"""The stream manager of one core: the TCP server, its requests, and its configuration. Shell."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from foreshore.errors import PeerError, UserError
from foreshore.greengrass.aws_calls import AwsCalls
from foreshore.greengrass.stream_manager import frames
from foreshore.greengrass.stream_manager.cbor import decode
from foreshore.greengrass.stream_manager.definitions import MAX_MS, Definition, Export, read_definition, stream_name
from foreshore.greengrass.stream_manager.exporter import Exporter
from foreshore.greengrass.stream_manager.frames import Failure, Operation, Status
from foreshore.greengrass.stream_manager.settings import LEVELS, NAME, Settings, read_settings, without_effect
from foreshore.greengrass.stream_manager.streams import Stream, Streams

SERVER_VERSION = "1.1.0"

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
        self._first_port = port
        self._state = state
        self._folder = state
        self._settings = Settings()
        self._authenticate = authenticate
        self._log = say
        self._region = region
        self._environment = environment
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._appended = asyncio.Event()
        self._changing = asyncio.Lock()

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
        aws = AwsCalls(self._region, self._environment)
        self._exporter = Exporter(self.streams, aws, self.append, self._say)
        self._apply(self._settings)
        self._exporter.start()

    async def stop(self) -> None:
        """Let the batches being exported end, then close connections and streams; a second call does nothing."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        await self._exporter.stop()
        for writer in list(self._clients):
            writer.transport.abort()
        while self._clients:
            await asyncio.sleep(0)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.streams.close()

    # configuration

    async def configure(self, configuration: Mapping[str, Any] | None) -> None:
        """Take the component's configuration. Another port or folder closes all connections, as a restart does.

        Raises UserError for what is wrong in it; that keeps its default.
        """
        async with self._changing:
            settings, findings = read_settings(configuration or {})
            for note in without_effect(configuration or {}):
                self._log("WARN", note)
            moved = (settings.port, settings.folder) != (self._settings.port, self._settings.folder)
            self._settings = settings
            if self._server is None:
                findings += self._place(settings)
            elif moved:
                findings += await self._move(settings)
            else:
                self._apply(settings)
            if findings:
                raise UserError("; ".join(findings), code="bad-configuration", where=NAME)

    def _place(self, settings: Settings) -> list[str]:
        """Where to listen and to store from the next start on; what is wrong with that."""
        self.port = self._first_port if settings.port is None else settings.port
        self._state = self._folder
        if settings.folder is None:
            return []
        if not Path(settings.folder).is_dir():
            return [f"the folder {settings.folder} does not exist; streams stay in {self._state.parent}"]
        self._state = Path(settings.folder) / self._folder.name
        return []

    async def _move(self, settings: Settings) -> list[str]:
        former = self.port
        await self.stop()
        findings = self._place(settings)
        try:
            await self.start()
        except UserError as error:
            self.port = former
            await self.start()
            return [*findings, f"{error.what} at {error.where}; listening at {former} as before"]
        return findings

    def _apply(self, settings: Settings) -> None:
        self._exporter.configure(settings.threads, settings.kilobits_a_second, settings.min_part)

    def _say(self, level: str, text: str) -> None:
        """Write a log line, unless the component's LOG_LEVEL leaves it out."""
        if LEVELS.index(level) >= LEVELS.index(self._settings.level):
            self._log(level, text)

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
        elif self._settings.authenticate and not self._authenticate(request.get("authToken")):
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
        if number == Operation.READ and _wait_ms(request):
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
                self._update(self._definition(request.get("definition")))
            case Operation.DELETE:
                self._delete(stream_name(request.get("name")))
            case Operation.LIST:
                return {"streams": self.streams.names()}
            case Operation.DESCRIBE:
                return {"messageStreamInfo": self.describe(stream_name(request.get("name")))}
        self._exporter.refresh()
        return {}

    def create(self, definition: Any) -> None:
        """Make a stream of a definition as it is on the wire. Raises Failure."""
        self.streams.create(self._definition(definition))
        self._exporter.refresh()

    def _definition(self, value: Any) -> Definition:
        """A checked definition. Raises Failure(INVALID_REQUEST)."""
        definition = read_definition(value)
        least = self._settings.min_part
        for export in definition.exports:
            if 0 < export.threshold < least:
                text = f"sizeThresholdForMultipartUploadBytes must be at least the minimum part size, {least}"
                raise Failure(Status.INVALID_REQUEST, text)
        return definition

    def _update(self, definition: Definition) -> None:
        former = self.streams.get(definition.name).definition
        self.streams.update(definition)
        left = {export.identifier for export in definition.exports}
        gone = [export for export in former.exports if export.identifier not in left]
        self._exporter.cancel_tasks(definition.name, gone, "the export was deleted")
        self._expire(definition.name)

    def _delete(self, name: str) -> None:
        self._exporter.cancel_tasks(name, list(self.streams.get(name).definition.exports), "the stream was deleted")
        self.streams.delete(name)

    def _expire(self, name: str) -> None:
        """An update may shorten the time to live."""
        self.streams.expire(self.streams.get(name), _now_ms())

    def append(self, name: str, payload: bytes) -> int:
        """Take a message in and wake exports and waiting reads. Raises Failure."""
        sequence = self.streams.append(name, payload, _now_ms())
        self._appended.set()
        self._exporter.poke()
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
        _count(options, "readTimeoutMillis", 0, 0)
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
        deadline = asyncio.get_running_loop().time() + _wait_ms(request) / 1000
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


def _request(payload: bytes) -> dict[str, Any]:
    value = decode(payload)
    if not isinstance(value, dict):
        raise PeerError("a request must be a map")
    return value


def _options(request: Mapping[str, Any]) -> Mapping[str, Any]:
    options = request.get("readMessagesOptions") or {}
    return options if isinstance(options, Mapping) else {}


def _wait_ms(request: Mapping[str, Any]) -> int:
    """How long a read may wait; 0 when what it says is no time, and then the read itself is refused."""
    value = _options(request).get("readTimeoutMillis")
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_MS else 0


def _count(options: Mapping[str, Any], key: str, default: int, least: int = 1) -> int:
    value = options.get(key)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise Failure(Status.INVALID_REQUEST, f"{key} must be a whole number of at least {least}")
    return value


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
