"""Exports beyond the plain case: SiteWise, JSON batches, uploads in parts, cancelled tasks, updates, bandwidth."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from stream_manager import (
    AssetPropertyValue,
    ExportFormat,
    HTTPConfig,
    IoTSiteWiseConfig,
    KinesisConfig,
    PutAssetPropertyValueEntry,
    Quality,
    ReadMessagesOptions,
    S3ExportTaskDefinition,
    S3ExportTaskExecutorConfig,
    StatusConfig,
    StatusLevel,
    StatusMessage,
    StreamManagerClient,
    TimeInNanos,
    UpdateNotAllowedException,
    Variant,
)
from stream_manager.exceptions import InvalidRequestException
from stream_manager.util import Util

from foreshore.greengrass.stream_manager.definitions import MIN_PART
from foreshore.greengrass.stream_manager.outcomes import TryAgain
from foreshore.greengrass.stream_manager.schedule import Pacer
from foreshore.greengrass.stream_manager.settings import Settings, read_settings, without_effect
from foreshore.greengrass.stream_manager.sitewise import plan, read_answer
from foreshore.greengrass.stream_manager.streams import Message
from foreshore.http import Request, Response
from tests.greengrass.stream_manager.test_service import Running, define, drive, exporting, token

__all__ = ["token"]
KINESIS = {"identifier": "k", "kinesis_stream_name": "cloud"}


def entry(number: int, alias: str = "a", second: int = 0) -> bytes:
    moment = TimeInNanos(time_in_seconds=second or 1_700_000_000 + number)
    value = AssetPropertyValue(value=Variant(double_value=number / 2), quality=Quality.GOOD, timestamp=moment)
    made = PutAssetPropertyValueEntry(entry_id=f"e{number}", property_alias=alias, property_values=[value])
    return bytes(Util.validate_and_serialize_to_json_bytes(made))


def messages(*payloads: bytes) -> list[Message]:
    return [Message(number, 0, payload) for number, payload in enumerate(payloads)]


def test_sitewise_gets_entries_in_batches_of_ten(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        running.endpoint.answers = [Response(200, [], b'{"errorEntries":[]}') for _ in range(3)]

        def fill(client: StreamManagerClient) -> None:
            off = IoTSiteWiseConfig(identifier="sw", disabled=True)
            client.create_message_stream(define(export_definition=exporting(iot_sitewise=[off])))
            for number in range(12):
                client.append_message("s", entry(number))
            client.append_message("s", b"no entry")
            client.append_message("s", entry(20, second=5))
            client.append_message("s", entry(21, second=5))
            on = IoTSiteWiseConfig(identifier="sw")
            client.update_message_stream(define(export_definition=exporting(iot_sitewise=[on])))

        await running.client(fill)
        await running.endpoint.until(lambda: len(running.endpoint.requests) == 3)
        while running.manager.streams.progress("s", "sw").last != 14:
            await asyncio.sleep(0)
        calls = [json.loads(request.body)["entries"] for request in running.endpoint.requests]
        assert [request.target for request in running.endpoint.requests] == ["/properties"] * 3
        assert [[each["entryId"] for each in call] for call in calls] == [
            [f"e{number}" for number in range(10)],
            ["e10", "e11", "e20"],
            ["e21"],
        ]
        first = {"value": {"doubleValue": 0.0}, "timestamp": {"timeInSeconds": 1_700_000_000}, "quality": "GOOD"}
        assert calls[0][0] == {"entryId": "e0", "propertyAlias": "a", "propertyValues": [first]}
        assert [text for text in running.said if "PutAssetPropertyValueEntry" in text]

    drive(tmp_path, work)


def errors(*codes: tuple[str, str]) -> dict[str, Any]:
    return {
        "errorEntries": [
            {"entryId": name, "errors": [{"errorCode": code, "errorMessage": "m", "timestamps": []}]}
            for name, code in codes
        ]
    }


def test_what_sitewise_refuses_is_skipped_or_sent_again() -> None:
    made = plan(messages(entry(0), entry(1), entry(2)))
    refused = read_answer(made, errors(("e1", "TimestampOutOfRangeException")))
    assert refused.done == 3 and "TimestampOutOfRange" in (refused.error or "")
    assert read_answer(made, errors(("e1", "ThrottlingException"), ("e2", "ThrottlingException"))).done == 1
    with pytest.raises(TryAgain, match="InternalFailure"):
        read_answer(made, errors(("e0", "InternalFailureException")))
    assert read_answer(made, {}).error is None
    assert plan(messages(entry(0), entry(0))).count == 1
    for wrong in (b"[]", b"{}", b'{"entryId":"x","propertyValues":[]}', b'{"entryId":"x","propertyValues":[{}]}'):
        assert (plan(messages(wrong)).count, plan(messages(wrong)).entries) == (1, [])


def test_http_takes_a_json_list_of_messages(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        def fill(client: StreamManagerClient) -> None:
            http = {"identifier": "h", "uri": running.endpoint.url, "export_format": ExportFormat.JSON_BATCHED}
            client.create_message_stream(define(export_definition=exporting(http=[HTTPConfig(**http, disabled=True)])))
            for number in range(3):
                client.append_message("s", str(number).encode())
            client.update_message_stream(define(export_definition=exporting(http=[HTTPConfig(**http)])))

        await running.client(fill)
        await running.endpoint.until(lambda: len(running.endpoint.requests) == 1)
        found = json.loads(running.endpoint.requests[0].body)
        assert [(each["streamName"], each["sequenceNumber"]) for each in found] == [("s", 0), ("s", 1), ("s", 2)]
        assert [base64.b64decode(each["payload"]) for each in found] == [b"0", b"1", b"2"]
        assert found[0]["ingestTime"] > 1_600_000_000_000

    drive(tmp_path, work)


class Bucket:
    """Multipart uploads as S3 takes them; `fail` breaks the part of that number once with the given status."""

    def __init__(self, running: Running, fail: int = 0, status: int = 500) -> None:
        self.parts: dict[int, bytes] = {}
        self.calls: list[str] = []
        self.fail, self.status = fail, status
        running.endpoint.server.handler = self.take  # type: ignore[attr-defined]

    def take(self, request: Request) -> Response:
        path, _, query = request.target.partition("?")
        assert path == "/bucket/key"
        self.calls.append(f"{request.method} {re.sub('uploadId=.*', 'uploadId', query)}".strip())
        if query == "uploads":
            return Response(200, [], b"<R><UploadId>up/1</UploadId></R>")
        if request.method == "PUT":
            number = int(query.partition("=")[2].partition("&")[0])
            if number == self.fail:
                self.fail = 0
                return Response(self.status)
            self.parts[number] = request.body
            return Response(200, [(b"ETag", f'"{number}"'.encode())])
        return Response(204 if request.method == "DELETE" else 200, [], b"<CompleteMultipartUploadResult/>")


@pytest.mark.parametrize("status", [500, 403])
def test_large_files_go_in_parts_and_broken_uploads_are_removed(tmp_path: Path, status: int) -> None:
    file = tmp_path / "large"
    file.write_bytes(bytes(range(256)) * (MIN_PART // 128) + b"rest")

    async def work(running: Running) -> None:
        bucket = Bucket(running, 2, status)
        config = StatusConfig(status_stream_name="status", status_level=StatusLevel.TRACE)
        executor = S3ExportTaskExecutorConfig(identifier="e", status_config=config)

        def fill(client: StreamManagerClient) -> None:
            client.create_message_stream(define("status"))
            client.create_message_stream(define(export_definition=exporting(s3_task_executor=[executor])))
            task = S3ExportTaskDefinition(file.as_uri(), "bucket", "key")
            client.append_message("s", Util.validate_and_serialize_to_json_bytes(task))

        def statuses(client: StreamManagerClient) -> list[str]:
            wanted = 3 if status == 500 else 2
            options = ReadMessagesOptions(min_message_count=wanted, max_message_count=9, read_timeout_millis=20_000)
            found = client.read_messages("status", options)
            return [Util.deserialize_json_bytes_to_obj(each.payload, StatusMessage).status.name for each in found]

        await running.client(fill)
        found = await running.client(statuses)
        broken = ["POST uploads", "PUT partNumber=1&uploadId", "PUT partNumber=2&uploadId", "DELETE uploadId"]
        whole = ["POST uploads", *(f"PUT partNumber={number}&uploadId" for number in (1, 2, 3)), "POST uploadId"]
        if status == 403:
            assert (found, bucket.calls) == (["InProgress", "Failure"], broken)
            return
        assert (found, bucket.calls) == (["InProgress", "InProgress", "Success"], broken + whole)
        assert b"".join(bucket.parts[number] for number in (1, 2, 3)) == file.read_bytes()
        assert [len(bucket.parts[number]) for number in (1, 2, 3)] == [MIN_PART, MIN_PART, 4]

    drive(tmp_path, work)


def test_tasks_that_will_not_be_done_are_cancelled(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        executor = S3ExportTaskExecutorConfig(
            identifier="e", disabled=True, status_config=StatusConfig(status_stream_name="status")
        )

        def fill(client: StreamManagerClient) -> list[tuple[str, int, str]]:
            client.create_message_stream(define("status"))
            export = exporting(s3_task_executor=[executor])
            for name in ("deleted", "updated"):
                client.create_message_stream(define(name, export_definition=export))
                task = S3ExportTaskDefinition("file:/x", "bucket", "key")
                client.append_message(name, Util.validate_and_serialize_to_json_bytes(task))
            client.delete_message_stream("deleted")
            client.update_message_stream(define("updated"))
            options = ReadMessagesOptions(min_message_count=2, max_message_count=9, read_timeout_millis=20_000)
            found = [
                Util.deserialize_json_bytes_to_obj(each.payload, StatusMessage)
                for each in client.read_messages("status", options)
            ]
            return [(each.status.name, each.status_context.sequence_number, each.message) for each in found]

        assert await running.client(fill) == [
            ("Canceled", 0, "the stream was deleted"),
            ("Canceled", 0, "the export was deleted"),
        ]

    drive(tmp_path, work)


def test_updates_within_the_rules(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        def fill(client: StreamManagerClient) -> None:
            client.create_message_stream(define(export_definition=exporting(kinesis=[KinesisConfig(**KINESIS)])))
            for _ in range(6):
                client.append_message("s", b"x" * 500)
            with pytest.raises(UpdateNotAllowedException, match="3000 bytes"):
                client.update_message_stream(define(max_size=2048, stream_segment_size=1024))
            with pytest.raises(InvalidRequestException, match="less than the newest"):
                moved = KinesisConfig(**KINESIS, start_sequence_number=5)
                client.update_message_stream(define(export_definition=exporting(kinesis=[moved])))

        def again(client: StreamManagerClient) -> None:
            moved = KinesisConfig(**KINESIS, start_sequence_number=4)
            client.update_message_stream(define(export_definition=exporting(kinesis=[moved])))

        def anew(client: StreamManagerClient) -> None:
            client.update_message_stream(define())
            client.update_message_stream(define(export_definition=exporting(kinesis=[KinesisConfig(**KINESIS)])))

        def sent() -> list[str]:
            bodies = [json.loads(request.body)["Records"] for request in running.endpoint.requests]
            return [record["PartitionKey"] for records in bodies for record in records]

        await running.client(fill)
        await running.endpoint.until(lambda: len(sent()) == 6)
        await running.client(again)
        await running.endpoint.until(lambda: len(sent()) == 8)
        await running.client(anew)
        await running.endpoint.until(lambda: len(sent()) == 14)
        assert sent() == list("012345") + list("45") + list("012345")

    drive(tmp_path, work)


def test_a_failing_export_holds_no_other_up_and_keeps_its_order(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        seen: list[str] = []
        held = asyncio.Event()

        async def take(request: Request) -> Response:
            body = json.loads(request.body)
            if body["StreamName"] == "slow":
                await held.wait()
            seen.extend(f"{body['StreamName']} {record['PartitionKey']}" for record in body["Records"])
            running.endpoint.changed.set()
            return Response(
                200, [], json.dumps({"Records": [{"SequenceNumber": "1"} for _ in body["Records"]]}).encode()
            )

        running.endpoint.server.handler = take  # type: ignore[attr-defined]

        def fill(client: StreamManagerClient) -> None:
            configs = [
                KinesisConfig(identifier=name, kinesis_stream_name=name, batch_size=2, priority=priority)
                for name, priority in (("slow", 1), ("quick", 10))
            ]
            client.create_message_stream(define(export_definition=exporting(kinesis=configs)))
            for _ in range(5):
                client.append_message("s", b"x")

        await running.client(fill)
        await running.endpoint.until(lambda: len(seen) == 5)
        held.set()
        await running.endpoint.until(lambda: len(seen) == 10)
        assert seen == [f"{name} {number}" for name in ("quick", "slow") for number in range(5)]

    drive(tmp_path, work)


def test_bandwidth_is_shared_by_all_exports() -> None:
    pacer = Pacer()
    assert pacer.reserve(10**9, 0) == 0
    pacer.kilobits_a_second = 8  # One byte a millisecond.
    assert [pacer.reserve(100, 0), pacer.reserve(50, 0), pacer.reserve(1, 1000), pacer.reserve(1, 1000)] == [
        0,
        100,
        0,
        1,
    ]


@pytest.mark.parametrize(
    ("configuration", "changed", "said"),
    [
        ({}, {}, ""),
        ({"STREAM_MANAGER_SERVER_PORT": "18088"}, {"port": 18088}, ""),
        ({"STREAM_MANAGER_SERVER_PORT": 0}, {"port": 0}, ""),
        ({"STREAM_MANAGER_SERVER_PORT": "x"}, {}, "STREAM_MANAGER_SERVER_PORT"),
        ({"STREAM_MANAGER_AUTHENTICATE_CLIENT": "false"}, {"authenticate": False}, ""),
        ({"STREAM_MANAGER_AUTHENTICATE_CLIENT": True}, {}, ""),
        ({"STREAM_MANAGER_EXPORTER_MAX_BANDWIDTH": "2000"}, {"kilobits_a_second": 2000.0}, ""),
        ({"STREAM_MANAGER_EXPORTER_THREAD_POOL_SIZE": "2"}, {"threads": 2}, ""),
        ({"STREAM_MANAGER_EXPORTER_THREAD_POOL_SIZE": "0"}, {}, "THREAD_POOL_SIZE"),
        ({"STREAM_MANAGER_EXPORTER_S3_DESTINATION_MULTIPART_UPLOAD_MIN_PART_SIZE_BYTES": "5"}, {}, "MIN_PART_SIZE"),
        ({"STREAM_MANAGER_STORE_ROOT_DIR": "/data"}, {"folder": "/data"}, ""),
        ({"STREAM_MANAGER_STORE_ROOT_DIR": "data"}, {}, "absolute path"),
        ({"LOG_LEVEL": "warn"}, {"level": "WARN"}, ""),
        ({"LOG_LEVEL": "loud"}, {}, "LOG_LEVEL"),
    ],
)
def test_the_components_configuration(configuration: dict[str, Any], changed: dict[str, Any], said: str) -> None:
    settings, findings = read_settings(configuration)
    assert settings == Settings()._replace(**changed)
    assert said in " ".join(findings) and bool(findings) == bool(said)


def test_settings_without_effect_are_named() -> None:
    assert without_effect({"LOG_LEVEL": "INFO", "STREAM_MANAGER_SERVER_PORT": "1"}) == []
    delay = "STREAM_MANAGER_EXPORTER_KINESIS_INTER_CALL_DELAY_MS"
    jvm, waits = without_effect({"JVM_ARGS": "-Xmx1g", delay: "0"})
    assert jvm.startswith("JVM_ARGS has no effect") and waits.startswith(f"{delay} has no effect")


def test_a_change_of_the_smallest_part_is_asked_of_new_streams(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        part = "STREAM_MANAGER_EXPORTER_S3_DESTINATION_MULTIPART_UPLOAD_MIN_PART_SIZE_BYTES"
        await running.manager.configure({part: str(2 * MIN_PART)})

        def create(client: StreamManagerClient) -> None:
            for threshold in (MIN_PART, 2 * MIN_PART):
                executor = S3ExportTaskExecutorConfig(
                    identifier="e", size_threshold_for_multipart_upload_bytes=threshold
                )
                definition = define(export_definition=exporting(s3_task_executor=[executor]))
                if threshold == MIN_PART:
                    with pytest.raises(InvalidRequestException, match="at least the minimum part size"):
                        client.create_message_stream(definition)
                else:
                    client.create_message_stream(definition)

        await running.client(create)

    drive(tmp_path, work)
