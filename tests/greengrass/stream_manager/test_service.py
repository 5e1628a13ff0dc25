"""The stream manager against the unmodified client, its exports against a small AWS endpoint."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stream_manager import (
    ExportDefinition,
    HTTPConfig,
    InvalidRequestException,
    IoTAnalyticsConfig,
    KinesisConfig,
    MessageStreamDefinition,
    NotEnoughMessagesException,
    Persistence,
    ReadMessagesOptions,
    RequestPayloadTooLargeException,
    ResourceNotFoundException,
    S3ExportTaskDefinition,
    S3ExportTaskExecutorConfig,
    StatusConfig,
    StatusMessage,
    StrategyOnFull,
    StreamManagerClient,
    StreamManagerException,
    UpdateNotAllowedException,
)
from stream_manager.exceptions import ConnectFailedException
from stream_manager.util import Util

from foreshore.errors import UserError
from foreshore.greengrass.stream_manager.service import StreamManager
from foreshore.http import Request, Response, Server

TOKEN = "ABCDEFGHIJKLMNOP"


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", TOKEN)


class Endpoint:
    """Kinesis, S3 and a plain HTTP sink, each told how to answer."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answers: list[Response] = []
        self.changed = asyncio.Event()
        self.server = Server(self._take)
        self.url = ""

    async def start(self) -> None:
        self.url = f"http://127.0.0.1:{await self.server.start('127.0.0.1', 0)}"

    def _take(self, request: Request) -> Response:
        self.requests.append(request)
        self.changed.set()
        if self.answers:
            return self.answers.pop(0)
        if b"Kinesis" in dict(request.headers).get(b"X-Amz-Target", b""):
            records = json.loads(request.body)["Records"]
            return Response(200, [], json.dumps({"Records": [{"SequenceNumber": "1"} for _ in records]}).encode())
        return Response(200)

    async def until(self, found: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not found():
                self.changed.clear()
                await self.changed.wait()


class Running:
    """A service and an endpoint in the test's loop; clients run in threads."""

    def __init__(self, folder: Path) -> None:
        self.endpoint = Endpoint()
        self.said: list[str] = []
        self.manager = StreamManager(
            state=folder / "streams.db",
            region="us-east-1",
            authenticate=lambda given: given == TOKEN,
            environment=lambda: {"AWS_ENDPOINT_URL": self.endpoint.url},
            say=lambda level, text: self.said.append(f"{level} {text}"),
        )

    async def __aenter__(self) -> Running:
        await self.endpoint.start()
        await self.manager.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.manager.stop()
        await self.endpoint.server.stop()

    async def client(self, work: Callable[[StreamManagerClient], Any]) -> Any:
        def run() -> Any:
            with StreamManagerClient(port=self.manager.port) as client:
                return work(client)

        return await asyncio.to_thread(run)


def drive(folder: Path, work: Callable[[Running], Awaitable[None]]) -> None:
    async def main() -> None:
        async with Running(folder) as running:
            await work(running)

    asyncio.run(main())


def define(name: str = "s", **settings: Any) -> MessageStreamDefinition:
    return MessageStreamDefinition(name=name, **{"strategy_on_full": StrategyOnFull.RejectNewData, **settings})


def test_life_of_a_stream(tmp_path: Path) -> None:
    def work(client: StreamManagerClient) -> None:
        assert client.list_streams() == []
        client.create_message_stream(define())
        with pytest.raises(InvalidRequestException, match="already exists"):
            client.create_message_stream(define())
        assert [client.append_message("s", str(number).encode()) for number in range(5)] == [0, 1, 2, 3, 4]
        [first] = client.read_messages("s")
        assert (first.sequence_number, first.payload, first.stream_name) == (0, b"0", "s")
        assert first.ingest_time > 1_600_000_000_000
        options = ReadMessagesOptions(desired_start_sequence_number=3, min_message_count=1, max_message_count=9)
        assert [message.payload for message in client.read_messages("s", options)] == [b"3", b"4"]
        info = client.describe_message_stream("s")
        assert info.definition.max_size == 256 * 1024 * 1024
        assert info.definition.persistence == Persistence.File
        status = info.storage_status
        assert (status.oldest_sequence_number, status.newest_sequence_number, status.total_bytes) == (0, 4, 5)
        client.update_message_stream(define(max_size=2048, stream_segment_size=1024))
        assert client.describe_message_stream("s").definition.max_size == 2048
        with pytest.raises(UpdateNotAllowedException):
            client.update_message_stream(define(persistence=Persistence.Memory))
        client.delete_message_stream("s")
        assert client.list_streams() == []

    drive(tmp_path, lambda running: running.client(work))


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda client: client.append_message("none", b"x"), ResourceNotFoundException),
        (lambda client: client.read_messages("none"), ResourceNotFoundException),
        (lambda client: client.describe_message_stream("none"), ResourceNotFoundException),
        (lambda client: client.delete_message_stream("none"), ResourceNotFoundException),
        (lambda client: client.update_message_stream(define("none")), ResourceNotFoundException),
        (lambda client: client.read_messages("small"), NotEnoughMessagesException),
        (lambda client: client.append_message("small", b"x" * 1025), RequestPayloadTooLargeException),
        (lambda client: [client.append_message("small", b"x" * 600) for _ in "12"], StreamManagerException),
        (lambda client: client.create_message_stream(define("t", max_size=1024)), InvalidRequestException),
        (
            lambda client: client.create_message_stream(
                define(
                    "t",
                    export_definition=ExportDefinition(
                        iot_analytics=[IoTAnalyticsConfig(identifier="i", iot_channel="c")]
                    ),
                )
            ),
            InvalidRequestException,
        ),
    ],
)
def test_refusals(tmp_path: Path, call: Callable[[StreamManagerClient], Any], error: type[Exception]) -> None:
    def work(client: StreamManagerClient) -> None:
        client.create_message_stream(define("small", max_size=1024, stream_segment_size=1024))
        with pytest.raises(error):
            call(client)
        assert client.list_streams() == ["small"]

    drive(tmp_path, lambda running: running.client(work))


