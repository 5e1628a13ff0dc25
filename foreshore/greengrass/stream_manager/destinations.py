"""How each destination takes a batch: Kinesis and S3 through the AWS endpoint, HTTP anywhere. Shell.

Each gives how many messages from the batch's beginning are done with: exported, or refused for good. Raises
`TryAgain` when the first of them must be sent again later.
"""

from __future__ import annotations

import base64
import re
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import orjson

from foreshore.errors import NotEmulated, WireError
from foreshore.greengrass.stream_manager.definitions import Export
from foreshore.greengrass.stream_manager.streams import Message
from foreshore.http import Client, Response

MAX_RECORD = 1024 * 1024
MAX_OBJECT = 256 * 1024 * 1024
SUCCESS, FAILURE, IN_PROGRESS, WARNING = 0, 1, 2, 3
ERROR_LEVEL, WARN_LEVEL, INFO_LEVEL = 0, 1, 2
_PLACEHOLDER = re.compile(r"!\{timestamp:([^}]*)\}")
_PATTERNS = {"yyyy": "%Y", "YYYY": "%Y", "yy": "%y", "MM": "%m", "dd": "%d", "HH": "%H", "mm": "%M", "ss": "%S"}


class TryAgain(Exception):
    """The batch, or the rest of it, must be sent again; the text says why."""


@dataclass(slots=True)
class Outcome:
    """`done` messages from the beginning are over; `error` tells of those refused for good; `statuses` for S3 tasks."""

    done: int
    error: str | None = None
    statuses: list[tuple[int, dict[str, Any]]] = field(default_factory=list)


