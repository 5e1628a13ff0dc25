"""How each destination takes a batch: Kinesis, IoT SiteWise and S3 through the AWS endpoint, HTTP anywhere. Shell.

Each gives how many messages from the batch's beginning are done with: exported, or refused for good. Raises
`TryAgain` when the first of them must be sent again later.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

import orjson

from foreshore.errors import AwsError, NotEmulated, WireError
from foreshore.greengrass.aws_calls import AwsCalls, failure
from foreshore.greengrass.stream_manager import sitewise
from foreshore.greengrass.stream_manager.definitions import JSON_BATCHED, Export
from foreshore.greengrass.stream_manager.outcomes import Outcome, TryAgain
from foreshore.greengrass.stream_manager.s3 import Pace, S3Tasks, Tell, text_of
from foreshore.greengrass.stream_manager.streams import Message
from foreshore.http import Client

# PutRecords: 1 MiB a record (Kinesis Data Streams developer guide, "Quotas and limits").
MAX_RECORD = 1024 * 1024
Deliver = Callable[[str, Export, Sequence[Message]], Awaitable[Outcome]]


class Destinations:
    """`pace(bytes)` waits for the bandwidth that so many bytes may use, `tell` writes to status streams."""

    def __init__(self, aws: AwsCalls, pace: Pace, tell: Tell) -> None:
        self.s3 = S3Tasks(aws, pace, tell)
        self._aws = aws
        self._pace = pace
        self._client = Client()
        self._tls: ssl.SSLContext | None = None
        self._ways: dict[str, Deliver] = {
            "kinesis": self._kinesis,
            "IotSitewise": self._sitewise,
            "http": self._http,
        }

    async def close(self) -> None:
        """Close the pooled connections."""
        await self._client.close()
        await self._aws.close()

    async def send(self, stream: str, export: Export, batch: Sequence[Message]) -> Outcome:
        """Send a batch. Raises TryAgain."""
        try:
            if export.kind == "s3TaskExecutor":
                return await self.s3.carry_out(stream, export, batch[0])
            await self._pace(sum(len(message.payload) for message in batch))
            return await self._ways[export.kind](stream, export, batch)
        except (OSError, TimeoutError, WireError, AwsError, NotEmulated, ValueError, KeyError) as error:
            raise TryAgain(f"{export.kind}: {_reason(error)}") from error

    async def _kinesis(self, _stream: str, export: Export, batch: Sequence[Message]) -> Outcome:
        """PutRecords. Records after the first refused one are sent again with it: at least once."""
        fitting = [message for message in batch if len(message.payload) <= MAX_RECORD]
        error = None if len(fitting) == len(batch) else f"messages over {MAX_RECORD} bytes can't go to Kinesis: skipped"
        if not fitting:
            return Outcome(len(batch), error)
        records = [
            {"Data": base64.b64encode(message.payload).decode(), "PartitionKey": str(message.sequence)}
            for message in fitting
        ]
        request = {"StreamName": export.target, "Records": records}
        answer = await self._aws.ask("kinesis", "Kinesis_20131202.PutRecords", request)
        for message, result in zip(fitting, answer["Records"], strict=True):
            if result.get("ErrorCode"):
                done = next(index for index, each in enumerate(batch) if each is message)
                if done == 0:
                    raise TryAgain(f"kinesis: {result['ErrorCode']}: {result.get('ErrorMessage', '')}")
                return Outcome(done, error)
        return Outcome(len(batch), error)

    async def _sitewise(self, _stream: str, _export: Export, batch: Sequence[Message]) -> Outcome:
        """BatchPutAssetPropertyValue. What SiteWise refuses for good is skipped and reported."""
        plan = sitewise.plan(batch)
        if not plan.entries:
            return Outcome(plan.count, plan.error)
        headers = [(b"Content-Type", b"application/json")]
        body = orjson.dumps({"entries": plan.entries})
        response = await self._aws.send("iotsitewise", "POST", "/properties", headers, body)
        if response.status != 200:
            error = failure(response)
            if sitewise.is_final(error.code):
                return Outcome(plan.count, f"IotSitewise: {error.code}: {error.message}")
            raise error
        assert isinstance(response.body, bytes)
        return sitewise.read_answer(plan, orjson.loads(response.body))

    async def _http(self, stream: str, export: Export, batch: Sequence[Message]) -> Outcome:
        """One POST a message (RAW_NOT_BATCHED), or one with a JSON list of Message objects (JSON_BATCHED)."""
        if export.format == JSON_BATCHED:
            await self._post(export, _as_json(stream, batch), b"application/json")
            return Outcome(len(batch))
        for done, message in enumerate(batch):
            try:
                await self._post(export, message.payload, b"application/octet-stream")
            except TryAgain:
                if done:
                    return Outcome(done)
                raise
        return Outcome(len(batch))

    async def _post(self, export: Export, body: bytes, content_type: bytes) -> None:
        """One request. Raises TryAgain."""
        parts = urlsplit(export.target)
        is_tls = parts.scheme == "https"
        if is_tls and self._tls is None:
            self._tls = ssl.create_default_context()
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        response = await self._client.fetch(
            "POST", parts.hostname or "", parts.port or (443 if is_tls else 80), target,
            [(b"Content-Type", content_type)], body, ssl=self._tls if is_tls else None,
        )  # fmt: skip
        if response.status >= 300:
            raise TryAgain(f"http: {text_of(response)}")


def _as_json(stream: str, batch: Sequence[Message]) -> bytes:
    return orjson.dumps(
        [
            {
                "streamName": stream,
                "sequenceNumber": message.sequence,
                "ingestTime": message.ingest_ms,
                "payload": base64.b64encode(message.payload).decode(),
            }
            for message in batch
        ]
    )


def _reason(error: Exception) -> str:
    return f"{error.code}: {error.message}" if isinstance(error, AwsError) else repr(error)
