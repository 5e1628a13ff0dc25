"""Event source mappings as values: their settings, the records a function gets, what its answer means. Pure.

Sources: Lambda Developer Guide, "Using Lambda with Amazon SQS", "… Kinesis", "… DynamoDB" and "Reporting batch item
failures"; API Reference, CreateEventSourceMapping. Ages and windows are seconds, times epoch seconds.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from foreshore.errors import AwsError, NotEmulated
from foreshore.functions import patterns

Json = Any

MAX_BATCH_BYTES = 6 * 1024 * 1024
_DEFAULT_SIZE = {"sqs": 10, "kinesis": 100, "dynamodb": 100}
_MOST = {"sqs": 10_000, "kinesis": 10_000, "dynamodb": 10_000}


@dataclass(frozen=True, slots=True)
class Source:
    """The settings of one event source mapping. `retries` and `max_age_s` of -1 mean for ever."""

    uuid: str
    source_arn: str
    function: str
    kind: str
    enabled: bool = True
    batch_size: int = 10
    window_s: float = 0.0
    position: str = "LATEST"
    position_time: float = 0.0
    parallelization: int = 1
    bisect: bool = False
    retries: int = -1
    max_age_s: int = -1
    filters: tuple[Json, ...] = ()
    on_failure: str = ""
    reports_failures: bool = False
    max_concurrency: int = 0
    tumbling_s: int = 0

    @property
    def is_fifo(self) -> bool:
        """Whether the source is a FIFO queue."""
        return self.source_arn.endswith(".fifo")


def read_source(uuid: str, properties: Mapping[str, Json]) -> Source:
    """Read the parameters of CreateEventSourceMapping, or a template's properties. Raises AwsError, NotEmulated."""
    arn = str(properties.get("EventSourceArn") or "")
    parts = arn.split(":")
    kind = parts[2] if len(parts) > 5 else ""
    if kind not in _DEFAULT_SIZE:
        raise NotEmulated(f"the event source {arn or 'of a self-managed cluster'}", "SQS, Kinesis and DynamoDB work.")
    tumbling = int(properties.get("TumblingWindowInSeconds") or 0)
    if tumbling and (kind == "sqs" or not 0 <= tumbling <= 900):
        raise _invalid(
            f"Tumbling window {tumbling} is not valid for this source: it must be between 0 and 900 seconds."
        )
    if tumbling and int(properties.get("ParallelizationFactor") or 1) > 1:
        raise NotEmulated("a tumbling window together with a ParallelizationFactor")
    size = int(properties.get("BatchSize") or _DEFAULT_SIZE[kind])
    window = float(properties.get("MaximumBatchingWindowInSeconds") or 0)
    most = 10 if arn.endswith(".fifo") else _MOST[kind]
    if not 1 <= size <= most:
        raise _invalid(f"Batch size {size} is not valid: it must be between 1 and {most}.")
    if kind == "sqs" and size > 10 and window < 1:
        raise _invalid(
            "Maximum batch window in seconds must be greater than 0 if maximum batch size is greater than 10"
        )
    if kind != "sqs" and not properties.get("StartingPosition"):
        raise _invalid(f"1 validation error detected: Value null at 'startingPosition' failed: required for {kind}")
    filters = tuple(_pattern(each) for each in (properties.get("FilterCriteria") or {}).get("Filters") or ())
    return Source(
        uuid,
        arn,
        str(properties["FunctionName"]),
        kind,
        enabled=str(properties.get("Enabled", True)).lower() != "false",
        batch_size=size,
        window_s=window,
        position=str(properties.get("StartingPosition") or ""),
        position_time=_seconds(properties.get("StartingPositionTimestamp")),
        parallelization=int(properties.get("ParallelizationFactor") or 1),
        bisect=str(properties.get("BisectBatchOnFunctionError", False)).lower() == "true",
        retries=int(_given(properties, "MaximumRetryAttempts", -1)),
        max_age_s=int(_given(properties, "MaximumRecordAgeInSeconds", -1)),
        filters=filters,
        on_failure=str(((properties.get("DestinationConfig") or {}).get("OnFailure") or {}).get("Destination") or ""),
        reports_failures="ReportBatchItemFailures" in (properties.get("FunctionResponseTypes") or ()),
        max_concurrency=int((properties.get("ScalingConfig") or {}).get("MaximumConcurrency") or 0),
        tumbling_s=tumbling,
    )


def _given(properties: Mapping[str, Json], name: str, default: int) -> Json:
    value = properties.get(name)
    return default if value is None else value


def _seconds(value: Json) -> float:
    return value.timestamp() if isinstance(value, datetime) else float(value or 0)


def _pattern(entry: Mapping[str, Json]) -> Json:
    text = entry.get("Pattern")
    try:
        pattern = json.loads(text) if isinstance(text, str) else text
    except ValueError:
        raise _invalid("Invalid filter pattern definition.") from None
    patterns.check(pattern)
    return pattern


def _invalid(message: str) -> AwsError:
    return AwsError("InvalidParameterValueException", message, 400, {"Type": "User"})


# Records, as functions get them


def sqs_record(message: Mapping[str, Json], source_arn: str) -> dict[str, Json]:
    """An SQS message as a record."""
    record: dict[str, Json] = {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": dict(message.get("Attributes") or {}),
        "messageAttributes": {
            name: _attribute(value) for name, value in (message.get("MessageAttributes") or {}).items()
        },
        "md5OfBody": message.get("MD5OfBody", ""),
        "eventSource": "aws:sqs",
        "eventSourceARN": source_arn,
        "awsRegion": source_arn.split(":")[3],
    }
    if message.get("MD5OfMessageAttributes"):
        record["md5OfMessageAttributes"] = message["MD5OfMessageAttributes"]
    return record


