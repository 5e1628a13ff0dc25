"""Streams of a running core: what is exported is in the backend's Kinesis and S3, told by boto3."""

import json
import os
import time

import pytest
from stream_manager import (
    ExportDefinition,
    KinesisConfig,
    MessageStreamDefinition,
    ReadMessagesOptions,
    S3ExportTaskDefinition,
    S3ExportTaskExecutorConfig,
    StatusConfig,
    StatusMessage,
    StrategyOnFull,
    StreamManagerClient,
)
from stream_manager.util import Util

from tests.e2e.conftest import start, stop


@pytest.fixture(scope="module")
def edge(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streams")
    (folder / "recipes").mkdir()
    update = {"merge": json.dumps({"STREAM_MANAGER_AUTHENTICATE_CLIENT": "false"})}
    streams = {"componentVersion": "2.2.1", "configurationUpdate": update}
    document = {"components": {"aws.greengrass.StreamManager": streams}}
    (folder / "recipes/deployment.json").write_text(json.dumps(document))
    running = start(folder, folder / "home", "--only", "iot,greengrass")
    yield running
    stop(running)


@pytest.fixture
def client(edge):
    [core] = edge.ends["cores"].values()
    with StreamManagerClient(port=int(core["stream_manager"].rpartition(":")[2])) as made:
        yield made


def define(name, **exports):
    definition = ExportDefinition(**exports) if exports else None
    overwrite = StrategyOnFull.OverwriteOldestData
    return MessageStreamDefinition(name=name, strategy_on_full=overwrite, export_definition=definition)


def until(look):
    deadline = time.monotonic() + 30
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_messages_are_records_in_their_order(edge, client):
    kinesis = edge.boto3("kinesis")
    kinesis.create_stream(StreamName="cloud", ShardCount=1)
    client.create_message_stream(define("k", kinesis=[KinesisConfig(identifier="k", kinesis_stream_name="cloud")]))
    for number in range(300):
        client.append_message("k", str(number).encode())
    shard = kinesis.describe_stream(StreamName="cloud")["StreamDescription"]["Shards"][0]["ShardId"]

    def records():
        first = kinesis.get_shard_iterator(StreamName="cloud", ShardId=shard, ShardIteratorType="TRIM_HORIZON")
        found = kinesis.get_records(ShardIterator=first["ShardIterator"], Limit=1000)["Records"]
        return [record["Data"].decode() for record in found] if len(found) == 300 else None

    assert until(records) == [str(number) for number in range(300)]
    until(lambda: client.describe_message_stream("k").export_statuses[0].last_exported_sequence_number == 299)


@pytest.mark.parametrize(("size", "parts"), [(1000, 1), (11_000_000, 3)])
def test_files_become_objects(edge, client, tmp_path, size, parts):
    s3, name = edge.boto3("s3"), f"bucket-{parts}"
    s3.create_bucket(Bucket=name)
    file = tmp_path / "reading.bin"
    file.write_bytes(os.urandom(size))
    executor = S3ExportTaskExecutorConfig(
        identifier="e", status_config=StatusConfig(status_stream_name=f"status{parts}")
    )
    client.create_message_stream(define(f"status{parts}"))
    client.create_message_stream(define(f"tasks{parts}", s3_task_executor=[executor]))
    for bucket in (name, "bucket-nowhere"):
        task = S3ExportTaskDefinition(file.as_uri(), bucket, "in/!{timestamp:yyyy}/reading.bin", {"by": "pump"})
        client.append_message(f"tasks{parts}", Util.validate_and_serialize_to_json_bytes(task))
    options = ReadMessagesOptions(min_message_count=2, max_message_count=2, read_timeout_millis=20_000)
    found = [
        Util.deserialize_json_bytes_to_obj(each.payload, StatusMessage)
        for each in client.read_messages(f"status{parts}", options)
    ]
    assert [each.status.name for each in found] == ["Success", "Failure"]
    assert "NoSuchBucket" in found[1].message
    [listed] = s3.list_objects_v2(Bucket=name)["Contents"]
    made = s3.get_object(Bucket=name, Key=listed["Key"])
    assert made["Body"].read() == file.read_bytes() and made["Metadata"] == {"by": "pump"}
    assert made["ETag"].strip('"').endswith(f"-{parts}") is (parts > 1)