def test_overwriting_drops_whole_segments(tmp_path: Path) -> None:
    def work(client: StreamManagerClient) -> None:
        overwrite = StrategyOnFull.OverwriteOldestData
        client.create_message_stream(define(max_size=3072, stream_segment_size=1024, strategy_on_full=overwrite))
        for number in range(8):
            client.append_message("s", bytes([number]) * 500)
        status = client.describe_message_stream("s").storage_status
        assert (status.oldest_sequence_number, status.newest_sequence_number) == (2, 7)
        assert status.total_bytes == 3000
        [oldest] = client.read_messages("s", ReadMessagesOptions(desired_start_sequence_number=0))
        assert oldest.sequence_number == 2

    drive(tmp_path, lambda running: running.client(work))


def test_a_read_waits_for_messages(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        await running.client(lambda client: client.create_message_stream(define()))
        options = ReadMessagesOptions(min_message_count=2, max_message_count=2, read_timeout_millis=20_000)
        waiting = asyncio.ensure_future(running.client(lambda client: client.read_messages("s", options)))
        for number in range(2):
            await running.client(lambda client: client.append_message("s", str(number).encode()))  # noqa: B023
        assert [message.payload for message in await waiting] == [b"0", b"1"]
        short = ReadMessagesOptions(min_message_count=3, max_message_count=3, read_timeout_millis=20)
        with pytest.raises(NotEnoughMessagesException):
            await running.client(lambda client: client.read_messages("s", short))

    drive(tmp_path, work)


def test_appended_messages_survive_and_memory_streams_do_not(tmp_path: Path) -> None:
    async def first(running: Running) -> None:
        def work(client: StreamManagerClient) -> None:
            client.create_message_stream(define("file", flush_on_write=True))
            client.create_message_stream(define("memory", persistence=Persistence.Memory))
            for name in ("file", "memory"):
                client.append_message(name, b"kept?")

        await running.client(work)

    async def second(running: Running) -> None:
        def work(client: StreamManagerClient) -> None:
            assert client.list_streams() == ["file", "memory"]
            assert client.read_messages("file")[0].payload == b"kept?"
            assert client.append_message("file", b"next") == 1
            with pytest.raises(NotEnoughMessagesException):
                client.read_messages("memory")
            assert client.append_message("memory", b"new") == 0

        await running.client(work)

    drive(tmp_path, first)
    drive(tmp_path, second)


@pytest.mark.filterwarnings("ignore")  # A refused client of AWS's leaves its own socket and thread open.
def test_only_components_connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "WRONG")
    logging.getLogger("StreamManagerClient").disabled = True

    async def work(running: Running) -> None:
        with pytest.raises(ConnectFailedException):
            await running.client(lambda client: client.list_streams())

    drive(tmp_path, work)
    gc.collect()