class Destinations:
    """`environment()` has AWS_ENDPOINT_URL and credentials, as components see them."""

    def __init__(self, region: str, environment: Callable[[], dict[str, str]]) -> None:
        self._region = region
        self._environment = environment
        self._client = Client()
        self._tls: ssl.SSLContext | None = None

    async def close(self) -> None:
        """Close the pooled connections."""
        await self._client.close()

    async def send(self, stream: str, export: Export, batch: Sequence[Message]) -> Outcome:
        """Send a batch. Raises TryAgain."""
        try:
            if export.kind == "kinesis":
                return await self._kinesis(export, batch)
            if export.kind == "http":
                return await self._http(export, batch)
            return await self._s3(stream, export, batch[0])
        except (OSError, TimeoutError, WireError, NotEmulated, ValueError, KeyError) as error:
            raise TryAgain(f"{export.kind}: {error!r}") from error

    async def _kinesis(self, export: Export, batch: Sequence[Message]) -> Outcome:
        """PutRecords. Records after the first refused one are sent again with it: at least once."""
        fitting = [message for message in batch if len(message.payload) <= MAX_RECORD]
        error = None if len(fitting) == len(batch) else f"messages over {MAX_RECORD} bytes can't go to Kinesis: skipped"
        if not fitting:
            return Outcome(len(batch), error)
        records = [
            {"Data": base64.b64encode(message.payload).decode(), "PartitionKey": str(message.sequence)}
            for message in fitting
        ]
        body = orjson.dumps({"StreamName": export.target, "Records": records})
        headers = [
            (b"Content-Type", b"application/x-amz-json-1.1"),
            (b"X-Amz-Target", b"Kinesis_20131202.PutRecords"),
        ]
        response = await self._aws("POST", "kinesis", "/", headers, body)
        if response.status != 200:
            raise TryAgain(f"kinesis: {_text(response)}")
        assert isinstance(response.body, bytes)
        for message, result in zip(fitting, orjson.loads(response.body)["Records"], strict=True):
            if result.get("ErrorCode"):
                done = next(index for index, each in enumerate(batch) if each is message)
                if done == 0:
                    raise TryAgain(f"kinesis: {result['ErrorCode']}: {result.get('ErrorMessage', '')}")
                return Outcome(done, error)
        return Outcome(len(batch), error)

    async def _http(self, export: Export, batch: Sequence[Message]) -> Outcome:
        """One POST a message, RAW_NOT_BATCHED."""
        parts = urlsplit(export.target)
        if parts.scheme == "https" and self._tls is None:
            self._tls = ssl.create_default_context()
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        for done, message in enumerate(batch):
            response = await self._client.fetch(
                "POST", parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80), target,
                [(b"Content-Type", b"application/octet-stream")], message.payload,
                ssl=self._tls if parts.scheme == "https" else None,
            )  # fmt: skip
            if response.status >= 300:
                if done:
                    return Outcome(done)
                raise TryAgain(f"http: {_text(response)}")
        return Outcome(len(batch))

    async def _s3(self, stream: str, export: Export, message: Message) -> Outcome:
        """One upload task (S3ExportTaskDefinition): a file to an object."""
        try:
            task = orjson.loads(message.payload)
            bucket, key, body = _read_task(task)
        except (ValueError, KeyError, TypeError, OSError) as error:
            text = f"the task can't be done: {error}"
            return Outcome(1, text, [_status(stream, export, message, _safe(message), FAILURE, ERROR_LEVEL, text)])
        headers = [
            (f"x-amz-meta-{name}".encode(), str(value).encode())
            for name, value in (task.get("userMetadata") or {}).items()
        ]
        response = await self._aws("PUT", "s3", f"/{quote(bucket)}/{quote(key)}", headers, body)
        if response.status >= 500:
            raise TryAgain(f"s3: {_text(response)}")
        if response.status >= 300:
            text = f"s3: {_text(response)}"
            return Outcome(1, text, [_status(stream, export, message, task, FAILURE, ERROR_LEVEL, text)])
        return Outcome(1, None, [_status(stream, export, message, task, SUCCESS, INFO_LEVEL, "Success")])

    async def _aws(
        self, method: str, service: str, target: str, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> Response:
        """A request on the AWS endpoint, with a credential scope that names the service and no signature."""
        environment = self._environment()
        url = environment.get("AWS_ENDPOINT_URL", "")
        if not url:
            raise NotEmulated(f"exports to {service} without an AWS endpoint")
        parts = urlsplit(url)
        scope = f"{environment.get('AWS_ACCESS_KEY_ID', 'foreshore')}/20200101/{self._region}/{service}/aws4_request"
        authorization = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature={'0' * 64}"
        pairs = [*headers, (b"Authorization", authorization.encode())]
        return await self._client.fetch(method, parts.hostname or "", parts.port or 80, target, pairs, body)


def _read_task(task: Any) -> tuple[str, str, bytes]:
    """Bucket, key and the file's bytes. Raises ValueError, KeyError, TypeError, OSError."""
    path = file_of(task["inputUrl"])
    if path.stat().st_size > MAX_OBJECT:
        raise ValueError(f"{path} is larger than {MAX_OBJECT} bytes")
    return str(task["bucket"]), fill_key(str(task["key"]), time.gmtime()), path.read_bytes()


def file_of(url: str) -> Path:
    """The path of `file:/…`, `file:///…` or a plain absolute path. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("", "file") or not parts.path.startswith("/"):
        raise ValueError(f"inputUrl must be a file: URL, not {url}")
    return Path(unquote(parts.path))


def fill_key(key: str, now: time.struct_time) -> str:
    """Fill `!{timestamp:yyyy/MM/dd}` in a key, in UTC; the common fields of SimpleDateFormat. Raises ValueError."""

    def fill(match: re.Match[str]) -> str:
        return re.sub(r"([A-Za-z])\1*", field_of, match[1])

    def field_of(match: re.Match[str]) -> str:
        if match[0] not in _PATTERNS:
            raise ValueError(f"date field {match[0]} in a key is not known")
        return time.strftime(_PATTERNS[match[0]], now)

    return _PLACEHOLDER.sub(fill, key)


def _safe(message: Message) -> dict[str, Any]:
    """The task definition of a message, as far as it is one."""
    try:
        value = orjson.loads(message.payload)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _status(
    stream: str, export: Export, message: Message, task: dict[str, Any], status: int, level: int, text: str
) -> tuple[int, dict[str, Any]]:
    """A StatusMessage for the export's status stream, with its level."""
    return level, {
        "eventType": 0,
        "statusLevel": level,
        "status": status,
        "statusContext": {
            "s3ExportTaskDefinition": task,
            "exportIdentifier": export.identifier,
            "streamName": stream,
            "sequenceNumber": message.sequence,
        },
        "message": text,
        "timestampEpochMs": time.time_ns() // 1_000_000,
    }


def _text(response: Response) -> str:
    body = response.body if isinstance(response.body, bytes) else b""
    return f"{response.status} {body[:300].decode('utf-8', 'replace')}".strip()