def _attribute(value: Mapping[str, Json]) -> dict[str, Json]:
    shaped: dict[str, Json] = {}
    for theirs, ours in (("StringValue", "stringValue"), ("BinaryValue", "binaryValue")):
        if theirs in value:
            shaped[ours] = value[theirs]
    return {**shaped, "stringListValues": [], "binaryListValues": [], "dataType": value.get("DataType", "String")}


def kinesis_record(record: Mapping[str, Json], shard: str, source_arn: str, role: str) -> dict[str, Json]:
    """A Kinesis record (data stays base64) as a record."""
    return {
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": record["PartitionKey"],
            "sequenceNumber": record["SequenceNumber"],
            "data": record["Data"],
            "approximateArrivalTimestamp": record.get("ApproximateArrivalTimestamp", 0),
        },
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": f"{shard}:{record['SequenceNumber']}",
        "eventName": "aws:kinesis:record",
        "invokeIdentityArn": role,
        "awsRegion": source_arn.split(":")[3],
        "eventSourceARN": source_arn,
    }


def dynamodb_record(record: Mapping[str, Json], source_arn: str) -> dict[str, Json]:
    """A DynamoDB stream record as a record."""
    return {**record, "eventSourceARN": source_arn}


def sequence_of(record: Mapping[str, Json]) -> str:
    """The sequence number of a stream record."""
    return str(
        (record.get("kinesis") or {}).get("sequenceNumber") or (record.get("dynamodb") or {}).get("SequenceNumber")
    )


def arrival_of(record: Mapping[str, Json]) -> float:
    """When a stream record arrived."""
    kinesis = record.get("kinesis")
    if kinesis:
        return float(kinesis["approximateArrivalTimestamp"])
    return float((record.get("dynamodb") or {}).get("ApproximateCreationDateTime") or 0)


def lane_of(record: Mapping[str, Json], lanes: int) -> int:
    """Which of the parallel lanes of its shard a record takes: one key stays in one lane, so in order."""
    if lanes == 1:
        return 0
    kinesis = record.get("kinesis")
    key = kinesis["partitionKey"] if kinesis else json.dumps((record.get("dynamodb") or {}).get("Keys"), sort_keys=True)
    return zlib.crc32(key.encode()) % lanes


def passes(source: Source, record: Mapping[str, Json]) -> bool:
    """Whether a record fits one of the filters (none: every record does)."""
    if not source.filters:
        return True
    seen = dict(record)
    if source.kind == "sqs":
        seen["body"] = _json_or_text(record["body"])
    elif source.kind == "kinesis":
        try:
            data = base64.b64decode(record["kinesis"]["data"]).decode()
        except (binascii.Error, UnicodeDecodeError):
            data = ""
        # A filter names the data beside the record's other members, or inside `kinesis`.
        seen["data"] = _json_or_text(data)
        seen |= {key: value for key, value in record["kinesis"].items() if key != "data"}
    return any(patterns.matches(pattern, seen) for pattern in source.filters)


def _json_or_text(text: str) -> Json:
    try:
        return json.loads(text)
    except ValueError:
        return text


def size_of(record: Mapping[str, Json]) -> int:
    """About how many bytes a record takes of a payload."""
    return len(json.dumps(record))


# Answers


def failed_ids(payload: bytes, known: Sequence[str]) -> list[str] | None:
    """The ids a function reports as failed; None when its answer makes the whole batch fail.

    A null answer, an empty object and an empty list are success; an empty or unknown id or a wrong key fails all.
    """
    try:
        answer = json.loads(payload) if payload else None
    except ValueError:
        return None
    if answer is None or answer == {}:
        return []
    if not isinstance(answer, dict) or "batchItemFailures" not in answer:
        return None if isinstance(answer, dict) and _looks_reported(answer) else []
    failures = answer["batchItemFailures"]
    if not failures:
        return []
    if not isinstance(failures, list):
        return None
    ids = []
    for failure in failures:
        identifier = failure.get("itemIdentifier") if isinstance(failure, dict) else None
        if not identifier or identifier not in known:
            return None
        ids.append(str(identifier))
    return ids


def _looks_reported(answer: Mapping[str, Json]) -> bool:
    return any(key.lower().replace("_", "") == "batchitemfailures" for key in answer)


def stream_failure(
    *,
    source: Source,
    shard: str,
    records: Sequence[Mapping[str, Json]],
    request_id: str,
    function_arn: str,
    condition: str,
    attempts: int,
    now: float,
    function_error: str | None,
    executed_version: str,
) -> dict[str, Json]:
    """The record for a stream's on-failure destination. `condition`: RetryAttemptsExhausted or RecordAgeExceeded."""
    info = "KinesisBatchInfo" if source.kind == "kinesis" else "DDBStreamBatchInfo"
    record: dict[str, Json] = {
        "requestContext": {
            "requestId": request_id,
            "functionArn": function_arn,
            "condition": condition,
            "approximateInvokeCount": attempts,
        },
    }
    if attempts:
        context: dict[str, Json] = {"statusCode": 200, "executedVersion": executed_version}
        if function_error:
            context["functionError"] = function_error
        record["responseContext"] = context
    record |= {
        "version": "1.0",
        "timestamp": stamp(now),
        info: {
            "shardId": shard,
            "startSequenceNumber": sequence_of(records[0]),
            "endSequenceNumber": sequence_of(records[-1]),
            "approximateArrivalOfFirstRecord": stamp(arrival_of(records[0])),
            "approximateArrivalOfLastRecord": stamp(arrival_of(records[-1])),
            "batchSize": len(records),
            "streamArn": source.source_arn,
        },
    }
    return record


def stamp(seconds: float) -> str:
    """ISO 8601 in UTC with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