@pytest.mark.parametrize(
    "data", [b"\x02", b"\x01\xff\xff\xff\xff\x01", b"\x01\x00\x00\x00\x02\x01\xff", b"\x01\x00\x00\x00\x02\x02\xa0"]
)
def test_other_peers_are_disconnected_and_harm_nobody(tmp_path: Path, data: bytes) -> None:
    async def work(running: Running) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.manager.port)
        writer.write(data)
        await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert await running.client(lambda client: client.list_streams()) == []

    drive(tmp_path, work)


def exporting(**kinds: Any) -> ExportDefinition:
    return ExportDefinition(**kinds)


def test_kinesis_gets_every_message_once_refused_ones_again(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        endpoint = running.endpoint
        partly = {"Records": [{"SequenceNumber": "1"}, {"ErrorCode": "ProvisionedThroughputExceededException"}]}
        kinesis = KinesisConfig(identifier="k", kinesis_stream_name="cloud", batch_size=2, batch_interval_millis=60_000)

        def fill(client: StreamManagerClient) -> None:
            client.create_message_stream(define(export_definition=exporting(kinesis=[kinesis])))
            for number in range(5):
                client.append_message("s", str(number).encode())

        endpoint.answers = [Response(200, [], json.dumps(partly).encode())]
        await running.client(fill)
        await endpoint.until(lambda: len(endpoint.requests) >= 3)
        batches = [json.loads(request.body) for request in endpoint.requests]
        sent = [[base64.b64decode(record["Data"]) for record in batch["Records"]] for batch in batches]
        assert sent == [[b"0", b"1"], [b"1", b"2"], [b"3", b"4"]]
        assert {batch["StreamName"] for batch in batches} == {"cloud"}
        assert b"/kinesis/aws4_request" in dict(endpoint.requests[0].headers)[b"Authorization"]
        info = await running.client(lambda client: client.describe_message_stream("s"))
        [status] = info.export_statuses
        assert (status.export_config_identifier, status.last_exported_sequence_number) == ("k", 4)
        assert (status.exported_messages_count, status.exported_bytes_from_stream) == (5, 5)

    drive(tmp_path, work)


def test_http_goes_on_where_it_was_after_a_restart(tmp_path: Path) -> None:
    async def first(running: Running) -> None:
        def fill(client: StreamManagerClient) -> None:
            http = HTTPConfig(identifier="h", uri=f"{running.endpoint.url}/in?x=1", start_sequence_number=1)
            client.create_message_stream(define(export_definition=exporting(http=[http])))
            for number in range(3):
                client.append_message("s", str(number).encode())

        await running.client(fill)
        await running.endpoint.until(lambda: len(running.endpoint.requests) >= 2)
        while running.manager.streams.progress("s", "h").last != 2:
            await asyncio.sleep(0)
        assert [(r.method, r.target, r.body) for r in running.endpoint.requests] == [
            ("POST", "/in?x=1", b"1"),
            ("POST", "/in?x=1", b"2"),
        ]

    async def second(running: Running) -> None:
        def move(client: StreamManagerClient) -> None:
            http = HTTPConfig(identifier="h", uri=running.endpoint.url)
            client.update_message_stream(define(export_definition=exporting(http=[http])))
            client.append_message("s", b"3")

        await running.client(move)
        await running.endpoint.until(lambda: len(running.endpoint.requests) >= 1)
        assert running.endpoint.requests[0].body == b"3"

    drive(tmp_path, first)
    drive(tmp_path, second)


def test_a_failing_export_tries_again_and_says_why(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        endpoint = running.endpoint
        endpoint.answers = [Response(503, [], b"later")]

        def fill(client: StreamManagerClient) -> None:
            http = HTTPConfig(identifier="h", uri=endpoint.url)
            client.create_message_stream(define(export_definition=exporting(http=[http])))
            client.append_message("s", b"x")

        await running.client(fill)
        await endpoint.until(lambda: len(endpoint.requests) >= 1)
        info = await running.client(lambda client: client.describe_message_stream("s"))
        assert "503 later" in info.export_statuses[0].error_message
        assert info.export_statuses[0].last_exported_sequence_number == -1
        await endpoint.until(lambda: len(endpoint.requests) >= 2)
        assert [text for text in running.said if "trying again" in text] != []

    drive(tmp_path, work)


def test_s3_tasks_upload_files_and_report(tmp_path: Path) -> None:
    file = tmp_path / "a file.csv"
    file.write_bytes(b"1,2\n")

    async def work(running: Running) -> None:
        endpoint = running.endpoint
        executor = S3ExportTaskExecutorConfig(identifier="e", status_config=StatusConfig(status_stream_name="status"))

        def fill(client: StreamManagerClient) -> None:
            client.create_message_stream(define("status"))
            client.create_message_stream(define(export_definition=exporting(s3_task_executor=[executor])))
            tasks = [
                S3ExportTaskDefinition(file.as_uri(), "bucket", "k/!{timestamp:yyyy}/a_b", {"by": "me"}),
                S3ExportTaskDefinition(f"file:{tmp_path}/absent", "bucket", "k"),
            ]
            for task in tasks:
                client.append_message("s", Util.validate_and_serialize_to_json_bytes(task))
            client.append_message("s", b"no task")

        def statuses(client: StreamManagerClient) -> list[Any]:
            options = ReadMessagesOptions(min_message_count=3, max_message_count=9, read_timeout_millis=20_000)
            found = client.read_messages("status", options)
            return [Util.deserialize_json_bytes_to_obj(message.payload, StatusMessage) for message in found]

        await running.client(fill)
        found = await running.client(statuses)
        assert [(status.status.name, status.status_level.name) for status in found] == [
            ("Success", "INFO"),
            ("Failure", "ERROR"),
            ("Failure", "ERROR"),
        ]
        assert [status.status_context.sequence_number for status in found] == [0, 1, 2]
        assert found[0].status_context.s3_export_task_definition.bucket == "bucket"
        assert "No such file" in found[1].message
        [request] = endpoint.requests
        assert request.method == "PUT" and request.body == b"1,2\n"
        assert request.target.startswith("/bucket/k/2") and request.target.endswith("/a_b")
        assert dict(request.headers)[b"x-amz-meta-by"] == b"me"

    drive(tmp_path, work)


def test_a_taken_port_is_the_users(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        other = StreamManager(
            state=tmp_path / "other.db", region="r", authenticate=bool, environment=dict,
            say=lambda *_: None, port=running.manager.port,
        )  # fmt: skip
        with pytest.raises(UserError, match="can't listen"):
            await other.start()
        await other.stop()
        await running.manager.start()
        assert running.manager.address == f"127.0.0.1:{running.manager.port}"

    drive(tmp_path, work)


def test_greengrasssdk_has_the_same_client(tmp_path: Path) -> None:
    from greengrasssdk.stream_manager import StreamManagerClient as OldClient

    async def work(running: Running) -> None:
        def run() -> Iterator[str]:
            client = OldClient(port=running.manager.port)
            client.create_message_stream(define_old())
            client.append_message("old", b"x")
            names = client.list_streams()
            client.close()
            return names

        assert await asyncio.to_thread(run) == ["old"]

    drive(tmp_path, work)


def define_old() -> Any:
    from greengrasssdk import stream_manager as old

    return old.MessageStreamDefinition(name="old", strategy_on_full=old.StrategyOnFull.RejectNewData)
