"""Carries S3 export tasks out: a file to an object, in one PUT or in parts. Shell.

A file larger than `sizeThresholdForMultipartUploadBytes` goes in parts of at least
STREAM_MANAGER_EXPORTER_S3_DESTINATION_MULTIPART_UPLOAD_MIN_PART_SIZE_BYTES; a broken upload is aborted.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from foreshore.errors import WireError
from foreshore.greengrass.aws_calls import AwsCalls
from foreshore.greengrass.stream_manager.definitions import (
    DEBUG_LEVEL,
    ERROR_LEVEL,
    INFO_LEVEL,
    MIN_PART,
    WARN_LEVEL,
    Export,
)
from foreshore.greengrass.stream_manager.outcomes import Outcome, TryAgain
from foreshore.greengrass.stream_manager.s3_task import (
    CANCELED,
    FAILURE,
    IN_PROGRESS,
    SUCCESS,
    WARNING,
    Task,
    fill_key,
    parts_of,
    read_task,
    status_message,
)
from foreshore.greengrass.stream_manager.streams import Message
from foreshore.http import Response

# A PUT goes in one piece up to this size, however high the threshold.
MAX_SINGLE = 128 * 1024 * 1024
Pace = Callable[[int], Awaitable[None]]
Tell = Callable[[Export, int, dict[str, Any]], None]
_UPLOAD_ID = re.compile(rb"<UploadId>([^<]+)</UploadId>")


class _Refused(Exception):
    """S3 won't take the object, however often it is sent."""


class S3Tasks:
    """`tell(export, level, status message)` writes to the export's status stream."""

    def __init__(self, aws: AwsCalls, pace: Pace, tell: Tell) -> None:
        self.min_part = MIN_PART
        self._aws = aws
        self._pace = pace
        self._tell = tell

    async def carry_out(self, stream: str, export: Export, message: Message) -> Outcome:
        """Upload what the message asks for. Raises TryAgain, OSError, TimeoutError or WireError when S3 is away."""
        try:
            task = read_task(message.payload)
            target = f"/{task.bucket}/{quote(fill_key(task.key, datetime.now(UTC)))}"
            size = await asyncio.to_thread(_readable_size, task.path)
        except (ValueError, OSError) as error:
            return self._failed(stream, export, message, f"the task can't be done: {error}")
        self._say(stream, export, message, IN_PROGRESS, DEBUG_LEVEL, "The upload has started")
        try:
            if size > min(export.threshold or self.min_part, MAX_SINGLE):
                await self._put_parts(stream, export, message, task, target, size)
            else:
                await self._put(task, target)
        except _Refused as error:
            return self._failed(stream, export, message, str(error))
        self._say(stream, export, message, SUCCESS, INFO_LEVEL, "Success")
        return Outcome(1)

    def cancel(self, stream: str, export: Export, message: Message, why: str) -> None:
        """Tell of a task that won't be carried out any more."""
        self._say(stream, export, message, CANCELED, WARN_LEVEL, why)

    async def _put(self, task: Task, target: str) -> None:
        body = await asyncio.to_thread(Path(task.path).read_bytes)
        await self._pace(len(body))
        _check(await self._aws.send("s3", "PUT", target, _metadata(task), body))

    async def _put_parts(
        self, stream: str, export: Export, message: Message, task: Task, target: str, size: int
    ) -> None:
        """CreateMultipartUpload, UploadPart and CompleteMultipartUpload."""
        created = _check(await self._aws.send("s3", "POST", f"{target}?uploads", _metadata(task)))
        found = _UPLOAD_ID.search(created)
        if found is None:
            raise TryAgain("s3: no UploadId in the answer")
        upload = quote(found[1].decode(), safe="")
        try:
            tags = []
            for number, (offset, count) in enumerate(parts_of(size, self.min_part), 1):
                body = await asyncio.to_thread(_read, task.path, offset, count)
                await self._pace(count)
                part = f"{target}?partNumber={number}&uploadId={upload}"
                answer = await self._aws.send("s3", "PUT", part, [], body)
                _check(answer)
                tags.append((number, answer.header("etag")))
            await self._complete(f"{target}?uploadId={upload}", tags)
        except BaseException:
            await self._abort(stream, export, message, f"{target}?uploadId={upload}")
            raise

    async def _complete(self, target: str, tags: list[tuple[int, str]]) -> None:
        parts = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>" for number, tag in tags)
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        answer = _check(await self._aws.send("s3", "POST", target, [(b"Content-Type", b"application/xml")], body))
        # CompleteMultipartUpload may answer 200 with an error in its body (S3 API reference).
        if b"<Error>" in answer:
            raise TryAgain(f"s3: {answer[:300].decode('utf-8', 'replace')}")

    async def _abort(self, stream: str, export: Export, message: Message, target: str) -> None:
        try:
            _check(await self._aws.send("s3", "DELETE", target, []))
        except (OSError, TimeoutError, WireError, TryAgain, _Refused) as error:
            text = f"the parts uploaded so far could not be removed: {error}"
            self._say(stream, export, message, WARNING, WARN_LEVEL, text)

    def _failed(self, stream: str, export: Export, message: Message, text: str) -> Outcome:
        self._say(stream, export, message, FAILURE, ERROR_LEVEL, text)
        return Outcome(1, text)

    def _say(self, stream: str, export: Export, message: Message, status: int, level: int, text: str) -> None:
        now_ms = time.time_ns() // 1_000_000
        self._tell(export, level, status_message(stream, export, message, status, level, text, now_ms))


def _metadata(task: Task) -> list[tuple[bytes, bytes]]:
    return [(f"x-amz-meta-{name}".encode(), value.encode()) for name, value in task.metadata.items()]


def _readable_size(path: str) -> int:
    """The file's size in bytes. Raises OSError when it can't be read."""
    with Path(path).open("rb") as stream:
        return stream.seek(0, 2)


def _read(path: str, offset: int, count: int) -> bytes:
    with Path(path).open("rb") as stream:
        stream.seek(offset)
        return stream.read(count)


def _check(response: Response) -> bytes:
    """The body of a good answer. Raises TryAgain or _Refused."""
    if response.status >= 500 or response.status == 429:
        raise TryAgain(f"s3: {text_of(response)}")
    if response.status >= 300:
        raise _Refused(f"s3: {text_of(response)}")
    return response.body if isinstance(response.body, bytes) else b""


def text_of(response: Response) -> str:
    """An error answer in one line."""
    body = response.body if isinstance(response.body, bytes) else b""
    return f"{response.status} {body[:300].decode('utf-8', 'replace')}".strip()
