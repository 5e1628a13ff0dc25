"""The Kinesis and Firehose actions (developer guide, "Kinesis Data Streams", "Firehose")."""

from __future__ import annotations

import base64
from typing import Any

from foreshore.iot.rules.actions.call import Call
from foreshore.iot.rules.actions.failures import ActionFailed
from foreshore.iot.rules.values import Value, write_json

MAX_BATCH = 500


def elements(call: Call) -> list[bytes]:
    """The records of batch mode: the elements of the result, which must be an array; strings as they are."""
    if type(call.value) is not list:
        raise ActionFailed("with batchMode the result must be a JSON array")
    return [_element(item, call.old) for item in call.value]


def _element(item: Value, old: bool) -> bytes:
    return item.encode() if type(item) is str else write_json(item, old)


async def run_kinesis(call: Call, parameters: dict[str, Any]) -> None:
    """PutRecord. Without a partition key each record gets a random one."""
    body = {
        "StreamName": parameters["streamName"],
        "Data": base64.b64encode(call.payload).decode(),
        "PartitionKey": parameters.get("partitionKey") or call.world.uuid(),
    }
    await call.world.aws.json("kinesis", "Kinesis_20131202.PutRecord", body)


async def run_firehose(call: Call, parameters: dict[str, Any]) -> None:
    """PutRecord, or PutRecordBatch of at most 500 at a time; the separator ends each record."""
    separator = (parameters.get("separator") or "").encode()
    name = parameters["deliveryStreamName"]
    if not parameters.get("batchMode"):
        body = {"DeliveryStreamName": name, "Record": _record(call.payload + separator)}
        await call.world.aws.json("firehose", "Firehose_20150804.PutRecord", body)
        return
    records = [_record(item + separator) for item in elements(call)]
    for start in range(0, len(records), MAX_BATCH):
        body = {"DeliveryStreamName": name, "Records": records[start : start + MAX_BATCH]}
        answer = await call.world.aws.json("firehose", "Firehose_20150804.PutRecordBatch", body)
        if answer.get("FailedPutCount"):
            raise ActionFailed(f"firehose: {answer['FailedPutCount']} records were refused", transient=True)


def _record(data: bytes) -> dict[str, str]:
    return {"Data": base64.b64encode(data).decode()}
